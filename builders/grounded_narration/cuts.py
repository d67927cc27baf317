"""Cuts many texts at once, without a copy: the parts of a text lie side by side in its buffer."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .phrases import Ints


@dataclass(frozen=True, slots=True)
class Cut:
    """Texts, cut at spans.

    Attributes:
        pieces: of text r with spans g, g+1, ...: before the first, the first, between, the second,
            ..., after the last.
        row: (n,), number of the text of each span.
        texts: how many there are.
    """

    pieces: pa.StringArray
    row: Ints
    texts: int

    @property
    def inside(self) -> Ints:
        """(n,), places of the spans among the pieces; what lies before each is one place lower."""
        return 2 * np.arange(len(self.row)) + self.row + 1

    @property
    def last(self) -> Ints:
        """(texts,), places of what lies after the last span of each text."""
        rows = np.arange(self.texts)
        last: Ints = 2 * np.searchsorted(self.row, rows, side="right") + rows
        return last


def cut(texts: pa.StringArray, row: Ints, start: Ints, end: Ints) -> Cut:
    """Cuts texts.

    Args:
        texts: without null.
        row: (n,), number of the text of each span, ascending.
        start, end: (n,), characters, end exclusive, in order and without overlap in each text.
    """
    ends, content = _content(texts)
    letters, firsts = _letters(ends, content)
    found = Cut(texts, row, len(texts))
    offsets = np.empty(2 * len(row) + len(texts) + 1, np.int32)
    offsets[np.append(0, found.last[:-1] + 1)] = ends[:-1]
    offsets[found.inside] = letters[firsts[row] + start]
    offsets[found.inside + 1] = letters[firsts[row] + end]
    offsets[-1] = ends[-1]
    pieces = pa.StringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), texts.buffers()[2]
    )
    return Cut(pieces, row, len(texts))


def first_bytes(texts: pa.StringArray, row: Ints, start: Ints) -> NDArray[np.uint8]:
    """(n,), the first byte of the character at ``start`` of each ``row``'s text."""
    ends, content = _content(texts)
    letters, firsts = _letters(ends, content)
    found: NDArray[np.uint8] = content[letters[firsts[row] + start]]
    return found


def _content(texts: pa.StringArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Where each text begins, and the last one ends, in the bytes of all."""
    _, bounds, data = texts.buffers()
    ends = np.frombuffer(bounds, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return ends, np.frombuffer(data, np.uint8)[: ends[-1]]


def _letters(ends: NDArray[np.int32], content: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """The first byte of every character of UTF-8 and the end; the first character of each text."""
    letters = np.append(np.flatnonzero((content & 0xC0) != 0x80), len(content))
    return letters, np.searchsorted(letters, ends[:-1])
