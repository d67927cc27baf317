"""Pictures of scenes, and what they show of each object: rays cast by open3d, on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import Floats, corners, half_sizes, project
from vila2data.optional import require

from .world import Thing, World, intrinsics

_FINE = 2  # rays along each side of a pixel
_SEGMENTS = 28
_FAR_M = 60.0
_AMBIENT, _SHADE = 0.5, 0.42
_PALETTE = {
    "red": (0.80, 0.12, 0.12),
    "green": (0.15, 0.60, 0.20),
    "blue": (0.15, 0.28, 0.82),
    "yellow": (0.92, 0.82, 0.15),
    "purple": (0.50, 0.18, 0.66),
    "orange": (0.95, 0.50, 0.10),
    "cyan": (0.20, 0.78, 0.82),
    "pink": (0.95, 0.55, 0.74),
}
_FLOOR_TONES = {
    "gray": ((0.52, 0.52, 0.54), (0.49, 0.49, 0.51)),
    "wooden": ((0.58, 0.40, 0.25), (0.47, 0.31, 0.18)),
    "checkered": ((0.85, 0.85, 0.82), (0.30, 0.30, 0.33)),
}
_WALL_TONES = {
    "white": ((0.90, 0.90, 0.88), (0.87, 0.87, 0.85)),
    "dark": ((0.17, 0.18, 0.24), (0.14, 0.15, 0.20)),
    "striped": ((0.80, 0.72, 0.58), (0.50, 0.58, 0.66)),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A rendered scene.

    Attributes:
        pixels: (side, side, 3) bytes.
        bbox: (n, 4) xyxy in 0-1, around each object's own outline, hidden parts included, cut to
            the image.
        visibility: (n,), the share of the outline's pixels that nothing lies before.
    """

    pixels: NDArray[np.uint8]
    bbox: Floats
    visibility: Floats


def render(world: World, side_px: int) -> Seen:
    """Renders a scene.

    Args:
        side_px: of the square image.

    Raises:
        MissingExtra: open3d is not installed.
    """
    fine = side_px * _FINE
    rays = _rays(fine)
    hits = _cast([*_surroundings(world), *(_mesh_of(thing) for thing in world.things)], rays)
    colors = _shaded(world, rays, hits)
    blocks = colors.reshape(side_px, _FINE, side_px, _FINE, 3).mean(axis=(1, 3))
    outlines = [_outline(thing, rays, fine) for thing in world.things]
    return Seen(
        pixels=(blocks.clip(0, 1) * 255 + 0.5).astype(np.uint8),
        bbox=np.array([_bbox(mask.reshape(fine, fine)) for mask in outlines]).reshape(-1, 4),
        visibility=np.array(
            [
                (hits.number == n + 2).sum() / max(mask.sum(), 1)  # floor and wall come first
                for n, mask in enumerate(outlines)
            ]
        ),
    )


def _outline(thing: Thing, rays: Floats, side: int) -> NDArray[np.bool_]:
    """Which rays (side * side,) meet the object where it is alone; only those near it are cast."""
    around = corners(thing.center[None], thing.dimensions[None], thing.rotation[None])[0]
    pixels = project(around, intrinsics(side))
    low, high = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))
    x, y = np.arange(side), np.arange(side)[:, None]
    inside = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1])
    near = np.flatnonzero(inside)
    mask = np.zeros(side * side, np.bool_)
    mask[near] = _cast([_mesh_of(thing)], rays[near]).number == 0
    return mask


Mesh = tuple[Floats, NDArray[np.uint32]]  # vertices (v, 3) and triangles (t, 3)


@dataclass(frozen=True, slots=True)
class _Hits:
    number: NDArray[np.int64]  # of the mesh, -1 where there is none
    distance: Floats
    normal: Floats
    shadow: NDArray[np.bool_] | None = None


def _rays(side: int) -> Floats:
    """Unit directions of the pixels' middles, (side * side, 3), row by row."""
    inverse = np.linalg.inv(intrinsics(side))
    middles = np.arange(side) + 0.5
    x, y = np.meshgrid(middles, middles)
    points = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ inverse.T
    directions: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
    return directions


def _cast(meshes: Sequence[Mesh], rays: Floats, origins: Floats | None = None) -> _Hits:
    """The first mesh on each ray; rays begin at the camera unless ``origins`` says where."""
    o3d = require("open3d", extra="spatial")
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    for vertices, triangles in meshes:
        scene.add_triangles(
            o3d.core.Tensor(np.ascontiguousarray(vertices, np.float32)), o3d.core.Tensor(triangles)
        )
    starts = np.zeros_like(rays) if origins is None else origins
    found = scene.cast_rays(
        o3d.core.Tensor(np.concatenate([starts, rays], axis=1).astype(np.float32)), nthreads=1
    )
    numbers = found["geometry_ids"].numpy().astype(np.int64)
    missed = numbers == int(o3d.t.geometry.RaycastingScene.INVALID_ID)
    return _Hits(
        np.where(missed, -1, numbers),
        found["t_hit"].numpy().astype(np.float64),
        found["primitive_normals"].numpy().astype(np.float64),
    )


