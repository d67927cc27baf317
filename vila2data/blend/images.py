"""The images of a source: found, looked at, refused with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2data.corpus.images import (
    ImageLimits,
    ImageRefused,
    Problem,
    read_header,
)
from vila2data.corpus.names import leaves_folder

from .layouts.frames import frames_in

_LIMITS = ImageLimits()
_FORMATS = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
_REMEMBERED = 1024  # images in a row that are the same, as annotations of one stand together


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of an image that can be used.

    Attributes:
        misnamed: its name says another format than its bytes.
    """

    width_px: int
    height_px: int
    misnamed: bool


@dataclass(frozen=True)
class ImageStore:
    """Images by what an annotation says of them.

    Attributes:
        folder: that names are below; None where the source is on the Hub.
        blobs: the files with images that came as bytes, one for each shard of annotations.
    """

    folder: Path | None
    blobs: Sequence[Path]

    def pictures(self, image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The image itself; of a video, which is named ``FOLDER/``, evenly spaced frames."""
        name = image["name"]
        if name is None or not name.endswith("/") or self.folder is None:
            return [image]
        return [{**image, "name": frame} for frame in frames_in(self.folder, name)] or [image]

    def content(self, image: Mapping[str, Any], shard: int) -> bytes:
        """The image's bytes.

        Raises:
            ImageRefused: with reason ``image_missing``.
        """
        if image["name"] is None:
            with self.blobs[shard].open("rb") as file:
                file.seek(image["offset"])
                return file.read(image["size"])
        name = str(image["name"])
        if leaves_folder(name):
            raise ImageRefused(Problem("image_missing", f"{name} leaves the folder of images"))
        if self.folder is None:
            raise ImageRefused(Problem("image_missing", f"{name} is not on the Hub by itself"))
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ImageRefused(Problem("image_missing", f"{name}: {error.strerror}")) from error


def look(content: bytes, name: str | None) -> Looked:
    """Whether an image can be used.

    Args:
        content: its bytes.
        name: of its file, if it has one.

    Raises:
        ImageRefused: as ``vila2data.corpus.images.read_header``.
    """
    header = read_header(content, _LIMITS)
    said = _FORMATS.get((name or "").rpartition(".")[2].lower())
    found = "JPEG" if header.format == "MPO" else header.format
    return Looked(header.width, header.height, misnamed=said is not None and said != found)
