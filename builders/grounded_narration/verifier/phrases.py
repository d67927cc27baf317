"""The phrases and boxes of many rows as arrays, and what they must satisfy."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vila2data.cuboids import Floats

from ..recipe import BoxRules

Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

_BLANKS = " \t\n\r"
_ROUNDING = 1e-6  # boxes are stored as float32


@dataclass(frozen=True)
class Phrases:
    """The phrases of some rows, one row after the other, and their boxes.

    Attributes:
        captions: (rows,), strings; "" for null.
        row_of: (p,), the row of each phrase.
        texts: (p,), strings.
        start, end: (p,), characters of the caption; -1 for null.
        scores: (p,), NaN for null.
        counts: (p,), boxes of each phrase.
        boxes: (b, 4), xyxy; NaN where a box is not of four numbers.
    """

    captions: pa.StringArray
    row_of: Ints
    texts: pa.StringArray
    start: Ints
    end: Ints
    scores: Floats
    counts: Ints
    boxes: Floats

    @classmethod
    def of(cls, columns: pa.RecordBatch) -> "Phrases":
        """Those of rows with the columns ``caption`` and ``phrases``; any part may be null."""
        lists = columns.column("phrases")
        entries = lists.flatten()
        fields = dict(zip(entries.type.names, entries.flatten(), strict=True))
        start, end = (_numbers(fields[name], -1).astype(np.int64) for name in ("start", "end"))
        return cls(
            columns.column("caption").fill_null(""),
            np.repeat(np.arange(len(lists)), _lengths(lists)),
            fields["text"],
            start,
            end,
            _numbers(fields["score"], np.nan),
            _lengths(fields["boxes"]),
            _boxes(fields["boxes"].flatten()),
        )

    @property
    def first(self) -> Flags:
        """Which phrases are the first of their row, (p,)."""
        return np.diff(self.row_of, prepend=-1) > 0

    @property
    def per_row(self) -> Ints:
        """Phrases of each row, (rows,)."""
        return np.bincount(self.row_of, minlength=len(self.captions))

    @property
    def phrase_of(self) -> Ints:
        """The phrase of each box, (b,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def letters(self) -> tuple[Ints, Ints]:
        """Where each character begins in the bytes of all captions, and their end; and which of
        them is the first of each row, (rows + 1,).
        """
        offsets = np.frombuffer(self.captions.buffers()[1], np.int32)
        offsets = offsets[self.captions.offset :][: len(self.captions) + 1].astype(np.int64)
        data = self.captions.buffers()[2]
        begins = np.ones(offsets[-1] + 1, dtype=bool)
        begins[:-1] = (np.frombuffer(data or b"", np.uint8)[: offsets[-1]] & 0xC0) != 0x80
        number = np.cumsum(begins, dtype=np.int32)
        return np.flatnonzero(begins), number[offsets].astype(np.int64) - 1

    @property
    def lengths(self) -> Ints:
        """Characters of each caption, (rows,)."""
        return np.diff(self.letters[1])


def _lengths(lists: pa.ListArray) -> Ints:
    found: Ints = _numbers(pc.list_value_length(lists), 0).astype(np.int64)
    return found


def _numbers(values: pa.Array, otherwise: float) -> Floats:
    found: Floats = values.cast(pa.float64()).fill_null(otherwise).to_numpy(zero_copy_only=False)
    return found


def _boxes(lists: pa.ListArray) -> Floats:
    lengths = _lengths(lists)
    numbers = _numbers(lists.flatten(), np.nan)
    whole = lengths == 4
    if whole.all():
        return numbers.reshape(-1, 4)
    found = np.full((len(lists), 4), np.nan)
    begins = np.cumsum(lengths) - lengths
    found[whole] = numbers[begins[whole, None] + np.arange(4)]
    return found


def span_faults(phrases: Phrases) -> Iterator[tuple[str, Ints]]:
    """Each rule without which a row cannot be read, with the rows that break it."""
    within = (phrases.start >= 0) & (phrases.start < phrases.end)
    within &= phrases.end <= phrases.lengths[phrases.row_of]
    tangled = within & ~phrases.first & (np.roll(phrases.end, 1) > phrases.start)
    yield "a row has no phrase", np.flatnonzero(phrases.per_row == 0)
    yield "a phrase's span is none of the caption", phrases.row_of[~within]
    yield "phrases overlap or are not in order", phrases.row_of[tangled]
    yield "a phrase has no box", phrases.row_of[phrases.counts == 0]
    x1, y1, x2, y2 = phrases.boxes.T
    sound = (x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= 1) & (y2 <= 1)
    yield "a box is none in the image", phrases.row_of[phrases.phrase_of[~sound]]


def faults(phrases: Phrases, rules: BoxRules) -> Iterator[tuple[str, Ints]]:
    """Each other rule of phrases and boxes, with the rows that break it."""
    box_row = phrases.row_of[phrases.phrase_of]
    across, down = (phrases.boxes[:, 2:] - phrases.boxes[:, :2]).T
    thin = np.minimum(across, down) < rules.min_side - _ROUNDING
    yield "a box is thinner than min_side", box_row[thin]
    yield "a box is larger than max_area", box_row[across * down > rules.max_area + _ROUNDING]
    yield "a phrase has a box twice", phrases.row_of[_repeated(phrases)]
    if rules.min_score is not None:
        # What is no less than a number is no less than it as float32 either.
        low = ~(phrases.scores >= float(np.float32(rules.min_score)))
        yield "a phrase's score is below min_score", phrases.row_of[low]
    blank = pc.equal(pc.ascii_trim(phrases.texts, _BLANKS), "")
    yield "a phrase is blank", phrases.row_of[true(blank)]


def _repeated(phrases: Phrases) -> Ints:
    """The phrases with two equal boxes."""
    of, boxes = phrases.phrase_of, phrases.boxes
    several = np.flatnonzero(phrases.counts[of] > 1)
    for columns in (1, 4):  # few have as much as the first number twice
        named = np.column_stack([of[several], boxes[several, :columns]])
        ordered = named[np.lexsort(named.T)]
        twice = (ordered[1:] == ordered[:-1]).all(axis=1)
        found: Ints = np.unique(ordered[1:][twice, 0]).astype(np.int64)
        several = several[np.isin(of[several], found)]
    return found


def true(values: pa.BooleanArray) -> Flags:
    """Where they are; null is not."""
    found: Flags = values.fill_null(False).to_numpy(zero_copy_only=False)
    return found
