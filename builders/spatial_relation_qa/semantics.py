"""What the relations mean, evaluated for all boxes of many scenes at once.

A question asks for the one box of a class that stands in a relation to an anchor: another box, or
the camera. Its candidates are all boxes of that class but the anchor. Each relation gives each
candidate a score in metres, which grows with how much the relation holds, and says of each whether
it holds, and whether it is doubtful. The question may be asked where the relation holds for exactly
one candidate and is doubtful for none.

Source: VILA² section 2.2.1 names the relations; the margins follow Sr3D (winner over runner-up) and
RoboSpatial (disjoint extents).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vila2data.cuboids import Floats, depth_ranges, gaps

from .batch import Bools, Ints
from .candidates import TARGET_NOT_CLEAR, Candidates, Geometry, around_boxes, before_camera
from .names import CAMERA_RELATIONS, OBJECT_CAMERA, OBJECT_OBJECT, OBJECT_RELATIONS, RELATIONS
from .recipe import Semantics


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions that may be asked, ``q`` in number.

    Attributes:
        scene, anchor, target: (q,); boxes are counted over all scenes, -1 is the camera.
        relation: (q,), place in ``RELATIONS``.
        gap_m: (q,), see ``vila2data.schema.RELATIONS``.
    """

    scene: Ints
    anchor: Ints
    target: Ints
    relation: Ints
    gap_m: Floats


@dataclass(frozen=True, slots=True)
class _Scores:
    """Of each candidate of each question: ``holds`` and ``doubtful`` are never both true."""

    metres: Floats
    holds: Bools
    doubtful: Bools


def questions_of(geometry: Geometry, rules: Semantics) -> tuple[Questions, dict[str, int]]:
    """All questions that may be asked, and how many more were refused, by reason."""
    around, refused_around = around_boxes(geometry, rules.anchors)
    before, refused_before = before_camera(geometry)
    refused = Counter({r: n * len(OBJECT_RELATIONS) for r, n in refused_around.items()})
    refused.update({r: n * len(CAMERA_RELATIONS) for r, n in refused_before.items()})
    found = []
    for relation, candidates, scores in _evaluated(geometry, around, before, rules):
        superlative = relation in _SUPERLATIVES
        kept = _decide(geometry, rules, candidates, scores, superlative, refused)
        found.append((RELATIONS.index(relation), *kept))
    relations = np.concatenate([np.full(len(target), number) for number, _, target, _ in found])
    anchor, target, gap = (np.concatenate([f[n] for f in found]) for n in (1, 2, 3))
    scene = geometry.scene_of[target]
    return Questions(scene, anchor, target, relations, gap), refused


_SUPERLATIVES = frozenset(
    {
        f"{OBJECT_OBJECT}.closest",
        f"{OBJECT_CAMERA}.closest",
        f"{OBJECT_CAMERA}.farthest",
    }
)


def _evaluated(
    geometry: Geometry, around: Candidates, before: Candidates, rules: Semantics
) -> Iterator[tuple[str, Candidates, _Scores]]:
    depth = depth_ranges(geometry.center, geometry.dimensions, geometry.rotation)
    for name in OBJECT_RELATIONS:
        yield (
            f"{OBJECT_OBJECT}.{name}",
            around,
            _OBJECT_SCORES[name](geometry, depth, around, rules),
        )
    for name in CAMERA_RELATIONS:
        yield (
            f"{OBJECT_CAMERA}.{name}",
            before,
            _CAMERA_SCORES[name](geometry, before, rules),
        )


def _closest(g: Geometry, depth: Floats, c: Candidates, rules: Semantics) -> _Scores:
    if rules.closest_by == "gap":
        sides = [(g.center[i], g.dimensions[i], g.rotation[i]) for i in (c.anchor, c.box)]
        return _ranked(-gaps(*sides), c, rules)
    x, y, z = (axis[c.anchor] - axis[c.box] for axis in np.ascontiguousarray(g.center.T))
    return _ranked(-np.sqrt(x * x + y * y + z * z), c, rules)


def _in_front_of(g: Geometry, depth: Floats, c: Candidates, rules: Semantics) -> _Scores:
    metres = g.center[c.anchor, 2] - g.center[c.box, 2]
    disjoint = depth[c.box, 1] < depth[c.anchor, 0]
    return _directed(metres, rules.depth_margin_m, disjoint, rules)


def _behind(g: Geometry, depth: Floats, c: Candidates, rules: Semantics) -> _Scores:
    metres = g.center[c.box, 2] - g.center[c.anchor, 2]
    disjoint = depth[c.box, 0] > depth[c.anchor, 1]
    return _directed(metres, rules.depth_margin_m, disjoint, rules)


def _left_of(g: Geometry, depth: Floats, c: Candidates, rules: Semantics) -> _Scores:
    metres = g.center[c.anchor, 0] - g.center[c.box, 0]
    disjoint = g.bbox[c.box, 2] < g.bbox[c.anchor, 0]
    return _directed(metres, rules.lateral_margin_m, disjoint, rules)


