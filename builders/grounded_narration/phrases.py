"""Which phrases of a caption stand with their boxes, for many captions at once.

The rules are those of docs/grounding.md, section Phrases.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NUMBERS = 7  # start, end, x1, y1, x2, y2, score


@dataclass(frozen=True, slots=True)
class Items:
    """Items of the captions that are kept.

    Attributes:
        row: (n,), number of the caption, ascending.
        numbers: (n, 7) start, end, x1, y1, x2, y2, score; score NaN where there is none.
        expression: (n, 2), offsets of the referring expression; those of the item where it has none
            that encloses it.
    """

    row: Ints
    numbers: Floats
    expression: Ints

    @property
    def span(self) -> Ints:
        """(n, 2)."""
        spans: Ints = self.numbers[:, :2].astype(np.int64)
        return spans


@dataclass(frozen=True, slots=True)
class Phrases:
    """Chosen phrases, in the order of captions and within them.

    Attributes:
        row: (p,), number of the caption.
        start, end: (p,), characters.
        box_starts: (p + 1,), where the boxes of each phrase begin.
        boxes: (b, 4), xyxy 0-1.
        score: (p,), NaN where none is known.
        repeated, overlapping: items that were left out.
    """

    row: Ints
    start: Ints
    end: Ints
    box_starts: Ints
    boxes: Floats
    score: Floats
    repeated: int
    overlapping: int

    def row_starts(self, rows: int) -> Ints:
        """(rows + 1,), where the phrases of each caption begin."""
        return np.searchsorted(self.row, np.arange(rows + 1)).astype(np.int64)


def items_of(noun_chunks: pa.ListArray, ref_exps: pa.ListArray, kept: Bools, chars: Ints) -> Items:
    """The kept items of each caption with their referring expressions.

    Args:
        noun_chunks: lists of items.
        ref_exps: the same; a list may be null.
        kept: (m,), of all items of ``noun_chunks``, in order.
        chars: (rows,), length of each caption.
    """
    chunks, chunk_row, place = numbers_of(noun_chunks)
    others, other_row, _ = numbers_of(ref_exps)
    chunks, chunk_row, place = chunks[kept], chunk_row[kept], place[kept]
    found = _partners(chunks, chunk_row, place, others, other_row, len(chars))
    span = chunks[:, :2].astype(np.int64)
    expression = np.full((len(span), 2), np.nan)
    expression[found >= 0] = others[found[found >= 0], :2]
    with np.errstate(invalid="ignore"):
        start, end = expression.T
        encloses = (start >= 0) & (start <= span[:, 0]) & (end >= span[:, 1])
        encloses &= (end <= chars[chunk_row]) & (expression == np.floor(expression)).all(axis=1)
    usable = np.where(encloses[:, None], np.nan_to_num(expression), span).astype(np.int64)
    return Items(chunk_row, chunks, usable)


def numbers_of(lists: pa.ListArray) -> tuple[Floats, Ints, Ints]:
    """(m, 7) numbers of every item, NaN for what it lacks; its row; its place in the row."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    lengths = np.where(lists.is_null().to_numpy(zero_copy_only=False), 0, np.diff(offsets))
    items: Any = lists.flatten()
    starts = items.offsets.to_numpy().astype(np.int64)
    sizes = np.where(items.is_null().to_numpy(zero_copy_only=False), 0, np.diff(starts))
    values = np.append(items.values.to_numpy(zero_copy_only=False).astype(np.float64), np.nan)
    columns = np.arange(_NUMBERS)
    index = np.where(columns < sizes[:, None], starts[:-1, None] + columns, len(values) - 1)
    row = np.repeat(np.arange(len(lists)), lengths)
    firsts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    return values[index], row, np.arange(len(row)) - np.repeat(firsts, lengths)


