"""Where the images of rows are: in the rows, in a folder, or in a corpus."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from vila2data.corpus.images import ImageLimits, ImageRefused, Problem, decode, read_header
from vila2data.corpus.index import CorpusIndex
from vila2data.corpus.names import leaves_folder
from vila2data.files import inside

from .row import Picture

Record = Mapping[str, Any]
Found = list[Picture] | Problem

_LIMITS = ImageLimits(max_bytes=1 << 31, max_pixels=1 << 30)  # the build has set its own
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
_NO_IMAGE = "missing"  # image_status of a row whose key may be another image's


class Finder(Protocol):
    """Finds the images of rows."""

    def columns(self) -> tuple[str, ...]:
        """Columns that rows must be read with."""

    def find(self, records: Sequence[Record]) -> Iterator[Found]:
        """The images of each record, or why they cannot be had, one record at a time."""


class Embedded:
    """Images that stand in the rows."""

    def __init__(self, column: str) -> None:
        self._column = column

    def columns(self) -> tuple[str, ...]:
        """The column that holds them."""
        return (self._column,)

    def find(self, records: Sequence[Record]) -> Iterator[Found]:
        """Each image is what `datasets` writes: {bytes, path}."""
        for record in records:
            held = record[self._column]
            images = held if isinstance(held, list) else [held]
            yield _all(picture_of((image or {}).get("bytes")) for image in images or [])


class Named:
    """Images that rows name by their files."""

    def __init__(self, column: str, folder: Path | None) -> None:
        """``folder``: where the files are, or each source's folder is; None to know names alone."""
        self._column = column
        self._folder = folder

    def columns(self) -> tuple[str, ...]:
        """The column of names."""
        return (self._column,)

    def find(self, records: Sequence[Record]) -> Iterator[Found]:
        """A name that leaves the folder is refused, links followed."""
        for record in records:
            held = record[self._column]
            names = held if isinstance(held, list) else [held]
            yield _all(self._picture(name, record.get("source")) for name in names or [])

    def _picture(self, name: str | None, source: str | None) -> Picture | Problem:
        if not name:
            return Problem("image_missing", "the row names none")
        if leaves_folder(name):
            return Problem("image_name_unsafe", name)
        if self._folder is None:
            return Picture(None, name=name)
        for below in (f"{source}/{name}", name) if source else (name,):
            file = inside(self._folder, below)
            try:
                if file is not None and file.is_file():
                    return picture_of(file.read_bytes(), name=name, file=file)
            except (OSError, ValueError):  # a name that is too long, or that may not be read
                continue
        return Problem("image_missing", f"{name} is not in the folder of images")


class InCorpus:
    """Images of a corpus, by the row's key and hash."""

    def __init__(self, corpus: Path) -> None:
        """Opens the corpus.

        Raises:
            CorpusError: ``corpus`` is none.
        """
        self._index = CorpusIndex(corpus)

    def columns(self) -> tuple[str, ...]:
        """What tells which image is meant."""
        return ("key", "image_sha256", "image_status")

    def find(self, records: Sequence[Record]) -> Iterator[Found]:
        """Where the row has a hash the bytes must have it too."""
        places = self._index.locate(record["key"] for record in records)
        for record in records:
            if record.get("image_status") == _NO_IMAGE:
                yield Problem("image_missing", "the build's corpus did not hold it")
                continue
            wanted = record.get("image_sha256")
            held = (self._index.read(place) for place in places.get(record["key"], []))
            match = (c for c in held if wanted is None or sha256(c).hexdigest() == wanted)
            yield _all([picture_of(next(match, None))])


def picture_of(
    content: bytes | None, *, name: str | None = None, file: Path | None = None
) -> Picture | Problem:
    """A picture with what its first bytes say of it, or why no reader would take it."""
    if content is None:
        return Problem("image_missing", "no bytes of it can be had")
    try:
        header = read_header(content, _LIMITS)
    except ImageRefused as refused:
        return refused.problem
    return Picture(content, _SUFFIXES[header.format], name, file, header.upright)


def turned_all(found: Found) -> Found:
    """The pictures with their pixels upright: as PNG where they were not, else as they are."""
    return found if isinstance(found, Problem) else _all(map(_turned, found))


def _turned(picture: Picture) -> Picture | Problem:
    if picture.upright or picture.content is None:
        return picture
    try:
        image = decode(picture.content, ImageLimits(max_bytes=_LIMITS.max_bytes))
    except ImageRefused as refused:
        return refused.problem
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return Picture(buffer.getvalue(), "png", picture.name)


def _all(found: Iterable[Picture | Problem]) -> Found:
    """Every picture, or the first problem."""
    pictures: list[Picture] = []
    for each in found:
        if isinstance(each, Problem):
            return each
        pictures.append(each)
    return pictures
