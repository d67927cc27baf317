"""Boxes that are drawn over a picture."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_MAX_BOXES = 100
_LABEL_CHARS = 60

PALETTE = (
    *("#2f8fff", "#ff8a1f", "#27c26c", "#ff4f6d"),
    *("#b57bff", "#e6c200", "#19c7d4", "#ff7ad1"),
)
"""Colours of labels, in order of their first appearance in a row."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box in parts of the picture.

    Attributes:
        colour: goes with the label, or with the phrase.
        number: place among the row's objects, where its relations refer to them; of a phrase's
            box, the number of the phrase.
        has_role: whether a relation names it, or the row has none.
        is_phrase: whether it is a phrase's.
    """

    label: str
    colour: int
    left_norm: float
    top_norm: float
    width_norm: float
    height_norm: float
    number: int | None = None
    has_role: bool = True
    is_phrase: bool = False


@dataclass(frozen=True, slots=True)
class Labelled:
    """A box as the row holds it: ``bbox`` may be anything; otherwise as in ``Box``."""

    label: str
    colour: int
    bbox: object
    number: int | None = None
    has_role: bool = True
    is_phrase: bool = False


def boxes_of(
    rows: Sequence[Mapping[str, Any]], further: Iterable[Labelled] = ()
) -> tuple[list[Box], int]:
    """Boxes of the column ``objects`` and further ones, and how many more are not drawn.

    A box is not drawn where it is not finite, lies outside the picture, or is one of too many;
    those that relations name come first, and of phrases the largest, so that each can be pointed
    at.
    """
    boxes: dict[Box, None] = {}  # the same box may stand in several configs
    left_out = 0
    for item in sorted([*_objects(rows), *further], key=lambda item: not item.has_role):
        box = _box(item)
        if box is None or (len(boxes) >= _MAX_BOXES and box not in boxes):
            left_out += 1
        else:
            boxes[box] = None
    return sorted(
        boxes, key=lambda box: -box.width_norm * box.height_norm * box.is_phrase
    ), left_out


def label_colours(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Place in ``PALETTE`` of each label of the rows' objects."""
    objects = (item for row in rows for item in structs(row.get("objects")))
    labels = dict.fromkeys(map(label_of, objects))
    return {label: number % len(PALETTE) for number, label in enumerate(labels)}


def label_of(item: Mapping[str, Any]) -> str:
    """What an object is called on the page."""
    return str(item.get("category") or "")[:_LABEL_CHARS]


def _objects(rows: Sequence[Mapping[str, Any]]) -> Iterator[Labelled]:
    colours = label_colours(rows)
    for row in rows:
        relations = structs(row.get("relations"))
        named = [relation.get(end) for relation in relations for end in ("anchor", "target")]
        roles = {place for place in named if isinstance(place, int)}
        for number, item in enumerate(structs(row.get("objects"))):
            label = label_of(item)
            box = Labelled(label, colours[label], item.get("bbox"))
            yield replace(box, number=number, has_role=number in roles) if relations else box


def structs(value: object) -> list[dict[str, Any]]:
    """The structs of a list column; none where it holds something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _box(item: Labelled) -> Box | None:
    """The part of a box, xyxy 0-1, that lies in the picture."""
    bbox = item.bbox
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in bbox):
        return None
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in bbox)
    if right <= left or bottom <= top:
        return None
    size = (right - left, bottom - top)
    return Box(
        *(item.label, item.colour, left, top, *size),
        number=item.number,
        has_role=item.has_role,
        is_phrase=item.is_phrase,
    )
