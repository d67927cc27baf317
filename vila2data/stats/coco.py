"""Reads COCO's ``instances.json`` element by element: the file of a training set is too large to
hold.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vila2data.errors import BadInput

_CHUNK_CHARS = 1 << 20
_MAX_ELEMENT_CHARS = 1 << 26
_SPACE = re.compile(r"[ \t\r\n]*")
_LISTS = ("images", "annotations", "categories")


class CocoImage(NamedTuple):
    """An image; the id as text."""

    id: str
    file_name: str
    width: int
    height: int


class CocoBox(NamedTuple):
    """A box of an image; both ids as text, ``xywh_px`` in pixels of the image."""

    image_id: str
    category_id: str
    is_crowd: bool
    xywh_px: tuple[float, float, float, float]


class CocoCategory(NamedTuple):
    """The name of a category; the id as text."""

    id: str
    name: str


def coco_entries(file: Path) -> Iterator[CocoImage | CocoBox | CocoCategory | None]:
    """The entries of a file in its order; None for each that cannot be used.

    Raises:
        BadInput: the file is not there, is not JSON, or is not laid out as COCO's instances.
    """
    if not file.is_file():
        raise BadInput(f"{file}: no such file of references")
    kinds = {"images": _image, "annotations": _box, "categories": _category}
    seen: set[str] = set()
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            for name, element in _elements(_Reader(text)):
                seen.add(name)
                if name in kinds and element is not _EMPTY:
                    yield kinds[name](element)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: is not JSON as COCO's instances are: {error}") from error
    missing = [name for name in _LISTS if name not in seen]
    if missing:
        raise BadInput(
            f"{file}: has no list '{missing[0]}'; references are COCO's instances, which hold "
            f"{', '.join(_LISTS)}"
        )


def _image(entry: Any) -> CocoImage | None:
    try:
        width, height = int(entry["width"]), int(entry["height"])
        image = CocoImage(str(entry["id"]), str(entry["file_name"]), width, height)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return image if min(width, height) > 0 and max(width, height) < 1 << 31 else None


def _box(entry: Any) -> CocoBox | None:
    try:
        x, y, width, height = map(float, entry["bbox"])
        box = CocoBox(
            str(entry["image_id"]),
            str(entry["category_id"]),
            bool(entry.get("iscrowd", 0)),
            (x, y, width, height),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    return box if all(map(math.isfinite, box.xywh_px)) else None


def _category(entry: Any) -> CocoCategory | None:
    try:
        return CocoCategory(str(entry["id"]), str(entry["name"]))
    except (KeyError, TypeError):
        return None


_EMPTY = object()  # of a list without elements, which is there all the same


def _elements(reader: "_Reader") -> Iterator[tuple[str, Any]]:
    """Name and each element of the lists of an object."""
    reader.take("{")
    while reader.peek() != "}":
        name = reader.value()
        reader.take(":")
        if reader.peek() == "[":
            reader.take("[")
            yield str(name), _EMPTY
            while reader.peek() != "]":
                yield str(name), reader.value()
                if reader.peek() == ",":
                    reader.take(",")
            reader.take("]")
        else:
            reader.value()
        if reader.peek() == ",":
            reader.take(",")
    reader.take("}")


class _Reader:
    """A window on a long text of JSON."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._window = ""
        self._place = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space, empty at the end."""
        while True:
            space = _SPACE.match(self._window, self._place)
            self._place = space.end() if space else self._place
            if self._place < len(self._window):
                return self._window[self._place]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Steps over a character."""
        found = self.peek()
        if found != expected:
            raise ValueError(f"'{expected}' expected, found '{found}'")
        self._place += 1

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._place)
            except ValueError:
                if not self._more():
                    raise
                continue
            if end < len(self._window) or not self._more():  # a number may go on
                self._place = end
                return value

    def _more(self) -> bool:
        rest = self._window[self._place :]
        if len(rest) > _MAX_ELEMENT_CHARS:
            raise ValueError(f"an element of more than {_MAX_ELEMENT_CHARS} characters")
        added = self._text.read(max(_CHUNK_CHARS, len(rest)))
        self._window, self._place = rest + added, 0
        return bool(added)
