"""Which scenes and boxes can be used, each refusal with its reason.

A box is left out where it cannot be placed, or is not in the image. A placed box that is seen too
badly to be asked about stays as a rival.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vila2data.boxes import clip, iou
from vila2data.corpus.images import Problem
from vila2data.cuboids import NEAR_M, Floats, corners, depth_ranges, projected_boxes

from .batch import Batch, Bools, Ints, pairs_within
from .nouns import category_name
from .occlusion import possible_occluders, visible_shares
from .recipe import BoxRules, SceneRules

_ROTATION_TOLERANCE = 0.01

# Left out. A box that may well be in the image, but cannot be placed, makes its class uncertain: it
# could be the one that is asked for.
NO_CATEGORY = "category_unusable"
NOT_FINITE = "numbers_missing"
NOT_POSITIVE = "dimensions_not_positive"
NO_ROTATION = "rotation_invalid"
NOT_VOUCHED = "not_valid_in_source"
BEHIND = "behind_camera"
AROUND = "around_camera"
OUTSIDE = "outside_image"
DEPTH_ERROR = "depth_error"
OFF = "projection_off"
TWICE = "duplicate"
_UNPLACED = frozenset(
    {NOT_FINITE, NOT_POSITIVE, NO_ROTATION, NOT_VOUCHED, AROUND, DEPTH_ERROR, OFF}
)


class Reasons:
    """The first reason that was given for each of ``count`` things."""

    def __init__(self, count: int) -> None:
        self.of: list[str | None] = [None] * count
        self.free = np.ones(count, np.bool_)

    def give(self, where: Bools, reason: str) -> None:
        """``reason`` to those of ``where`` that have none yet."""
        for place in np.flatnonzero(where & self.free):
            self.of[place] = reason
        self.free &= ~where


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of a batch; arrays are over its boxes where not said otherwise.

    Attributes:
        names: of the categories, None where they name no object.
        bbox_px: the part of the projected box that lies in the image.
        scene_problems: of each scene, None where it is used.
        left_out: why a box is not in its scene, None where it is.
        unclear: why a box that is in its scene cannot be asked about, None where it can.
        uncertain: whether another box of its class could not be placed.
        projection_iou: (s,), mean over the boxes of a scene; NaN where the source has no 2D boxes.
        estimated: whether the visibility was unknown and cast.
    """

    names: list[str | None]
    bbox_px: Floats
    scene_problems: list[Problem | None]
    left_out: list[str | None]
    unclear: list[str | None]
    uncertain: Bools
    projection_iou: Floats
    estimated: Bools


def clean(
    batch: Batch,
    image_problems: Sequence[Problem | None],
    scenes: SceneRules,
    objects: BoxRules,
) -> Cleaned:
    """Finds what of a batch can be used.

    Args:
        batch: scenes of one source.
        image_problems: of each scene's image.
        scenes: rules for scenes.
        objects: rules for boxes.
    """
    problems = [
        problem or _camera_problem(batch, number) or _size_problem(batch, number, scenes)
        for number, problem in enumerate(image_problems)
    ]
    usable = np.array([p is None for p in problems], np.bool_)[batch.scene_of]
    names = [category_name(category) for category in batch.category]
    left_out = Reasons(len(names))
    _refuse_numbers(batch, np.array([n is None for n in names], np.bool_), left_out)
    sound = usable & _is_sound(batch)
    bbox_px, inside, corner_depth = _pictures(batch, sound)
    given = ~np.isnan(batch.bbox_px).any(axis=1)
    overlap = np.where(sound, iou(bbox_px, batch.bbox_px), 0.0)
    compared = given & sound & batch.vouched
    fit = _mean_by_scene(batch, np.where(np.isnan(overlap), 0.0, overlap), compared)
    for number in np.flatnonzero(fit < scenes.min_projection_iou):
        problems[number] = problems[number] or Problem(
            "calibration_off",
            f"the projected boxes meet the source's 2D boxes with a mean IoU of {fit[number]:.2f}",
        )
    _refuse_places(batch, sound, bbox_px, corner_depth, left_out)
    left_out.give(batch.depth_error > objects.max_depth_error_m, DEPTH_ERROR)
    left_out.give(given & ~(overlap >= objects.min_iou), OFF)
    left_out.give(_repeated(batch, names), TWICE)
    used = np.array([p is None for p in problems], np.bool_)[batch.scene_of]
    unclear, estimated = _unclear(
        batch, names, left_out.free & used, bbox_px, inside, corner_depth, objects
    )
    return Cleaned(
        names=names,
        bbox_px=bbox_px,
        scene_problems=problems,
        left_out=left_out.of,
        unclear=unclear,
        uncertain=_uncertain(batch, names, left_out.of),
        projection_iou=fit,
        estimated=estimated,
    )