def _partners(
    chunks: Floats, chunk_row: Ints, place: Ints, others: Floats, other_row: Ints, rows: int
) -> Ints:
    """For each item the referring expression at its place where it has the same box, else the first
    of the caption that has; -1 where none has.
    """
    found = np.full(len(chunks), -1, np.int64)
    if not len(others):
        return found
    starts = np.searchsorted(other_row, np.arange(rows + 1))
    at = np.minimum(starts[chunk_row] + place, len(others) - 1)
    there = starts[chunk_row] + place < starts[chunk_row + 1]
    same = there & (others[at, 2:6] == chunks[:, 2:6]).all(axis=1)
    found[same] = at[same]
    for item in np.flatnonzero(~same).tolist():  # few: the columns run side by side
        first, end = starts[chunk_row[item]], starts[chunk_row[item] + 1]
        equal = np.flatnonzero((others[first:end, 2:6] == chunks[item, 2:6]).all(axis=1))
        if len(equal):
            found[item] = first + equal[0]
    return found


def choose(items: Items, *, widen: bool) -> Phrases:
    """The most phrases that do not overlap, with their boxes.

    Args:
        widen: whether a phrase becomes its referring expression where that costs no box.
    """
    span = items.span
    order = np.lexsort((span[:, 1], span[:, 0], items.row))  # stable: boxes keep their order
    row, start, end = items.row[order], span[order, 0], span[order, 1]
    begins = _changes(row, start, end)
    group = np.cumsum(begins) - 1
    repeated = _repeats(group, items.numbers[order, 2:6].astype(np.float32))
    chosen = _most(row[begins], start[begins], end[begins])
    firsts = np.flatnonzero(begins)[chosen]
    phrase_row, start, end = row[firsts], start[firsts], end[firsts]
    if widen:
        start, end = _widened(phrase_row, start, end, items.expression[order][firsts])
    in_phrase = chosen[group] if len(group) else np.zeros(0, np.bool_)
    kept = in_phrase & ~repeated
    counts = np.bincount(group[kept], minlength=len(chosen))[chosen]
    return Phrases(
        row=phrase_row,
        start=start,
        end=end,
        box_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=items.numbers[order][kept, 2:6],
        score=_highest(items.numbers[order, 6], begins)[chosen],
        repeated=int(repeated.sum()),
        overlapping=int((~in_phrase & ~repeated).sum()),
    )


def _changes(*columns: NDArray[Any]) -> Bools:
    """Whether each line differs from the one before it."""
    changed = np.ones(len(columns[0]), np.bool_)
    changed[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changed


def _repeats(group: Ints, boxes: NDArray[np.float32]) -> Bools:
    """Whether an earlier box of the group is equal; groups stand together."""
    found = np.zeros(len(group), np.bool_)
    same = np.append(group[1:] == group[:-1], False)
    several = np.flatnonzero(same | np.roll(same, 1))  # few
    order = several[np.lexsort((*boxes[several].T, group[several]))]
    found[order] = ~_changes(group[order], *boxes[order].T)
    return found


def _highest(score: Floats, begins: Bools) -> Floats:
    """The highest score of each group, NaN where all are."""
    if not len(score):
        return score
    highest: Floats = np.fmax.reduceat(score, np.flatnonzero(begins))
    return highest


def _most(row: Ints, start: Ints, end: Ints) -> Bools:
    """Which spans are chosen, of spans in order of row, start and end.

    Nearly no caption has overlapping ones; the others are gone through one by one.
    """
    chosen = np.ones(len(row), np.bool_)
    overlaps = (row[1:] == row[:-1]) & (start[1:] < end[:-1])
    for caption in np.unique(row[1:][overlaps]).tolist():
        first, last = np.searchsorted(row, [caption, caption + 1])
        reached = -1
        chosen[first:last] = False
        for place in first + np.lexsort((-start[first:last], end[first:last])):
            if start[place] >= reached:
                chosen[place], reached = True, end[place]
    return chosen


def _widened(row: Ints, start: Ints, end: Ints, expression: Ints) -> tuple[Ints, Ints]:
    """The spans, each widened to its referring expression where no other is in the way."""
    same = row[1:] == row[:-1]
    fits = np.ones(len(row), np.bool_)
    fits[1:] &= ~same | (expression[1:, 0] >= end[:-1])
    fits[:-1] &= ~same | (expression[:-1, 1] <= start[1:])
    leftwards = np.flatnonzero(fits & (expression[:, 0] < start))
    for place in leftwards.tolist():  # in order, so that the one before it is settled
        before = place - 1
        if place and row[before] == row[place] and fits[before]:
            fits[place] = expression[place, 0] >= expression[before, 1]
    return np.where(fits, expression[:, 0], start), np.where(fits, expression[:, 1], end)
