"""Whether a row holds more of one category than may be, as far as it shows that.

The rule counts the items that are left, by the head nouns of their noun chunks. A row keeps neither
all items nor, where phrases are widened, the noun chunks. So this finds fewer crowded rows than
there might be, and none that is not:

- Boxes of phrases that were left out, for they overlap others, are not there. One of them could
  link two boxes that are there into one instance; ``_LINKS`` links in a row are allowed for.
- With ``phrases.text`` ``noun_chunk``, the categories of all phrases are known. With ``ref_exp`` a
  text may have been widened, so that only the boxes of one phrase are known to be of one category.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from vila2data.nouns import irregular_nouns

from ..recipe import PhraseRules, RowRules
from .phrases import Ints, Phrases

_LINKS = 9  # 1 - IoU is a distance: so many steps of the default's 0.1 leave an IoU of 0.1
_ROUNDING = 1e-6  # boxes are stored as float32
_ENDS = frozenset(
    {"of", "in", "on", "with", "for", "at", "by", "from", "to", "near", "that", "which", "who"}
)
_BLANKS = str.maketrans("\t\n\r", "   ")
_PUNCTUATION = ".,;:!?\"'()[]"

Box = Sequence[float]
Phrase = Mapping[str, Any]


def may_be_crowded(phrases: Phrases, rows: RowRules, text: PhraseRules) -> Ints:
    """The rows that have boxes enough for it."""
    if _linked_from(rows) <= 0:
        return np.empty(0, np.int64)
    if text.text != "noun_chunk":
        return np.unique(phrases.row_of[phrases.counts > rows.max_instances])
    counts = np.bincount(phrases.row_of, phrases.counts)
    return np.flatnonzero(counts > rows.max_instances)


def _linked_from(rows: RowRules) -> float:
    """The IoU from which two boxes may be one instance."""
    return 1 - _LINKS * (1 - rows.same_instance_iou) - _ROUNDING


def is_crowded(phrases: Sequence[Phrase], rows: RowRules, text: PhraseRules) -> bool:
    """Whether a category certainly has more than ``max_instances`` instances."""
    together = _linked_from(rows)
    groups: dict[object, list[Box]] = {}
    for number, phrase in enumerate(phrases):
        category = _category(phrase["text"] or "") if text.text == "noun_chunk" else number
        if category != "":
            groups.setdefault(category, []).extend(phrase["boxes"])
    return any(
        len(boxes) > rows.max_instances and _groups(boxes, together) > rows.max_instances
        for boxes in groups.values()
    )


def _groups(boxes: Iterable[Box], together: float) -> int:
    """The number of groups when boxes with such an IoU, and those linked by others, are one."""
    found: list[list[Box]] = []
    for box in boxes:
        near = [g for g in found if any(_iou(box, other) >= together for other in g)]
        found = [g for g in found if g not in near] + [[box, *chain.from_iterable(near)]]
    return len(found)


def _iou(a: Box, b: Box) -> float:
    across = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    shared = across * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def _category(text: str) -> str:
    """The head noun of a noun chunk, singular; "" where it has none."""
    words = [word for word in text.translate(_BLANKS).split(" ") if word]
    if not words:
        return ""
    ends = [n for n, word in enumerate(words) if n and word.lower() in _ENDS]
    head = words[ends[0] - 1] if ends else words[-1]
    return _singular(head.strip(_PUNCTUATION).lower().removesuffix("'s"))


def _singular(noun: str) -> str:
    if noun in irregular_nouns():
        return irregular_nouns()[noun]
    if len(noun) <= 3 or not noun.endswith("s") or noun.endswith(("ss", "us", "is")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    return noun[:-2] if noun.endswith(("ches", "shes", "sses", "xes", "zes")) else noun[:-1]
