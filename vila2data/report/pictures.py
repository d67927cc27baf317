"""Pictures of samples as data URLs, and what stands in for one."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from vila2data.corpus.images import ImageLimits, ImageRefused, decode
from vila2data.corpus.index import CorpusIndex
from vila2data.errors import CorpusError
from vila2data.files import inside

_SIDE_PX = 480
_LARGE_SIDE_PX = 720  # where wire frames are drawn over the picture
_JPEG_QUALITY = 80
_MAX_PICTURES = 4
_IMAGE_COLUMNS = ("image", "images", "image_path", "image_paths")
_STEEPEST = 8.0
"""Of a canvas: its longer side over the shorter one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that stands in the page itself; its size is that of the embedded copy."""

    url: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class NoPicture:
    """Why there is no picture, and what to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class Canvas:
    """A blank that boxes are drawn on where there is no picture.

    Attributes:
        note: why there is none, and what the canvas is.
    """

    note: str
    width_px: int
    height_px: int

    @classmethod
    def of(cls, missing: NoPicture, width: object, height: object) -> "Canvas":
        """A canvas in the shape of an image of that size, square where it is no size."""
        if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
            about = "square canvas, since the row does not tell the image's size"
            return cls(f"{missing.reason} The boxes lie on a {about}.", _SIDE_PX, _SIDE_PX)
        ratio = min(max(width / height, 1 / _STEEPEST), _STEEPEST)
        drawn = f", drawn {'8:1' if ratio > 1 else '1:8'}" if ratio != width / height else ""
        return cls(
            f"{missing.reason} The boxes lie on a blank canvas of {width} × {height}{drawn}.",
            round(_SIDE_PX * min(ratio, 1)),
            round(_SIDE_PX / max(ratio, 1)),
        )


def picture_of(content: bytes, limits: ImageLimits, side_px: int = _SIDE_PX) -> Picture | NoPicture:
    """The image, made small, as a data URL."""
    try:
        image = decode(content, limits)
    except ImageRefused as refused:
        return NoPicture(f"The image cannot be shown: {refused.problem.reason}.")
    image.thumbnail((side_px, side_px))
    return embedded(image)


def embedded(image: Image) -> Picture:
    """The image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(url, image.width, image.height)


class PictureFinder:
    """Finds the pictures of a sample: in its row, else in the corpus."""

    def __init__(self, build: Path, corpus: Path | None) -> None:
        """Opens the corpus, where there is one.

        Raises:
            CorpusError: ``corpus`` is none.
        """
        self._folders = [build, corpus] if corpus else [build]
        self._index = CorpusIndex(corpus) if corpus else None
        self._limits = ImageLimits()

    def in_row(self, row: Mapping[str, Any]) -> list[Picture | NoPicture] | None:
        """The first pictures of a row; None where it has no column for them."""
        side_px = _SIDE_PX if row.get("intrinsics") is None else _LARGE_SIDE_PX
        column = next((name for name in _IMAGE_COLUMNS if name in row), None)
        if column is None:
            return None
        value = row[column]
        images = value if isinstance(value, list) else [value]
        shown = [image for image in images[:_MAX_PICTURES] if image is not None]
        return [self._embedded(image, side_px) for image in shown]

    def _embedded(self, image: object, side_px: int) -> Picture | NoPicture:
        content = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(content, bytes):
            return picture_of(content, self._limits, side_px)
        path = image.get("path") if isinstance(image, dict) else image
        if isinstance(path, str):
            for folder in self._folders:
                file = inside(folder, path)
                if file is not None and file.is_file():
                    return self._from_file(file, side_px)
        return NoPicture("The build names a file that is not in its folder or in the corpus.")

    def _from_file(self, file: Path, side_px: int) -> Picture | NoPicture:
        if file.stat().st_size > self._limits.max_bytes:
            return NoPicture("The image cannot be shown: image_too_many_bytes.")
        return picture_of(file.read_bytes(), self._limits, side_px)

    def in_corpus(self, key: str, image_sha256: str | None) -> Picture | NoPicture:
        """The picture with that key, and with that hash where one is given."""
        if self._index is None:
            return NoPicture("No image: give --corpus with the folder of the tars.")
        try:
            if image_sha256 is not None:
                return picture_of(self._index.image(key, image_sha256), self._limits)
            content = next(iter(self._index.images(key)), None)
        except CorpusError:
            return NoPicture("No image: the corpus holds none with this key and hash.")
        if content is None:
            return NoPicture("No image: the corpus holds none with this key.")
        return picture_of(content, self._limits)
