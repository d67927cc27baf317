import io
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scene_builds import scenes_recipe

from vila2data.builders.scenes import drawing
from vila2data.builders.scenes.drawing import draw_scene, facts_of
from vila2data.builders.scenes.render import Seen, render
from vila2data.builders.scenes.world import draw_world
from vila2data.errors import RunFailed
from vila2data.prompts import prompt
from vila2data.schema import SCENES

pytest.importorskip("open3d")

ROOT = Path("unused")


@given(st.integers(0, 10**6), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_things_stand_on_the_floor_apart_and_have_names_of_their_own(seed: int, most: int) -> None:
    world = draw_world(seed, "train", 0, 0, objects=range(2, most + 1))
    assert 1 <= len(world.things) <= most
    assert len({(t.shape, t.color) for t in world.things}) == len(world.things)
    for n, thing in enumerate(world.things):
        level = thing.center @ world.upright
        assert level[1] + thing.dimensions[1] / 2 == pytest.approx(world.camera_height_m)
        assert np.allclose(thing.rotation @ thing.rotation.T, np.eye(3))
        for other in world.things[:n]:
            apart = np.hypot(*(level - other.center @ world.upright)[[0, 2]])
            assert apart > (thing.dimensions[0] + other.dimensions[0]) / 2


def test_draws_differ_by_every_key_and_by_nothing_else() -> None:
    def center(*keys: Any) -> tuple[float, ...]:
        return tuple(draw_world(*keys, objects=range(2, 6)).things[0].center)

    keys = [(0, "train", 0, 0), (1, "train", 0, 0), (0, "test", 0, 0), (0, "train", 1, 0)]
    keys.append((0, "train", 0, 1))
    assert len({center(*key) for key in keys}) == 5
    assert center(*keys[0]) == center(*keys[0])


def test_a_scene_does_not_depend_on_how_many_there_are_or_on_who_draws() -> None:
    few = scenes_recipe(ROOT, train=4)
    many = scenes_recipe(ROOT, train=400, test=0, executor={"workers": 3}, version="2.0.0")
    assert draw_scene(few, "train", 3) == draw_scene(many, "train", 3)
    assert draw_scene(few, "train", 3).row != draw_scene(few, "test", 3).row


def test_a_row_describes_its_image_from_left_to_right() -> None:
    drawn = draw_scene(scenes_recipe(ROOT, image_side_px=40), "test", 1)
    row, picture = drawn.row, Image.open(io.BytesIO(drawn.image))
    assert set(row) == set(SCENES)
    assert row["key"] == "test-0000001"
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (40, 40))
    assert row["image_sha256"] == sha256(drawn.image).hexdigest()
    assert (row["width"], row["height"]) == (40, 40)
    assert row["intrinsics"] == [38, 0, 20, 0, 38, 20, 0, 0, 1]
    middles = [thing["bbox"][0] + thing["bbox"][2] for thing in row["objects"]]
    assert middles == sorted(middles)
    shapes = [thing["category"] for thing in row["objects"]]
    assert shapes == [told["shape"] for told in row["attributes"]]


def test_a_row_is_the_world_that_was_rendered() -> None:
    recipe = scenes_recipe(ROOT, seed=4)
    row = draw_scene(recipe, "train", 0).row
    world = draw_world(4, "train", 0, 0, objects=range(2, 6))
    seen = render(world, 32)
    told = {
        (t["color"], t["shape"]): (p["center"], p["dimensions"], p["rotation"], p["bbox"], t)
        for p, t in zip(row["objects"], row["attributes"], strict=True)
    }
    for n, thing in enumerate(world.things):
        center, dimensions, rotation, bbox, words = told[thing.color, thing.shape]
        assert center == pytest.approx(thing.center, rel=1e-6)
        assert dimensions == pytest.approx(thing.dimensions, rel=1e-6)
        assert rotation == pytest.approx(thing.rotation.ravel(), abs=1e-6)
        assert bbox == pytest.approx(seen.bbox[n], rel=1e-6)
        assert words["visibility"] == pytest.approx(seen.visibility[n], rel=1e-6)
        assert (words["size"], words["material"]) == (thing.size, thing.material)
    assert (row["floor"], row["wall"]) == (world.floor, world.wall)


