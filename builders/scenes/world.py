"""What stands in a scene, and from where it is seen: drawn by keyed hash, in metres.

The frame is the camera's, as in ``vila2data.cuboids``: x right, y down, z forward. The world is
upright: the camera looks down by ``tilt``, so the floor is a tilted plane to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin

import numpy as np

from vila2data.cuboids import Floats
from vila2data.keyed import keyed_hash

SHAPES = ("cube", "ball", "cone", "cylinder", "ring")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
FLOORS = ("gray", "wooden", "checkered")
WALLS = ("white", "dark", "striped")

_HEIGHT_M = {"small": 0.85, "large": 1.4}
_PROPORTIONS = {  # width, height, length, in parts of the height above
    "cube": (0.9, 0.9, 0.9),
    "ball": (1.0, 1.0, 1.0),
    "cone": (1.0, 1.25, 1.0),
    "cylinder": (0.7, 1.2, 0.7),
    "ring": (1.3, 0.35, 1.3),
}
_FOCAL = 0.95  # of the image's side
_DEPTH_M = (3.6, 7.0)
_CLEARANCE_M = 0.2
_OVERLAP = 0.55  # of the angles that two objects fill: below it, one would hide much of the other
_TRIES = 400


@dataclass(frozen=True, slots=True)
class Thing:
    """One object, in the camera's frame.

    Attributes:
        center: (3,) metres.
        dimensions: (3,) metres as [w, h, l].
        rotation: (3, 3), box to camera.
    """

    shape: str
    color: str
    size: str
    material: str
    center: Floats
    dimensions: Floats
    rotation: Floats


@dataclass(frozen=True, slots=True)
class World:
    """A scene before it is rendered.

    Attributes:
        upright: (3, 3), from the upright frame (y down along gravity, z level) to the camera's.
        camera_height_m: of the camera above the floor.
        wall_m: distance of the wall along the level direction of view.
        wall_turn: of the wall about the vertical, radians.
        light: (3,) unit vector towards the light, camera frame.
    """

    things: Sequence[Thing]
    floor: str
    wall: str
    upright: Floats
    camera_height_m: float
    wall_m: float
    wall_turn: float
    light: Floats


def intrinsics(side_px: int) -> Floats:
    """Row-major K (3, 3) of a square image."""
    focal, middle = _FOCAL * side_px, side_px / 2
    return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def draw_world(seed: int, split: str, number: int, attempt: int, *, objects: range) -> World:
    """The scene of these keys; ``attempt`` counts up where an earlier one could not be used.

    Args:
        objects: how many there may be; where there is no room, fewer.
    """
    rng = np.random.default_rng(keyed_hash(seed, split, number, attempt, "world"))
    tilt, height_m = rng.uniform(0.42, 0.56), rng.uniform(2.6, 3.2)
    upright = np.array([[1, 0, 0], [0, cos(tilt), -sin(tilt)], [0, sin(tilt), cos(tilt)]])
    light = upright @ _unit([rng.uniform(-0.6, 0.6), -1.0, rng.uniform(-0.7, -0.1)])
    return World(
        things=_things(rng, upright, height_m, int(rng.choice(list(objects)))),
        floor=str(rng.choice(FLOORS)),
        wall=str(rng.choice(WALLS)),
        upright=upright,
        camera_height_m=height_m,
        wall_m=rng.uniform(10.0, 12.0),
        wall_turn=rng.uniform(-0.35, 0.35),
        light=light,
    )


def _things(
    rng: np.random.Generator, upright: Floats, camera_height_m: float, wanted: int
) -> list[Thing]:
    things: list[Thing] = []
    grounds: list[tuple[float, float, float]] = []  # x, z, radius on the floor
    for _ in range(_TRIES):
        if len(things) == wanted:
            break
        shape, color, size, material = (
            str(rng.choice(names)) for names in (SHAPES, COLORS, SIZES, MATERIALS)
        )
        z = rng.uniform(*_DEPTH_M)
        x = rng.uniform(-0.42, 0.42) * z
        dimensions = np.array(_PROPORTIONS[shape]) * _HEIGHT_M[size] * rng.uniform(0.92, 1.08)
        radius = hypot(dimensions[0], dimensions[2]) / 2 if shape == "cube" else dimensions[0] / 2
        if (shape, color) in {(t.shape, t.color) for t in things}:
            continue
        if any(_collides((x, z, radius), other) for other in grounds):
            continue
        level = np.array([x, camera_height_m - dimensions[1] / 2, z])
        rotation = upright @ _turned(rng.uniform(0, pi / 2))
        things.append(Thing(shape, color, size, material, upright @ level, dimensions, rotation))
        grounds.append((x, z, radius))
    return things


def _collides(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    near = hypot(a[0] - b[0], a[1] - b[1]) < a[2] + b[2] + _CLEARANCE_M
    apart = abs(a[0] / a[1] - b[0] / b[1])
    return near or apart < _OVERLAP * (a[2] / a[1] + b[2] / b[1])


def _turned(angle: float) -> Floats:
    return np.array([[cos(angle), 0, sin(angle)], [0, 1, 0], [-sin(angle), 0, cos(angle)]])


def _unit(vector: Sequence[float]) -> Floats:
    found = np.array(vector, np.float64)
    return found / np.linalg.norm(found)
