"""Answers as sources give them, cleaned by rules that have names."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from types import MappingProxyType
from typing import Literal

from vila2data.corpus.images import Problem

RULES: Mapping[str, str] = MappingProxyType(
    {
        "number_as_text": "a number is written as text, a whole one without a point",
        "majority": "of several people's answers the most frequent; of as many the first",
        "non_answers_left_out": "what says that there is no answer does not count as one",
        "unanswerable": "where nobody gave an answer, it is 'Unanswerable'",
        "first_of_several": "of several answers that are all right, the first",
        "letter_decorated": "A), (A), A. or 'Answer: A' is the choice A",
        "letter_lower_case": "a is the choice A",
        "letter_and_text": "'A. red' is the choice A",
        "headings_left_out": "a caption loses the headings of its parts",
        "option_text": "the text of a choice is that choice",
        "choice_number": "2 is the choice C: counted from 0",
    }
)
"""What each rule does, by its name."""

UNANSWERABLE = "Unanswerable"

_NON_ANSWERS = frozenset(
    {
        "unanswerable",
        "not a question",
        "n/a",
        "unsuitable",
        "unsuitable image",
        "answering does not require reading text in the image",
    }
)
"""What annotators write instead of an answer, as `_plain` has it."""

_MAX_WHOLE = 2**53  # beyond it a float does not tell neighbouring integers apart
_MAX_NUMBER_BITS = 1000
_DECORATION = " \t\r\n()[]{}.:;,*\"'`"
_ANNOUNCED = re.compile(
    r"(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?[\s:(]+([A-Z])",
    re.ASCII | re.IGNORECASE,
)
_LETTERED = re.compile(r"\(?([A-Za-z])(?:\s?[.):]\s*|\s[-–]\s)(.+)", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
_JOINING = frozenset({"and", "or", "both", "also"})


@dataclass(frozen=True, slots=True)
class Label:
    """An answer, and the rule that changed what the source has; None where it stands as it was."""

    answer: str
    rule: str | None = None


def stated(value: object) -> Label | Problem:
    """The answer that a text or a number states.

    Example:
        >>> stated(2016.0)
        Label(answer='2016', rule='number_as_text')
    """
    if isinstance(value, str):
        text = value.strip()
        return Label(text) if text else Problem("answer_missing", "is empty")
    if value is None:
        return Problem("answer_missing", "is null")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Problem("answer_malformed", f"is a {type(value).__name__}, not a text or a number")
    if isinstance(value, int):
        fits = value.bit_length() <= _MAX_NUMBER_BITS
        return _number(str(value)) if fits else Problem("answer_malformed", "has too many digits")
    if not math.isfinite(value):
        return Problem("answer_malformed", f"is {value}")
    whole = value.is_integer() and abs(value) < _MAX_WHOLE
    return _number(str(int(value)) if whole else repr(value))


def answer_of(value: object) -> Label | Problem:
    """The answer of a text or a number, or of the list of several people's answers."""
    return majority(value) if isinstance(value, list | tuple) else stated(value)


def majority(
    answers: Sequence[object], *, unanswerable: Literal["refuse", "keep"] = "refuse"
) -> Label | Problem:
    """The most frequent of several people's answers; of as many the first.

    Answers that differ in case or in the length of white space alone are the same; the most
    frequent spelling is kept. What says that there is no answer is left out.

    Args:
        answers: texts, numbers, or objects with an ``answer``, as VQA has them.
        unanswerable: where all say that there is no answer: ``refuse`` makes it a problem,
            ``keep`` an answer.

    Example:
        >>> majority(["Yes", "no", "yes", "unanswerable"])
        Label(answer='Yes', rule='majority')
    """
    labels = [stated(a.get("answer") if isinstance(a, Mapping) else a) for a in answers]
    texts = [label.answer for label in labels if isinstance(label, Label)]
    if not texts:
        return Problem("answer_missing", f"none of {len(answers)} answers is a text")
    said = [text for text in texts if _plain(text).rstrip(".") not in _NON_ANSWERS]
    if not said:
        kept = unanswerable == "keep"
        return Label(UNANSWERABLE, "unanswerable") if kept else Problem("unanswerable", texts[0])
    winner = Counter(map(_plain, said)).most_common(1)[0][0]
    spelling = Counter(t for t in said if _plain(t) == winner).most_common(1)[0][0]
    if len(set(said)) > 1:
        return Label(spelling, "majority")
    return Label(spelling, "non_answers_left_out" if len(said) < len(texts) else None)


def first_of(value: object) -> Label | Problem:
    """The first of several answers that are all right, or the only one."""
    if not isinstance(value, list | tuple):
        return stated(value)
    labels = [label for label in map(stated, value) if isinstance(label, Label)]
    if not labels:
        return Problem("answer_missing", f"none of {len(value)} answers is a text")
    several = len({label.answer for label in labels}) > 1
    return Label(labels[0].answer, "first_of_several") if several else labels[0]


