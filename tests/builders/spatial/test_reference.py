"""The relations against a slow reference of what docs/spatial.md says, on random scenes."""

import json
import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest
import spatial_reference as reference
from spatial_making import document, omni3d_scenes, small_scene, write_omni3d
from spatial_reference import Box, RefScene

from vila2data.boxes import iou
from vila2data.builders.spatial_relation_qa.candidates import Geometry
from vila2data.builders.spatial_relation_qa.names import CAMERA, RELATIONS
from vila2data.builders.spatial_relation_qa.occlusion import possible_occluders, visible_shares
from vila2data.builders.spatial_relation_qa.recipe import Semantics
from vila2data.builders.spatial_relation_qa.semantics import questions_of
from vila2data.cuboids import corners, gaps, projected_boxes

STRICT = Semantics()
LENIENT = Semantics(mode="lenient", min_gap_m=0.05, min_gap_share=0, lateral_margin_m=0.05)


def reference_scene(image: dict, annotations: list[dict], rng: random.Random) -> RefScene:
    """Boxes before the camera and in the image; which are clear and whole is drawn."""
    k = [number for row in image["K"] for number in row]
    size = image["width"], image["height"]
    boxes = []
    for told in annotations:
        u, _, v = np.linalg.svd(told["R_cam"])  # as written, its rows are not quite upright
        rotation = tuple((u @ v).reshape(9).tolist())
        box = Box(
            *(told["category_name"], (0.0, 0.0, 0.0, 0.0), tuple(told["center_cam"])),
            *(tuple(told["dimensions"]), rotation, rng.random() < 0.85),
        )
        if reference.depths(box)[0] >= 0.05:
            x1, y1, x2, y2 = reference.clipped(reference.projected(box, k), *size)
            rect = (x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1])
            boxes += [replace(box, bbox=rect)] * (x1 < x2 and y1 < y2)
    boxes.sort(key=lambda box: box.category)
    whole = {box.category for box in boxes if rng.random() < 0.9}
    near, far = rng.choice([(2.0, 4.0), (15.0, 40.0)])
    return RefScene(boxes, k, size[0], near, far, frozenset(whole))


def geometry(scenes: list[RefScene]) -> Geometry:
    """The same scenes as arrays."""
    boxes = [box for scene in scenes for box in scene.boxes]
    group = []
    for scene in scenes:
        kinds = groupby(box.category for box in scene.boxes)
        first = group[-1] + 1 if group else 0
        group += [number for number, (_, same) in enumerate(kinds, first) for _ in same]
    return Geometry(
        starts=np.cumsum([0, *(len(scene.boxes) for scene in scenes)]),
        group=np.array(group, np.int64),
        center=np.array([box.center for box in boxes]).reshape(-1, 3),
        dimensions=np.array([box.dimensions for box in boxes]).reshape(-1, 3),
        rotation=np.array([box.rotation for box in boxes]).reshape(-1, 3, 3),
        bbox=np.array([box.bbox for box in boxes]).reshape(-1, 4),
        focal_norm=np.array([scene.intrinsics[0] / scene.width for scene in scenes]),
        clear=np.array([box.clear for box in boxes], np.bool_),
        askable=np.array([b.category in s.askable for s in scenes for b in s.boxes], np.bool_),
        close_below_m=np.array([scene.close_below_m for scene in scenes]),
        far_above_m=np.array([scene.far_above_m for scene in scenes]),
    )


Asked = dict[tuple[str, str, int, int], float]
"""Gap by family, relation, anchor and target."""


def asked_by_package(scenes: list[RefScene], rules: Semantics) -> list[Asked]:
    """Of each scene, boxes counted within it."""
    arrays = geometry(scenes)
    found, _ = questions_of(arrays, rules)
    starts = arrays.starts.tolist()
    asked: list[Asked] = [{} for _ in scenes]
    columns = (found.scene, found.relation, found.anchor, found.target, found.gap_m)
    for scene, relation, anchor, target, gap in zip(*map(np.ndarray.tolist, columns), strict=True):
        family, name = RELATIONS[relation].split(".")
        number = anchor if anchor == CAMERA else anchor - starts[scene]
        key = (family, name, number, target - starts[scene])
        assert key not in asked[scene], "asked twice"
        asked[scene][key] = gap
    return asked


