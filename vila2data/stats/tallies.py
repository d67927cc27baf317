"""Counts over the captions of a config, and the figures that follow from them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .grounded import VERDICTS, Grounded, covered_share
from .matching import Reference, Written, match


@dataclass(slots=True)
class Tally:
    """Counts over captions."""

    captions: int = 0
    with_boxes: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    marked: list[int] = field(default_factory=lambda: [0, 0])
    unmarked: list[int] = field(default_factory=lambda: [0, 0])
    covered: list[float] = field(default_factory=lambda: [0.0, 0])

    def add(self, grounded: Grounded) -> None:
        """Counts one caption."""
        self.captions += 1
        self.with_boxes += bool(grounded.verdicts)
        self.verdicts.update(grounded.verdicts)
        for totals, counts in ((self.marked, grounded.marked), (self.unmarked, grounded.unmarked)):
            totals[0] += counts[0]
            totals[1] += counts[1]
        if grounded.boxes:
            self.covered[0] += covered_share([box for box, _ in grounded.boxes])
            self.covered[1] += 1

    def row(self) -> dict[str, Any]:
        """The figures."""
        boxes = self.verdicts.total()
        # A model that marks its phrases does so nearly always.
        is_marked = self.marked[1] > self.unmarked[1]
        phrases, with_box = self.marked if is_marked else self.unmarked
        return {
            "phrases_by": "marks" if is_marked else "words",
            "captions": self.captions,
            "captions_with_boxes": self.with_boxes,
            "captions_with_boxes_share": share(self.with_boxes, self.captions),
            "boxes": boxes,
            "boxes_per_caption": share(boxes, self.captions),
            **{verdict: self.verdicts[verdict] for verdict in VERDICTS},
            **{f"{verdict}_share": share(self.verdicts[verdict], boxes) for verdict in VERDICTS},
            "phrases": phrases,
            "phrases_with_boxes": with_box,
            "phrases_with_boxes_share": share(with_box, phrases),
            "image_covered_share": share(*self.covered),
        }


@dataclass(slots=True)
class Scores:
    """Counts over captions whose image has references."""

    captions: int = 0
    references: int = 0
    boxes: int = 0
    matched: int = 0
    ignored: int = 0
    naming: int = 0
    named_matched: int = 0
    named_ignored: int = 0
    hallucinated: int = 0

    def add(self, written: Sequence[Written], references: Sequence[Reference]) -> None:
        """Counts one caption."""
        self.captions += 1
        self.references += sum(not reference.is_crowd for reference in references)
        self.boxes += len(written)
        matched, ignored = match(written, references)
        self.matched += matched
        self.ignored += ignored
        matched, ignored = match(written, references, by_category=True)
        self.named_matched += matched
        self.named_ignored += ignored
        there = {reference.category for reference in references}
        for _, category in written:
            self.naming += category is not None
            self.hallucinated += category is not None and category not in there

    def row(self) -> dict[str, Any]:
        """The figures."""
        return {
            "reference_boxes": self.references,
            "judged_boxes": self.boxes,
            "in_crowd": self.ignored,
            "matched": self.matched,
            "precision": share(self.matched, self.boxes - self.ignored),
            "recall": share(self.matched, self.references),
            "named_matched": self.named_matched,
            "named_precision": share(self.named_matched, self.boxes - self.named_ignored),
            "named_recall": share(self.named_matched, self.references),
            "naming_a_category": self.naming,
            "hallucinated": self.hallucinated,
            "hallucinated_share": share(self.hallucinated, self.naming),
        }


def share(part: float, whole: float) -> float | None:
    """A quotient to four decimals, None where nothing was counted."""
    return round(part / whole, 4) if whole else None
