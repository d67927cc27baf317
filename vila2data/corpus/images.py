"""Images from strangers: bounded before they are decoded, turned upright, refused with a reason."""

import io
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Raster formats whose decoders are let near a file; the name of the file decides nothing."""

SUFFIX_OF_FORMAT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""How a corpus names what it stores; other formats are stored as PNG. MPO is a JPEG with further
frames.
"""

_ORIENTATION = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before decoding."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 64_000_000


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a sample, or a part of it, cannot be used: a fixed reason code and what was seen."""

    reason: str
    detail: str = ""


class ImageRefused(Exception):
    """An image cannot be used; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.reason}: {problem.detail}")
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says of itself, after EXIF orientation."""

    format: str
    width: int
    height: int
    upright: bool  # False where EXIF asks for a turn or a flip


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        raise ImageRefused(Problem("image_empty", "zero bytes"))
    if len(data) > limits.max_bytes:
        detail = f"{len(data)} bytes, at most {limits.max_bytes}"
        raise ImageRefused(Problem("image_too_many_bytes", detail))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit decides
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageRefused(Problem("image_too_many_pixels", str(error))) from error
    except Exception as error:
        raise ImageRefused(Problem("image_undecodable", _told(error))) from error
    if image.width * image.height > limits.max_pixels:
        detail = f"{image.width} x {image.height}, at most {limits.max_pixels} pixels"
        raise ImageRefused(Problem("image_too_many_pixels", detail))
    return image


def _told(error: Exception) -> str:
    """The error in one line, without the address of a buffer that PIL puts in."""
    return f"{type(error).__name__}: {error}".partition(" <_io")[0][:200]


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Format and upright size, without decoding a pixel.

    Raises:
        ImageRefused: with reason ``image_empty``, ``image_too_many_bytes``,
            ``image_too_many_pixels`` or
            ``image_undecodable``.
    """
    image = _open(data, limits)
    orientation = 1
    if "exif" in image.info:
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # noqa: BLE001 - broken EXIF means no orientation, not a broken image
            orientation = 1
    width, height = image.size
    if orientation in _TRANSPOSED:
        width, height = height, width
    return ImageHeader(image.format or "", width, height, upright=orientation == 1)


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The picture as RGB, upright.

    Raises:
        ImageRefused: as ``read_header``; also ``image_undecodable`` where the pixels are damaged or
            cut short.
    """
    image = _open(data, limits)
    try:
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        raise ImageRefused(Problem("image_undecodable", _told(error))) from error


def as_stored(data: bytes, limits: ImageLimits) -> tuple[str, bytes]:
    """Suffix and bytes under which a corpus stores an image: the bytes as they are, or PNG for
    other formats.

    Raises:
        ImageRefused: as ``decode`` does; what a corpus stores can be decoded.
    """
    header = read_header(data, limits)
    picture = decode(data, limits)
    if header.format in SUFFIX_OF_FORMAT:
        return SUFFIX_OF_FORMAT[header.format], data
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()
