"""Written boxes against the reference boxes of one image."""

from collections.abc import Sequence
from typing import NamedTuple

from vila2data.boxes import Box

MIN_IOU = 0.5


class Reference(NamedTuple):
    """A reference box, 0-1; a crowd is a region of many, which are not told apart."""

    box: Box
    category: str
    is_crowd: bool = False


class Written(NamedTuple):
    """A box of a caption, 0-1, and the category that its phrase names, if any."""

    box: Box
    category: str | None


def match(
    written: Sequence[Written], references: Sequence[Reference], *, by_category: bool = False
) -> tuple[int, int]:
    """How many boxes match a reference, each one alone, and how many others lie in a crowd.

    Pairs are made by falling IoU, at equal IoU in the order of the lists; below ``MIN_IOU`` there
    is none. A box lies in a crowd where the crowd has so much of its area.

    Args:
        written: boxes of the caption.
        references: boxes of its image.
        by_category: a box matches only where its phrase names the category.
    """
    pairs = []
    for n, (box, category) in enumerate(written):
        for m, reference in enumerate(references):
            if reference.is_crowd or (by_category and category != reference.category):
                continue
            value = iou(box, reference.box)
            if value >= MIN_IOU:
                pairs.append((-value, n, m))
    taken: set[int] = set()
    matched: set[int] = set()
    for _, n, m in sorted(pairs):
        if n not in matched and m not in taken:
            matched.add(n)
            taken.add(m)
    crowds = [r for r in references if r.is_crowd]
    ignored = sum(
        n not in matched and _is_in_crowd(one, crowds, by_category=by_category)
        for n, one in enumerate(written)
    )
    return len(matched), ignored


def iou(a: Box, b: Box) -> float:
    """Intersection over union; for single boxes much quicker than over arrays."""
    shared = _shared(a, b)
    return shared / (_area(a) + _area(b) - shared) if shared else 0.0


def _is_in_crowd(one: Written, crowds: Sequence[Reference], *, by_category: bool) -> bool:
    return any(
        _shared(one.box, crowd.box) >= MIN_IOU * _area(one.box)
        for crowd in crowds
        if not by_category or crowd.category == one.category
    )


def _shared(a: Box, b: Box) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return across * down if across > 0 and down > 0 else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