def test_sides_are_angles_depths_are_along_z_and_distances_are_not() -> None:
    told = {"shape": "cube", "color": "red", "size": "small", "material": "matte"}
    centers = [[1.0, 0.0, 2.0], [1.2, 0.3, 6.0]]  # the second lies further right, seen further left
    row = {
        "objects": [{"center": center, "bbox": [0.1, 0.2, 0.3, 0.4]} for center in centers],
        "attributes": [told, told],
        "floor": "gray",
        "wall": "dark",
    }
    facts = facts_of(row)
    assert [thing.side for thing in facts.things] == [0.5, 1.2 / 6.0]
    assert facts.things[1].depth_m == 6.0
    assert facts.things[1].distance_m == pytest.approx((1.2**2 + 0.3**2 + 6.0**2) ** 0.5)
    assert facts.things[0].bbox == (0.1, 0.2, 0.3, 0.4)
    assert (facts.floor, facts.wall) == ("gray", "dark")


def seen_as(visibility: float) -> Seen:
    """Five objects, one of which is seen for that share."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    bbox = np.tile([0.1, 0.1, 0.4, 0.4], (5, 1))
    return Seen(pixels, bbox, np.array([1.0, visibility, 1.0, 1.0, 1.0]))


def test_scenes_with_hidden_objects_are_drawn_anew_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = scenes_recipe(ROOT, objects={"min": 5, "max": 5}, min_visibility=0.5)
    asked = []

    def shown(world: Any, side_px: int) -> Seen:
        asked.append(world)
        return seen_as(0.49 if len(asked) < 4 else 0.5)

    monkeypatch.setattr(drawing, "render", shown)
    drawn = draw_scene(recipe, "train", 0)
    hidden = drawn.refused["object_hidden"]
    assert hidden == 3
    chosen = draw_world(0, "train", 0, sum(drawn.refused.values()), objects=range(5, 6))
    told = {(t["shape"], t["color"]) for t in drawn.row["attributes"]}
    assert told == {(t.shape, t.color) for t in chosen.things}


def test_scenes_without_room_for_the_fewest_objects_are_drawn_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def world(*keys: Any, objects: range) -> Any:
        drawn.append(keys)
        return draw_world(*keys, objects=range(2, 3) if len(drawn) < 3 else objects)

    monkeypatch.setattr(drawing, "draw_world", world)
    found = draw_scene(scenes_recipe(ROOT, objects={"min": 3, "max": 3}), "train", 0)
    assert found.refused == {"no_room": 2}
    assert len(found.row["objects"]) == 3


def test_a_rule_that_no_scene_meets_is_told_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "render", lambda world, side_px: seen_as(0.1))
    said = (
        r"train-0000007: none of 200 attempts could be used \(object_hidden 200\): ask for fewer "
        r"objects \(objects.min, objects.max\), or for less of each \(min_visibility\)"
    )
    with pytest.raises(RunFailed, match=said):
        draw_scene(scenes_recipe(ROOT, objects={"min": 2, "max": 2}), "train", 7)


def texts_of(**recipe: Any) -> list[dict[str, Any]]:
    """The texts of some scenes of ``train``, one of ``test``; their pictures are blank."""
    made = scenes_recipe(ROOT, **recipe)
    return [draw_scene(made, "train", n).row for n in range(40)] + [draw_scene(made, "test", 0).row]


@pytest.fixture
def _blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        drawing,
        "render",
        lambda world, side_px: Seen(
            np.zeros((side_px, side_px, 3), np.uint8),
            np.array([[n / 9, 0.1, (n + 1) / 9, 0.2] for n in range(len(world.things))]),
            np.ones(len(world.things)),
        ),
    )


@pytest.mark.usefixtures("_blank")
def test_shares_are_of_the_scenes_of_train_alone() -> None:
    *train, test = texts_of(reference={"share": 0.0}, questions={"share": 1.0})
    assert {row["reference"] for row in train} == {None}
    assert all(row["questions"] for row in train)
    assert test["reference"] is not None
    assert test["questions"]
    *train, test = texts_of(reference={"share": 1.0}, questions={"share": 0.0})
    assert all(row["reference"] for row in train)
    assert not any(row["questions"] for row in train)
    assert test["questions"]


@pytest.mark.usefixtures("_blank")
def test_a_greater_share_keeps_the_scenes_of_a_smaller_one_and_their_texts() -> None:
    few = texts_of(reference={"share": 0.2}, questions={"share": 0.3})
    more = texts_of(reference={"share": 0.6}, questions={"share": 0.3})
    told = [(a["reference"], b["reference"]) for a, b in zip(few, more, strict=True)]
    assert all(b == a for a, b in told if a is not None)
    assert 2 <= sum(a is not None for a, _ in told) < sum(b is not None for _, b in told) < 36
    assert [row["questions"] for row in few] == [row["questions"] for row in more]


@pytest.mark.usefixtures("_blank")
def test_a_conversation_is_the_description_where_there_is_one_then_the_questions() -> None:
    rows = texts_of(reference={"share": 0.5}, questions={"share": 0.5})
    prompts = set()
    for row in rows:
        turns = row["messages"] or []
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        said = [turn["content"] for turn in turns]
        expected = [x for q in row["questions"] for x in (q["question"], q["answer"])]
        if row["reference"] is not None:
            prompts.add(said[0])
            expected = [said[0].removeprefix("<image>\n"), row["reference"], *expected]
        if expected:
            expected[0] = f"<image>\n{expected[0]}"
        assert said == expected
        assert (row["messages"] is None) == (row["reference"] is None and not row["questions"])
    assert len(prompts) == 3
    kinds = {(row["reference"] is None, not row["questions"]) for row in rows}
    assert len(kinds) == 4


@pytest.mark.usefixtures("_blank")
def test_the_style_located_lists_names_and_boxes_and_asks_nothing() -> None:
    rows = texts_of(reference={"share": 1.0, "style": "located"}, questions={"share": 0.0})
    for row in rows:
        parts = []
        for told, thing in zip(row["attributes"], row["objects"], strict=True):
            box = ", ".join(f"{number:.2f}" for number in thing["bbox"])
            parts.append(f"{told['color']} {told['shape']} [{box}]")
        assert row["reference"] == ", ".join(parts) + "."
        assert row["questions"] == []
        assert row["messages"] is None


@pytest.mark.usefixtures("_blank")
def test_the_style_spatial_tells_relations_in_answer_to_a_spatial_prompt() -> None:
    asked = set()
    for row in texts_of(reference={"share": 1.0, "style": "spatial"}, questions={"share": 0.0}):
        opening, listed, *told = row["reference"].split(". ")
        assert "objects on a" in opening
        names = [f"{thing['color']} {thing['shape']}" for thing in row["attributes"]]
        assert re.findall(r"an? (\w+ \w+)", listed) == names
        assert len(told) <= 2 * (len(names) - 1)
        assert all(re.match(r"The \w+ \w+ is .* the \w+ \w+", each) for each in told)
        question, answer = row["messages"][:2]
        assert answer == {"role": "assistant", "content": row["reference"]}
        asked.add(question["content"].removeprefix("<image>\n"))
    assert asked == {prompt(name).text for name in ("spatial-v1", "spatial-v2")}


@pytest.mark.usefixtures("_blank")
def test_kinds_of_questions_are_left_out_of_train_alone() -> None:
    everything, some = (
        texts_of(questions={"share": 1.0, "kinds": kinds})
        for kinds in (None, {"count": 1, "depth": 1})
    )
    assert some.pop() == everything.pop()  # of test
    for whole, part in zip(everything, some, strict=True):
        wanted = [each for each in whole["questions"] if each["kind"] in ("count", "depth")]
        assert 1 <= len(part["questions"]) < len(whole["questions"])
        assert part["questions"] == wanted
        asked = [m["content"].removeprefix("<image>\n") for m in part["messages"][::2]]
        assert asked[-len(wanted) :] == [each["question"] for each in wanted]


@pytest.mark.usefixtures("_blank")
def test_a_kind_of_question_is_asked_in_its_share_of_the_scenes() -> None:
    def asked(share: float) -> list[bool]:
        shares = {"count": 1, "size": share}
        rows = texts_of(questions={"share": 1.0, "kinds": shares})[:-1]  # without that of test
        return ["size" in {each["kind"] for each in row["questions"]} for row in rows]

    few, more, every = (asked(share) for share in (0.3, 0.7, 1.0))
    assert 1 <= sum(few) < sum(more) < len(more)  # of 40
    assert all(every)
    assert all(b for a, b in zip(few, more, strict=True) if a)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": {"kinds": {"mood": 1}}}, "'mood' is none; there are existence, count"),
        ({"questions": {"kinds": {"depth": 1, "count": 0.5}}}, "one of existence, .* needs a"),
        ({"questions": {"kinds": {"count": 1.5}}}, "less than or equal to 1"),
        ({"objects": {"min": 4, "max": 3}}, "min must not exceed max"),
        ({"objects": {"min": 1, "max": 3}}, "greater than or equal to 2"),
        ({"objects": {"min": 2, "max": 10}}, "less than or equal to 9"),
        ({"train": 0}, "greater than or equal to 1"),
        ({"min_visibility": 0.0}, "greater than 0"),
        ({"reference": {"style": "long"}}, "'detailed', 'spatial' or 'located'"),
        (
            {"reference": {"style": "located"}, "questions": {"share": 0.1}},
            "questions.share: must be 0 where reference.style is located",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        scenes_recipe(ROOT, **changes)
