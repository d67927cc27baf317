"""What the stored numbers of a box must satisfy, without ever making its corners.

A box is a convex body: how far it reaches along a direction follows from its center, its half sizes
and its own axes (its support function). So its depths, the lines of the image that touch it, and
how far two boxes are apart are found from planes that touch them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import Floats

Flags = NDArray[np.bool_]

_NEAR_M = 0.05
_SINGLE = 2.0**-24  # relative error of a number stored in single precision
_ROUNDINGS = 16  # up to four stored numbers in each product, and as many again for each where the
#                  edges were computed in single precision; the rest is room
_ORTHONORMAL = 1e-3  # sources round rotations to four digits or more
_APART_M = 1e-6
_MAX_STEPS = 2_000


@dataclass(frozen=True, slots=True)
class Boxes:
    """The boxes of many rows, each with the camera of its row.

    Attributes:
        bbox_norm: (n, 4), xyxy.
        center: (n, 3), metres.
        half_m: (n, 3), half the size along the box's own x, y, z.
        rotation: (n, 3, 3), box to camera.
        intrinsics: (n, 3, 3), pixels.
        size_px: (n, 2), width and height of the image.
    """

    bbox_norm: Floats
    center: Floats
    half_m: Floats
    rotation: Floats
    intrinsics: Floats
    size_px: Floats

    def __len__(self) -> int:
        return len(self.center)

    def only(self, which: Flags) -> "Boxes":
        """Those that are flagged, (n,)."""
        return Boxes(
            self.bbox_norm[which],
            self.center[which],
            self.half_m[which],
            self.rotation[which],
            self.intrinsics[which],
            self.size_px[which],
        )

    def finite(self) -> Flags:
        """Which boxes have all their numbers, their camera's too; (n,)."""
        parts = (self.bbox_norm, self.center, self.half_m, self.rotation, self.intrinsics)
        flags = [np.isfinite(p).reshape(len(self), -1).all(axis=1) for p in parts]
        found: Flags = np.logical_and.reduce([*flags, np.isfinite(self.size_px).all(axis=1)])
        return found

    def depths_m(self) -> Floats:
        """The nearest and the farthest depth of each box, (n, 2)."""
        reach = (np.abs(self.rotation[:, 2, :]) * self.half_m).sum(axis=1)
        depth = self.center[:, 2]
        return np.stack([depth - reach, depth + reach], axis=1)


def faults(boxes: Boxes) -> Iterator[tuple[str, Flags]]:
    """Each rule of one box alone, with the boxes (n,) that break it; all numbers are finite."""
    gram = np.einsum("nij,nik->njk", boxes.rotation, boxes.rotation)
    skewed: Flags = np.abs(gram - np.eye(3)).max(axis=(1, 2), initial=0.0) > _ORTHONORMAL
    mirrored: Flags = np.linalg.det(boxes.rotation) <= 0
    yield "the intrinsics are no camera's", ~_cameras(boxes.intrinsics)
    yield "a rotation is none", skewed | mirrored
    flat: Flags = boxes.half_m.min(axis=1, initial=np.inf) <= 0
    yield "a box has no size", flat
    yield "a box is not before the camera", boxes.depths_m()[:, 0] < _NEAR_M * (1 - 1e-5)
    x1, y1, x2, y2 = boxes.bbox_norm.T
    yield "a bbox leaves the image or is empty", ~((x1 >= 0) & (x1 < x2) & (x2 <= 1)
                                                   & (y1 >= 0) & (y1 < y2) & (y2 <= 1))  # fmt: skip
    yield "a bbox is not where its box is seen", _edges_off(boxes)


def _cameras(intrinsics: Floats) -> Flags:
    """Which matrices (n, 3, 3) have focal lengths, and nothing where K has nothing; (n,)."""
    focal = (intrinsics[:, 0, 0] > 0) & (intrinsics[:, 1, 1] > 0)
    below = (intrinsics[:, 1, 0] == 0) & (intrinsics[:, 2] == [0.0, 0.0, 1.0]).all(axis=1)
    found: Flags = focal & below
    return found


