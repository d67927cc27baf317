"""Images that may be copies by their hashes; what they show decides later."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .near import Bits, Hashes, Places, near_blocks

PER_IMAGE = 32
"""Candidates of an image, the nearest by hash: pages of text crowd at a few hashes."""

_PRUNED_ABOVE = 1 << 22  # pairs held before those that are not among the nearest are dropped
_EXPANDED = 1 << 21  # pairs of images made of pairs of hashes at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hashed:
    """Hashes and the places of the images that they are of.

    Attributes:
        values: (n,); an image may have several.
        owners: (n,), place of each hash's image.
    """

    values: Hashes
    owners: Places

    def grouped(self) -> "_Groups":
        """The owners of each distinct hash."""
        _, inverse, counts = np.unique(self.values, return_inverse=True, return_counts=True)
        return _Groups(
            owners=self.owners[np.argsort(inverse, kind="stable")],
            starts=np.cumsum(counts) - counts,
            counts=counts,
            group_of=inverse,
        )


@dataclass(frozen=True, slots=True)
class _Groups:
    """Owners in the order of their hashes; ``starts`` and ``counts`` of each distinct hash, and
    ``group_of`` each hash as it was given.
    """

    owners: Places
    starts: Places
    counts: Places
    group_of: Places


@dataclass(frozen=True, slots=True)
class Images:
    """Distinct images of a table.

    Attributes:
        hashes: one for each image, in order.
        views: hashes of crops, several for an image, or none.
        places: (n,), where each image is first used.
    """

    hashes: Hashed
    views: Hashed
    places: Places

    @classmethod
    def of(cls, images: pa.Table) -> "Images":
        """From columns ``phash``, without null, ``views`` and ``place``."""
        views = images["views"].combine_chunks()
        owners = pc.list_parent_indices(views).to_numpy(zero_copy_only=False)
        return cls(
            Hashed(images["phash"].to_numpy(), np.arange(len(images))),
            Hashed(pc.list_flatten(views).to_numpy(zero_copy_only=False), owners.astype(np.int64)),
            images["place"].to_numpy(),
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of images.

    Attributes:
        left: (k,), place among the left images.
        right: (k,), place among the right images.
        distances: (k,), bits.
    """

    left: Places
    right: Places
    distances: Bits

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def of_all(cls, several: Sequence["Candidates"]) -> "Candidates":
        """All pairs, unsorted."""
        none = np.empty(0, np.int64)
        parts = [cls(none, none, np.empty(0, np.uint8)), *several]
        return cls(
            np.concatenate([part.left for part in parts]),
            np.concatenate([part.right for part in parts]),
            np.concatenate([part.distances for part in parts]),
        )

    def nearest(self, count: int) -> "Candidates":
        """Each pair once, by its smallest distance; of each left image the ``count`` nearest.
        Sorted by the left image, then by distance.
        """
        once = self._at(np.lexsort((self.distances, self.right, self.left)))
        new = (np.diff(once.left, prepend=-1) != 0) | (np.diff(once.right, prepend=-1) != 0)
        once = once._at(np.flatnonzero(new))
        ordered = once._at(np.lexsort((once.right, once.distances, once.left)))
        rank = np.arange(len(ordered)) - np.searchsorted(ordered.left, ordered.left)
        return ordered._at(np.flatnonzero(rank < count))

    def _at(self, places: Places) -> "Candidates":
        return Candidates(self.left[places], self.right[places], self.distances[places])


def near_images(left: Images, right: Images, max_distance: int, *, within: bool) -> Candidates:
    """Pairs of images one of which has a hash near the other's hash or near one of its views.

    Args:
        left: at most ``PER_IMAGE`` pairs are given for each.
        right: what they are compared with.
        max_distance: bits.
        within: whether both are of one table; then the right image is used before the left one.
    """
    searches = [(left.hashes, right.hashes), (left.hashes, right.views), (left.views, right.hashes)]
    found = Candidates.of_all([])
    for ours, theirs in searches:
        for some in _search(ours, theirs, max_distance):
            if within:
                earlier = right.places[some.right] < left.places[some.left]
                some = some._at(np.flatnonzero(earlier))
            found = Candidates.of_all([found, some])
            if len(found) > _PRUNED_ABOVE:
                found = found.nearest(PER_IMAGE)
    kept = found.nearest(PER_IMAGE)
    crowded = int((np.bincount(kept.left) == PER_IMAGE).sum())
    if crowded:
        _log.warning(
            "%d images have %d candidates or more: the nearest are looked at", crowded, PER_IMAGE
        )
    return kept


def _search(ours: Hashed, theirs: Hashed, max_distance: int) -> Iterator[Candidates]:
    """Pairs of owners of near hashes, in blocks; of a hash that many share the first few."""
    mine, other = ours.grouped(), theirs.grouped()
    for pairs, distances in near_blocks(ours.values, theirs.values, max_distance):
        left, right = mine.group_of[pairs[:, 0]], other.group_of[pairs[:, 1]]
        rights = np.minimum(other.counts[right], PER_IMAGE)
        ends = np.cumsum(mine.counts[left] * rights)
        cuts = np.searchsorted(ends, np.arange(0, ends[-1], _EXPANDED))
        for begin, end in pairwise([*np.unique(cuts), len(pairs)]):
            some = slice(begin, end)
            yield _expanded(mine, other, left[some], right[some], distances[some])


def _expanded(
    mine: _Groups, other: _Groups, left: Places, right: Places, distances: Bits
) -> Candidates:
    """Every owner of each left hash with the first owners of each right hash."""
    rights = np.minimum(other.counts[right], PER_IMAGE)
    sizes = mine.counts[left] * rights
    pair = np.repeat(np.arange(len(left)), sizes)
    within = np.arange(len(pair)) - (np.cumsum(sizes) - sizes)[pair]
    return Candidates(
        mine.owners[mine.starts[left][pair] + within // rights[pair]],
        other.owners[other.starts[right][pair] + within % rights[pair]],
        distances[pair],
    )
