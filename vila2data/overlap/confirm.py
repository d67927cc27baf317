"""Candidates looked at: which of them show the same."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from threading import Lock

import numpy as np
import pyarrow as pa
from PIL import Image

from vila2data.corpus.images import ImageLimits, ImageRefused

from .alignment import FULL_PX, similarity
from .candidates import Candidates
from .signature import grey_picture

ImageBytes = Callable[[str, int], bytes | None]
"""The bytes of an image, by the id of its row and its number there; None where they are gone."""

_HELD = 128  # right pictures, each of about half a megabyte


@dataclass(frozen=True, slots=True)
class Side:
    """Where the pictures of one table are.

    Attributes:
        images: the distinct images, with columns ``id`` and ``image``.
        content: gives their bytes.
        limits: what is refused before decoding.
    """

    images: pa.Table
    content: ImageBytes
    limits: ImageLimits

    def picture(self, place: int, reading: Lock) -> Image.Image | None:
        """The picture in grey, as it is compared; None where it is gone or cannot be read.

        Args:
            place: of the image.
            reading: held while the bytes are got, so that ``content`` need not allow for threads.
        """
        row = self.images["id"][place].as_py(), self.images["image"][place].as_py()
        with reading:
            content = self.content(*row)
        if content is None:
            return None
        try:
            return grey_picture(content, self.limits, at_least_px=FULL_PX)
        except ImageRefused:
            return None


def confirmed(
    candidates: Candidates, left: Side, right: Side, *, min_score: float, workers: int
) -> list[tuple[int, int, int, float]]:
    """Left place, right place, distance and score of the candidates that show the same.

    Args:
        candidates: sorted by the left image.
        left: pictures of the left images.
        right: pictures of the right images.
        min_score: least likeness, 0 to 1; see ``similarity``.
        workers: threads.
    """
    reading = Lock()
    held = lru_cache(_HELD)(partial(right.picture, reading=reading))

    def look(pairs: list[tuple[int, int, int]]) -> list[tuple[int, int, int, float]]:
        picture = left.picture(pairs[0][0], reading)
        if picture is None:
            return []
        others = ((pair, held(pair[1])) for pair in pairs)
        scored = [(*pair, similarity(picture, o)) for pair, o in others if o is not None]
        return [pair for pair in scored if pair[3] >= min_score]

    with ThreadPoolExecutor(workers) as pool:
        return [pair for found in pool.map(look, _by_left(candidates)) for pair in found]


def _by_left(candidates: Candidates) -> Iterator[list[tuple[int, int, int]]]:
    rows = np.stack([candidates.left, candidates.right, candidates.distances], axis=1).tolist()
    for _, pairs in groupby(rows, key=lambda row: row[0]):
        yield [(left, right, distance) for left, right, distance in pairs]