def asked_by_reference(scene: RefScene, rules: Semantics) -> Asked:
    return {question[:4]: question.gap for question in reference.questions(scene, rules)}


@cache
def random_scenes(seed: int, count: int, boxes: tuple[int, int] = (2, 16)) -> list[RefScene]:
    rng = random.Random(seed)
    return [reference_scene(*each, rng) for each in omni3d_scenes(seed, count, boxes)]


def scene(*boxes: list) -> RefScene:
    """Exact boxes [category, x, y, z, w, h, l, yaw], all clear and whole."""
    made = reference_scene(*small_scene(boxes), random.Random(0))
    kinds = frozenset(box.category for box in made.boxes)
    return replace(made, boxes=[replace(box, clear=True) for box in made.boxes], askable=kinds)


RULES = {
    "strict": STRICT,
    "lenient": LENIENT,
    "strict, unique": Semantics(anchors="unique", min_superlative_candidates=1),
    "lenient, unique": Semantics(mode="lenient", anchors="unique"),
    "no gap": Semantics(min_gap_m=0, min_gap_share=0),
    "share": Semantics(min_gap_m=0, min_gap_share=0.4, min_superlative_candidates=3),
}


def compare(scenes: list[RefScene], rules: Semantics) -> None:
    by_package = asked_by_package(scenes, rules)
    asked = Counter()
    for each, found in zip(scenes, by_package, strict=True):
        wanted = asked_by_reference(each, rules)
        assert found.keys() == wanted.keys()
        assert found == pytest.approx(wanted, abs=1e-6)
        asked += Counter(f"{family}.{relation}" for family, relation, _, _ in wanted)
    assert asked.keys() == set(RELATIONS), "a relation that was never asked is not tested"


@pytest.mark.parametrize("name", RULES)
def test_all_questions_are_those_of_the_reference(name):
    compare(random_scenes(list(RULES).index(name), 25), RULES[name])


@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_closest_by_gap_is_that_of_the_reference(mode):
    rules = Semantics(closest_by="gap", mode=mode, min_superlative_candidates=1)
    compare(random_scenes(40, 6, (6, 10)), rules)


def test_equal_distances_and_touching_extents_are_those_of_the_reference():
    """On numbers that floats hold exactly: each rule at its limit."""
    chairs = [["chair", x, 0, 4, 1, 1, 1, 0] for x in (-1, 1)]
    tables = [["table", 0, 0, z, 1, 1, 1, 0] for z in (4, 5, 6)]
    exact = replace(scene(*chairs, *tables), close_below_m=4.0, far_above_m=6.0)
    for rules in (STRICT, LENIENT, Semantics(min_gap_m=0, min_gap_share=0)):
        assert asked_by_package([exact], rules) == [asked_by_reference(exact, rules)]
    [found] = asked_by_package([exact], LENIENT)
    assert ("object_camera", "closest", CAMERA, 0) not in found
    assert ("object_camera", "close", CAMERA, 2) not in found
    assert found["object_object", "closest", 0, 2] == pytest.approx(2**0.5 - 1)


def sides(boxes: list[Box]) -> tuple:
    """Center, dimensions and rotation as arrays."""
    return (
        np.array([box.center for box in boxes]),
        np.array([box.dimensions for box in boxes]),
        np.array([box.rotation for box in boxes]).reshape(-1, 3, 3),
    )


def test_projection_and_overlap_are_those_of_the_reference():
    rng = random.Random(5)
    k = (520.0, 0, 320, 0, 500, 240, 0, 0, 1)
    told = [each for _, some in omni3d_scenes(5, 30) for each in some]
    told = rng.sample(told, 150)
    near = [dict(each, center_cam=[0.1, 0.2, rng.uniform(-1, 1)]) for each in told[:60]]
    boxes = [
        Box("box", (0, 0, 1, 1), t["center_cam"], t["dimensions"], np.ravel(t["R_cam"]).tolist())
        for t in told + near
    ]
    found = projected_boxes(corners(*sides(boxes)), np.tile(np.reshape(k, (3, 3)), (210, 1, 1)))
    wanted = [reference.projected(box, k) or (np.nan,) * 4 for box in boxes]
    assert 0 < np.isnan(wanted).all(axis=1).sum() < 40
    assert found == pytest.approx(np.array(wanted), rel=1e-9, abs=1e-6, nan_ok=True)
    rects = [each for each in found.tolist() if each[0] == each[0]]
    shares = iou(np.array(rects[:-1]), np.array(rects[1:]))
    assert shares.tolist() == pytest.approx(list(map(reference.iou, rects, rects[1:])), abs=1e-12)
    assert shares.max() > 0


