"""What docs/spatial.md says, once more: box by box in plain Python, slow, written to be read.

It shares no code with the package, so that the two can be held against each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import hypot, inf
from typing import NamedTuple, Protocol

NEAR_M = 0.05
CAMERA = -1

Point = tuple[float, float, float]
Rect = tuple[float, float, float, float]


class Rules(Protocol):
    """The fields of the recipe's block ``relations`` that are needed here."""

    mode: str
    closest_by: str
    min_gap_m: float
    min_gap_share: float
    lateral_margin_m: float
    depth_margin_m: float
    dead_zone: float
    min_superlative_candidates: int
    anchors: str


@dataclass(frozen=True)
class Box:
    """A stored object; ``rotation`` has 9 numbers, row by row."""

    category: str
    bbox: Rect
    center: Point
    dimensions: Point
    rotation: Sequence[float]
    clear: bool = True


@dataclass(frozen=True)
class RefScene:
    """Stored objects of one image.

    Attributes:
        boxes: as they are stored.
        intrinsics: 9 numbers, row by row.
        width: pixels.
        close_below_m, far_above_m: of the source.
        askable: the classes that are whole.
    """

    boxes: Sequence[Box]
    intrinsics: Sequence[float]
    width: int
    close_below_m: float
    far_above_m: float
    askable: frozenset[str]


class Question(NamedTuple):
    """One question with its answer."""

    family: str
    relation: str
    anchor: int
    target: int
    gap: float


class Judged(NamedTuple):
    """How one candidate stands in a relation."""

    score: float
    holds: bool
    doubtful: bool


OBJECT_RELATIONS = ("closest", "in_front_of", "behind", "left_of", "right_of")
CAMERA_RELATIONS = ("closest", "farthest", "close", "far", "left", "right")
SUPERLATIVES = ("closest", "farthest")


# --- questions -----------------------------------------------------------------------------------


def questions(scene: RefScene, rules: Rules) -> list[Question]:
    """All questions that may be asked of a scene."""
    found = []
    for family, relation, anchor, asked in possible(scene, rules):
        if asked in scene.askable:
            found += answered(scene, rules, family, relation, anchor, asked)
    return found


def possible(scene: RefScene, rules: Rules) -> Iterator[tuple[str, str, int, str]]:
    """Family, relation, anchor and asked class of every question that one could think of."""
    classes = sorted({box.category for box in scene.boxes})
    for asked in classes:
        for relation in CAMERA_RELATIONS:
            yield "object_camera", relation, CAMERA, asked
        for anchor, relation in product(range(len(scene.boxes)), OBJECT_RELATIONS):
            if may_be_anchor(scene, rules, anchor):
                yield "object_object", relation, anchor, asked


def may_be_anchor(scene: RefScene, rules: Rules, anchor: int) -> bool:
    """A clear box; to be named by its class alone it must be the only one that the name fits."""
    box = scene.boxes[anchor]
    if rules.anchors == "unique":
        alone = [other.category for other in scene.boxes].count(box.category) == 1
        return box.clear and alone and box.category in scene.askable
    return box.clear


def answered(
    scene: RefScene, rules: Rules, family: str, relation: str, anchor: int, asked: str
) -> list[Question]:
    """The question with its one answer; empty where it has none, or a doubtful one."""
    candidates = [
        number
        for number, box in enumerate(scene.boxes)
        if box.category == asked and number != anchor
    ]
    if relation in SUPERLATIVES and len(candidates) < rules.min_superlative_candidates:
        return []
    judged = {number: judge(scene, rules, relation, anchor, number) for number in candidates}
    if relation in SUPERLATIVES:
        judged = superlative(judged, rules)
    holding = [number for number in candidates if judged[number].holds]
    if len(holding) != 1 or any(each.doubtful for each in judged.values()):
        return []
    target = holding[0]
    if not scene.boxes[target].clear:
        return []
    others = [judged[number].score for number in candidates if number != target]
    score = judged[target].score
    gap = score - max(others) if others else abs(score)
    if others and gap <= 0:
        return []  # farther left than the target, but in the dead zone: nobody wins by a gap
    return [Question(family, relation, anchor, target, gap)]


def judge(scene: RefScene, rules: Rules, relation: str, anchor: int, number: int) -> Judged:
    """One candidate; of a superlative only its score."""
    candidate = scene.boxes[number]
    if anchor == CAMERA:
        return judge_to_camera(scene, rules, relation, candidate)
    return judge_to_object(rules, relation, candidate, scene.boxes[anchor])


