"""Boxes in space: corners, extents, projection. All arrays are float64 unless they come in as less.

The frame is the camera's: x right, y down, z forward, metres. ``dimensions`` are [w, h, l], and
``rotation`` turns the box's own axes into the camera's: length along its x, height along its y,
width along its z (the layout of Omni3D).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

NEAR_M = 0.05
"""What lies nearer to the camera's plane is cut off before it is projected."""

_SIGNS = np.array(
    [
        [-1, -1, -1],
        [1, -1, -1],
        [1, 1, -1],
        [-1, 1, -1],
        [-1, -1, 1],
        [1, -1, 1],
        [1, 1, 1],
        [-1, 1, 1],
    ],
    dtype=np.float64,
)
"""Of the corners along the box's own x, y, z; the order is Omni3D's."""

EDGES = np.array(
    [
        *[[0, 1], [1, 2], [2, 3], [3, 0]],
        *[[4, 5], [5, 6], [6, 7], [7, 4]],
        *[[0, 4], [1, 5], [2, 6], [3, 7]],
    ]
)
"""Pairs of corners that an edge joins, (12, 2)."""


def half_sizes(dimensions: Floats) -> Floats:
    """Half the size along the box's own x, y, z; ``dimensions`` (..., 3) are [w, h, l]."""
    return dimensions[..., ::-1] / 2


def corners(center: Floats, dimensions: Floats, rotation: Floats) -> Floats:
    """The corners in the camera frame, (n, 8, 3), in Omni3D's order.

    Args:
        center: (n, 3).
        dimensions: (n, 3) as [w, h, l].
        rotation: (n, 3, 3), box to camera.
    """
    axes = rotation * half_sizes(dimensions)[:, None, :]  # (n, 3, 3), as long as half the box
    turned = axes.reshape(-1, 3) @ _SIGNS.T  # (3n, 8): one product, not one for each box
    return np.swapaxes(turned.reshape(-1, 3, 8), 1, 2) + center[:, None, :]


def depth_ranges(center: Floats, dimensions: Floats, rotation: Floats) -> Floats:
    """Nearest and farthest depth of the corners, (n, 2); arguments as of ``corners``."""
    depths = (rotation[:, 2] * half_sizes(dimensions)) @ _SIGNS.T + center[:, 2:]  # (n, 8)
    if not len(depths):
        return np.zeros((0, 2))
    return np.stack([depths.min(axis=1), depths.max(axis=1)], axis=1)


def yaw_rotation(angle: Floats) -> Floats:
    """Rotations about the camera's y axis, which points down; (n,) radians to (n, 3, 3)."""
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.zeros((*np.shape(angle), 3, 3))
    rotation[..., 0, 0], rotation[..., 0, 2] = cos, sin
    rotation[..., 1, 1] = 1.0
    rotation[..., 2, 0], rotation[..., 2, 2] = -sin, cos
    return rotation


def project(points: Floats, intrinsics: Floats) -> Floats:
    """Pixels (..., 2) of points (..., 3) that lie before the camera; ``intrinsics`` (..., 3, 3)."""
    image = np.einsum("...ij,...j->...i", intrinsics, points)
    pixels: Floats = image[..., :2] / image[..., 2:]
    return pixels


def segments_before_camera(points: Floats, near_m: float = NEAR_M) -> Floats:
    """The edges of boxes, each cut at the near plane.

    Args:
        points: corners, (n, 8, 3).
        near_m: depth of the plane.

    Returns:
        (n, 12, 2, 3); NaN where an edge lies behind the plane.
    """
    ends = points[:, EDGES, :].copy()  # (n, 12, 2, 3)
    depth = ends[..., 2]
    start, stop = ends[..., 0, :].copy(), ends[..., 1, :].copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (near_m - depth[..., 0]) / (depth[..., 1] - depth[..., 0])
        crossing = start + share[..., None] * (stop - start)
    behind = depth < near_m
    one = behind[..., 0] ^ behind[..., 1]
    ends[..., 0, :] = np.where((one & behind[..., 0])[..., None], crossing, start)
    ends[..., 1, :] = np.where((one & behind[..., 1])[..., None], crossing, stop)
    ends[behind.all(axis=-1)] = np.nan
    return ends