def only(value: object) -> Label | Problem:
    """The answer that a list of one holds, or the value itself."""
    if not isinstance(value, list | tuple):
        return stated(value)
    if len(value) != 1:
        reason = "label_several" if value else "answer_missing"
        return Problem(reason, f"is a list of {len(value)}")
    return stated(value[0])


def choices_of(value: object) -> tuple[str, ...] | Problem:
    """The texts of at least two choices, without the letters that may stand before all of them.

    Example:
        >>> choices_of(["A. red", "B. blue"])
        ('red', 'blue')
    """
    if not isinstance(value, list | tuple):
        return Problem("choices_malformed", f"are a {type(value).__name__}, not a list")
    labels = [stated(choice) for choice in value]
    choices = tuple(label.answer for label in labels if isinstance(label, Label))
    if len(choices) < len(labels):
        return Problem("choices_malformed", f"{len(labels) - len(choices)} are no text")
    if len(choices) < 2:
        return Problem("choices_too_few", f"{len(choices)}")
    return _without_letters(choices)


def choice_of(label: object, choices: Sequence[str], *, numbered: bool = False) -> Label | Problem:
    """The choice that a label means: by its letter, its text, or both.

    Args:
        label: as the source has it.
        choices: their texts, without letters.
        numbered: whether the label may be the choice's number, counted from 0.

    Example:
        >>> choice_of("(b)", ["red", "blue"])
        Label(answer='blue', rule='letter_lower_case')
    """
    given = stated(label)
    if isinstance(given, Problem):
        return given
    found = _choice(given.answer, choices, numbered)
    if isinstance(found, Problem):
        return found
    place, rule = found
    if len(_places(choices[place], choices)) > 1:
        return Problem("choices_repeated", f"'{choices[place]}' stands there more than once")
    return Label(choices[place], rule)


def _number(text: str) -> Label:
    return Label(text, "number_as_text")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _places(text: str, choices: Sequence[str]) -> list[int]:
    return [place for place, choice in enumerate(choices) if _plain(choice) == _plain(text)]


def _without_letters(choices: tuple[str, ...]) -> tuple[str, ...] | Problem:
    found = [match for choice in choices if (match := _LETTERED.fullmatch(choice))]
    letters = "".join(match[1].upper() for match in found)
    if len(found) < len(choices) or not letters.startswith("A"):
        return choices  # such as E. coli beside S. aureus
    if letters != ascii_uppercase[: len(choices)]:
        return Problem("choices_malformed", f"their letters are {letters}")
    return tuple(match[2].strip() for match in found)


def _choice(text: str, choices: Sequence[str], numbered: bool) -> tuple[int, str | None] | Problem:
    """The place of the choice that ``text`` means, and the rule that told."""
    by_text = _places(text, choices)
    bare = text.strip(_DECORATION)
    announced = _ANNOUNCED.fullmatch(bare)
    letter = announced[1] if announced else bare
    if len(letter) == 1 and letter.isascii() and letter.isalpha():
        return _by_letter(text, letter, by_text, len(choices))
    if by_text:
        return by_text[0], "option_text"
    lettered = _LETTERED.fullmatch(text)
    rest = _places(lettered[2].strip(), choices) if lettered else []
    if not rest and _names_several(text, len(choices)):
        return Problem("label_several", text)
    if lettered:
        place = _place(lettered[1])
        if rest and place not in rest:
            return Problem("label_ambiguous", text)
        return _inside(text, place, "letter_and_text", len(choices))
    if numbered and text.isascii() and text.isdigit() and len(text) <= 3:
        return _inside(text, int(text), "choice_number", len(choices))
    return Problem("label_unknown", text)


def _by_letter(
    text: str, letter: str, by_text: list[int], count: int
) -> tuple[int, str | None] | Problem:
    place = _place(letter)
    if by_text and (place not in by_text or len(text) > 1):
        # The choices are letters too: (B, A), or A beside A'.
        told = len(text) > 1 or place >= count
        return (by_text[0], "option_text") if told else Problem("label_ambiguous", text)
    if letter.islower():
        return _inside(text, place, "letter_lower_case", count)
    return _inside(text, place, None if text == letter else "letter_decorated", count)


def _inside(
    text: str, place: int, rule: str | None, count: int
) -> tuple[int, str | None] | Problem:
    if place < count:
        return place, rule
    return Problem("label_outside_choices", f"{text}, of {count} choices")


def _place(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _names_several(text: str, count: int) -> bool:
    """Whether ``text`` is letters of several choices, such as "A and C" or "AC"."""
    words = [word for word in _WORD.findall(text) if word.casefold() not in _JOINING]
    if len(words) == 1 and words[0].isupper():
        words = list(words[0])
    letters = {word.upper() for word in words}
    return len(letters) > 1 and letters <= set(ascii_uppercase[:count])
