"""What an answer must satisfy, candidate by candidate, in plain arithmetic on stored numbers."""

from collections.abc import Iterator, Mapping
from math import hypot, isclose, sqrt

from ..recipe import Semantics
from .rows import Asked, Row

Thresholds = Mapping[str, tuple[float, float]]
"""``close_below_m`` and ``far_above_m`` of each source."""
Distances = Mapping[tuple[int, int], float]
"""Of a candidate's box from its anchor's, by their numbers in the batch."""

CAMERA = -1
FAMILIES = {
    "object_object": ("closest", "in_front_of", "behind", "left_of", "right_of"),
    "object_camera": ("close", "far", "closest", "farthest", "left", "right"),
}
SUPERLATIVES = ("object_object.closest", "object_camera.closest", "object_camera.farthest")

# In the row's favour: the same number computed in another order differs in its last digits.
_ROUNDING_M = 1e-6
_GAP_SHARE = 1e-4
_GAP_M = 1e-4


def category_holds(row: Row, asked: Asked) -> Iterator[str]:
    """What is wrong with the boxes that are named, whatever the relation means."""
    count = len(row.categories)
    numbers = [asked.target, *asked.candidates]
    if asked.relation not in FAMILIES.get(asked.family, ()):
        yield "a family has no such relation"
    elif (asked.anchor == CAMERA) != (asked.family == "object_camera"):
        yield "an anchor is not of its family"
    if not all(0 <= n < count for n in numbers) or not CAMERA <= asked.anchor < count:
        yield "a number is no box's"
        return
    category = row.categories[asked.target]
    if asked.candidates != [n for n in row.classes[category] if n != asked.anchor]:
        yield "the candidates are not all boxes of the class but the anchor"
    if asked.target not in asked.candidates:
        yield "the target is no candidate"
    ending = f" {category}"
    if any(other.endswith(ending) for other in row.classes):
        yield "another class is a kind of the one asked for"


class Meaning:
    """The relations as a recipe sets them.

    Attributes:
        rules: of the recipe.
        thresholds: by source.
    """

    def __init__(self, rules: Semantics, thresholds: Thresholds) -> None:
        self.rules, self.thresholds = rules, thresholds
        self._strict = rules.mode == "strict"

    def broken(self, row: Row, asked: Asked, distances: Distances) -> Iterator[str]:
        """What is wrong with one answer of which ``category_holds`` has nothing to say."""
        if asked.relation in ("close", "far") and row.source not in self.thresholds:
            yield "the manifest has no close and far of the source"
            return
        scores = {c: self._score(row, asked, c, distances) for c in asked.candidates}
        target = scores.pop(asked.target)
        if asked.name in SUPERLATIVES:
            yield from self._superlative(target, scores)
        else:
            if not self._holds(row, asked, asked.target, target, room_m=_ROUNDING_M):
                yield "the relation does not hold for the target"
            if any(self._holds(row, asked, c, s, room_m=-_ROUNDING_M) for c, s in scores.items()):
                yield "the relation holds for another candidate too"
            elif any(score > self._near_miss(asked) + _ROUNDING_M for score in scores.values()):
                yield "another candidate comes near"
        gap = target - max(scores.values()) if scores else abs(target)
        if not isclose(asked.gap, gap, rel_tol=_GAP_SHARE, abs_tol=_GAP_M):
            yield "a gap is not the target's lead"

    def _score(self, row: Row, asked: Asked, candidate: int, distances: Distances) -> float:
        x, y, z = row.centers[candidate]
        if asked.family == "object_camera":
            far_m = sqrt(x * x + y * y + z * z)
            close_below_m, far_above_m = self.thresholds.get(row.source, (0.0, 0.0))
            return {
                "closest": -far_m,
                "farthest": far_m,
                "close": close_below_m - z,
                "far": z - far_above_m,
                "left": -x,
                "right": x,
            }[asked.relation]
        anchor_x, anchor_y, anchor_z = row.centers[asked.anchor]
        if asked.relation == "closest":
            if self.rules.closest_by == "gap":
                return -distances[row.first + candidate, row.first + asked.anchor]
            return -hypot(x - anchor_x, y - anchor_y, z - anchor_z)
        return {
            "in_front_of": anchor_z - z,
            "behind": z - anchor_z,
            "left_of": anchor_x - x,
            "right_of": x - anchor_x,
        }[asked.relation]

    def _holds(self, row: Row, asked: Asked, candidate: int, score: float, room_m: float) -> bool:
        """Whether it holds; with ``room_m`` more than is given, less where that is negative."""
        if asked.family == "object_camera":
            least_m = 0.0
            if asked.relation in ("left", "right"):  # a share of the image's width, at that depth
                z = row.centers[candidate][2]
                wide_m = row.width * z / row.fx if row.fx > 0 else float("inf")
                least_m = self.rules.dead_zone * wide_m
            return score >= least_m - room_m
        if asked.relation in ("in_front_of", "behind"):
            least_m, extents, low, high = self.rules.depth_margin_m, row.depths_m, 0, 1
        else:
            least_m, extents, low, high = self.rules.lateral_margin_m, row.bbox_norm, 0, 2
        if score < least_m - room_m:
            return False
        if not self._strict:
            return True
        own, anchors = extents[candidate], extents[asked.anchor]
        if asked.relation in ("behind", "right_of"):
            own, anchors = anchors, own
        return own[high] < anchors[low] + room_m

    def _near_miss(self, asked: Asked) -> float:
        """The score up to which another candidate leaves no doubt."""
        if not self._strict:
            return float("inf")
        return -self.rules.depth_margin_m if asked.relation in ("close", "far") else 0.0

    def _superlative(self, target: float, others: Mapping[int, float]) -> Iterator[str]:
        if len(others) + 1 < self.rules.min_superlative_candidates:
            yield "there are too few candidates for a superlative"
        if any(score > target + _ROUNDING_M for score in others.values()):
            yield "another candidate is the closest or farthest"
            return
        for score in others.values():
            greater_m = max(abs(score), abs(target))
            needed_m = max(self.rules.min_gap_m, self.rules.min_gap_share * greater_m)
            if target - score < needed_m - 2 * _ROUNDING_M:
                yield "another candidate comes near"
                return
