"""What of a row can be drawn in space: its boxes, its camera, what its questions ask about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import Floats, corners

from .overlay import label_colours, label_of, structs

CAMERA = -1
"""The anchor of a relation to the camera."""

MAX_QUESTIONS = 12
"""Questions of a row that a card shows."""

_MAX_SOLIDS = 150
_MAX_NUMBER = 1e6  # of metres or pixels: what is more is a mistake and would swamp float32
_MIN_FOCAL_PX = 1e-3
_MAX_SKEW = 0.01
_NEARBY_M, _FAR_M = 15.0, 150.0
_TIMES_FARTHER = 6.0


@dataclass(frozen=True, slots=True)
class Question:
    """What a question of the row asks: the places of two objects, None where the row names none.

    Attributes:
        number: place among the row's questions, from 1.
        anchor: ``CAMERA``, or an object.
    """

    number: int
    anchor: int | None
    target: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """Of a row: its intrinsics, (3, 3), for an image of that size."""

    intrinsics: Floats
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The boxes of a row that have a place in space; those that its questions name come first.

    Attributes:
        numbers: places among the row's objects.
        colours: go with the labels, as in the picture.
        center, dimensions: (n, 3), metres.
        rotation: (n, 3, 3), box to camera.
        has_role: (n,), whether a question names the object, or the row has none.
        questions: the first of the row.
        camera: None where the row has none that projects.
        left_out: objects that have no place in space, or are too many.
    """

    numbers: list[int]
    labels: list[str]
    colours: list[int]
    center: Floats
    dimensions: Floats
    rotation: Floats
    has_role: NDArray[np.bool_]
    questions: list[Question]
    camera: Camera | None
    left_out: int

    @property
    def corners(self) -> Floats:
        """(n, 8, 3), camera frame, metres."""
        return corners(self.center, self.dimensions, self.rotation)

    def nearby(self) -> NDArray[np.bool_]:
        """Which objects a drawing to scale holds, (n,): all but those far beyond the others.

        What a question names is not left out below 150 m.
        """
        size = np.linalg.norm(self.dimensions, axis=1)
        reach = np.linalg.norm(self.center, axis=1) + size / 2  # so that a giant is far too
        usual = np.quantile(reach, 0.75, method="lower")
        asked = reach[self.has_role & (reach <= _FAR_M)].max(initial=0.0)
        limit = max(_NEARBY_M, _TIMES_FARTHER * usual, asked)
        kept: NDArray[np.bool_] = reach <= limit
        return kept


def space_of(row: Mapping[str, Any], colours: Mapping[str, int] | None = None) -> Space | None:
    """The boxes of a row in space; None where it has none.

    Args:
        row: of ``spatial-relation-qa``; what is damaged in it is left out.
        colours: by label; those of the row alone where they are not given.
    """
    objects = structs(row.get("objects"))
    questions = questions_of(row)
    roles = {place for question in questions for place in (question.anchor, question.target)}
    order = sorted(range(len(objects)), key=lambda number: number not in roles)
    solids: dict[int, list[float]] = {}
    for number in order:
        if len(solids) == _MAX_SOLIDS:
            break
        solid = _solid(objects[number])
        if solid is not None:
            solids[number] = solid
    if not solids:
        return None
    known = label_colours([row]) if colours is None else colours
    labels = [label_of(objects[number]) for number in solids]
    values = np.array(list(solids.values()), dtype=np.float64)  # (n, 15)
    return Space(
        numbers=list(solids),
        labels=labels,
        colours=[known.get(label, 0) for label in labels],
        center=values[:, :3],
        dimensions=values[:, 3:6],
        rotation=values[:, 6:].reshape(-1, 3, 3),
        has_role=np.array([not questions or number in roles for number in solids]),
        questions=questions,
        camera=_camera(row),
        left_out=len(objects) - len(solids),
    )


def questions_of(row: Mapping[str, Any]) -> list[Question]:
    """The first questions of a row, in order."""
    relations = structs(row.get("relations"))[:MAX_QUESTIONS]
    return [
        Question(number, _place(relation.get("anchor")), _place(relation.get("target")))
        for number, relation in enumerate(relations, start=1)
    ]


def _place(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _solid(item: Mapping[str, Any]) -> list[float] | None:
    """Center, dimensions and rotation of an object, where they are those of a box."""
    center = numbers_of(item.get("center"), 3)
    dimensions = numbers_of(item.get("dimensions"), 3)
    rotation = numbers_of(item.get("rotation"), 9)
    if center is None or dimensions is None or rotation is None or min(dimensions) <= 0:
        return None
    rows = [rotation[:3], rotation[3:6], rotation[6:]]
    for one in range(3):
        for other in range(3):
            dot = sum(a * b for a, b in zip(rows[one], rows[other], strict=True))
            if abs(dot - (one == other)) > _MAX_SKEW:
                return None
    return [*center, *dimensions, *rotation]


def _camera(row: Mapping[str, Any]) -> Camera | None:
    """The row's camera, where it projects what lies before it to finite pixels."""
    values = numbers_of(row.get("intrinsics"), 9)
    sides = numbers_of([row.get("width"), row.get("height")], 2)
    if values is None or sides is None or min(sides) < 1:
        return None
    if min(values[0], values[4]) < _MIN_FOCAL_PX or values[6:] != [0.0, 0.0, 1.0]:
        return None
    return Camera(np.array(values).reshape(3, 3), int(sides[0]), int(sides[1]))


def numbers_of(value: object, count: int) -> Sequence[float] | None:
    """``count`` numbers of usable size; None where the value is anything else."""
    values = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(values, list | tuple) or len(values) != count:
        return None
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
        if not -_MAX_NUMBER <= number <= _MAX_NUMBER:  # so for NaN
            return None
    return [float(number) for number in values]
