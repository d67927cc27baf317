import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.errors import BadInput
from vila2data.overlap.embedding import cosine_pairs
from vila2data.overlap.near import near_pairs

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=12)
FLIPS = st.lists(st.integers(0, 2**64 - 1) | st.sets(st.integers(0, 63), max_size=12), max_size=40)


def hashes(*numbers):
    return np.array(numbers, np.uint64)


def crowd(bases, flips):
    """Hashes around the bases, near each other and far."""
    found = []
    for number, flip in enumerate(flips):
        mask = flip if isinstance(flip, int) else sum(1 << bit for bit in flip)
        found.append((bases[number % len(bases)] if bases else 0) ^ mask)
    return np.array(found, np.uint64)


def by_comparing_all(left, right, max_distance):
    """First places of each pair of distinct hashes, and its distance."""
    found = {}
    for i, a in enumerate(left.tolist()):
        for j, b in enumerate(right.tolist()):
            if (a ^ b).bit_count() <= max_distance:
                found.setdefault((a, b), (i, j, (a ^ b).bit_count()))
    return sorted(found.values())


def as_list(found):
    return [(*pair, distance) for pair, distance in zip(*(f.tolist() for f in found), strict=True)]


@settings(max_examples=80, deadline=None)
@given(HASHES, FLIPS, FLIPS, st.integers(0, 16))
def test_every_near_pair_is_found_and_no_other(bases, left, right, max_distance):
    ours, theirs = crowd(bases, left), crowd(bases, right)
    found = near_pairs(ours, theirs, max_distance)
    assert as_list(found) == by_comparing_all(ours, theirs, max_distance)


@settings(max_examples=40, deadline=None)
@given(HASHES, FLIPS, st.integers(0, 16))
def test_within_one_collection_each_pair_stands_once(bases, flips, max_distance):
    ours = crowd(bases, flips)
    places = np.unique(ours, return_index=True)[1]
    distinct = {(i, j) for i in places for j in places if i < j}
    expected = [p for p in by_comparing_all(ours, ours, max_distance) if p[:2] in distinct]
    assert as_list(near_pairs(ours, None, max_distance)) == expected


def test_hashes_that_are_the_same_are_one():
    blank = np.full(200_000, 7, np.uint64)
    pairs, distances = near_pairs(blank, np.append(blank, np.uint64(6)), 8)
    assert pairs.tolist() == [[0, 0], [0, 200_000]]
    assert distances.tolist() == [0, 1]
    assert near_pairs(blank, None, 8)[0].tolist() == []


def test_many_hashes_are_searched_without_comparing_every_pair():
    ours = np.random.default_rng(0).integers(0, 2**64, 50_000, np.uint64)
    theirs = np.random.default_rng(1).integers(0, 2**64, 100_000, np.uint64)
    theirs[99_000:99_500] = ours[:500] ^ np.uint64(0b1011)
    pairs, distances = near_pairs(ours, theirs, 4)
    assert pairs.tolist() == [[n, 99_000 + n] for n in range(500)]
    assert set(distances.tolist()) == {3}


def test_the_fewer_may_stand_on_either_side():
    few, many = hashes(1, 1 << 40), hashes(0, 9, 1 << 40, 3)
    assert as_list(near_pairs(few, many, 1)) == [
        (0, 0, 1),
        (0, 1, 1),
        (0, 3, 1),
        (1, 0, 1),
        (1, 2, 0),
    ]
    assert as_list(near_pairs(many, few, 1)) == [
        (0, 0, 1),
        (0, 1, 1),
        (1, 0, 1),
        (2, 1, 0),
        (3, 0, 1),
    ]


@pytest.mark.parametrize("max_distance", [-1, 17])
def test_a_distance_that_tells_nothing_is_refused(max_distance):
    with pytest.raises(BadInput, match=f"max_distance: is {max_distance}, must be 0 to 16"):
        near_pairs(hashes(1), hashes(2), max_distance)


def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class MeanColour:
    """An embedder that sees colours alone."""

    def embed(self, images):
        return unit([np.asarray(image, np.float32).mean(axis=(0, 1)) + 1 for image in images])


def test_an_embedder_gives_pairs_by_direction():
    from PIL import Image

    reds = [Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (90, 0, 0), (0, 90, 0))]
    vectors = MeanColour().embed(reds)
    pairs, cosines = cosine_pairs(vectors, None, 0.9)
    assert pairs.tolist() == [[0, 1]]
    assert cosines[0] > 0.99
    assert cosine_pairs(vectors[:1], vectors, 0.9)[0].tolist() == [[0, 0], [0, 1]]


def test_vectors_are_compared_across_blocks():
    vectors = unit(np.random.default_rng(0).normal(size=(5000, 8)))
    vectors[4999] = vectors[3]
    pairs, _ = cosine_pairs(vectors, None, 0.999999)
    assert pairs.tolist() == [[3, 4999]]


@pytest.mark.parametrize(
    ("left", "min_cosine", "message"),
    [
        ([[1.0, 0.0]], 0.0, "min_cosine: is 0.0, must be above 0"),
        ([[2.0, 0.0]], 0.9, "vector 0 is not of length 1"),
        ([[float("nan"), 0.0]], 0.9, "vector 0 is not of length 1"),
        ([[1.0, 0.0, 0.0]], 0.9, r"have shapes \(1, 3\) and \(1, 2\)"),
    ],
)
def test_vectors_that_are_no_directions_are_refused(left, min_cosine, message):
    with pytest.raises(BadInput, match=message):
        cosine_pairs(np.array(left, np.float32), np.array([[1.0, 0.0]], np.float32), min_cosine)