@cache
def _unit_mesh(shape: str) -> Mesh:
    """The shape in a box of side 1 around the origin, y down; (v, 3) and (t, 3)."""
    made: Any = require("open3d", extra="spatial").geometry.TriangleMesh
    mesh = {
        "cube": lambda: made.create_box(),
        "ball": lambda: made.create_sphere(resolution=_SEGMENTS // 2),
        "cone": lambda: made.create_cone(resolution=_SEGMENTS),
        "cylinder": lambda: made.create_cylinder(resolution=_SEGMENTS),
        "ring": lambda: made.create_torus(
            torus_radius=1.0,
            tube_radius=0.4,
            radial_resolution=_SEGMENTS,
            tubular_resolution=_SEGMENTS // 2,
        ),
    }[shape]()
    points = np.asarray(mesh.vertices)[:, [0, 2, 1]] * [1, -1, 1]  # open3d's z points up
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0) - 0.5
    return points, np.asarray(mesh.triangles).astype(np.uint32)


def _mesh_of(thing: Thing) -> Mesh:
    points, triangles = _unit_mesh(thing.shape)
    own = points * (2 * half_sizes(thing.dimensions))
    return own @ thing.rotation.T + thing.center, triangles


def _surroundings(world: World) -> list[Mesh]:
    """Floor and wall, as squares that reach beyond the image."""
    square = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
    ground = world.camera_height_m
    floor = [[-_FAR_M, ground, -_FAR_M], [_FAR_M, ground, -_FAR_M]]
    floor += [[_FAR_M, ground, _FAR_M], [-_FAR_M, ground, _FAR_M]]
    across = np.array([np.cos(world.wall_turn), 0, np.sin(world.wall_turn)]) * _FAR_M
    foot, top = np.array([0, ground, world.wall_m]), np.array([0, -_FAR_M, world.wall_m])
    wall = np.stack([foot - across, foot + across, top + across, top - across])
    return [(np.array(corners) @ world.upright.T, square) for corners in (floor, wall)]


def _shaded(world: World, rays: Floats, hits: _Hits) -> Floats:
    """Colours (n, 3) of what the rays meet: diffuse light with shadows; shiny things mirror their
    surroundings and the light.
    """
    points = rays * hits.distance.clip(max=4 * _FAR_M)[:, None]
    facing = np.where((hits.normal * rays).sum(axis=1, keepdims=True) > 0, -1.0, 1.0)
    normals = hits.normal * facing
    lit = (normals @ world.light).clip(min=0) * ~_in_shadow(world, points, normals)
    colors = _surface_colors(world, points, hits.number)
    shaded = colors * (_AMBIENT + _SHADE * lit)[:, None]
    mirrored = rays - 2 * (rays * normals).sum(axis=1, keepdims=True) * normals
    shiny = np.isin(
        hits.number, [n + 2 for n, thing in enumerate(world.things) if thing.material == "shiny"]
    )
    gleam = ((mirrored @ world.light).clip(min=0) ** 24 * (lit > 0))[:, None]
    glossy = 0.62 * shaded + 0.38 * _environment(world, mirrored) + 0.9 * gleam
    return np.where(shiny[:, None], glossy, shaded)


def _in_shadow(world: World, points: Floats, normals: Floats) -> NDArray[np.bool_]:
    toward = np.broadcast_to(world.light, points.shape)
    meshes = [_mesh_of(thing) for thing in world.things]
    if not meshes:
        return np.zeros(len(points), np.bool_)
    return _cast(meshes, toward, points + 0.01 * normals).number >= 0


def _surface_colors(world: World, points: Floats, number: NDArray[np.int64]) -> Floats:
    level = points @ world.upright  # back to the upright frame
    floor_first, floor_second = np.array(_FLOOR_TONES[world.floor])
    x, z = level[:, 0], level[:, 2]
    if world.floor == "checkered":
        second = (np.floor(x / 0.9) + np.floor(z / 0.9)) % 2 == 1
    else:
        second = np.floor(x / 0.45) % 2 == 1
    wall_first, wall_second = np.array(_WALL_TONES[world.wall])
    stripe = np.floor((x * np.cos(world.wall_turn) + z * np.sin(world.wall_turn)) / 0.8) % 2 == 1
    below = np.where(second[:, None], floor_second, floor_first)
    behind = np.where(stripe[:, None], wall_second, wall_first)
    colors: Floats = np.where((number == 1)[:, None], behind, below)
    for n, thing in enumerate(world.things):
        colors[number == n + 2] = _PALETTE[thing.color]
    colors[number < 0] = wall_first
    return colors


def _environment(world: World, directions: Floats) -> Floats:
    """What a mirror shows in these directions: floor below, wall ahead, light above."""
    down = (directions @ world.upright)[:, 1:2]
    floor = np.array(_FLOOR_TONES[world.floor]).mean(axis=0)
    wall = np.array(_WALL_TONES[world.wall]).mean(axis=0)
    above = wall + (1.0 - wall) * (-down).clip(0, 1)
    seen: Floats = np.where(down > 0.05, floor * 0.8, above)
    return seen


def _bbox(mask: NDArray[np.bool_]) -> list[float]:
    """Xyxy in 0-1 of a mask, zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0.0] * 4
    height, width = mask.shape
    left, right = columns[0] / width, (columns[-1] + 1) / width
    return [left, rows[0] / height, right, (rows[-1] + 1) / height]
