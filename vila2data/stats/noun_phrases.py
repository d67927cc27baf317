"""Which words of a caption a box stands behind, by marks or by a cheap rule of English.

The rule reads words alone, with lists of those that end a noun phrase; see docs/grounding_stats.md.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .box_text import BoxText

_MARKED = re.compile(
    r"(?:<ref>|<phrase>|<\|object_ref_start\|>)([^<]*+)(?:</ref>|</phrase>|<\|object_ref_end\|>)"
)
_AFTER_MARK = re.compile(r"[\s,:(]*+$")
_OPENING = str.maketrans(dict.fromkeys('([{"“”„«»—–/', " "))
_ENDS = ".,;:!?)]}'*"
_MAX_PHRASE_WORDS = 12
_MAX_PHRASE_CHARS = 200


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEADERS = _words("""
    a an the this that these those his her its their our my your each every another some several
    many both all few various multiple numerous one two three four five six seven eight nine ten
    eleven twelve 2 3 4 5 6 7 8 9 10 11 12
""")
_STOP = _words("""
    of in on at by with for from to into onto over under above below beside besides behind near
    along across against around between among through towards toward up down off out upon inside
    outside within without beneath underneath next like as than about during before after
    and or but nor so yet while where when which who whom whose there here then also not no if
    because though although both either neither
    is are was were be been being am has have had having do does did can could may might must will
    would shall should seems appears looks sits stands lies wears holds shows features contains
    includes depicts displays covers occupies see seen visible shown sit stand lie wear hold show
    rides ride walks walk runs run hangs hang
    he she it they him them we you i someone something everyone
    located situated positioned placed coordinates coordinate bbox bboxes location position region
    spanning bounding bounded very quite rather left right front back top bottom middle background
    foreground side
""")
_NO_NOUN = _STOP | _LEADERS
_ING_NOUNS = _words("""
    building painting ceiling clothing railing wing ring string king awning bedding lighting thing
    swing wedding sling spring earring duckling drawing crossing landing opening icing topping
    seating sibling siding roofing frosting stuffing dressing pudding
""")


class Named(NamedTuple):
    """What a box stands behind.

    Attributes:
        phrase: lower-cased, None where there is no word.
        number: the same for boxes that stand behind the same words of the caption.
        is_marked: by tags or JSON, not found by the rule.
    """

    phrase: str | None
    number: int
    is_marked: bool


class Phrases(NamedTuple):
    """Of one caption: what each box stands behind, and how many phrases there are by each way."""

    named: list[Named]
    marked: int
    unmarked: int


def phrases_of(text: str, boxes: Sequence[BoxText]) -> Phrases:
    """The phrases of a caption in which ``boxes`` were found, by place."""
    named: list[Named] = []
    marked = len(_MARKED.findall(text)) if "<" in text else 0
    unmarked, position = _led_phrases(_words_of(text)), 0
    for place, box in enumerate(boxes):
        before = text[position : box.start]  # nothing within the same brackets
        position = box.end
        phrase = _marked_phrase(before, box.label)
        marked += box.label is not None
        if phrase is not None:
            named.append(Named(phrase, place, True))
            continue
        words = _last_run(before)
        if named and not words:
            named.append(named[-1])
            continue
        unmarked += bool(words) and not _led_phrases(words)  # the others are counted already
        named.append(Named(" ".join(words) or None, place, False))
    return Phrases(named, marked, unmarked)


def _marked_phrase(before: str, label: str | None) -> str | None:
    """The phrase that is marked at the end of a text."""
    if label is not None:
        return label.strip().lower()
    marks = list(_MARKED.finditer(before)) if "<" in before else []
    if marks and _AFTER_MARK.match(before, marks[-1].end()):
        return marks[-1][1].strip().lower()
    return None


def _led_phrases(words: list[str]) -> int:
    """How many words that lead a noun phrase are followed by one that can be in it."""
    following = [words[n + 1] for n, w in enumerate(words[:-1]) if w in _LEADERS]
    return sum(w.rstrip(_ENDS) not in _NO_NOUN and w[0].isalnum() for w in following)


def _words_of(text: str) -> list[str]:
    return text.lower().translate(_OPENING).split()


def _can_be_in_phrase(word: str) -> bool:
    return word not in _NO_NOUN and word[:1].isalnum()


def _last_run(text: str) -> list[str]:
    """The last words of a text that neither a stop word nor a mark parts, from the word that leads
    them where there is one; "of" joins two such runs.
    """
    # More is never looked at: the last run has few words.
    words = _words_of(text[-_MAX_PHRASE_CHARS:])
    after = ""
    while words and (
        words[-2:-1] == ["bounding"] or not _can_be_in_phrase(words[-1].rstrip(_ENDS))
    ):
        after = words.pop().rstrip(_ENDS)
    run: list[str] = []
    is_led = False
    while words and len(run) < _MAX_PHRASE_WORDS:
        word = words[-1].rstrip(_ENDS)
        if run and word != words[-1]:
            break
        if word in _LEADERS:
            is_led = True
        elif word == "of" and run and "of" not in run:
            is_led = False
        elif is_led or not _can_be_in_phrase(word):
            break
        run.append(word)
        words.pop()
    run.reverse()
    run = run[1:] if run[:1] == ["of"] else run
    if len(run) > 1 and _is_participle(run[-1], after) and _can_be_in_phrase(run[-2]):
        run.pop()
    return run


def _is_participle(word: str, after: str) -> bool:
    """Whether a word at the end of a run tells what is done, as in "a man standing on"."""
    if word.endswith("ing"):
        return len(word) > 4 and word not in _ING_NOUNS
    return word.endswith("ed") and len(word) > 5 and after in _STOP
