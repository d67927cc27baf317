"""Plane geometry of drawings: segments clipped to a frame, SVG paths, convex hulls."""

from collections.abc import Iterable, Sequence

import numpy as np

from vila2data.cuboids import Floats

Point = tuple[float, float]


def clipped(segments: Floats, size: Point) -> Floats:
    """The parts of segments that lie in the frame from (0, 0) to ``size``.

    Args:
        segments: (n, 2, 2), start and stop as x, y; one that is not finite has no part.
        size: width and height.

    Returns:
        (m, 2, 2) with m <= n, in the same order.
    """
    start, stop = segments[:, 0], segments[:, 1]
    step = stop - start
    low, high = np.zeros(2), np.asarray(size, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ends = np.stack([(low - start) / step, (high - start) / step])  # (2, n, 2)
        enter, leave = ends.min(axis=0), ends.max(axis=0)
        still = step == 0
        within = (start >= low) & (start <= high)
        enter = np.where(still, np.where(within, -np.inf, np.inf), enter).max(axis=1)
        leave = np.where(still, np.inf, leave).min(axis=1)
        first, last = np.maximum(enter, 0.0), np.minimum(leave, 1.0)
        seen = (first < last) & np.isfinite(segments).all(axis=(1, 2))
    shares = np.stack([first, last], axis=1)[seen]  # (m, 2)
    parts = start[seen, None] + shares[..., None] * step[seen, None]
    inside_frame: Floats = np.clip(parts, low, high)  # rounding may leave it by a hair
    return inside_frame


def path_of(segments: Floats) -> str:
    """The ``d`` of an SVG path that draws the segments, (n, 2, 2)."""
    return "".join(
        f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" for (x1, y1), (x2, y2) in segments.tolist()
    )


def points_of(points: Iterable[Sequence[float]]) -> str:
    """The ``points`` of an SVG polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def hull(points: Iterable[Sequence[float]]) -> list[Point]:
    """The corners of the convex hull, in order round it; the points themselves where they are two
    or fewer.

    Example:
        >>> hull([(0, 0), (2, 0), (1, 1), (2, 2), (0, 2)])
        [(0, 0), (2, 0), (2, 2), (0, 2)]
    """
    ordered = sorted({(x, y) for x, y in points})
    if len(ordered) < 3:
        return ordered
    return [*_half(ordered)[:-1], *_half(ordered[::-1])[:-1]]


def _half(ordered: Sequence[Point]) -> list[Point]:
    """One side of the hull of sorted points, by Andrew's monotone chain."""
    side: list[Point] = []
    for x, y in ordered:
        while len(side) > 1:
            (x1, y1), (x2, y2) = side[-2:]
            if (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0:
                break
            side.pop()
        side.append((x, y))
    return side
