"""What a caption says: objects, their attributes, sides and relations, floor, wall and number.

Found by regular expressions over the words that the build itself knows. What is said twice counts
once. An object is named by colour and shape; a word that the build does not know is not seen.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .scenes import Pair, Vocabulary

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SENTENCE_END = re.compile(r"[.!?;]+(?:\s+|$)|\n+")
_OF_ANOTHER = r"of (?!the (?:image|picture|photo|scene|view|frame|room)\b)"
_SIDE = re.compile(
    rf"\b(?:(?:on|at|to) the (left|right)|in the (middle|center|centre))\b"
    rf"(?! (?:(?:hand )?side |part |half )?{_OF_ANOTHER})"
)
_RELATIONS = {
    "in front of": "front",
    "behind": "behind",
    "to the left of": "left",
    "on the left of": "left",
    "left of": "left",
    "to the right of": "right",
    "on the right of": "right",
    "right of": "right",
}
_RELATION = f"({'|'.join(_RELATIONS)})"
_DETERMINER = r"(?:the |a |an |another )?"
_IS = (
    r"(?:(?:which|that|it) )?"
    r"(?:(?:is|are|stands?|standing|lies|lying|sits|sitting|rests|placed|located|can be seen) )*"
    r"(?:(?:partly|directly|just|slightly|far) )*"
)
# A mention stands as ⟨its number⟩. The second one is looked ahead at: it may begin the next claim.
_FORWARD = re.compile(rf"⟨(\d+)⟩(?=,? {_IS}{_RELATION} {_DETERMINER}⟨(\d+)⟩)")
_INVERTED = re.compile(
    rf"(?:^|[,:] |and ){_RELATION} {_DETERMINER}⟨(\d+)⟩,? "
    rf"(?:there )?(?:is|are|stands?|lies|sits|rests) {_DETERMINER}⟨(\d+)⟩"
)


@dataclass(frozen=True, slots=True)
class Claims:
    """What one text says.

    Attributes:
        objects: named by colour and shape.
        attributes: (object, ``size`` or ``material``, word).
        sides: (object, ``left``, ``middle`` or ``right``), of sentences that name one object.
        relations: (object, ``left``, ``right``, ``front`` or ``behind``, other object).
        counts: how many objects there are said to be.
    """

    objects: frozenset[Pair]
    attributes: frozenset[tuple[Pair, str, str]]
    sides: frozenset[tuple[Pair, str]]
    relations: frozenset[tuple[Pair, str, Pair]]
    floors: frozenset[str]
    walls: frozenset[str]
    counts: frozenset[int]


class ClaimReader:
    """Reads texts with one build's words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._kinds: dict[str, str] = {}
        self._words: dict[str, str] = {}
        for kind in ("materials", "sizes", "colors"):  # a word of two kinds is a colour
            for word in getattr(vocabulary, kind):
                self._kinds[word.lower()] = kind.removesuffix("s")
                self._words[word.lower()] = word
        self._shapes = {word.lower(): word for word in vocabulary.shapes}
        adjectives, shapes = _any_of(self._words), _any_of(self._shapes)
        self._mention = re.compile(
            rf"(?<![\w-])((?:{adjectives}(?:, | and | ))+)({shapes})(?:e?s)?(?![\w-])"
        )
        self._adjective = re.compile(rf"(?<![\w-]){adjectives}(?![\w-])")
        self._said_after = re.compile(
            rf"⟨(\d+)⟩(?:,| (?:(?:that|which) )?(?:is|looks)) "
            rf"({adjectives}(?:(?:, | and ){adjectives})*)(?![\w-])"
        )
        self._floors = _Look("floor", vocabulary.floors)
        self._walls = _Look("wall", vocabulary.walls)

    def read(self, text: str) -> Claims:
        """What a text says."""
        found = _Found(set(), set(), set(), set())
        for sentence in _SENTENCE_END.split(text.lower()):
            self._read_sentence(" ".join(sentence.replace("⟨", " ").split()), found)
        plain = " ".join(text.lower().split())
        return Claims(
            objects=frozenset(found.objects),
            attributes=frozenset(found.attributes),
            sides=frozenset(found.sides),
            relations=frozenset(found.relations),
            floors=self._floors.said(plain),
            walls=self._walls.said(plain),
            counts=frozenset(map(_number, _COUNT.findall(plain))),
        )

    def _read_sentence(self, sentence: str, found: "_Found") -> None:
        pairs: list[Pair] = []

        def mark(match: re.Match[str]) -> str:
            words = self._adjective.findall(match[1])
            colors = [word for word in words if self._kinds[word] == "color"]
            if not colors:
                return match[0]
            pair = self._words[colors[-1]], self._shapes[match[2]]
            found.attributes |= self._attributes(pair, words)
            pairs.append(pair)
            return f"⟨{len(pairs) - 1}⟩"

        marked = self._mention.sub(mark, sentence)
        found.objects |= set(pairs)
        for number, said in self._said_after.findall(marked):
            words = self._adjective.findall(said)
            found.attributes |= self._attributes(pairs[int(number)], words)
        if len(set(pairs)) == 1:
            found.sides |= {(pairs[0], _side(match)) for match in _SIDE.finditer(marked)}
        for first, relation, second in _FORWARD.findall(marked):
            found.relations.add((pairs[int(first)], _RELATIONS[relation], pairs[int(second)]))
        for relation, second, first in _INVERTED.findall(marked):
            found.relations.add((pairs[int(first)], _RELATIONS[relation], pairs[int(second)]))

    def _attributes(self, pair: Pair, words: Iterable[str]) -> set[tuple[Pair, str, str]]:
        return {
            (pair, self._kinds[word], self._words[word])
            for word in words
            if self._kinds[word] != "color"
        }


@dataclass(slots=True)
class _Found:
    objects: set[Pair]
    attributes: set[tuple[Pair, str, str]]
    sides: set[tuple[Pair, str]]
    relations: set[tuple[Pair, str, Pair]]


class _Look:
    """What is said of the floor or of the wall."""

    def __init__(self, what: str, looks: Iterable[str]) -> None:
        self._looks = {look.lower(): look for look in looks}
        any_look = _any_of(self._looks)
        self._pattern = re.compile(
            rf"(?<![\w-])(?:({any_look}) {what}|{what} (?:is|looks) ({any_look}))(?![\w-])"
        )

    def said(self, text: str) -> frozenset[str]:
        found = self._pattern.findall(text)
        return frozenset(self._looks[before or after] for before, after in found)


_COUNT = re.compile(rf"(?<![\w-])({'|'.join(_NUMBERS)}|\d{{1,3}}) objects?(?![\w-])")


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else _NUMBERS.index(word)


def _side(match: re.Match[str]) -> str:
    return match[1] or "middle"


def _any_of(words: Mapping[str, str]) -> str:
    """A pattern of any of the words, the longest first; of none where there are none."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return f"(?:{'|'.join(map(re.escape, ordered))})" if ordered else "(?!)"
