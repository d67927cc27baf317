"""Whether stored boxes are those of the image: objects as boxes in space, projected again."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import Floats, corners, projected_boxes

from .rows import Row, Thing

_TOLERANCE_PX = 1.0
_ROUNDING = 1e-5  # numbers are stored with 32 bits
_CUBE = "cube"


def geometry_problems(rows: Sequence[Row]) -> Iterator[tuple[str, list[str]]]:
    """Each broken rule with the keys of the rows that break it."""
    things = [thing for row in rows for thing in row.things]
    if not things:
        return
    row_of = np.repeat(np.arange(len(rows)), [len(row.things) for row in rows])
    for rule, wrong in _faults(rows, things, row_of):
        if wrong.any():
            yield rule, [rows[n].key for n in np.unique(row_of[wrong])]


def _faults(
    rows: Sequence[Row], things: Sequence[Thing], row_of: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    bbox, dimensions = _column(things, "bbox"), _column(things, "dimensions")
    rotation = _column(things, "rotation").reshape(-1, 3, 3)
    turns = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max(axis=(1, 2)) < _ROUNDING
    is_rotation = turns & (np.linalg.det(rotation) > 0)
    yield "a rotation is none", ~is_rotation
    yield "a box in space has no size", np.any(dimensions <= 0, axis=1)
    inside = np.all((bbox >= 0) & (bbox <= 1), axis=1)
    yield (
        "a bbox is empty or leaves the image",
        ~(inside & np.all(bbox[:, :2] < bbox[:, 2:], axis=1)),
    )
    intrinsics = np.array([row.intrinsics for row in rows], np.float64).reshape(-1, 3, 3)[row_of]
    sizes_px = np.array([row.size_px for row in rows], np.float64)[row_of]
    around = corners(_column(things, "center"), dimensions, rotation)
    projected = projected_boxes(around, intrinsics)
    within_px = projected.clip(0, np.tile(sizes_px, 2))
    yield from _box_faults(bbox * np.tile(sizes_px, 2), within_px, things)


def _box_faults(
    bbox_px: Floats, projected_px: Floats, things: Sequence[Thing]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The outline of an object lies in that of its box in space; a cube is that box itself."""
    further = (bbox_px - projected_px) * [-1, -1, 1, 1]  # how far it sticks out at each side
    yield "a bbox leaves the projected box in space", ~np.all(further <= _TOLERANCE_PX, axis=1)
    is_cube = np.array([thing.shape == _CUBE for thing in things])
    short = ~np.all(further >= -_TOLERANCE_PX, axis=1)
    yield "the bbox of a cube is smaller than the projected box in space", is_cube & short


def _column(things: Sequence[Thing], name: str) -> Floats:
    return np.array([getattr(thing, name) for thing in things], np.float64)