def projected_boxes(points: Floats, intrinsics: Floats) -> Floats:
    """The smallest image box, xyxy in pixels, around each box; it may lie outside the image.

    Args:
        points: corners, (n, 8, 3).
        intrinsics: (n, 3, 3).

    Returns:
        (n, 4); NaN where a box lies behind the camera.
    """
    if not len(points):
        return np.zeros((0, 4))
    pixels = project(points, intrinsics[:, None])
    boxes = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    cut = points[..., 2].min(axis=1) < NEAR_M
    if cut.any():
        seen = project(segments_before_camera(points[cut]), intrinsics[cut][:, None, None])
        flat = seen.reshape(len(seen), -1, 2)  # (m, 24, 2)
        hidden = np.isnan(flat).all(axis=(1, 2))
        flat[hidden] = 0.0  # no warning for what has no pixel at all
        boxes[cut] = np.concatenate([np.nanmin(flat, axis=1), np.nanmax(flat, axis=1)], axis=1)
        boxes[np.flatnonzero(cut)[hidden]] = np.nan
    return boxes


Sides = tuple[Floats, Floats, Floats]
"""Center (n, 3), dimensions (n, 3) and rotation (n, 3, 3) of boxes."""

_PAIRS_AT_A_TIME = 8192  # bounds memory: each pair has 144 pairs of edges


def gaps(a: Sides, b: Sides) -> Floats:
    """The distance between the nearest points of paired boxes, (n,) metres; 0 where they meet.

    Two boxes that do not meet are nearest at a corner of one, or at an edge of each.
    """
    count = len(a[0])
    found = np.zeros(count)
    for begin in range(0, count, _PAIRS_AT_A_TIME):
        part = slice(begin, begin + _PAIRS_AT_A_TIME)
        left: Sides = (a[0][part], a[1][part], a[2][part])
        right: Sides = (b[0][part], b[1][part], b[2][part])
        own, others = corners(*left), corners(*right)
        nearest = np.minimum(
            np.minimum(_to_box(others, left).min(axis=1), _to_box(own, right).min(axis=1)),
            _between_edges(own, others),
        )
        found[part] = np.where(_apart(left, right, own, others), nearest, 0.0)
    return found


def _to_box(points: Floats, box: Sides) -> Floats:
    """Distance of points (n, k, 3) to one box each, (n, k)."""
    center, dimensions, rotation = box
    local = (points - center[:, None]) @ rotation
    outside = np.maximum(np.abs(local) - half_sizes(dimensions)[:, None], 0.0)
    distance: Floats = np.sqrt((outside**2).sum(axis=-1))
    return distance


def _between_edges(a: Floats, b: Floats) -> Floats:
    """The least distance between an edge of one and an edge of the other, (n,).

    The nearest points of two segments: where the lines are nearest, cut to the segments; the side
    lengths of a box are positive.
    """
    p, q = a[:, EDGES[:, 0], None], b[:, None, EDGES[:, 0]]  # (n, 12, 1, 3), (n, 1, 12, 3)
    u, v = a[:, EDGES[:, 1], None] - p, b[:, None, EDGES[:, 1]] - q
    w = p - q
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.clip(np.nan_to_num((uv * vw - vv * uw) / (uu * vv - uv * uv)), 0.0, 1.0)
    t = np.clip((uv * s + vw) / vv, 0.0, 1.0)
    s = np.clip((uv * t - uw) / uu, 0.0, 1.0)
    between = w + s[..., None] * u - t[..., None] * v
    least: Floats = np.sqrt((between**2).sum(-1)).min(axis=(1, 2))
    return least


def _apart(a: Sides, b: Sides, own: Floats, others: Floats) -> Any:
    """Whether a plane lies between two boxes, (n,); the separating axis test."""
    axes_a, axes_b = np.swapaxes(a[2], -1, -2), np.swapaxes(b[2], -1, -2)  # rows are axes
    crossed = np.cross(axes_a[:, :, None], axes_b[:, None]).reshape(len(own), 9, 3)
    axes = np.concatenate([axes_a, axes_b, crossed], axis=1)  # (n, 15, 3)
    left, right = own @ np.swapaxes(axes, -1, -2), others @ np.swapaxes(axes, -1, -2)
    disjoint = (left.max(axis=1) < right.min(axis=1)) | (right.max(axis=1) < left.min(axis=1))
    return disjoint.any(axis=1)
