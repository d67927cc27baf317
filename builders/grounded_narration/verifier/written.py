"""The text that captions make with the boxes of their phrases.

A caption is cut where its phrases begin and end, without copying it, and put together again with
the boxes between the pieces; nothing is done row by row.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vila2data.boxes import Convention
from vila2data.cuboids import Floats

from .phrases import Ints, Phrases, true


def texts_differ(phrases: Phrases, pieces: pa.StringArray) -> Ints:
    """The rows with a phrase whose text is not what its span says; ``pieces`` as of ``cut``."""
    said = pieces.take(pa.array(_gaps(phrases) + 1))
    return phrases.row_of[~true(pc.equal(said, phrases.texts))]


def cut(phrases: Phrases) -> pa.StringArray:
    """The captions in pieces: for each phrase what stands before it, and it; then the rest.

    Spans must be in the captions, in order, and not overlap.
    """
    begins, first = phrases.letters
    bounds = np.empty(2 * len(phrases.start) + len(phrases.captions) + 1, np.int64)
    rests = np.cumsum(2 * phrases.per_row + 1) - 1
    bounds[0], bounds[rests + 1] = begins[first[0]], begins[first[1:]]
    gaps = _gaps(phrases)
    bounds[gaps + 1] = begins[first[phrases.row_of] + phrases.start]
    bounds[gaps + 2] = begins[first[phrases.row_of] + phrases.end]
    offsets = pa.py_buffer(bounds.astype(np.int32))
    data = phrases.captions.buffers()[2]
    return pa.StringArray.from_buffers(len(bounds) - 1, offsets, data)


def _gaps(phrases: Phrases) -> Ints:
    """Which piece stands before each phrase, (p,)."""
    return 2 * np.arange(len(phrases.row_of)) + phrases.row_of


def grounded(
    phrases: Phrases, pieces: pa.StringArray, boxes: pa.StringArray, convention: Convention
) -> pa.StringArray:
    """The captions with the boxes of each phrase behind it.

    Args:
        phrases: of the rows.
        pieces: as of ``cut``.
        boxes: as of ``written``.
        convention: of the boxes.
    """
    before, after = convention.phrase.split("{}")
    told = pc.binary_join_element_wise(after, boxes, "")
    parts = pa.concat_arrays([pieces, told, pa.array([before])])
    order = np.arange(len(pieces))
    gaps, number = _gaps(phrases), np.arange(len(told))
    order = np.insert(order, gaps + 2, len(pieces) + number)
    ends = np.cumsum(3 * phrases.per_row + 1)
    if before:
        order = np.insert(order, gaps + number + 1, len(parts) - 1)
        ends = np.cumsum(4 * phrases.per_row + 1)
    offsets = pa.array(np.append(0, ends).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, parts.take(pa.array(order))), "")


def written(phrases: Phrases, convention: Convention, sizes_px: Ints) -> pa.StringArray:
    """The boxes of each phrase as text, (p,); wrong for boxes thinner than a step.

    Args:
        phrases: each with a box, all of which are boxes.
        convention: of the boxes.
        sizes_px: (rows, 2), width and height; for conventions that count pixels.
    """
    if convention.steps is None:
        steps = sizes_px[phrases.row_of[phrases.phrase_of]]
    else:
        steps = np.full((len(phrases.boxes), 2), convention.steps)
    numbers = _digits(convention, _counted(convention, phrases.boxes, steps))
    head, *between = convention.form.split("{}")
    each = [part for pair in zip(numbers, between, strict=True) for part in pair]
    texts = pc.binary_join_element_wise(head, *each, "")
    offsets = pa.array(np.append(0, np.cumsum(phrases.counts)).astype(np.int32))
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), convention.joint)
    if not convention.opening + convention.closing:
        return joined
    return pc.binary_join_element_wise(convention.opening, joined, convention.closing, "")


def _counted(convention: Convention, boxes: Floats, steps: Ints) -> Sequence[Ints]:
    """The whole numbers of each box, each (b,)."""
    at = boxes * np.tile(steps, 2)
    if convention.form.count("{}") == 4:
        return list(np.rint(at).astype(np.int64).T)  # half to even
    first = np.floor(at[:, :2]).astype(np.int64)  # patches, counted by rows
    last = np.ceil(at[:, 2:]).astype(np.int64) - 1
    return [first[:, 1] * steps[:, 0] + first[:, 0], last[:, 1] * steps[:, 0] + last[:, 0]]


def _digits(convention: Convention, numbers: Sequence[Ints]) -> list[pa.StringArray]:
    """Whole numbers as text."""
    if convention.steps is None:
        return [pa.array(column).cast(pa.string()) for column in numbers]
    if convention.form.count("{}") != 4:
        known = [f"{number:04d}" for number in range(convention.steps**2)]
    elif convention.decimals is None:
        known = [str(number) for number in range(convention.steps + 1)]
    else:
        known = [
            f"{number / convention.steps:.{convention.decimals}f}"
            for number in range(convention.steps + 1)
        ]
        if convention.trims:  # down to one decimal
            known = [text[:3] + text[3:].rstrip("0") for text in known]
    texts = pa.array(known)
    return [texts.take(pa.array(column)) for column in numbers]
