"""How many instances of each category the pictures hold."""

import numpy as np
import pyarrow as pa

from vila2data.boxes import iou

from .phrases import Bools, Floats, Ints, numbers_of


def most_instances(batch: pa.RecordBatch, same_instance_iou: float) -> tuple[Ints, list[str]]:
    """The most instances of a category in each row, and which category that is.

    Args:
        batch: rows of ``narratable`` with ``categories``, each of at least one item.
        same_instance_iou: a box is no further instance where an earlier one of its category in the
            row overlaps it so much.
    """
    numbers, row, _ = numbers_of(batch["noun_chunks"])
    sound = batch["item_reasons"].flatten().to_numpy(zero_copy_only=False) == 0
    boxes, row = numbers[sound, 2:6], row[sound]
    names, category = np.unique(
        np.array(batch["categories"].flatten().to_pylist(), np.str_), return_inverse=True
    )
    group = row * len(names) + category
    order = np.argsort(group, kind="stable")
    group, boxes = group[order], boxes[order]
    counts = np.bincount(group[~_repeats(group, boxes, same_instance_iou)])
    groups = np.flatnonzero(counts)
    ranked = groups[np.lexsort((groups % len(names), -counts[groups], groups // len(names)))]
    best = ranked[np.unique(ranked // len(names), return_index=True)[1]]
    return counts[best], names[best % len(names)].tolist()


def _repeats(group: Ints, boxes: Floats, same_instance_iou: float) -> Bools:
    """Whether an earlier box of the same group is the same instance; groups stand together."""
    found = np.zeros(len(group), np.bool_)
    for back in range(1, len(group)):
        later = np.flatnonzero(group[back:] == group[:-back]) + back
        if not len(later):
            break
        found[later] |= iou(boxes[later - back], boxes[later]) >= same_instance_iou
    return found