def _camera_problem(batch: Batch, number: int) -> Problem | None:
    matrix = batch.intrinsics[number]
    if not np.isfinite(matrix).all():
        return Problem("intrinsics_missing", "K has no nine numbers")
    if matrix[2].tolist() != [0, 0, 1] or matrix[1, 0] or min(matrix[0, 0], matrix[1, 1]) <= 0:
        return Problem("intrinsics_singular", f"K is no camera's: {matrix.tolist()}")
    return None


def _size_problem(batch: Batch, number: int, rules: SceneRules) -> Problem | None:
    width, height = batch.sizes_px[number]
    if min(width, height) <= 0:
        return Problem("size_missing", f"{width} x {height} pixels")
    count = int(batch.starts[number + 1] - batch.starts[number])
    if count > rules.max_objects:
        return Problem("too_many_objects", f"{count} boxes, at most {rules.max_objects}")
    return None


def _placed(batch: Batch) -> Bools:
    """Whether a box has its numbers."""
    numbers = np.concatenate(
        [batch.center, batch.dimensions, batch.rotation.reshape(-1, 9)], axis=1
    )
    finite: Bools = np.isfinite(numbers).all(axis=1)
    return finite


def _is_rotation(rotation: Floats) -> Bools:
    rotation = np.nan_to_num(rotation, nan=0.0, posinf=0.0, neginf=0.0)
    product = rotation @ np.swapaxes(rotation, -1, -2)
    orthonormal = (np.abs(product - np.eye(3)) < _ROTATION_TOLERANCE).all(axis=(1, 2))
    turned: Bools = orthonormal & (np.linalg.det(rotation) > 0)
    return turned


def _is_sound(batch: Batch) -> Bools:
    """Whether a box has a shape and a place."""
    return _placed(batch) & _are_positive(batch) & _is_rotation(batch.rotation)


def _are_positive(batch: Batch) -> Bools:
    return np.asarray((batch.dimensions > 0).all(axis=1))


def _refuse_numbers(batch: Batch, unnamed: Bools, left_out: Reasons) -> None:
    left_out.give(unnamed, NO_CATEGORY)
    left_out.give(~_placed(batch), NOT_FINITE)
    left_out.give(~_are_positive(batch), NOT_POSITIVE)
    left_out.give(~_is_rotation(batch.rotation), NO_ROTATION)


def _pictures(batch: Batch, sound: Bools) -> tuple[Floats, Floats, Floats]:
    """Clipped picture (n, 4), share of it in the image (n,), nearest and farthest depth (n, 2)."""
    bbox_px = np.full((len(sound), 4), np.nan)
    inside = np.full(len(sound), np.nan)
    depth = np.full((len(sound), 2), np.nan)
    points = corners(batch.center[sound], batch.dimensions[sound], batch.rotation[sound])
    scene = batch.scene_of[sound]
    whole = projected_boxes(points, batch.intrinsics[scene])
    width, height = batch.sizes_px[scene].T
    clipped = clip(whole, width, height)
    bbox_px[sound] = clipped
    with np.errstate(divide="ignore", invalid="ignore"):
        inside[sound] = _area(clipped) / _area(whole)
    depth[sound] = depth_ranges(batch.center[sound], batch.dimensions[sound], batch.rotation[sound])
    return bbox_px, inside, depth


def _area(boxes: Floats) -> Floats:
    area: Floats = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _refuse_places(
    batch: Batch, sound: Bools, bbox_px: Floats, depth: Floats, left_out: Reasons
) -> None:
    # What lies behind the camera is in no doubt, whatever the source thinks of its box.
    left_out.give(sound & (depth[:, 1] < NEAR_M), BEHIND)
    left_out.give(~batch.vouched, NOT_VOUCHED)
    left_out.give(sound & (depth[:, 0] < NEAR_M), AROUND)
    empty = ~((bbox_px[:, 2:] > bbox_px[:, :2]).all(axis=1))
    left_out.give(sound & empty, OUTSIDE)


