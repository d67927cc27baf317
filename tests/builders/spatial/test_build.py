"""The whole builder on small sources: what is rejected and why, and what the rows do not depend on."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from making import parquet_hashes
from PIL import Image
from spatial_making import document, small_scene, write_omni3d

from vila2data import registry
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build
from vila2data.errors import BadInput, RecipeError, RunFailed
from vila2data.recipe import load_recipe

CHAIRS = [
    ["chair", -1.0, 0.0, 4.0, 0.5, 1.0, 0.5, 0.0],
    ["chair", 1.5, 0.0, 6.0, 0.5, 1.0, 0.5, 0.3],
    ["dining_table", 0.2, 0.2, 4.5, 0.8, 0.7, 1.0, 0.1],
]


def picture(folder: Path, name: str, size: tuple[int, int] = (1000, 800)) -> None:
    Image.new("RGB", size, (90, 120, 150)).save(folder / name)


def recipe_of(root: Path, *sources: dict[str, Any], **blocks: Any) -> Path:
    content = {
        "builder": "spatial-relation-qa",
        "version": "1.0.0",
        "license": "cc0-1.0",
        "out": str(root / "builds"),
        "sources": list(sources),
        **blocks,
    }
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def omni3d(root: Path, content: dict[str, Any], name: str = "made") -> dict[str, Any]:
    file = root / f"{name}.json"
    file.write_text(json.dumps(content))
    return {"layout": "omni3d", "name": name, "path": str(file), "images": str(root)}


def build(recipe: Path, *overrides: str) -> Path:
    loaded = load_recipe(recipe, overrides)
    return write_build(registry.load("builders", loaded.builder), loaded)


def build_of(root: Path, *scenes: Any, **blocks: Any) -> Path:
    blocks = {"images": "path", "scenes": {"check_images": False}, **blocks}
    return build(recipe_of(root, omni3d(root, document(*scenes)), **blocks))


def rows_of(built: Path, config: str = "default") -> list[dict[str, Any]]:
    return list(load_dataset(str(built), config, split="train"))


def rejects_of(built: Path) -> dict[str, str]:
    """Reason by scene, or by scene and number of the box."""
    return {
        r["id"] if r["object"] is None else f"{r['id']}#{r['object']}": r["reject_reason"]
        for r in rows_of(built, "default-rejects")
    }


@pytest.fixture(scope="module")
def random_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_omni3d(tmp_path_factory.mktemp("random") / "random.json", scenes=60)


def random_recipe(root: Path, file: Path, **blocks: Any) -> Path:
    source = {"layout": "omni3d", "name": "random", "path": str(file), "images": str(root)}
    blocks = {"images": "path", "scenes": {"check_images": False}, **blocks}
    return recipe_of(root, source, **blocks)


def test_a_scene_becomes_a_conversation_that_load_dataset_gives(tmp_path: Path) -> None:
    picture(tmp_path, "1.jpg")
    source = omni3d(tmp_path, document(small_scene(CHAIRS)))
    built = build(recipe_of(tmp_path, source))
    (row,) = rows_of(built)
    assert row["id"] == "made/1"
    assert row["image"].size == (1000, 800) == (row["width"], row["height"])
    assert [thing["category"] for thing in row["objects"]] == ["chair", "chair", "dining table"]
    assert row["messages"][0]["content"].startswith("<image>\n")
    assert len(row["messages"]) == 2 * len(row["relations"]) == 12
    answers = [m["content"] for m in row["messages"][1::2]]
    for relation, answer in zip(row["relations"], answers, strict=True):
        bbox = row["objects"][relation["target"]]["bbox"]
        assert answer == "[" + ", ".join(f"{edge:.3f}" for edge in bbox) + "]"
    assert verify(built).problems == []


def test_the_answers_of_a_scene_that_one_can_check_by_eye(tmp_path: Path) -> None:
    built = build_of(tmp_path, small_scene(CHAIRS), questions={"per_image": 100})
    (row,) = rows_of(built)
    asked = {
        (r["family"], r["relation"], r["anchor"], r["target"])
        for r in row["relations"]
        if r["family"] == "object_object" and r["anchor"] == 2
    }
    # Objects 0, 1 are the near chair on the left and the far one on the right, 2 is the table.
    assert asked == {
        ("object_object", "closest", 2, 0),
        ("object_object", "left_of", 2, 0),
        ("object_object", "right_of", 2, 1),
        ("object_object", "behind", 2, 1),
    }


def test_all_three_forms_and_every_way_to_write_boxes_verify(
    tmp_path: Path, random_json: Path
) -> None:
    for number, boxes in enumerate(["norm3", "kosmos2", "qwen3_vl", "pixels"]):
        questions = {"forms": {"box": 1, "phrase": 1, "yes_no": 1}, "boxes": boxes}
        recipe = random_recipe(tmp_path, random_json, questions=questions)
        built = build(recipe, f"version=1.0.{number}")
        told = read_manifest(built).stats["questions"]
        assert {row["form"] for row in told} == {"box", "phrase", "yes_no"}
        assert verify(built).problems == []


def test_lenient_unique_and_gap_verify_too(tmp_path: Path, random_json: Path) -> None:
    relations = {"mode": "lenient", "closest_by": "gap", "anchors": "unique"}
    built = build(random_recipe(tmp_path, random_json, relations=relations))
    assert verify(built).problems == []
    anchored = [r for row in rows_of(built) for r in row["relations"] if r["anchor"] >= 0]
    assert anchored


def test_the_balance_leaves_relations_out_and_shares_the_rest(
    tmp_path: Path, random_json: Path
) -> None:
    balance = {"object_camera.left": 2, "object_camera.right": 1}
    questions = {"per_image": 3, "balance": balance}
    built = build(random_recipe(tmp_path, random_json, questions=questions))
    counts = {row["relation"]: row["questions"] for row in read_manifest(built).stats["questions"]}
    assert set(counts) == {"left", "right"}
    # Turns go by the share as far as a scene has questions of both, so left must be ahead.
    assert counts["left"] > counts["right"]


BROKEN = {
    "nan": {"center_cam": [float("nan"), 0, 4]},
    "negative": {"dimensions": [-1, 1, 1]},
    "no_turn": {"R_cam": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]},
    "mirrored": {"R_cam": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]},
    "declared": {"valid3D": False},
    "behind": {"center_cam": [0, 0, -4]},
    "around": {"center_cam": [0, 0, 0.1]},
    "beside": {"center_cam": [60, 0, 4]},
    "far_off": {"depth_error": 0.9},
    "nameless": {"category_name": ""},
    "token": {"category_name": "<image>"},
    "elsewhere": {"bbox2D_tight": [0, 0, 50, 50]},
    "short": {"dimensions": [1, 1]},
}
REASONS = {
    "nan": "numbers_missing",
    "negative": "dimensions_not_positive",
    "no_turn": "rotation_invalid",
    "mirrored": "rotation_invalid",
    "declared": "not_valid_in_source",
    "behind": "behind_camera",
    "around": "around_camera",
    "beside": "outside_image",
    "far_off": "depth_error",
    "nameless": "category_unusable",
    "token": "category_unusable",
    "elsewhere": "projection_off",
    "short": "numbers_missing",
}


def test_each_broken_box_is_a_named_reject_and_its_scene_lives(tmp_path: Path) -> None:
    scenes = []
    for number, changes in enumerate(BROKEN.values(), start=1):
        image, annotations = small_scene([*CHAIRS, ["sofa", 0, 0, 8, 1, 1, 2, 0]], id=number)
        annotations[3] |= changes
        for annotation in annotations[:3]:  # so that the scene as a whole fits
            xs, ys = (
                np.array(annotation["bbox3D_cam"]).T[:2] / np.array(annotation["bbox3D_cam"]).T[2]
            )
            annotation["bbox2D_tight"] = [
                *(np.array([xs.min(), ys.min()]) * 1000 + [500, 400]),
                *(np.array([xs.max(), ys.max()]) * 1000 + [500, 400]),
            ]
        scenes.append((image, annotations))
    built = build_of(tmp_path, *scenes)
    expected = {f"made/{n}#3": REASONS[name] for n, name in enumerate(BROKEN, start=1)}
    assert rejects_of(built) == expected
    assert len(rows_of(built)) == len(BROKEN)


def test_each_unusable_scene_is_a_named_reject(tmp_path: Path) -> None:
    for number in (1, 2, 4, 5, 6, 8, 9):
        picture(tmp_path, f"{number}.jpg", (1000, 800) if number != 6 else (500, 400))
    (tmp_path / "5.jpg").write_bytes(b"no image")
    scenes = [small_scene(CHAIRS, id=number) for number in range(1, 10)]
    scenes[1][0]["K"] = None
    scenes[3][0]["K"] = [[0, 0, 500], [0, 0, 400], [0, 0, 1]]
    scenes[6][0]["file_path"] = "../../etc/passwd"
    scenes[7] = small_scene([], id=8)
    shift = np.array([[0, 0, -200], [0, 0, 300], [0, 0, 0]])
    for annotation in scenes[8][1]:
        annotation["bbox2D_tight"] = [10, 10, 60, 60]
    scenes[8][0]["K"] = (np.array(scenes[8][0]["K"]) + shift).tolist()
    built = build(recipe_of(tmp_path, omni3d(tmp_path, document(*scenes))))
    assert rejects_of(built) == {
        "made/2": "intrinsics_missing",
        "made/3": "image_missing",
        "made/4": "intrinsics_singular",
        "made/5": "image_undecodable",
        "made/6": "image_size_differs",
        "made/7": "image_missing",
        "made/8": "no_objects",
        "made/9": "calibration_off",
    }
    steps = {step.step: step for step in read_manifest(built).funnel}
    assert (steps["scenes"].read, steps["scenes"].written) == (9, 1)


def test_names_that_are_no_unicode_are_refused_and_the_next_scene_is_not(tmp_path: Path) -> None:
    from vila2data.builders.spatial_relation_qa.scene import Scene, Unread
    from vila2data.builders.spatial_relation_qa.steps import _tellable

    told = _tellable(Scene("a\ud800", "\ud800.jpg", 1, 1, None, []))
    assert isinstance(told, Unread)
    assert (told.id, told.problem.reason) == ("a\\ud800", "name_not_unicode")
    broken = small_scene([*CHAIRS, ["sofa", 0, 0, 8, 1, 1, 2, 0]])
    broken[1][3]["category_name"] = "so\udcfffa"
    built = build_of(tmp_path, broken)
    assert rejects_of(built) == {"made/1#3": "category_unusable"}


def test_one_box_gives_questions_to_the_camera_alone(tmp_path: Path) -> None:
    built = build_of(tmp_path, small_scene(CHAIRS[:1]))
    (row,) = rows_of(built)
    assert {r["family"] for r in row["relations"]} == {"object_camera"}
    assert not row["flip_safe"]  # the one thing to say of it is that it stands on the left


def test_ten_thousand_boxes_in_a_scene_are_refused_and_the_next_scene_is_not(
    tmp_path: Path,
) -> None:
    crowd = small_scene([["chair", 0, 0, 4, 1, 1, 1, 0]], id=1)
    image, (annotation,) = crowd
    many = [dict(annotation, id=n) for n in range(10_000)]
    built = build_of(tmp_path, (image, many), small_scene(CHAIRS, id=2))
    assert rejects_of(built) == {"made/1": "too_many_objects"}
    assert [row["id"] for row in rows_of(built)] == ["made/2"]


def test_a_class_with_a_box_that_could_not_be_placed_is_not_asked_for(tmp_path: Path) -> None:
    image, annotations = small_scene([*CHAIRS, ["chair", 0, 0, 8, 1, 1, 1, 0]])
    annotations[3]["dimensions"] = [0, 0, 0]
    (row,) = rows_of(build_of(tmp_path, (image, annotations), questions={"per_image": 100}))
    assert {row["objects"][r["target"]]["category"] for r in row["relations"]} == {"dining table"}


def test_a_table_is_not_asked_for_beside_a_dining_table(tmp_path: Path) -> None:
    scene = small_scene([*CHAIRS, ["table", -2, 0.2, 9, 1, 1, 1, 0]])
    (row,) = rows_of(build_of(tmp_path, scene, questions={"per_image": 100}))
    targets = {row["objects"][r["target"]]["category"] for r in row["relations"]}
    assert targets == {"chair", "dining table"}


def test_a_hidden_box_is_a_rival_and_never_a_target(tmp_path: Path) -> None:
    wall = ["cabinet", 0, 0, 3, 0.2, 2, 2, 0]
    hidden = ["chair", -0.1, 0, 6, 0.5, 0.5, 0.5, 0]
    scene = small_scene([wall, hidden, ["chair", 2.2, 0, 5, 0.5, 1, 0.5, 0]])
    built = build_of(tmp_path, scene, questions={"per_image": 100})
    (row,) = rows_of(built)
    used = {r[side] for r in row["relations"] for side in ("anchor", "target")}
    chairs = [n for n, o in enumerate(row["objects"]) if o["category"] == "chair"]
    far = max(chairs, key=lambda n: row["objects"][n]["center"][2])
    assert far not in used
    assert any(far in r["candidates"] for r in row["relations"])
    steps = {step.step: step for step in read_manifest(built).funnel}
    assert steps["boxes to ask about"].rejected == {"hidden_by_boxes": 1}
    passed = build_of(tmp_path, scene, version="1.1.0", objects={"unknown_visibility": "pass"})
    assert "hidden_by_boxes" not in read_manifest(passed).funnel[2].rejected


def test_the_same_bytes_in_any_number_of_workers_and_shards(
    tmp_path: Path, random_json: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vila2data.builders.spatial_relation_qa import steps

    found = []
    for number, (scenes, workers) in enumerate([(1000, 1), (16, 1), (25, 2)]):
        monkeypatch.setattr(steps, "_SCENES_PER_SHARD", scenes)
        recipe = random_recipe(tmp_path, random_json, executor={"workers": workers})
        found.append(parquet_hashes(build(recipe, f"version=1.0.{number}")))
    assert found[0] == found[1] == found[2]


def test_the_order_of_boxes_and_of_annotations_changes_nothing(
    tmp_path: Path, random_json: Path
) -> None:
    content = json.loads(random_json.read_text())
    first = build(random_recipe(tmp_path, random_json))
    random.Random(5).shuffle(content["annotations"])
    random.Random(6).shuffle(content["images"])
    shuffled = tmp_path / "random.json"
    shuffled.write_text(json.dumps(content))
    second = build(random_recipe(tmp_path, shuffled), "version=1.0.1")
    hashes = parquet_hashes(first), parquet_hashes(second)
    rows = "data/default/train-00000-of-00001.parquet"
    assert hashes[0][rows] == hashes[1][rows]


def test_a_build_that_was_killed_goes_on_and_ends_the_same(
    tmp_path: Path, random_json: Path
) -> None:
    recipe = random_recipe(tmp_path, random_json)
    whole = parquet_hashes(build(recipe))
    script = (
        "import os, signal, sys\n"
        "from vila2data.builders.spatial_relation_qa import steps\n"
        "steps._SCENES_PER_SHARD = 16\n"
        "real, done = steps.ask_shard, []\n"
        "def killing(task):\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(task)\n"
        "    return real(task)\n"
        "steps.ask_shard = killing\n"
        "from vila2data.cli import main\n"
        "sys.argv = ['vila2data', 'build', sys.argv[1], '--set', 'version=2.0.0']\n"
        "main()\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    partial = tmp_path / "builds" / "spatial-relation-qa" / ".2.0.0.partial"
    begun = sorted(partial.rglob("rows-*.parquet"))
    assert len(begun) == 2
    stamps = [path.stat().st_mtime_ns for path in begun]
    seen = []
    loaded = load_recipe(recipe, ["version=2.0.0"])
    again = write_build(
        registry.load("builders", loaded.builder),
        loaded,
        on_rows=lambda _: seen.append([p.stat().st_mtime_ns for p in begun if p.exists()]),
    )
    assert seen[0] == stamps  # what was finished was not done again
    assert parquet_hashes(again) == whole


def test_work_of_another_recipe_is_thrown_away(tmp_path: Path, random_json: Path) -> None:
    from vila2data.builders.spatial_relation_qa.steps import make

    work = tmp_path / "work"
    rows = []
    for per_image in (2, 6, 2):
        recipe = random_recipe(tmp_path, random_json, questions={"per_image": per_image})
        made = make(load_recipe(recipe), work, lambda _: None)
        rows.append(made.funnel[3].written)
    assert rows[0] == rows[2] < rows[1]


def test_work_on_another_folder_of_images_is_thrown_away(tmp_path: Path) -> None:
    from vila2data.builders.spatial_relation_qa.steps import make

    source = omni3d(tmp_path, document(small_scene(CHAIRS)))
    kept = []
    for folder in ("without/images", "with/images"):  # the same name, all that a manifest tells
        (tmp_path / folder).mkdir(parents=True)
        if folder.startswith("with/"):
            picture(tmp_path / folder, "1.jpg")
        recipe = recipe_of(tmp_path, {**source, "images": str(tmp_path / folder)})
        kept.append(make(load_recipe(recipe), tmp_path / "work", lambda _: None).funnel[0].written)
    assert kept == [0, 1]


def test_a_recipe_says_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    sources = [
        {"layout": "omni3d", "name": "a b", "path": "nowhere.json", "images": "x"},
        {"layout": "obj", "name": "b", "path": "nowhere"},
    ]
    questions = {"balance": {"left": 1}, "forms": {"box": 0}, "boxes": "roman"}
    recipe = recipe_of(tmp_path, *sources, questions=questions, relations={"mode": "loose"})
    with pytest.raises(RecipeError) as refused:
        load_recipe(recipe)
    told = str(refused.value)
    for part in ("a b", "'obj'", "left: unknown", "one must be positive", "norm3", "'strict'"):
        assert part in told, told
    with pytest.raises(RecipeError, match=r"sources\.0\.path: .*nowhere\.json"):
        load_recipe(recipe_of(tmp_path, sources[0] | {"name": "a"}))


def test_a_json_that_was_cut_in_half_is_one_line(tmp_path: Path, random_json: Path) -> None:
    half = tmp_path / "half.json"
    half.write_bytes(random_json.read_bytes()[:-5000])
    with pytest.raises(BadInput, match=r"half\.json") as refused:
        build(random_recipe(tmp_path, half))
    assert "\n" not in str(refused.value)


def test_a_source_without_any_question_is_told_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"no scene gives a question: scenes: \{'no_objects': 1\}"):
        build_of(tmp_path, small_scene([]))


REAL = {
    "kitti": {
        "layout": "mmdet3d",
        "path": "kitti/000008/000008.info.json",
        "images": "kitti/000008",
    },
    "nuscenes": {
        "layout": "mmdet3d",
        "path": "nuscenes/ca9a282c/info.json",
        "images": "nuscenes/ca9a282c",
    },
    "broken": {
        "layout": "mmdet3d",
        "path": "sunrgbd/000001/mmdet3d_test_info.BROKEN_CALIB.json",
        "images": "sunrgbd/000001",
    },
    "sunrgbd": {
        "layout": "sunrgbd",
        "path": "sunrgbd/000001",
        "image_files": "{id}.jpg",
        "calib_files": "{id}.calib.txt",
        "label_files": "{id}.label.txt",
    },
    "dgp": {"layout": "dgp", "path": "dgp"},
    "omni3d": {"layout": "omni3d", "path": "derived/omni3d_style_dev.json", "images": "."},
}


@pytest.mark.shared
def test_real_sources_build_and_verify_and_the_broken_calibration_is_rejected(
    tmp_path: Path, shared_data: Path
) -> None:
    folder = shared_data / "spatial3d"
    sources = [
        {
            **source,
            "name": name,
            **{k: str(folder / source[k]) for k in ("path", "images") if k in source},
        }
        for name, source in REAL.items()
    ]
    forms = {"box": 1, "phrase": 1, "yes_no": 1}
    built = build(recipe_of(tmp_path, *sources, questions={"forms": forms}))
    assert verify(built).problems == []
    rows = rows_of(built)
    assert {row["source"] for row in rows} == set(REAL) - {"broken"}
    assert all(row["image"].size == (row["width"], row["height"]) for row in rows)
    rejects = rejects_of(built)
    assert rejects["broken/000001"] == "calibration_broken"
    # CAMERA_08 of the DGP scene has no box.
    assert [k for k, v in rejects.items() if v == "no_objects"] == [
        "dgp/scene_02/rgb/CAMERA_08/15616458249936530",
        "omni3d/13",
    ]
