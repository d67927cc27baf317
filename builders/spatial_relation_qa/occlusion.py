"""How much of a box is seen past the other boxes, by casting rays.

Boxes are fuller than what they stand for, so this hides rather too much than too little. Rays are
numpy's: a scene has tens of boxes, for which building a mesh and its tree costs more than the rays.
"""

import numpy as np

from vila2data.cuboids import Floats, half_sizes

from .batch import Ints

_PAIRS_AT_A_TIME = 4096  # bounds memory: each holds some hundred rays


def visible_shares(
    center: Floats,
    dimensions: Floats,
    rotation: Floats,
    bbox_px: Floats,
    intrinsics: Floats,
    pairs: tuple[Ints, Ints],
    *,
    rays: int,
) -> Floats:
    """The share of each box's picture that no other box lies before, (n,); NaN where it has none.

    Args:
        center, dimensions, rotation: (n, 3), (n, 3), (n, 3, 3).
        bbox_px: (n, 4), the part of each box's picture that lies in the image.
        intrinsics: (n, 3, 3), of each box's image.
        pairs: (p,) each, of a box and one that may lie before it.
        rays: along each side of the picture.
    """
    count = len(center)
    directions = _directions(bbox_px, intrinsics, rays)  # (n, r, 3)
    own = _entry(directions, center, dimensions, rotation)  # (n, r)
    hidden = np.zeros(own.shape, np.bool_)
    for begin in range(0, len(pairs[0]), _PAIRS_AT_A_TIME):
        seen, before = (side[begin : begin + _PAIRS_AT_A_TIME] for side in pairs)
        entry = _entry(directions[seen], center[before], dimensions[before], rotation[before])
        np.logical_or.at(hidden, seen, entry < own[seen])
    hits = np.isfinite(own)
    total = hits.sum(axis=1)
    shares = np.full(count, np.nan)
    some = total > 0
    shares[some] = (hits & ~hidden).sum(axis=1)[some] / total[some]
    return shares


def possible_occluders(
    bbox_px: Floats, depth_min: Floats, depth_max: Floats, pairs: tuple[Ints, Ints]
) -> tuple[Ints, Ints]:
    """Those of ``pairs`` whose pictures overlap and whose second begins before the first ends."""
    seen, before = pairs
    a, b = bbox_px[seen], bbox_px[before]
    apart = (a[:, :2] >= b[:, 2:]) | (b[:, :2] >= a[:, 2:])
    possible = ~apart.any(axis=1) & (depth_min[before] < depth_max[seen])
    return seen[possible], before[possible]


def _directions(bbox_px: Floats, intrinsics: Floats, rays: int) -> Floats:
    """Through the middles of a grid of cells over each picture, (n, rays², 3)."""
    steps = (np.arange(rays) + 0.5) / rays
    u = bbox_px[:, None, 0] + steps * (bbox_px[:, 2] - bbox_px[:, 0])[:, None]  # (n, rays)
    v = bbox_px[:, None, 1] + steps * (bbox_px[:, 3] - bbox_px[:, 1])[:, None]
    pixels = np.stack(
        [
            np.repeat(u, rays, axis=1),
            np.tile(v, (1, rays)),
            np.ones((len(u), rays * rays)),
        ],
        axis=-1,
    )  # (n, rays², 3)
    directions: Floats = pixels @ np.swapaxes(np.linalg.inv(intrinsics), -1, -2)
    return directions


def _entry(directions: Floats, center: Floats, dimensions: Floats, rotation: Floats) -> Floats:
    """Depth at which each ray enters its box, (n, r); infinite where it misses.

    The slab method in the box's own axes.
    """
    local = directions @ rotation  # (n, r, 3)
    origin = -np.einsum("nij,ni->nj", rotation, center)[:, None]  # (n, 1, 3)
    half = half_sizes(dimensions)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        first = (-half - origin) / local
        last = (half - origin) / local
    # A ray along a face: NaN is neither an entry nor an exit.
    near = np.fmax.reduce(np.fmin(first, last), axis=-1)
    far = np.fmin.reduce(np.fmax(first, last), axis=-1)
    entry: Floats = np.where((near <= far) & (near > 0), near, np.inf)
    return entry
