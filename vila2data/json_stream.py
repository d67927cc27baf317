"""JSON files of gigabytes, one element of their arrays and objects at a time.

Each element is decoded by the standard library's parser from a buffer that moves through the file.
So NaN is a number here, as Python and the tools that write such files have it.
"""

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from vila2data.errors import BadInput

_CHUNK_BYTES = 1 << 20
_MAX_VALUE_CHARS = 1 << 25
_MAX_DIGITS = 300
_BLANK = re.compile(r"[ \t\n\r]*")


def _whole(digits: str) -> int | float:
    """Python refuses whole numbers of thousands of digits with an error that is not JSON's."""
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


_DECODE = json.JSONDecoder().raw_decode
_DECODE_LONG = json.JSONDecoder(parse_int=_whole).raw_decode


def members(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of the object in a file: each key with its value, or with an iterator over the
    elements where the value is an array (``Iterator``, which no JSON value is).

    Such an iterator is to be used before the next member is asked for; what is left of it is
    passed over. Memory grows with the largest single element, which may have 32 million characters.

    Raises:
        BadInput: the file cannot be read, holds no JSON object, or ends within it.
    """
    try:
        with path.open("rb") as file:
            yield from _Cursor(path, file).members()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error


def records(file: BinaryIO, name: str, at: str) -> Iterator[Any]:
    """The records of a file, in order.

    Args:
        file: open for reading bytes.
        name: of the file, for messages.
        at: the key of the array that they are in; empty where the file is one array; ``*`` where it
            is an object of records by id, which they then have as ``_key``.

    Raises:
        BadInput: the file is no such JSON, or ends within it.
    """
    cursor = _Cursor(name, file)
    if not at:
        yield from cursor.array()
        return
    found = False
    for key, value in cursor.members(unique=at != "*"):
        if at == "*":
            whole = list(value) if isinstance(value, Iterator) else value
            yield {**whole, "_key": key} if isinstance(whole, dict) else whole
        elif key == at and isinstance(value, Iterator):
            found = True
            yield from value
    if not found and at != "*":
        raise BadInput(f"{name}: has no array '{at}'")


class _Cursor:
    """A place in the text of a file."""

    def __init__(self, path: Path | str, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._decoder = getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._passed = 0  # characters before the text
        self._ended = False

    def array(self) -> Iterator[Any]:
        if self._next() != "[":
            self._refuse("expected [")
        yield from self._elements()
        self._end()

    def members(self, *, unique: bool = True) -> Iterator[tuple[str, Any]]:
        """With ``unique`` keys are kept in mind, and one that stands twice is refused."""
        keys = set()
        for _ in self._listed("{", "}"):
            if self._next() != '"':
                self._refuse("expected a key")
            key = self._value()
            if key in keys:
                self._refuse(f"the key {key!r} stands twice")
            if unique:
                keys.add(key)
            self._take(":")
            if self._next() == "[":
                elements = self._elements()
                yield key, elements
                for _ in elements:
                    pass
            else:
                yield key, self._value()
        self._end()

    def _end(self) -> None:
        if self._next():
            self._refuse("expected the end of the file")

    def _elements(self) -> Iterator[Any]:
        for _ in self._listed("[", "]"):
            yield self._value()

    def _listed(self, start: str, end: str) -> Iterator[None]:
        """Stops before each item between the marks; whoever asks passes the item."""
        self._take(start)
        mark = self._take(end) if self._next() == end else ","
        while mark == ",":
            yield
            mark = self._take("," + end)

    def _value(self) -> Any:
        self._next()
        decode = _DECODE
        while True:
            try:
                value, end = decode(self._text, self._at)
            except RecursionError:
                self._refuse("too many values within one another")
            except json.JSONDecodeError as error:
                place = self._passed + error.pos
                if len(self._text) - self._at > _MAX_VALUE_CHARS or not self._more():
                    self._refuse(error.msg, place)
            except ValueError:
                decode = _DECODE_LONG
            else:
                # A number at the end of the text may go on after it.
                length = end - self._at
                if end < len(self._text) or not self._more():
                    self._at += length
                    return value

    def _take(self, marks: str) -> str:
        """Passes one of ``marks``."""
        mark = self._next()
        if not mark or mark not in marks:
            self._refuse(f"expected {' or '.join(marks)}")
        self._at += 1
        return mark

    def _next(self) -> str:
        """The next character that is no blank, not passed yet; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Reads on, as much again as waits, so that a long value is not tried too often."""
        data = self._file.read(max(_CHUNK_BYTES, len(self._text) - self._at))
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{self._path}: is not UTF-8 at about byte {self._file.tell() - len(data)}"
            ) from error
        self._passed += self._at
        self._text = self._text[self._at :] + text
        self._at = 0
        self._ended = not data
        return bool(data)

    def _refuse(self, fault: str, place: int | None = None) -> NoReturn:
        place = self._passed + self._at if place is None else place
        end = f", the file ends at {self._passed + len(self._text)}" if self._ended else ""
        raise BadInput(
            f"{self._path}: is not readable as JSON: {fault} at about character {place}{end}"
        )
