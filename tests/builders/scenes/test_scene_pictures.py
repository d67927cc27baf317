"""Pictures against a second computation: balls and boxes met by rays in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from vila2data.builders.scenes.render import render
from vila2data.builders.scenes.world import Thing, World, draw_world, intrinsics
from vila2data.cuboids import corners, projected_boxes

pytest.importorskip("open3d")

SIDE_PX = 48
_RAYS = 4 * SIDE_PX  # along each side
_HEIGHT_M = 2.9


def a_world(*things: tuple[str, str, float, float, float, float]) -> World:
    """Things of (shape, colour, x, z, edge, turn) on the floor, seen by a level camera that stands
    just above them, with nothing before the wall but them.
    """
    base = draw_world(0, "train", 0, 0, objects=range(2, 3))
    made = []
    for shape, color, x, z, edge, turn in things:
        cos, sin = np.cos(turn), np.sin(turn)
        rotation = base.upright @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        center = base.upright @ np.array([x, base.camera_height_m - edge / 2, z])
        made.append(Thing(shape, color, "small", "matte", center, np.full(3, edge), rotation))
    return replace(base, things=made)


def met(thing: Thing, rays: np.ndarray) -> np.ndarray:
    """How far along each ray (n, 3) the object is met; infinite where it is not."""
    half = thing.dimensions / 2
    if thing.shape == "ball":
        along = rays @ thing.center
        within = along**2 - thing.center @ thing.center + half[0] ** 2
        return np.where(within >= 0, along - np.sqrt(within.clip(min=0)), np.inf)
    start, directions = -thing.center @ thing.rotation, rays @ thing.rotation
    ends = np.stack([(side * half - start) / directions for side in (-1, 1)])
    enter, leave = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
    return np.where(enter <= leave, enter, np.inf)


def expected(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Boxes xyxy in 0-1 and visible shares, with a finer grid of rays than the renderer's."""
    middles = (np.arange(_RAYS) + 0.5) / _RAYS
    x, y = np.meshgrid(middles, middles)
    unit = intrinsics(1)
    rays = np.stack([(x - unit[0, 2]) / unit[0, 0], (y - unit[1, 2]) / unit[1, 1]], axis=-1)
    rays = np.concatenate([rays, np.ones_like(x)[..., None]], axis=-1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distances = np.stack([met(thing, rays) for thing in world.things])
    boxes, shares = [], []
    for n, distance in enumerate(distances):
        own = np.isfinite(distance)
        first = own & (distances.argmin(axis=0) == n)
        px, py = x.ravel()[own], y.ravel()[own]
        boxes.append([px.min(), py.min(), px.max(), py.max()])
        shares.append(first.sum() / own.sum())
    return np.array(boxes), np.array(shares)


APART = a_world(("ball", "red", -1.0, 5.0, 1.2, 0.0), ("cube", "blue", 1.1, 4.5, 1.0, 0.6))
COVERED = a_world(
    ("ball", "red", 0.05, 4.2, 1.1, 0.0),
    ("cube", "blue", -0.35, 5.6, 1.2, 0.3),
    ("ball", "green", 1.2, 5.2, 0.9, 0.0),
)
CUT = a_world(("cube", "yellow", -2.2, 4.4, 1.3, 0.2), ("ball", "cyan", 0.8, 5.0, 1.0, 0.0))


@pytest.mark.parametrize("world", [APART, COVERED, CUT], ids=["apart", "covered", "cut"])
def test_boxes_and_visibility_are_those_of_balls_and_boxes_in_closed_form(world: World) -> None:
    seen = render(world, SIDE_PX)
    boxes, shares = expected(world)
    assert np.abs(seen.bbox - boxes).max() * SIDE_PX < 1
    assert np.abs(seen.visibility - shares).max() < 0.03


def test_the_worlds_of_that_comparison_are_of_all_kinds() -> None:
    assert expected(APART)[1].tolist() == [1.0, 1.0]
    assert 0.2 < expected(COVERED)[1][1] < 0.8
    assert expected(CUT)[0][0, 0] < 0.5 / SIDE_PX


def test_hidden_parts_count_for_the_box_and_not_for_visibility() -> None:
    alone = replace(COVERED, things=[COVERED.things[1]])
    assert (render(alone, SIDE_PX).bbox[0] == render(COVERED, SIDE_PX).bbox[1]).all()
    assert render(alone, SIDE_PX).visibility[0] == 1.0


def test_a_matte_object_has_its_colour_in_the_middle_of_its_box() -> None:
    seen = render(APART, SIDE_PX)
    expected_shares = {"red": [0.77, 0.115, 0.115], "blue": [0.12, 0.224, 0.656]}  # of the light
    for thing, box in zip(APART.things, seen.bbox, strict=True):
        column, row = ((box[:2] + box[2:]) / 2 * SIDE_PX).astype(int)
        pixel = seen.pixels[row, column] / seen.pixels[row, column].sum()
        assert pixel.tolist() == pytest.approx(expected_shares[thing.color], abs=0.02)


def test_what_is_outside_the_image_has_no_box_and_cannot_be_seen() -> None:
    world = a_world(("ball", "red", 30.0, 5.0, 1.0, 0.0), ("ball", "blue", 0.0, 5.0, 1.0, 0.0))
    seen = render(world, 16)
    assert seen.bbox[0].tolist() == [0, 0, 0, 0]
    assert seen.visibility[0] == 0


@pytest.mark.parametrize("number", range(6))
def test_boxes_of_drawn_scenes_lie_in_those_of_their_cuboids(number: int) -> None:
    world = draw_world(3, "train", number, 0, objects=range(2, 6))
    seen = render(world, SIDE_PX)
    center, dimensions, rotation = (
        np.array([getattr(thing, name) for thing in world.things])
        for name in ("center", "dimensions", "rotation")
    )
    around = corners(center, dimensions, rotation)
    k = np.tile(intrinsics(SIDE_PX), (len(center), 1, 1))
    projected = projected_boxes(around, k).clip(0, SIDE_PX)
    further = (seen.bbox * SIDE_PX - projected) * [-1, -1, 1, 1]
    assert further.max() <= 0.5  # a ray is cast at each half pixel
    cubes = [n for n, thing in enumerate(world.things) if thing.shape == "cube"]
    assert (np.abs(further[cubes]) <= 1).all()


def test_a_picture_is_the_same_each_time_and_follows_the_floor_and_the_wall() -> None:
    first, second = render(APART, 24).pixels, render(APART, 24).pixels
    assert first.tobytes() == second.tobytes()
    assert first.shape == (24, 24, 3)
    floors = {
        floor: render(replace(APART, floor=floor, wall="dark"), 24).pixels
        for floor in ("gray", "wooden", "checkered")
    }
    assert len({pixels.tobytes() for pixels in floors.values()}) == 3
    wall = {w: render(replace(APART, wall=w), 24).pixels[0, 12].sum() for w in ("white", "dark")}
    assert wall["white"] > 2 * wall["dark"]


def test_shiny_things_look_different_from_matte_ones() -> None:
    shiny = replace(APART, things=[replace(t, material="shiny") for t in APART.things])
    matte, gloss = render(APART, 24), render(shiny, 24)
    assert (matte.bbox == gloss.bbox).all()
    assert (matte.pixels != gloss.pixels).any(axis=2).sum() > 20
