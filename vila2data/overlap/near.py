"""Pairs of 64-bit hashes that differ in few bits, all of them, without comparing every pair."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

from vila2data.errors import BadInput

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Keys = NDArray[np.int32]
Bits = NDArray[np.uint8]

HASH_BITS = 64
MAX_DISTANCE = 16
"""More bits than that tell nothing of two pictures, and the search would compare every pair."""

_MAX_KEY_BITS = 24
_MAX_PARTS = 8
_BLOCK = 1 << 21  # candidates compared at a time, so that crowds of like hashes need no more memory
_PROBE_COST = 2.0  # of looking a key up, where comparing a candidate costs 1


@dataclass(frozen=True, slots=True)
class _Part:
    """Some neighbouring bits of a hash, in which a near pair may differ by ``radius`` bits."""

    shift: int
    bits: int
    radius: int

    @property
    def flips(self) -> int:
        """How many keys are looked up for each hash."""
        return sum(comb(self.bits, count) for count in range(self.radius + 1))

    def cost(self, left: int, right: int) -> float:
        """Of looking ``left`` hashes up in ``right`` ones, in comparisons."""
        keys: int = 1 << self.bits
        return self.flips * left * (_PROBE_COST + right / keys) + keys / 4

    def keys(self, hashes: Hashes) -> Keys:
        """The part of each hash, as a number."""
        found = (hashes >> np.uint64(self.shift)) & np.uint64((1 << self.bits) - 1)
        return found.astype(np.int32)

    def masks(self) -> Iterator[int]:
        """The differences that the part may have."""
        for count in range(self.radius + 1):
            for chosen in combinations(range(self.bits), count):
                yield sum(1 << bit for bit in chosen)


@dataclass(frozen=True, slots=True)
class _Table:
    """Hashes in the order of a part's keys.

    Attributes:
        order: place of each hash among those given.
        starts: place of the first hash of each key.
        counts: how many hashes each key has.
    """

    hashes: Hashes
    order: Places
    starts: Keys
    counts: Keys

    @classmethod
    def of(cls, hashes: Hashes, part: _Part) -> "_Table":
        """The hashes, looked up by a part."""
        keys = part.keys(hashes)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=1 << part.bits).astype(np.int32)
        starts = np.cumsum(counts, dtype=np.int32) - counts
        return cls(hashes[order], order, starts, counts)

    def sharing(self, keys: Keys, occupied: NDArray[np.bool_]) -> Iterator[tuple[Places, Places]]:
        """Places of ``keys``, each with a place in the table that has the key, in blocks."""
        found = np.flatnonzero(occupied[keys])
        wanted = keys[found]
        first, held = self.starts[wanted], self.counts[wanted]
        ends = np.cumsum(held, dtype=np.int64)
        begin = 0
        while begin < len(found):
            reached = ends[begin - 1] if begin else 0
            end = max(int(np.searchsorted(ends, reached + _BLOCK)), begin + 1)
            some = slice(begin, end)
            offsets = first[some] - (ends[some] - held[some] - reached)
            there = np.repeat(offsets, held[some])
            yield np.repeat(found[some], held[some]), there + np.arange(len(there))
            begin = end


def near_pairs(left: Hashes, right: Hashes | None, max_distance: int) -> tuple[Places, Bits]:
    """Every pair of distinct hashes that differ in at most ``max_distance`` bits.

    Hashes that are the same stand once, for the first of them: a thousand blank pages are one hash,
    not a million pairs. ``np.unique(..., return_inverse=True)`` tells who shares one.

    Args:
        left: (n,).
        right: (m,); None compares ``left`` with itself, each pair once and none with itself.
        max_distance: 0 to 16.

    Returns:
        Places of the first of each pair's hashes, (k, 2), sorted; and their distances, (k,).

    Raises:
        BadInput: ``max_distance`` is not in 0 to 16.
    """
    blocks = list(near_blocks(left, right, max_distance))
    if not blocks:
        return np.empty((0, 2), np.int64), np.empty(0, np.uint8)
    pairs = np.concatenate([pairs for pairs, _ in blocks])
    distances = np.concatenate([distances for _, distances in blocks])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], distances[order]


def near_blocks(
    left: Hashes, right: Hashes | None, max_distance: int
) -> Iterator[tuple[Places, Bits]]:
    """The pairs of ``near_pairs`` in blocks, in no order, for those who need not hold them all.

    Raises:
        BadInput: ``max_distance`` is not in 0 to 16.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise BadInput(f"max_distance: is {max_distance}, must be 0 to {MAX_DISTANCE}")
    ours, our_places = np.unique(np.asarray(left, np.uint64), return_index=True)
    theirs, their_places = (
        (ours, our_places)
        if right is None
        else np.unique(np.asarray(right, np.uint64), return_index=True)
    )
    swapped = len(ours) > len(theirs)  # looking the fewer up in the more takes less time
    if swapped:
        ours, our_places, theirs, their_places = theirs, their_places, ours, our_places
    for mine, other, distances in _pairs_of(ours, theirs, max_distance):
        pairs = np.stack([our_places[mine], their_places[other]], axis=1)
        pairs = pairs[:, ::-1] if swapped else pairs
        if right is None:
            once = pairs[:, 0] < pairs[:, 1]
            pairs, distances = pairs[once], distances[once]
        if len(pairs):
            yield pairs.astype(np.int64), distances


