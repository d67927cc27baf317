"""What every source is read into: an image, its camera, its boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila2data.corpus.images import Problem
from vila2data.cuboids import Floats

UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Cuboid:
    """One annotated object as its source tells it.

    Attributes:
        category: as the source spells it.
        center: metres, camera frame x right, y down, z forward.
        dimensions: metres, [w, h, l].
        rotation: (3, 3), box to camera; the box's x is its length, y its height, z its width.
        bbox_px: the source's own image box, xyxy; None where it has none.
        visibility: visible share, 0-1; NaN where unknown.
        truncation: share outside the image, 0-1; NaN where unknown.
        points: lidar or depth points on it; NaN where unknown.
        depth_error: of the box against measured depth, metres; NaN where unknown.
        vouched: False where the source itself says that its 3D box is not to be used.
    """

    category: str
    center: Sequence[float]
    dimensions: Sequence[float]
    rotation: Floats
    bbox_px: Sequence[float] | None = None
    visibility: float = UNKNOWN
    truncation: float = UNKNOWN
    points: float = UNKNOWN
    depth_error: float = UNKNOWN
    vouched: bool = True


@dataclass(frozen=True, slots=True)
class Scene:
    """One image with its boxes.

    Attributes:
        id: unique within its source.
        image: how the source finds the image: a path relative to its folder of images, or a key.
        width, height: pixels, as the intrinsics mean them.
        intrinsics: (3, 3), pixels; None where the source has none.
    """

    id: str
    image: str
    width: int
    height: int
    intrinsics: Floats | None
    objects: Sequence[Cuboid]


@dataclass(frozen=True, slots=True)
class Unread:
    """A scene of which the source gives no usable account; it is counted, with the reason."""

    id: str
    image: str
    problem: Problem


def numbers(values: object, count: int) -> list[float]:
    """``values`` as ``count`` floats; NaN for each where they are anything else.

    Example:
        >>> numbers([1, "2", None], 3)
        [1.0, nan, nan]
        >>> numbers("far", 2)
        [nan, nan]
    """
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != count:
        return [UNKNOWN] * count
    return [number(value) for value in values]


def number(value: object) -> float:
    """``value`` as a float, NaN where it is none; text is none, and so is a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return UNKNOWN
    try:
        return float(value)
    except OverflowError:
        return UNKNOWN