def _mean_by_scene(batch: Batch, values: Floats, where: Bools) -> Floats:
    count = len(batch.ids)
    total = np.bincount(batch.scene_of, np.where(where, values, 0.0), count)
    number = np.bincount(batch.scene_of, where.astype(np.float64), count)
    with np.errstate(invalid="ignore"):
        mean: Floats = total / number
    return mean


def _repeated(batch: Batch, names: Sequence[str | None]) -> Bools:
    """Whether a scene lists a box of the same class and shape before."""
    seen: set[tuple[object, ...]] = set()
    repeated = np.zeros(len(names), np.bool_)
    for place, scene in enumerate(batch.scene_of.tolist()):
        shape = np.concatenate([batch.center[place], batch.dimensions[place]]).astype(np.float32)
        told = (scene, names[place], shape.tobytes())
        repeated[place] = told in seen
        seen.add(told)
    return repeated


def _uncertain(batch: Batch, names: Sequence[str | None], left_out: Sequence[str | None]) -> Bools:
    scene_of = batch.scene_of.tolist()
    lost = {
        (scene, name)
        for scene, name, reason in zip(scene_of, names, left_out, strict=True)
        if reason in _UNPLACED
    }
    return np.array([pair in lost for pair in zip(scene_of, names, strict=True)], np.bool_)


def _unclear(
    batch: Batch,
    names: Sequence[str | None],
    kept: Bools,
    bbox_px: Floats,
    inside: Floats,
    depth: Floats,
    rules: BoxRules,
) -> tuple[list[str | None], Bools]:
    width, height = batch.sizes_px[batch.scene_of].T
    found = Reasons(len(kept))
    found.free &= kept
    with np.errstate(invalid="ignore", divide="ignore"):
        found.give(batch.truncation > rules.max_truncation, "truncated")
        found.give(batch.visibility <= rules.min_visibility, "occluded")
        found.give(batch.points < rules.min_points, "too_few_points")
        found.give((bbox_px[:, 3] - bbox_px[:, 1]) / height < rules.min_height, "too_small")
        found.give((bbox_px[:, 2] - bbox_px[:, 0]) / width < rules.min_width, "too_small")
        found.give(inside < rules.min_inside, "mostly_outside")
    first, second = _pairs(batch, kept)
    classes = np.unique([name or "" for name in names], return_inverse=True)[1]
    same = classes[first] == classes[second]
    alike = iou(bbox_px[first], bbox_px[second]) > rules.max_same_class_iou
    found.give(np.isin(np.arange(len(kept)), first[same & alike]), "not_distinct")
    unknown = np.isnan(batch.visibility) & kept
    if rules.unknown_visibility == "reject":
        found.give(unknown, "visibility_unknown")
    if rules.unknown_visibility != "cast":
        return found.of, np.zeros(len(kept), np.bool_)
    asked = unknown & found.free
    relevant = asked[first]
    shares = _cast(batch, asked, bbox_px, depth, (first[relevant], second[relevant]), rules)
    found.give(asked & ~(shares > rules.min_visibility), "hidden_by_boxes")
    return found.of, unknown


def _pairs(batch: Batch, kept: Bools) -> tuple[Ints, Ints]:
    """Ordered pairs of kept boxes of the same scene."""
    places = np.flatnonzero(kept)
    counts = np.bincount(batch.scene_of[places], minlength=len(batch.ids))
    first, second = pairs_within(np.concatenate([[0], np.cumsum(counts)]))
    return places[first], places[second]


def _cast(
    batch: Batch,
    asked: Bools,
    bbox_px: Floats,
    depth: Floats,
    pairs: tuple[Ints, Ints],
    rules: BoxRules,
) -> Floats:
    """The visible share of each asked box, (n,); 1 where nothing can lie before it."""
    seen, before = possible_occluders(bbox_px, depth[:, 0], depth[:, 1], pairs)
    used = np.unique(np.concatenate([seen, before]))
    place = np.zeros(len(asked), np.int64)
    place[used] = np.arange(len(used))
    shares = np.ones(len(asked))
    found = visible_shares(
        batch.center[used],
        batch.dimensions[used],
        batch.rotation[used],
        bbox_px[used],
        batch.intrinsics[batch.scene_of[used]],
        (place[seen], place[before]),
        rays=rules.rays,
    )
    hidden = np.unique(seen)
    shares[hidden] = found[place[hidden]]
    return shares
