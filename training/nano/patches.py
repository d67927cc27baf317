"""What lies at each patch of an image: what the foundation's tower learns to see.

A stand-in for the hundreds of millions of images that a real tower has seen. Sizes and materials
are among it: the tower sees them, as SigLIP does, but no text of the foundation names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .texts import DEPTH_UNIT_M

ATTRIBUTES = ("shape", "color", "size", "material")
SURROUNDINGS = ("floor", "wall")
_SHRINK = 0.08  # of a box's sides: its corners mostly show what lies behind


@dataclass(frozen=True, slots=True)
class PatchTargets:
    """Of one image with g x g patches.

    Attributes:
        classes: (g², 4), for each of ``ATTRIBUTES`` its number, 0 where no object is.
        places: (g², 5), the object's xyxy in 0-1 and its depth in parts of 8 m; 0 where none is.
        surroundings: (2,), the numbers of floor and wall.
    """

    classes: NDArray[np.int64]
    places: NDArray[np.float32]
    surroundings: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Names:
    """The values of each attribute that a build knows, in alphabetical order; numbers count from
    0 in ``surroundings``, from 1 in ``attributes``.
    """

    attributes: Mapping[str, Sequence[str]]
    surroundings: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "Names":
        """Those of some rows of ``scenes``."""
        things = [told for row in rows for told in row["attributes"]]
        return cls(
            {name: sorted({thing[name] for thing in things}) for name in ATTRIBUTES},
            {name: sorted({row[name] for row in rows}) for name in SURROUNDINGS},
        )

    def sizes(self) -> tuple[list[int], list[int]]:
        """Classes of each attribute, "none" included, and of each of the surroundings."""
        return (
            [len(self.attributes[name]) + 1 for name in ATTRIBUTES],
            [len(self.surroundings[name]) for name in SURROUNDINGS],
        )


def patch_targets(
    row: Mapping[str, Any], names: Names, grid: int, *, mirrored: bool
) -> PatchTargets:
    """The targets of a row of ``scenes``; a patch belongs to the nearest object at its middle."""
    middles = (np.arange(grid) + 0.5) / grid
    x, y = np.tile(middles, grid), np.repeat(middles, grid)
    classes = np.zeros((grid * grid, len(ATTRIBUTES)), np.int64)
    places = np.zeros((grid * grid, 5), np.float32)
    pairs = zip(row["objects"], row["attributes"], strict=True)
    for thing, told in sorted(pairs, key=lambda pair: -pair[0]["center"][2]):
        x1, y1, x2, y2 = map(float, thing["bbox"])
        box = (1 - x2, y1, 1 - x1, y2) if mirrored else (x1, y1, x2, y2)
        inside = _within(x, box[0], box[2], grid) & _within(y, box[1], box[3], grid)
        classes[inside] = [names.attributes[name].index(told[name]) + 1 for name in ATTRIBUTES]
        places[inside] = [*box, thing["center"][2] / DEPTH_UNIT_M]
    around = [names.surroundings[name].index(row[name]) for name in SURROUNDINGS]
    return PatchTargets(classes, places, np.array(around))


def _within(values: NDArray[np.float64], low: float, high: float, grid: int) -> NDArray[np.bool_]:
    """Which middles lie in a side of a box; at least the one that is nearest to its middle."""
    margin, middle = (high - low) * _SHRINK, (low + high) / 2
    least = 0.5 / grid
    return (values >= min(low + margin, middle - least)) & (
        values <= max(high - margin, middle + least)
    )