def _right_of(g: Geometry, depth: Floats, c: Candidates, rules: Semantics) -> _Scores:
    metres = g.center[c.box, 0] - g.center[c.anchor, 0]
    disjoint = g.bbox[c.box, 0] > g.bbox[c.anchor, 2]
    return _directed(metres, rules.lateral_margin_m, disjoint, rules)


_OBJECT_SCORES: dict[str, Callable[[Geometry, Floats, Candidates, Semantics], _Scores]] = {
    "closest": _closest,
    "in_front_of": _in_front_of,
    "behind": _behind,
    "left_of": _left_of,
    "right_of": _right_of,
}


def _close(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _beyond(g.close_below_m[g.scene_of[c.box]] - g.center[c.box, 2], rules)


def _far(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _beyond(g.center[c.box, 2] - g.far_above_m[g.scene_of[c.box]], rules)


def _camera_closest(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _ranked(-np.sqrt((g.center[c.box] ** 2).sum(axis=1)), c, rules)


def _camera_farthest(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _ranked(np.sqrt((g.center[c.box] ** 2).sum(axis=1)), c, rules)


def _camera_left(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _beside_axis(-g.center[c.box, 0], g, c, rules)


def _camera_right(g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    return _beside_axis(g.center[c.box, 0], g, c, rules)


_CAMERA_SCORES: dict[str, Callable[[Geometry, Candidates, Semantics], _Scores]] = {
    "close": _close,
    "far": _far,
    "closest": _camera_closest,
    "farthest": _camera_farthest,
    "left": _camera_left,
    "right": _camera_right,
}


def _directed(metres: Floats, margin_m: float, disjoint: Bools, rules: Semantics) -> _Scores:
    """Beyond a margin; in strict mode also apart, and a rival on the same side is doubtful."""
    holds = metres >= margin_m
    if rules.mode == "lenient":
        return _Scores(metres, holds, np.zeros(len(holds), np.bool_))
    holds &= disjoint
    return _Scores(metres, holds, ~holds & (metres > 0))


def _beyond(metres: Floats, rules: Semantics) -> _Scores:
    """Past a threshold; in strict mode a rival within the margin before it is doubtful."""
    holds = metres > 0
    near = ~holds & (metres > -rules.depth_margin_m)
    return _Scores(metres, holds, near & (rules.mode == "strict"))


def _beside_axis(metres: Floats, g: Geometry, c: Candidates, rules: Semantics) -> _Scores:
    """Off the optical axis by more than the dead zone, in image widths."""
    offset = g.focal_norm[g.scene_of[c.box]] * metres / g.center[c.box, 2]
    holds = offset >= rules.dead_zone
    return _Scores(metres, holds, ~holds & (offset > 0) & (rules.mode == "strict"))


def _ranked(metres: Floats, c: Candidates, rules: Semantics) -> _Scores:
    """The greatest of each question holds; who comes too near to it is doubtful."""
    if not len(metres):
        return _Scores(metres, np.zeros(0, np.bool_), np.zeros(0, np.bool_))
    top = np.maximum.reduceat(metres, c.first)[c.question]
    holds = metres == top
    needed = np.maximum(
        rules.min_gap_m, rules.min_gap_share * np.maximum(np.abs(top), np.abs(metres))
    )
    return _Scores(metres, holds, ~holds & (top - metres < needed))


def _decide(
    geometry: Geometry,
    rules: Semantics,
    candidates: Candidates,
    scores: _Scores,
    superlative: bool,
    refused: Counter[str],
) -> tuple[Ints, Ints, Floats]:
    """Anchor, target and gap of the questions that may be asked; the others are counted."""
    first = candidates.first
    if not len(first):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0)
    counts = np.diff(np.append(first, len(candidates.box)))
    holding, doubtful = _counted(scores.holds, scores.doubtful, first)
    places = np.arange(len(candidates.box))
    winner = np.maximum.reduceat(np.where(scores.holds, places, -1), first)
    runner_up = np.maximum.reduceat(np.where(scores.holds, -np.inf, scores.metres), first)
    target = candidates.box[winner]
    gap = scores.metres[winner] - runner_up
    free = np.ones(len(first), np.bool_)
    for reason, where in (
        ("too_few_candidates", superlative & (counts < rules.min_superlative_candidates)),
        ("holds_for_none", holding == 0),
        ("holds_for_several", holding > 1),
        ("rival_too_near", (doubtful > 0) | (gap <= 0)),
        (TARGET_NOT_CLEAR, ~geometry.clear[target]),
    ):
        refused[reason] += int((free & where).sum())
        free &= ~where
    alone = ~np.isfinite(gap)
    gap = np.where(alone, np.abs(scores.metres[winner]), gap)
    return candidates.anchor[first][free], target[free], gap[free]


def _counted(holds: Bools, doubtful: Bools, first: Ints) -> tuple[Ints, Ints]:
    """How many candidates of each question are the one, and the other, in one pass."""
    both = np.add.reduceat(holds + (doubtful.astype(np.int64) << 32), first)
    return both & 0xFFFFFFFF, both >> 32
