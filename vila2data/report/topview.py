"""A row from above: the camera at the bottom, a grid of metres, footprints, what is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, ceil, cos, floor, hypot, log10, sin

import numpy as np

from .labels import Label, Labels
from .lines import Point, clipped, hull, path_of, points_of
from .space import CAMERA, Space

_WIDTH_PX = 440
_MIN_HEIGHT_PX, _MAX_HEIGHT_PX = 250, 460
_MARGIN_PX = 26.0
_GRID_PX = 46.0
_MIN_REACH_M = 1.0
_HEAD_PX, _HEAD_RAD = 8.0, 0.42
_NAME_CHARS = 14
_ROOMY_PX = 56


@dataclass(frozen=True, slots=True)
class Footprint:
    """An object from above; ``points`` are those of an SVG polygon."""

    title: str
    colour: int
    has_role: bool
    points: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """From an anchor to a target: a line and its head, as one SVG path."""

    title: str
    path: str
    from_camera: bool


@dataclass(frozen=True, slots=True)
class TopView:
    """A drawing of that size in pixels.

    Attributes:
        grid: SVG path of the lines, which are ``step_m`` apart.
        sight: points of the polygon that the camera sees; empty where the row has no camera.
        camera: points of the sign that stands for the camera.
        distances, questions, names: texts at grid lines, arrows and footprints.
        far: objects that are left out because they are far beyond the others.
    """

    width_px: int
    height_px: int
    step_m: float
    grid: str
    sight: str
    camera: str
    footprints: list[Footprint]
    arrows: list[Arrow]
    distances: list[Label]
    questions: list[Label]
    names: list[Label]
    far: int


@dataclass(frozen=True, slots=True)
class _Scale:
    """From metres, x right and z forward, to pixels, y down."""

    left_m: float
    bottom_m: float
    px_per_m: float
    height_px: int

    @property
    def size(self) -> Point:
        return _WIDTH_PX, self.height_px

    def pixel(self, x_m: float, z_m: float) -> Point:
        return (
            (x_m - self.left_m) * self.px_per_m,
            self.height_px - (z_m - self.bottom_m) * self.px_per_m,
        )


def top_view(space: Space) -> TopView:
    """The row from above, to scale; objects far beyond the others are left out and counted."""
    shown = np.flatnonzero(space.nearby())
    hulls = {n: hull(space.corners[n][:, [0, 2]].tolist()) for n in shown.tolist()}
    scale = _scale([point for points in hulls.values() for point in points])
    step_m = step_of(_GRID_PX / scale.px_per_m)
    labels = Labels(*scale.size)
    grid = list(_grid(scale, step_m, labels))
    distances = labels.take()
    arrows = list(_arrows(space, scale, labels))
    questions = labels.take()
    outlines = {n: [scale.pixel(*point) for point in points] for n, points in hulls.items()}
    _name(space, outlines, labels)
    return TopView(
        width_px=_WIDTH_PX,
        height_px=scale.height_px,
        step_m=step_m,
        grid=path_of(clipped(np.array(grid).reshape(-1, 2, 2), scale.size)),
        sight=points_of(_sight(space, scale)),
        camera=points_of(_camera(scale)),
        footprints=[_footprint(space, n, outlines[n]) for n in reversed(outlines)],
        arrows=arrows,
        distances=distances,
        questions=questions,
        names=labels.take(),
        far=len(space.numbers) - len(shown),
    )


def step_of(least_m: float) -> float:
    """A round distance between the lines of a grid, of at least so much."""
    magnitude = 10.0 ** floor(log10(least_m))
    steps = (times * magnitude for times in (1, 2, 5))
    return next((step for step in steps if step >= least_m), 10 * magnitude)


def _scale(points: list[Point]) -> _Scale:
    """The scale at which the points and the camera fill the drawing."""
    xs, zs = zip((0.0, 0.0), *points, strict=True)
    across, along = max(xs) - min(xs), max(zs) - min(zs)
    across, along = max(across, _MIN_REACH_M), max(along, _MIN_REACH_M)
    room = (_WIDTH_PX - 2 * _MARGIN_PX, _MAX_HEIGHT_PX - 2 * _MARGIN_PX)
    px_per_m = min(room[0] / across, room[1] / along)
    height = min(max(along * px_per_m + 2 * _MARGIN_PX, _MIN_HEIGHT_PX), _MAX_HEIGHT_PX)
    left = (max(xs) + min(xs) - _WIDTH_PX / px_per_m) / 2
    return _Scale(left, min(zs) - _MARGIN_PX / px_per_m, px_per_m, int(height))


def _grid(scale: _Scale, step_m: float, labels: Labels) -> Iterator[tuple[Point, Point]]:
    """Lines of the grid, in pixels; their distances are written along the left and the bottom."""
    width, height = scale.size
    right_m = scale.left_m + width / scale.px_per_m
    top_m = scale.bottom_m + height / scale.px_per_m
    for count in range(ceil(scale.bottom_m / step_m), floor(top_m / step_m) + 1):
        _, y = scale.pixel(0, count * step_m)
        yield (0, y), (width, y)
        if count > 0:
            labels.place(f"{count * step_m:g} m", [(0, y - 7)])
    for count in range(ceil(scale.left_m / step_m), floor(right_m / step_m) + 1):
        x, _ = scale.pixel(count * step_m, 0)
        yield (x, 0), (x, height)
        if count:
            labels.place(f"{count * step_m:g}", [(x, height)])


def _sight(space: Space, scale: _Scale) -> list[Point]:
    """What the camera sees: a wedge that goes beyond the drawing."""
    if space.camera is None:
        return []
    (fx, _, cx), width = space.camera.intrinsics[0].tolist(), space.camera.width_px
    far = 2 * hypot(*scale.size) / scale.px_per_m
    angles = [atan2(edge - cx, fx) for edge in (0, width)]
    return [scale.pixel(far * sin(angle), far * cos(angle)) for angle in angles] + [
        scale.pixel(0, 0)
    ]


def _camera(scale: _Scale) -> list[Point]:
    x, y = scale.pixel(0, 0)
    sign = ((0, -2), (7, -11), (-7, -11), (0, -2), (6, 6), (-6, 6))
    return [(x + right, y + down) for right, down in sign]


def _footprint(space: Space, n: int, outline: list[Point]) -> Footprint:
    metres = float(np.linalg.norm(space.center[n]))
    title = f"{space.numbers[n]} {space.labels[n]}, {metres:.1f} m"
    return Footprint(title, space.colours[n], bool(space.has_role[n]), points_of(outline))


def _arrows(space: Space, scale: _Scale, labels: Labels) -> Iterator[Arrow]:
    """One arrow for the questions of each pair of anchor and target, with their numbers."""
    ends: dict[int, Point] = {
        number: scale.pixel(*space.center[n, [0, 2]].tolist())
        for n, number in enumerate(space.numbers)
    }
    ends[CAMERA] = scale.pixel(0, 0)
    asked: dict[tuple[int, int], list[int]] = {}
    for question in space.questions:
        anchor, target = question.anchor, question.target
        if anchor in ends and target in ends and anchor is not None and target is not None:
            asked.setdefault((anchor, target), []).append(question.number)
    for (anchor, target), numbers in asked.items():
        parts = clipped(np.array([[ends[anchor], ends[target]]]), scale.size)
        for start, stop in parts.tolist():
            text = "Q" + ",".join(map(str, numbers))
            labels.place(text, _along(start, stop), must=True)
            whole = np.hypot(*np.subtract(stop, ends[target])) < 1
            yield Arrow(text, _arrow(start, stop, head=bool(whole)), anchor == CAMERA)


def _along(start: Point, stop: Point) -> Iterator[Point]:
    """Places on a line, its middle first."""
    for share in (0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2):
        yield start[0] + (stop[0] - start[0]) * share, start[1] + (stop[1] - start[1]) * share


def _arrow(start: Point, stop: Point, *, head: bool) -> str:
    """A line with a head at its end."""
    lines = [[start, stop]]
    angle = atan2(stop[1] - start[1], stop[0] - start[0])
    for turn in (-_HEAD_RAD, _HEAD_RAD) if head else ():
        x, y = _HEAD_PX * cos(angle + turn), _HEAD_PX * sin(angle + turn)
        lines.append([stop, (stop[0] - x, stop[1] - y)])
    return path_of(np.array(lines))


def _name(space: Space, outlines: dict[int, list[Point]], labels: Labels) -> None:
    """Writes number and label beside each object with a role, the number alone at the others."""
    must = bool(space.questions)
    for n, outline in outlines.items():
        number = str(space.numbers[n])
        if not space.has_role[n]:
            labels.place(number, _beside(outline, labels.width_px(number)), minor=True)
            continue
        name = f"{number} {space.labels[n][:_NAME_CHARS]}".strip()
        if not labels.place(name, _beside(outline, labels.width_px(name))):
            labels.place(number, _beside(outline, labels.width_px(number)), must=must)


def _beside(outline: list[Point], width: float) -> Iterator[Point]:
    """Inside an outline where it is large enough, then right, left, above, below and upon it."""
    xs, ys = zip(*outline, strict=True)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    if max(xs) - min(xs) > width + 24 and max(ys) - min(ys) > _ROOMY_PX:
        yield x, y + 14  # arrows end in the middle
    yield max(xs) + width / 2 + 2, y
    yield min(xs) - width / 2 - 2, y
    yield x, min(ys) - 8
    yield x, max(ys) + 8
    yield x, y
