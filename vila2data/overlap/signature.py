"""What tells whether two images are copies, small enough to keep for every image of a blend."""

import io
from dataclasses import dataclass
from hashlib import sha256
from itertools import product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from vila2data.corpus.images import ImageLimits, decode, read_header

CROPPED = 0.05
"""Of the width or the height, cut off at one side: what views allow for, and less than that."""

SIGNATURES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("image", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.uint64()),
        ("views", pa.list_(pa.uint64())),
        ("text_keys", pa.list_(pa.uint64())),
        ("question_keys", pa.list_(pa.uint64())),
    ]
)
"""A row for each image of a row, and one with null in ``image``, ``sha256`` and ``phash`` for a row
without images.
"""

_HASHED_PX = 32
_LOW = 8
_REDUCED_PX = 128  # neither side is made smaller than this before it is hashed
_PADDED_PX = 96
_BLANK = 2.0  # standard deviation of grey values, of 255
_NOISE = 1e-6  # of a coefficient that is zero but for rounding

_PLACES = np.arange(_HASHED_PX)
_COSINES = np.cos(np.pi * (2 * _PLACES[None] + 1) * np.arange(_LOW)[:, None] / (2 * _HASHED_PX))
_CROPS = (*product((0.0, CROPPED), repeat=4), (CROPPED / 2,) * 4)
"""Of the left, upper, right and lower side; the first is the whole picture."""


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """What is kept of an image.

    Attributes:
        sha256: of its bytes, hexadecimal.
        phash: as ``vila2data.corpus.phash`` makes it, but for the few bits that making the picture
            smaller first may turn; None of a picture without content.
        views: hashes of what the picture would be with 5 % cut off at any of its sides, and before
            5 % were; empty where they were not asked for.
    """

    sha256: str
    phash: int | None
    views: tuple[int, ...] = ()


def image_signature(
    data: bytes, limits: ImageLimits, *, near: bool = True, views: bool = False
) -> ImageSignature:
    """The signature of an image.

    Args:
        data: the file's bytes.
        limits: what is refused before decoding.
        near: hash what the picture shows; else its bytes alone, which are not decoded.
        views: also hash what is left of the picture after crops: of two collections that are
            compared, one needs them.

    Raises:
        ImageRefused: the image cannot be decoded within the limits.
    """
    digest = sha256(data).hexdigest()
    if not near:
        return ImageSignature(digest, None)
    grey = grey_picture(data, limits, at_least_px=_REDUCED_PX)
    whole = _shrunk(grey)
    if whole.std() < _BLANK:
        return ImageSignature(digest, None)
    found = _hashes(whole[None])
    if not views:
        return ImageSignature(digest, int(found[0]))
    others = _hashes(np.stack([*_cropped(grey), *_padded(grey)]))
    return ImageSignature(digest, int(found[0]), tuple(int(v) for v in np.unique(others)))


def grey_picture(data: bytes, limits: ImageLimits, *, at_least_px: int) -> Image.Image:
    """The picture in grey, upright, made smaller where that leaves both sides ``at_least_px``.

    Raises:
        ImageRefused: the image cannot be decoded within the limits.
    """
    header = read_header(data, limits)
    grey = None
    if header.format == "JPEG" and header.upright:
        grey = _draft(data, at_least_px)
    grey = decode(data, limits).convert("L") if grey is None else grey
    return grey.reduce(max(min(grey.size) // at_least_px, 1))


def _draft(data: bytes, at_least_px: int) -> Image.Image | None:
    """A JPEG at one of the scales at which it is decoded in less time; None where it is damaged."""
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    image.draft("L", (at_least_px, at_least_px))
    try:
        return image.convert("L")
    except Exception:  # noqa: BLE001 - decoding all of it tells what is wrong
        return None


def _shrunk(grey: Image.Image, crop: tuple[float, ...] = _CROPS[0]) -> NDArray[np.uint8]:
    left, upper, right, lower = crop
    box = (
        grey.width * left,
        grey.height * upper,
        grey.width * (1 - right),
        grey.height * (1 - lower),
    )
    size = (_HASHED_PX, _HASHED_PX)
    return np.asarray(grey.resize(size, Image.Resampling.LANCZOS, box=box))


def _cropped(grey: Image.Image) -> list[NDArray[np.uint8]]:
    return [_shrunk(grey, crop) for crop in _CROPS]


def _padded(grey: Image.Image) -> list[NDArray[np.uint8]]:
    """What the picture may have been before a crop, its edges drawn out."""
    size = (_PADDED_PX, _PADDED_PX)
    small = np.asarray(grey.resize(size, Image.Resampling.LANCZOS))
    pictures = []
    for crop in _CROPS[1:]:
        left, upper, right, lower = (round(_PADDED_PX * side / (1 - side)) for side in crop)
        pictures.append(np.pad(small, ((upper, lower), (left, right)), mode="edge"))
    return [_shrunk(Image.fromarray(picture)) for picture in pictures]


def _hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Perceptual hashes of (n, 32, 32) grey values, (n,)."""
    low = _COSINES @ pictures.astype(np.float64) @ _COSINES.T  # (n, 8, 8)
    low = low.reshape(len(pictures), -1)  # (n, 64)
    low[np.abs(low) < _NOISE] = 0
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