def superlative(judged: dict[int, Judged], rules: Rules) -> dict[int, Judged]:
    """Scores are distances, for closest with a minus; the greatest wins if it wins clearly."""
    best = max((each.score for each in judged.values()), default=0.0)
    found = {}
    for number, (score, _, _) in judged.items():
        holds = score == best
        behind = best - score
        greater = max(abs(best), abs(score))
        near = behind < rules.min_gap_m or behind < rules.min_gap_share * greater
        found[number] = Judged(score, holds, not holds and near)
    return found


def judge_to_object(rules: Rules, relation: str, c: Box, a: Box) -> Judged:
    """A candidate ``c`` and an anchor ``a`` that is a box."""
    if relation == "closest":
        away = gap_m(c, a) if rules.closest_by == "gap" else distance(c.center, a.center)
        return Judged(-away, False, False)
    strict = rules.mode == "strict"
    if relation in ("in_front_of", "behind"):
        near, far = (c, a) if relation == "in_front_of" else (a, c)
        score, margin = far.center[2] - near.center[2], rules.depth_margin_m
        apart = not strict or depths(near)[1] < depths(far)[0]
    else:
        left, right = (c, a) if relation == "left_of" else (a, c)
        score, margin = right.center[0] - left.center[0], rules.lateral_margin_m
        apart = not strict or left.bbox[2] < right.bbox[0]
    holds = score >= margin and apart
    return Judged(score, holds, strict and not holds and score > 0)


def judge_to_camera(scene: RefScene, rules: Rules, relation: str, c: Box) -> Judged:
    """A candidate ``c`` and the camera."""
    strict = rules.mode == "strict"
    x, _, z = c.center
    if relation in SUPERLATIVES:
        away = distance(c.center, (0.0, 0.0, 0.0))
        return Judged(-away if relation == "closest" else away, False, False)
    if relation in ("close", "far"):
        score = scene.close_below_m - z if relation == "close" else z - scene.far_above_m
        holds = score > 0
        return Judged(score, holds, strict and not holds and score > -rules.depth_margin_m)
    score = -x if relation == "left" else x
    holds = score * scene.intrinsics[0] / (z * scene.width) >= rules.dead_zone
    return Judged(score, holds, strict and not holds and score > 0)


# --- boxes in space ------------------------------------------------------------------------------


def axes(box: Box) -> list[Point]:
    """The box's own x, y and z axis in the camera's frame: the columns of the rotation."""
    r = box.rotation
    return [(r[n], r[n + 3], r[n + 6]) for n in range(3)]


def halves(box: Box) -> Point:
    """Half the size along the box's own axes: length, height, width."""
    w, h, length = box.dimensions
    return length / 2, h / 2, w / 2


def corners(box: Box) -> list[Point]:
    """The eight corners, in no order of note."""
    return [
        plus(box.center, axes(box), [s * half for s, half in zip(signs, halves(box), strict=True)])
        for signs in product((-1, 1), repeat=3)
    ]


def plus(start: Point, directions: Sequence[Point], steps: Sequence[float]) -> Point:
    """``start`` moved by so many steps along each direction."""
    x, y, z = (
        start[n] + sum(step * along[n] for step, along in zip(steps, directions, strict=True))
        for n in range(3)
    )
    return x, y, z


def depths(box: Box) -> tuple[float, float]:
    """Depth of the nearest and of the farthest corner."""
    reach = sum(abs(axis[2]) * half for axis, half in zip(axes(box), halves(box), strict=True))
    return box.center[2] - reach, box.center[2] + reach


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two points."""
    return hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2])


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def local(box: Box, point: Point) -> list[float]:
    """A point in the box's own coordinates."""
    offset = (point[0] - box.center[0], point[1] - box.center[1], point[2] - box.center[2])
    return [dot(offset, axis) for axis in axes(box)]


def within(values: Sequence[float], limits: Sequence[float]) -> list[float]:
    """Each value, cut to its limit on both sides of 0."""
    return [-h if v < -h else h if v > h else v for v, h in zip(values, limits, strict=True)]


def gap_m(a: Box, b: Box, steps: int = 2000) -> float:
    """Distance of the nearest points of two boxes: from a point in ``b`` to the nearest in ``a`` and
    back to the nearest in ``b``, with a swing in the direction moved, until it stands.
    """
    start = local(a, b.center)
    turn = [[dot(p, q) for q in axes(b)] for p in axes(a)]  # from b's axes to a's
    back = list(zip(*turn, strict=True))
    point = swung = [0.0, 0.0, 0.0]  # in b's own coordinates
    momentum = 0
    for _ in range(steps):
        from_a = [s + dot(row, swung) for s, row in zip(start, turn, strict=True)]
        offset = [p - s for p, s in zip(within(from_a, halves(a)), start, strict=True)]
        found = within([dot(row, offset) for row in back], halves(b))
        moved = [p - q for p, q in zip(found, point, strict=True)]
        if swung == point and max(map(abs, moved)) < 1e-13:
            break
        pulled = [p - q for p, q in zip(swung, found, strict=True)]
        momentum = 0 if dot(pulled, moved) > 0 else momentum + 1  # it swung too far
        swung = [p + momentum / (momentum + 3) * m for p, m in zip(found, moved, strict=True)]
        point = found
    from_a = [s + dot(row, point) for s, row in zip(start, turn, strict=True)]
    return distance(within(from_a, halves(a)), from_a)