def _edges_off(boxes: Boxes) -> Flags:
    """Which boxes have an edge of ``bbox`` that does not touch them.

    The pixels with u = U are a plane through the camera, (K_0 - U K_2) · p = 0. A box touches it
    from the right, as its left edge must, where the least value of that function over the box is 0,
    and from the left where the greatest is. At the image's border the box may go on beyond it.
    """
    off = np.zeros(len(boxes), dtype=bool)
    for edge in range(4):
        axis, is_low = edge % 2, edge < 2
        at_norm = boxes.bbox_norm[:, edge]
        at_px = (at_norm * boxes.size_px[:, axis])[:, None]
        row, last = boxes.intrinsics[:, axis], boxes.intrinsics[:, 2]
        value = _farthest(row - at_px * last, boxes, outwards=-1.0 if is_low else 1.0)
        error = _ROUNDINGS * _SINGLE * _magnitude(np.abs(row) + at_px * np.abs(last), boxes)
        is_cut = at_norm == (0.0 if is_low else 1.0)
        off |= (value < -error) | (~is_cut & (value > error))
    return off


def _farthest(normal: Floats, boxes: Boxes, outwards: float) -> Floats:
    """The greatest ``outwards * normal · p`` over the points p of each box, (n,)."""
    middle = (normal * boxes.center).sum(axis=1)
    turned = np.einsum("ni,nij->nj", normal, boxes.rotation)
    found: Floats = outwards * middle + (np.abs(turned) * boxes.half_m).sum(axis=1)
    return found


def _magnitude(weights: Floats, boxes: Boxes) -> Floats:
    """The same sum with every term positive: what its rounding error is a share of, (n,)."""
    turned = np.einsum("ni,nij->nj", weights, np.abs(boxes.rotation))
    found: Floats = (weights * np.abs(boxes.center)).sum(axis=1)
    found += (turned * boxes.half_m).sum(axis=1)
    return found


def distances_m(boxes: Boxes, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """How far pairs of boxes are apart, (n,) metres; 0 where they meet, exact to a micrometre.

    The nearest points minimise |c + M x| over |x| ≤ h, x being both points in the axes of their own
    boxes. M Mᵀ is twice the identity, so that projected gradient steps of 1/2, with momentum,
    arrive soon. A plane between the two proves when: no distance is less than how far it keeps
    them apart.
    """
    found = np.zeros(len(first))
    offset = boxes.center[first] - boxes.center[second]
    axes = np.concatenate([boxes.rotation[first], -boxes.rotation[second]], axis=2)  # (n, 3, 6)
    half = np.concatenate([boxes.half_m[first], boxes.half_m[second]], axis=1)  # (n, 6)
    at, ahead, momentum = np.zeros_like(half), np.zeros_like(half), np.ones(len(half))
    open_pairs = np.arange(len(first))
    for step in range(_MAX_STEPS):
        apart = offset + np.einsum("nij,nj->ni", axes, ahead)
        new = np.clip(ahead - np.einsum("nij,ni->nj", axes, apart) / 2, -half, half)
        momentum = np.where(((ahead - new) * (new - at)).sum(axis=1) > 0, 1.0, momentum)
        after = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + ((momentum - 1) / after)[:, None] * (new - at)
        at, momentum = new, after
        if step % 8 != 7:
            continue
        apart = offset + np.einsum("nij,nj->ni", axes, at)
        most = np.sqrt((apart**2).sum(axis=1))
        found[open_pairs] = most
        going = most - _least(offset, axes, half, apart, most) > _APART_M
        if not going.any():
            break
        open_pairs, offset, axes, half = open_pairs[going], offset[going], axes[going], half[going]
        at, ahead, momentum = at[going], ahead[going], momentum[going]
    return found


def _least(offset: Floats, axes: Floats, half: Floats, apart: Floats, most: Floats) -> Floats:
    """How far the planes across ``apart`` keep the boxes from each other, at least 0; (n,)."""
    normal = apart / np.maximum(most, 1e-300)[:, None]
    reach = (np.abs(np.einsum("nij,ni->nj", axes, normal)) * half).sum(axis=1)
    kept: Floats = np.maximum((normal * offset).sum(axis=1) - reach, 0.0)
    return kept