def test_gaps_are_those_of_the_reference_for_boxes_in_any_position():
    rng = np.random.default_rng(3)
    numbers = zip(
        rng.normal(0, 2, (160, 3)).tolist(),
        rng.uniform(0.1, 3, (160, 3)).tolist(),
        np.linalg.qr(rng.normal(size=(160, 3, 3)))[0].reshape(160, 9).tolist(),
        strict=True,
    )
    boxes = [Box("box", (0, 0, 1, 1), *each) for each in numbers]
    wanted = [reference.gap_m(a, b) for a, b in zip(boxes[::2], boxes[1::2], strict=True)]
    found = gaps(sides(boxes[::2]), sides(boxes[1::2]))
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)
    assert 5 < (found == 0).sum() < 70


HEIGHTS = {640: 480, 1600: 900}


def rects_px(scene: RefScene) -> np.ndarray:
    size = scene.width, HEIGHTS[scene.width]
    return np.array([box.bbox for box in scene.boxes]) * (size * 2)


def shares_by_package(scene: RefScene, rays: int) -> list[float]:
    """Visible shares of all boxes; each other box may lie before one."""
    count = len(scene.boxes)
    seen, before = np.nonzero(~np.eye(count, dtype=bool))
    z = corners(*sides(scene.boxes))[..., 2]
    pairs = possible_occluders(rects_px(scene), z.min(axis=1), z.max(axis=1), (seen, before))
    k = np.tile(np.reshape(scene.intrinsics, (3, 3)), (count, 1, 1))
    return visible_shares(*sides(scene.boxes), rects_px(scene), k, pairs, rays=rays).tolist()


def test_visible_shares_are_those_of_the_reference():
    shares = []
    for each in random_scenes(7, 12, (8, 14)):
        found = shares_by_package(each, rays=5)
        rects = rects_px(each).tolist()
        wanted = [
            reference.visible_share(each.boxes, number, each.intrinsics, rect, 5)
            for number, rect in enumerate(rects)
        ]
        assert found == pytest.approx([np.nan if w is None else w for w in wanted], nan_ok=True)
        shares += found
    assert {share > 0.99 for share in shares} == {share < 0.3 for share in shares} == {True, False}


def test_visible_shares_are_those_of_a_ray_caster_over_meshes():
    try:
        import open3d as o3d  # its libraries may be missing where the package is there
    except (ImportError, OSError):
        pytest.skip("open3d is not there")
    for each in random_scenes(8, 6, (8, 14)):
        rays = 16
        casting = o3d.t.geometry.RaycastingScene()
        for box in each.boxes:
            mesh = o3d.geometry.TriangleMesh.create_box(*(2 * h for h in reference.halves(box)))
            mesh.translate([-h for h in reference.halves(box)])
            mesh.rotate(np.reshape(box.rotation, (3, 3)), center=(0, 0, 0))
            mesh.translate(box.center)
            casting.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
        for number, share in enumerate(shares_by_package(each, rays)):
            rect = rects_px(each)[number].tolist()
            directions = list(reference.rays(each.intrinsics, rect, rays))
            own = [reference.entry(each.boxes[number], ray) is not None for ray in directions]
            cast = np.array([[0, 0, 0, *ray] for ray in directions], np.float32)[own]
            met = casting.cast_rays(o3d.core.Tensor(cast))["geometry_ids"].numpy()
            # Where boxes run into each other, float32 may take one for the other on a ray.
            assert share == pytest.approx((met == number).mean(), abs=0.02)


SIDES = {"left_of": "right_of", "right_of": "left_of", "left": "right", "right": "left"}