def _pairs_of(
    ours: Hashes, theirs: Hashes, max_distance: int
) -> Iterator[tuple[Places, Places, Bits]]:
    parts = _parts_for(len(ours), len(theirs), max_distance)
    for number in range(len(parts)):
        yield from _pairs_by(parts, number, ours, theirs, max_distance)


def _parts_for(left: int, right: int, max_distance: int) -> list[_Part]:
    """The cheapest way to cut a hash so that a near pair agrees, but for ``radius``, in one part.

    A pair that differs by more than ``radius`` in each part differs in at least the sum of
    ``radius + 1``; with a sum of ``max_distance + 1`` it is not near.
    """
    ways = [_cut(count, max_distance) for count in range(1, _MAX_PARTS + 1)]
    fitting = [way for way in ways if all(part.bits <= _MAX_KEY_BITS for part in way)]

    return min(fitting, key=lambda way: sum(part.cost(left, right) for part in way))


def _cut(count: int, max_distance: int) -> list[_Part]:
    edges = [round(HASH_BITS * place / count) for place in range(count + 1)]
    parts = []
    for number, (start, end) in enumerate(pairwise(edges)):
        differing = (max_distance + 1) // count + (number < (max_distance + 1) % count)
        if differing:
            parts.append(_Part(start, end - start, differing - 1))
    return parts


def _pairs_by(
    parts: list[_Part], number: int, ours: Hashes, theirs: Hashes, max_distance: int
) -> Iterator[tuple[Places, Places, Bits]]:
    """The near pairs that agree in part ``number`` and in none before it."""
    part = parts[number]
    table = _Table.of(theirs, part)
    occupied = table.counts > 0
    # Keys that are looked up in order find their neighbours in the processor's cache.
    order = np.argsort(part.keys(ours), kind="stable")
    sorted_ours = ours[order]
    keys = part.keys(sorted_ours)
    for mask in part.masks():
        for mine, other in table.sharing(keys ^ np.int32(mask), occupied):
            differing = sorted_ours[mine] ^ table.hashes[other]
            near = np.flatnonzero(np.bitwise_count(differing) <= max_distance)
            differing = differing[near]
            new = np.ones(len(near), bool)
            for earlier in parts[:number]:
                new &= np.bitwise_count(earlier.keys(differing)) > earlier.radius
            near, differing = near[new], differing[new]
            yield order[mine[near]], table.order[other[near]], np.bitwise_count(differing)
