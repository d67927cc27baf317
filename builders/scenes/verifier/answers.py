"""Answers every question again from the objects."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import sqrt
from types import MappingProxyType

from ..words import NUMBERS
from ..world import MATERIALS, SIZES
from .rows import Row, Thing
from .sentences import holds

BALANCED = MappingProxyType({"side": ("left", "right"), "depth": ("in front", "behind")})
"""Kinds whose answers are as likely, by the order in which a pair is asked about."""

_SIGMAS = 5  # false alarms are one in a million
_TWICE = "existence"
_ALWAYS = (_TWICE, "count", "size", "material", "floor")


def question_problems(row: Row, shares: Mapping[str, float] | None) -> Iterator[str]:
    """What is wrong with the questions of a scene that has some; ``shares`` tells of each kind that
    is asked in which share of the scenes, None where all are asked in all.
    """
    kinds = Counter(kind for _, _, kind in row.questions)
    never, always = (
        {kind for kind in _KINDS if (1.0 if shares is None else shares.get(kind, 0.0)) == share}
        for share in (0.0, 1.0)
    )
    if any(count > 1 for kind, count in kinds.items() if kind != _TWICE):
        yield "a kind of question stands twice"
    said = sorted(answer for _, answer, kind in row.questions if kind == _TWICE)
    if said and said != ["no", "yes"]:
        yield "existence is not asked once for what is there and once for what is not"
    if any(kind not in kinds for kind in _ALWAYS if kind in always):
        yield "a question is missing that every scene allows"
    if kinds.keys() & never:
        yield "a question is of a kind that is not asked"
    for question, answer, kind in row.questions:
        pattern, answered = _KINDS.get(kind, (None, None))
        found = pattern.fullmatch(question) if pattern else None
        if found is None or answered is None:
            yield "a question cannot be read, or is of another kind"
        elif answer != answered(row, found):
            yield f"an answer is wrong: {kind}"


def balance_problems(counts: Counter[tuple[str, str]]) -> Iterator[str]:
    """Kinds of questions with one answer more often than chance allows.

    Args:
        counts: questions by kind and answer.
    """
    for kind, (first, second) in BALANCED.items():
        a, b = counts[kind, first], counts[kind, second]
        if abs(a - b) > _SIGMAS * sqrt(a + b):
            yield f"questions of kind {kind} are out of balance: {a} {first}, {b} {second}"


def _only(row: Row, matches: Callable[[Thing], bool]) -> Thing | None:
    found = [thing for thing in row.things if matches(thing)]
    return found[0] if len(found) == 1 else None


def _existence(row: Row, told: re.Match[str]) -> str:
    return "no" if row.named(told[1]) is None else "yes"


def _count(row: Row, told: re.Match[str]) -> str:
    return NUMBERS[len(row.things)]


def _color(row: Row, told: re.Match[str]) -> str | None:
    thing = _only(row, lambda thing: thing.shape == told[1])
    return None if thing is None else thing.color


def _shape(row: Row, told: re.Match[str]) -> str | None:
    thing = _only(row, lambda thing: thing.color == told[1])
    return None if thing is None else thing.shape


def _size(row: Row, told: re.Match[str]) -> str | None:
    thing = row.named(told[1])
    return None if thing is None else thing.size


def _material(row: Row, told: re.Match[str]) -> str | None:
    thing = row.named(told[1])
    return None if thing is None else thing.material


def _floor(row: Row, told: re.Match[str]) -> str:
    return row.floor


def _of_pair(row: Row, told: re.Match[str], answers: tuple[str, str]) -> str | None:
    """The answer that holds by its margin; None where neither does."""
    first, second = row.named(told[1]), row.named(told[2])
    if first is None or second is None or first is second:
        return None
    return next((answer for answer in answers if holds(first, answer, second)), None)


def _side(row: Row, told: re.Match[str]) -> str | None:
    return _of_pair(row, told, BALANCED["side"])


def _depth(row: Row, told: re.Match[str]) -> str | None:
    return _of_pair(row, told, BALANCED["depth"])


def _either(first: str, second: str) -> str:
    return rf"(?:{first} or {second}|{second} or {first})"


_LEFT_OR_RIGHT = _either("to the left of", "to the right of")
_FRONT_OR_BEHIND = _either("in front of", "behind")
_KINDS: MappingProxyType[
    str, tuple[re.Pattern[str], Callable[[Row, re.Match[str]], str | None]]
] = MappingProxyType(
    {
        kind: (re.compile(pattern), answered)
        for kind, pattern, answered in (
            ("existence", r"Is there an? (\w+ \w+) in the image\?", _existence),
            ("count", r"How many objects are there\?", _count),
            ("color", r"What color is the (\w+)\?", _color),
            ("shape", r"What shape is the (\w+) object\?", _shape),
            ("size", rf"Is the (\w+ \w+) {_either(*SIZES)}\?", _size),
            ("material", rf"Is the (\w+ \w+) {_either(*MATERIALS)}\?", _material),
            ("floor", r"What is the floor like\?", _floor),
            ("side", rf"Is the (\w+ \w+) {_LEFT_OR_RIGHT} the (\w+ \w+)\?", _side),
            ("depth", rf"Is the (\w+ \w+) {_FRONT_OR_BEHIND} the (\w+ \w+)\?", _depth),
        )
    }
)
