"""What one caption says of boxes."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from vila2data.boxes import Box, Size

from .box_scales import Scale, placed
from .box_text import boxes_in
from .noun_phrases import phrases_of

VERDICTS = ("sound", "malformed", "out_of_range", "degenerate", "duplicate")
_GRID = 100
_FIRST_OF_ROWS = [sum(1 << _GRID * row for row in range(end)) for end in range(_GRID + 1)]


class Grounded(NamedTuple):
    """What one caption says of boxes.

    Attributes:
        verdicts: of everything that is meant as a box, by place.
        boxes: the sound ones, 0-1, each with its phrase.
        marked: phrases that are marked, and how many of them have a sound box.
        unmarked: the same of noun phrases found by the rule.
    """

    verdicts: list[str]
    boxes: list[tuple[Box, str | None]]
    marked: tuple[int, int]
    unmarked: tuple[int, int]


def read_caption(caption: str, scale: Scale, size: Size | None) -> Grounded:
    """Reads the boxes of a caption.

    Args:
        caption: as generated.
        scale: of the numbers in it.
        size: width and height of the image.
    """
    found = boxes_in(caption)
    phrases = phrases_of(caption, found)
    verdicts: list[str] = []
    boxes: dict[tuple[Box, str | None], None] = {}
    with_box: tuple[set[int], set[int]] = set(), set()
    for box, named in zip(found, phrases.named, strict=True):
        place = placed(box, scale, size)
        if isinstance(place, str):
            verdicts.append(place)
        elif (place, named.phrase) in boxes:
            verdicts.append("duplicate")
        else:
            verdicts.append("sound")
            boxes[place, named.phrase] = None
            if named.phrase is not None:
                with_box[named.is_marked].add(named.number)
    unmarked, marked = map(len, with_box)
    return Grounded(verdicts, list(boxes), (phrases.marked, marked), (phrases.unmarked, unmarked))


def covered_share(boxes: Sequence[Box]) -> float:
    """The share of the image in any of ``boxes``: of the cells of a grid of 100 x 100, those whose
    centre is.
    """
    covered = 0  # bit 100 * row + column of each cell
    for x1, y1, x2, y2 in boxes:
        left, top, right, bottom = (ceil(side * _GRID - 0.5) for side in (x1, y1, x2, y2))
        columns = (1 << right) - (1 << left)
        covered |= columns * (_FIRST_OF_ROWS[bottom] - _FIRST_OF_ROWS[top])
    return covered.bit_count() / _GRID**2