@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["strict", "lenient"])
def test_mirroring_swaps_left_and_right_and_nothing_else(rules):
    scenes = random_scenes(20, 50)
    mirrored = asked_by_package([reference.mirrored(each) for each in scenes], rules)
    for found, other in zip(asked_by_package(scenes, rules), mirrored, strict=True):
        swapped = {(f, SIDES.get(r, r), a, t): gap for (f, r, a, t), gap in found.items()}
        assert swapped == other


def content(scene: RefScene, asked: Asked) -> dict:
    """Gaps by what the boxes are, not by where they stand."""
    boxes = [*scene.boxes, "the camera"]
    told = [None if box == "the camera" else (box.category, box.center) for box in boxes]
    return {(f, r, told[a], told[t]): gap for (f, r, a, t), gap in asked.items()}


def test_the_order_of_boxes_changes_nothing():
    rng = random.Random(9)
    scenes = random_scenes(20, 50)
    shuffled = []
    for each in scenes:
        place = {box.category: rng.random() for box in each.boxes}
        boxes = rng.sample(each.boxes, len(each.boxes))
        boxes.sort(key=lambda box: place[box.category])  # classes stay together
        shuffled.append(replace(each, boxes=boxes))
    for each, other, found, again in zip(
        *(scenes, shuffled),
        *(asked_by_package(scenes, STRICT), asked_by_package(shuffled, STRICT)),
        strict=True,
    ):
        assert content(each, found) == content(other, again)


def scaled(scene: RefScene, factor: float) -> RefScene:
    """The same picture from a world of another size."""
    return replace(
        scene,
        boxes=[
            replace(
                box,
                center=tuple(factor * v for v in box.center),
                dimensions=tuple(factor * v for v in box.dimensions),
            )
            for box in scene.boxes
        ],
        close_below_m=factor * scene.close_below_m,
        far_above_m=factor * scene.far_above_m,
    )


def answers(scene: RefScene, asked: Asked) -> dict[tuple[str, str, int, str], int]:
    """Target by family, relation, anchor and asked class."""
    return {(f, r, a, scene.boxes[t].category): t for f, r, a, t in asked}


@pytest.mark.parametrize("factor", [0.5, 2, 10])
def test_the_scale_of_the_world_changes_no_answer(factor):
    scenes = random_scenes(20, 50)
    both = 0
    others = asked_by_package([scaled(each, factor) for each in scenes], STRICT)
    for each, found, other in zip(scenes, asked_by_package(scenes, STRICT), others, strict=True):
        first, second = answers(each, found), answers(each, other)
        shared = first.keys() & second.keys()
        assert {key: first[key] for key in shared} == {key: second[key] for key in shared}
        both += len(shared)
    assert both > 1000


def test_a_box_that_a_question_is_not_about_changes_nothing_in_it():
    """Every box but the anchor is a candidate for its own class alone."""
    rng = random.Random(10)
    scenes = [each for each in random_scenes(20, 50) if len(each.boxes) > 1]
    gone = [rng.randrange(len(each.boxes)) for each in scenes]
    fewer = [
        replace(each, boxes=[box for n, box in enumerate(each.boxes) if n != number])
        for each, number in zip(scenes, gone, strict=True)
    ]
    for each, number, other, found, again in zip(
        *(scenes, gone, fewer),
        *(asked_by_package(scenes, STRICT), asked_by_package(fewer, STRICT)),
        strict=True,
    ):
        lost = each.boxes[number]

        def untouched(asked, boxes, lost=lost):
            return {
                key: gap
                for key, gap in content(boxes, asked).items()
                if key[3][0] != lost.category and key[2] != (lost.category, lost.center)
            }

        assert untouched(found, each) == untouched(again, other)


def test_a_written_file_holds_the_scenes_that_are_made(tmp_path):
    told = json.loads(
        write_omni3d(tmp_path / "scenes.json", 3, scenes=510, boxes=(0, 3)).read_text()
    )
    wanted = document(*omni3d_scenes(3, 510, (0, 3)))
    assert [told["images"], told["annotations"]] == [wanted["images"], wanted["annotations"]]
    assert [image["id"] for image in told["images"]] == list(range(1, 511))
    assert len({each["id"] for each in told["annotations"]}) == len(told["annotations"])
    names = {category["id"]: category["name"] for category in told["categories"]}
    assert all(names[each["category_id"]] == each["category_name"] for each in told["annotations"])
