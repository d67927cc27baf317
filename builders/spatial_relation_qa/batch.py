"""Many scenes as columns: numpy works on all their boxes at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import Floats

from .scene import Scene

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Batch:
    """``s`` scenes of one source with ``n`` boxes in all; boxes stand scene by scene.

    Attributes:
        ids, images: of the scenes.
        sizes_px: (s, 2), width and height.
        intrinsics: (s, 3, 3), NaN where the source has none.
        starts: (s + 1,), where each scene's boxes begin.
        category: (n,) as the source spells them.
        center, dimensions: (n, 3), rotation: (n, 3, 3), bbox_px: (n, 4); NaN where unknown.
        visibility, truncation, points, depth_error: (n,), NaN where unknown.
        vouched: (n,).
    """

    ids: list[str]
    images: list[str]
    sizes_px: Ints
    intrinsics: Floats
    starts: Ints
    category: list[str]
    center: Floats
    dimensions: Floats
    rotation: Floats
    bbox_px: Floats
    visibility: Floats
    truncation: Floats
    points: Floats
    depth_error: Floats
    vouched: Bools

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "Batch":
        """The scenes as columns."""
        objects = [thing for scene in scenes for thing in scene.objects]
        none = np.full((3, 3), np.nan)
        unknown = [np.nan] * 4
        counts = [len(scene.objects) for scene in scenes]
        return cls(
            ids=[scene.id for scene in scenes],
            images=[scene.image for scene in scenes],
            sizes_px=np.array([[s.width, s.height] for s in scenes], np.int64).reshape(-1, 2),
            intrinsics=_stacked(
                [none if s.intrinsics is None else s.intrinsics for s in scenes], (3, 3)
            ),
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            category=[thing.category for thing in objects],
            center=_stacked([thing.center for thing in objects], (3,)),
            dimensions=_stacked([thing.dimensions for thing in objects], (3,)),
            rotation=_stacked([thing.rotation for thing in objects], (3, 3)),
            bbox_px=_stacked([thing.bbox_px or unknown for thing in objects], (4,)),
            visibility=np.array([thing.visibility for thing in objects], np.float64),
            truncation=np.array([thing.truncation for thing in objects], np.float64),
            points=np.array([thing.points for thing in objects], np.float64),
            depth_error=np.array([thing.depth_error for thing in objects], np.float64),
            vouched=np.array([thing.vouched for thing in objects], np.bool_),
        )

    @property
    def scene_of(self) -> Ints:
        """(n,), the scene of each box."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.starts))

    @property
    def number(self) -> Ints:
        """(n,), the place of each box in its scene, as the source lists them."""
        return np.arange(len(self.category)) - self.starts[self.scene_of]


def _stacked(values: Sequence[object], shape: tuple[int, ...]) -> Floats:
    return np.array(values, np.float64).reshape(-1, *shape)


def pairs_within(starts: Ints) -> tuple[Ints, Ints]:
    """Ordered pairs of different items of the same group, first-major.

    Args:
        starts: (s + 1,), where each group's items begin.

    Returns:
        Both sides of the pairs, each (p,).

    Example:
        >>> a, b = pairs_within(np.array([0, 2, 3]))
        >>> a.tolist(), b.tolist()
        ([0, 1], [1, 0])
    """
    counts = np.diff(starts)
    group = np.repeat(np.arange(len(counts)), counts)
    partners = counts[group]
    first = np.repeat(np.arange(starts[-1]), partners)
    place = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = np.repeat(starts[group], partners) + place
    different = first != second
    return first[different], second[different]
