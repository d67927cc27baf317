"""Reads references back, sentence by sentence, and holds them against the objects."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..words import DEPTH_MARGIN_M, NUMBERS, SIDE_MARGIN
from .rows import Row, Thing

_ROUNDING = 1e-6
_HALF_STEP = 0.005 + _ROUNDING  # of a box with two decimals
_OPENINGS = (
    re.compile(r"The image shows (\w+) objects on a (\w+) floor in front of a (\w+) wall\."),
    re.compile(r"There are (\w+) objects on a (\w+) floor, with a (\w+) wall behind them\."),
)
_NAME, _LOOKS, _PLACE = r"(\w+ \w+)", r"(\w+) and (\w+)", r"n the \w+"
_PLACED = re.compile(rf"([OI]{_PLACE}) there is an? {_NAME}, {_LOOKS}\.")
_STANDING = (
    re.compile(rf"An? {_NAME}, {_LOOKS}, stands ([oi]{_PLACE})\."),
    re.compile(rf"An? {_NAME} that is {_LOOKS} can be seen ([oi]{_PLACE})\."),
)
_RELATION = re.compile(
    r"The (\w+ \w+) is (to the left of|to the right of|in front of|behind) the (\w+ \w+)\."
)
_NAMED = re.compile(r"\b(?:a|an) (\w+ \w+)")
_LISTED = re.compile(r"From left to right there are (?:an? \w+ \w+(?:, | and |(?=\.)))+\.")
_NEAREST = re.compile(r"The (\w+ \w+) is closest to the camera\.")
_LOCATED = re.compile(r"((\w+ \w+) \[((?:[01]\.\d\d, ){3}[01]\.\d\d)\])")


def holds(first: Thing, relation: str, second: Thing, slack: float = _ROUNDING) -> bool:
    """Whether a relation is true by its margin, but for ``slack``; ``relation`` as texts or answers
    say it.
    """
    leftward = second.side - first.side
    nearer_m = second.center[2] - first.center[2]
    side, depth_m = SIDE_MARGIN - slack, DEPTH_MARGIN_M - slack
    return {
        "left": leftward >= side,
        "right": -leftward >= side,
        "in front": nearer_m >= depth_m,
        "behind": -nearer_m >= depth_m,
    }[relation.removeprefix("to the ").removesuffix(" of")]


def located_problems(row: Row, reference: str) -> Iterator[str]:
    """What is wrong with a list of objects and boxes."""
    told = _LOCATED.findall(reference)
    if ", ".join(whole for whole, _, _ in told) + "." != reference:
        yield "a reference is no list of names and boxes"
    elif [name for _, name, _ in told] != [thing.name for thing in row.things]:
        yield "a reference does not name the objects from left to right"
    else:
        for (_, _, box), thing in zip(told, row.things, strict=True):
            numbers = map(float, box.split(", "))
            if any(abs(a - b) > _HALF_STEP for a, b in zip(numbers, thing.bbox, strict=True)):
                yield "a reference has a box that is not the object's"


def detailed_problems(row: Row, reference: str) -> Iterator[str]:
    """What is wrong with a description."""
    opening, *rest = re.split(r"(?<=\.) ", reference)
    yield from _opening_problems(row, opening)
    count = len(row.things)
    if len(rest) < count:
        yield "a reference leaves objects out"
        return
    for thing, sentence in zip(row.things, rest, strict=False):
        yield from _thing_problems(thing, sentence)
    yield from _closing_problems(row, rest[count:])


def spatial_problems(row: Row, reference: str) -> Iterator[str]:
    """What is wrong with a list of objects and the relations of neighbours."""
    opening, *rest = re.split(r"(?<=\.) ", reference)
    yield from _opening_problems(row, opening)
    listed, *told = rest or [""]
    if not _LISTED.fullmatch(listed):
        yield "a reference's list of objects cannot be read"
    elif _NAMED.findall(listed) != [thing.name for thing in row.things]:
        yield "a reference does not name the objects from left to right"
    pairs = []
    for sentence in told:
        found = _RELATION.fullmatch(sentence)
        if found is None:
            yield "a reference's sentence about a relation cannot be read"
            return
        first, relation, second = found.groups()
        yield from _relation_problems(row, first, relation, second)
        pairs.append((frozenset((first, second)), relation.startswith("to the")))
    yield from _missing_relations(row, pairs)


def _missing_relations(row: Row, told: Sequence[tuple[frozenset[str], bool]]) -> Iterator[str]:
    """Neighbours' relations, in order, that are to be told, beside those that are."""
    left = list(told)
    for first, second in pairwise(row.things):
        for relations, is_side in ((("left", "right"), True), (("in front", "behind"), False)):
            is_told = left[:1] == [(frozenset((first.name, second.name)), is_side)]
            if is_told:
                left.pop(0)
            elif any(holds(first, relation, second, -_ROUNDING) for relation in relations):
                yield "a reference leaves a relation of neighbours out"
    if left:
        yield "a reference tells relations that are not of neighbours, or not in their order"


def _opening_problems(row: Row, sentence: str) -> Iterator[str]:
    found = next((m for pattern in _OPENINGS if (m := pattern.fullmatch(sentence))), None)
    if found is None:
        yield "the first sentence of a reference cannot be read"
    elif found.groups() != (NUMBERS[len(row.things)], row.floor, row.wall):
        yield "a reference is wrong about number, floor or wall"


def _thing_problems(thing: Thing, sentence: str) -> Iterator[str]:
    if found := _PLACED.fullmatch(sentence):
        place, *words = found.groups()
    elif found := next((m for pattern in _STANDING if (m := pattern.fullmatch(sentence))), None):
        *words, place = found.groups()
    else:
        yield "a reference's sentence about an object cannot be read"
        return
    if place.lower() != thing.place or words != [thing.name, thing.size, thing.material]:
        yield "a reference is wrong about an object, or out of order"


def _closing_problems(row: Row, sentences: Sequence[str]) -> Iterator[str]:
    """A relation and the nearest object: each at most once, in that order, and said where true."""
    closing = list(sentences)
    nearest = _nearest(row)
    if nearest is not None:
        found = _NEAREST.fullmatch(closing.pop()) if closing else None
        if found is None or found[1] != nearest.name:
            yield "a reference does not tell the nearest object"
    if len(closing) > 1:
        yield "a reference says more than it should"
    elif closing:
        found = _RELATION.fullmatch(closing[0])
        if found is None:
            yield "a reference's sentence about a relation cannot be read"
        else:
            yield from _relation_problems(row, *found.groups())


def _nearest(row: Row) -> Thing | None:
    first, second = sorted(row.things, key=lambda thing: thing.distance_m)[:2]
    nearer_m = second.distance_m - first.distance_m
    return first if nearer_m >= DEPTH_MARGIN_M - _ROUNDING else None


def _relation_problems(row: Row, named: str, relation: str, other: str) -> Iterator[str]:
    first, second = row.named(named), row.named(other)
    if first is None or second is None or not holds(first, relation, second):
        yield "a reference is wrong about a relation"
