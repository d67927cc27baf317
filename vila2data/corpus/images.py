"""Images from strangers: bounded before they are decoded, turned upright, refused with a reason."""

import io
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from .names import printable

_OPENERS = {
    b"\xff\xd8\xff": JpegImagePlugin.jpeg_factory,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"GIF87a": GifImagePlugin.GifImageFile,
    b"GIF89a": GifImagePlugin.GifImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}
"""Raster formats whose decoders are let near a file, by how it starts; the name of the file decides
nothing. ``Image.open`` would add a limit of its own on pixels, beside ours.
"""

SUFFIX_OF_FORMAT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""How a corpus names what it stores; other formats are stored as PNG. MPO is a JPEG with further
frames.
"""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that EXIF can tell."""
_TRANSPOSED = frozenset({5, 6, 7, 8})
_MAY_TELL_ORIENTATION = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_MAX_DETAIL_CHARS = 300
_MAX_ASPECT = 50


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused before decoding."""

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 64_000_000


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a sample, or a part of it, cannot be used: a fixed reason code and what was seen.

    The detail may quote the sample, and so is made one printable line.
    """

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        shown = printable(self.detail, max_chars=_MAX_DETAIL_CHARS)
        object.__setattr__(self, "detail", shown)


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
    upright: bool  # False where the pixels as stored need a turn or a flip


def _open(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    if not data:
        raise ImageRefused(Problem("image_empty", "zero bytes"))
    if len(data) > limits.max_bytes:
        detail = f"{len(data)} bytes, at most {limits.max_bytes}"
        raise ImageRefused(Problem("image_too_many_bytes", detail))
    opener = next((o for start, o in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise ImageRefused(Problem("image_undecodable", "is no JPEG, PNG, WebP, GIF or BMP"))
    try:
        image = opener(io.BytesIO(data), "")
    except Exception as error:
        raise ImageRefused(Problem("image_undecodable", _told(error))) from error
    if image.width * image.height > limits.max_pixels:
        detail = f"{image.width} x {image.height}, at most {limits.max_pixels} pixels"
        raise ImageRefused(Problem("image_too_many_pixels", detail))
    return image


def _told(error: Exception) -> str:
    """The error in one line, without the address of a buffer that PIL puts in."""
    return f"{type(error).__name__}: {error}".partition(" <_io")[0]


def _orientation(image: ImageFile.ImageFile) -> int:
    """1 to 8 as the image says before its pixels start; 1 where it says nothing that counts."""
    if _MAY_TELL_ORIENTATION.isdisjoint(image.info):
        return 1
    try:
        told = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - broken EXIF means no orientation, not a broken image
        return 1
    return told if isinstance(told, int) and told in _UPRIGHT else 1


def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Format and upright size, without decoding a pixel.

    Raises:
        ImageRefused: with reason ``image_empty``, ``image_too_many_bytes``,
            ``image_too_many_pixels`` or ``image_undecodable``.
    """
    image = _open(data, limits)
    orientation = _orientation(image)
    width, height = image.size
    if orientation in _TRANSPOSED:
        width, height = height, width
    return ImageHeader(image.format or "", width, height, upright=orientation == 1)


def refuse_narrow(width: int, height: int) -> None:
    """Refuses threads: processors that bring the short side to a fixed length, or pad to a square,
    would blow them up without bound.

    Raises:
        ImageRefused: with reason ``image_too_narrow``.
    """
    if max(width, height) > _MAX_ASPECT * min(width, height):
        detail = f"{width} x {height}, at most {_MAX_ASPECT} to 1"
        raise ImageRefused(Problem("image_too_narrow", detail))


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The picture as RGB, upright.

    Raises:
        ImageRefused: as ``read_header``; also ``image_undecodable`` where the pixels are damaged or
            cut short.
    """
    image = _open(data, limits)
    orientation = _orientation(image)
    try:
        image.load()
        picture = _eight_bit(image).convert("RGB")
        if orientation != 1:
            picture = picture.transpose(_UPRIGHT[orientation])
        picture.info = {}  # an orientation that is still told would be acted on once more
        return picture
    except Exception as error:
        raise ImageRefused(Problem("image_undecodable", _told(error))) from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """PIL would cut 16-bit grey at 255 and so make it white; this scales it."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value / 256).convert("L")
    return image


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