# --- boxes in the image --------------------------------------------------------------------------


def pixel(intrinsics: Sequence[float], point: Point) -> tuple[float, float]:
    """Where a point before the camera is seen."""
    rows = [intrinsics[n : n + 3] for n in (0, 3, 6)]
    u, v, w = (sum(k * p for k, p in zip(row, point, strict=True)) for row in rows)
    return u / w, v / w


def projected(box: Box, intrinsics: Sequence[float]) -> Rect | None:
    """The smallest rectangle around what lies before the near plane, in pixels."""
    seen = [point for point in corners(box) if point[2] >= NEAR_M]
    for a, b in product(corners(box), repeat=2):
        if is_edge(box, a, b) and a[2] < NEAR_M <= b[2]:
            share = (NEAR_M - a[2]) / (b[2] - a[2])
            x, y = (a[n] + share * (b[n] - a[n]) for n in (0, 1))
            seen.append((x, y, NEAR_M))
    if not seen:
        return None
    us, vs = zip(*(pixel(intrinsics, point) for point in seen), strict=True)
    return min(us), min(vs), max(us), max(vs)


def is_edge(box: Box, a: Point, b: Point) -> bool:
    """Whether two corners differ along one of the box's own axes alone."""
    pairs = zip(local(box, a), local(box, b), strict=True)
    return [p * q < 0 for p, q in pairs].count(True) == 1


def clipped(rect: Rect, width: float, height: float) -> Rect:
    """The part in the image."""
    x1, x2 = (min(max(x, 0.0), width) for x in rect[::2])
    y1, y2 = (min(max(y, 0.0), height) for y in rect[1::2])
    return x1, y1, x2, y2


def area(rect: Rect) -> float:
    return max(rect[2] - rect[0], 0.0) * max(rect[3] - rect[1], 0.0)


def iou(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    shared = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0


def mirrored(scene: RefScene) -> RefScene:
    """The scene in a mirror: x to -x."""
    return replace(scene, boxes=[_mirrored(box) for box in scene.boxes])


def _mirrored(box: Box) -> Box:
    x1, y1, x2, y2 = box.bbox
    x, y, z = box.center
    signs = (1, -1, -1, -1, 1, 1, -1, 1, 1)  # M R M with M = diag(-1, 1, 1)
    rotation = [s * r for s, r in zip(signs, box.rotation, strict=True)]
    return replace(box, bbox=(1 - x2, y1, 1 - x1, y2), center=(-x, y, z), rotation=rotation)


# --- rays ----------------------------------------------------------------------------------------


def entry(box: Box, direction: Point) -> float | None:
    """Where a ray from the camera enters a box, in lengths of its direction; None where it does not.

    Between the two planes of each axis the ray runs for a stretch; it is in the box where all three
    stretches are.
    """
    begin, end = -inf, inf
    origin = local(box, (0.0, 0.0, 0.0))
    for along, axis, half in zip(origin, axes(box), halves(box), strict=True):
        speed = dot(direction, axis)
        if speed == 0:
            if abs(along) > half:
                return None
            continue
        first, second = sorted(((-half - along) / speed, (half - along) / speed))
        begin, end = max(begin, first), min(end, second)
    return begin if begin <= end and end > 0 else None


def rays(intrinsics: Sequence[float], rect_px: Rect, count: int) -> Iterator[Point]:
    """``count`` x ``count`` rays through the middles of the cells of a rectangle, for K without skew."""
    fx, cx, fy, cy = (intrinsics[n] for n in (0, 2, 4, 5))
    x1, y1, x2, y2 = rect_px
    for row, column in product(range(count), repeat=2):
        u = x1 + (column + 0.5) / count * (x2 - x1)
        v = y1 + (row + 0.5) / count * (y2 - y1)
        yield (u - cx) / fx, (v - cy) / fy, 1.0


def visible_share(
    boxes: Sequence[Box], number: int, intrinsics: Sequence[float], rect_px: Rect, count: int
) -> float | None:
    """Of the rays that meet a box, the share that meets no other before it."""
    met = free = 0
    for ray in rays(intrinsics, rect_px, count):
        own = entry(boxes[number], ray)
        if own is None:
            continue
        others = [entry(box, ray) for n, box in enumerate(boxes) if n != number]
        met += 1
        free += all(other is None or other >= own for other in others)
    return free / met if met else None
