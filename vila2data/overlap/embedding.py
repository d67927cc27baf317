"""Pairs of images that a model for copies finds alike, such as SSCD: the door for one."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vila2data.errors import BadInput

from .near import Places

Vectors = NDArray[np.float32]

_BLOCK = 2048  # vectors of each side that are compared at a time
_LENGTH_ERROR = 1e-3


class Embedder(Protocol):
    """A model that gives copies of a picture vectors in nearly the same direction."""

    def embed(self, images: Sequence[Image.Image]) -> Vectors:
        """Vectors of length 1, (n, dimensions), one for each RGB image."""
        ...


def cosine_pairs(
    left: Vectors, right: Vectors | None, min_cosine: float
) -> tuple[Places, NDArray[np.float32]]:
    """Every pair of vectors with at least that cosine.

    Args:
        left: (n, dimensions), of length 1.
        right: (m, dimensions), of length 1; None compares ``left`` with itself, each pair once and
            none with itself.
        min_cosine: above 0, at most 1.

    Returns:
        Places in ``left`` and ``right``, (k, 2), sorted; and their cosines, (k,).

    Raises:
        BadInput: ``min_cosine`` is out of range, the dimensions differ, or a vector is not of
            length 1.
    """
    if not 0 < min_cosine <= 1:
        raise BadInput(f"min_cosine: is {min_cosine}, must be above 0 and at most 1")
    other = left if right is None else right
    _check(left, other)
    blocks = list(_blocks(left, other, min_cosine, within=right is None))
    if not blocks:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    pairs = np.concatenate([pairs for pairs, _ in blocks])
    cosines = np.concatenate([cosines for _, cosines in blocks])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], cosines[order]


def _check(left: Vectors, right: Vectors) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise BadInput(f"embeddings: have shapes {left.shape} and {right.shape}, must be (n, d)")
    for vectors in (left, right):
        away = np.abs(np.linalg.norm(vectors, axis=1) - 1)
        if not (away <= _LENGTH_ERROR).all():  # NaN is not within either
            place = int(np.argmax(~(away <= _LENGTH_ERROR)))
            raise BadInput(f"embeddings: vector {place} is not of length 1")


def _blocks(
    left: Vectors, right: Vectors, min_cosine: float, *, within: bool
) -> Iterator[tuple[Places, NDArray[np.float32]]]:
    for first in range(0, len(left), _BLOCK):
        for second in range(first if within else 0, len(right), _BLOCK):
            cosines = left[first : first + _BLOCK] @ right[second : second + _BLOCK].T
            alike = cosines >= min_cosine
            pairs = np.argwhere(alike) + np.array([first, second])  # (k, 2)
            found = cosines[alike]
            if within:
                once = pairs[:, 0] < pairs[:, 1]
                pairs, found = pairs[once], found[once]
            yield pairs, found
