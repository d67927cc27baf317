"""Scene folders of the Dataset Governance Policy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spatial_making import mean_iou

from vila2data.builders.spatial_relation_qa.scene import Cuboid, Scene, Unread
from vila2data.builders.spatial_relation_qa.sources.dgp import Dgp

BOX_3D = {
    "class_id": 2,
    "instance_id": 77,
    "num_points": 31,
    "box": {
        "width": 2.0,
        "length": 4.5,
        "height": 1.5,
        "occlusion": 1,
        "truncation": 0.25,
        "pose": {
            "translation": {"x": 1.0, "y": -0.5, "z": 20.0},
            "rotation": {"qw": 0.5, "qx": 0.5, "qy": -0.5, "qz": 0.5},
        },
    },
}
"""Length ahead of the camera, width to its left, height up."""
BOX_2D = {"class_id": 2, "instance_id": 77, "box": {"x": 10, "y": 20, "w": 30, "h": 40}}
LENS = {"fx": 500.0, "fy": 510.0, "cx": 320.0, "cy": 240.0, "skew": 0.0}


def datum(name: str = "CAM", **image) -> dict[str, Any]:
    files = {"0": f"bounding_box_2d/{name}/1.json", "1": f"bounding_box_3d/{name}/2.json"}
    known = {"annotations": files, "filename": f"rgb/{name}/1.jpg", "width": 640, "height": 480}
    return {"key": f"key-{name}", "id": {"name": name}, "datum": {"image": known | image}}


def small_scene() -> dict[str, Any]:
    lidar = {"key": "l", "id": {"name": "LIDAR"}, "datum": {"point_cloud": {"annotations": {}}}}
    return {
        "data": [lidar, datum()],
        "samples": [{"calibration_key": "cal", "datum_keys": ["l", "key-CAM"]}],
        "ontologies": {"0": "flat", "1": "ont"},
    }


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)


def add(folder: Path, box: dict[str, Any] = BOX_3D, lens: dict[str, Any] = LENS) -> None:
    write(folder, "scene_1f.json", small_scene())
    write(folder, "calibration/cal.json", {"names": ["LIDAR", "CAM"], "intrinsics": [{}, lens]})
    write(folder, "ontology/ont.json", {"items": [{"id": 2, "name": "Car"}, {"id": 0}]})
    write(folder, "bounding_box_2d/CAM/1.json", {"annotations": [BOX_2D]})
    write(folder, "bounding_box_3d/CAM/2.json", {"annotations": [box]})


def read(folder: Path, **keys) -> list[Scene | Unread]:
    return list(Dgp(name="dgp", layout="dgp", path=folder, **keys).scenes(folder))


def only_box(folder: Path) -> Cuboid:
    [scene] = read(folder)
    [box] = scene.objects
    return box


def boxed(**changes) -> dict[str, Any]:
    return BOX_3D | {"box": BOX_3D["box"] | changes}


def test_the_box_is_in_the_cameras_frame_already(tmp_path):
    add(tmp_path)
    [scene] = read(tmp_path)
    assert (scene.id, scene.image) == ("rgb/CAM/1", "rgb/CAM/1.jpg")
    assert (scene.width, scene.height) == (640, 480)
    assert scene.intrinsics.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    [box] = scene.objects
    assert (box.category, box.points) == ("Car", 31)
    assert (box.center, box.dimensions) == ([1, -0.5, 20], [2, 1.5, 4.5])
    length, down, width = box.rotation.T
    np.testing.assert_allclose(length, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(down, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(width, [-1, 0, 0], atol=1e-12)
    assert box.bbox_px == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("occlusion", "visibility"), [(0, np.nan), (1, 0.75), (2, 0.25), (3, np.nan), ("1", np.nan)]
)
def test_occlusion_of_zero_says_nothing(tmp_path, occlusion, visibility):
    add(tmp_path, boxed(occlusion=occlusion))
    np.testing.assert_equal(only_box(tmp_path).visibility, visibility)


@pytest.mark.parametrize(
    ("told", "share"), [(0.0, np.nan), (0.25, 0.25), (1, 1), (-1, np.nan), (7, np.nan)]
)
def test_truncation_of_zero_says_nothing(tmp_path, told, share):
    add(tmp_path, boxed(truncation=told))
    np.testing.assert_equal(only_box(tmp_path).truncation, share)


def test_damaged_numbers_are_unknown(tmp_path):
    pose = {"translation": {"x": "1", "z": 20}, "rotation": {"qw": 0, "qx": 0, "qy": 0, "qz": 0}}
    add(tmp_path, boxed(pose=pose, width=None, length=True) | {"num_points": "many"})
    box = only_box(tmp_path)
    np.testing.assert_array_equal(box.center, [np.nan, np.nan, 20])
    np.testing.assert_array_equal(box.dimensions, [np.nan, 1.5, np.nan])
    assert np.isnan(box.rotation).any()
    assert np.isnan(box.points)


def test_a_box_without_its_2d_box_has_none(tmp_path):
    add(tmp_path, BOX_3D | {"instance_id": 78})
    assert only_box(tmp_path).bbox_px is None
    nameless = BOX_3D | {"instance_id": None}, BOX_2D | {"instance_id": None}
    for place, annotation in zip(("3d/CAM/2", "2d/CAM/1"), nameless, strict=True):
        write(tmp_path, f"bounding_box_{place}.json", {"annotations": [annotation]})
    assert only_box(tmp_path).bbox_px is None


def test_a_scene_with_no_box_and_one_of_the_lidar_alone(tmp_path):
    add(tmp_path)
    write(tmp_path, "bounding_box_3d/CAM/2.json", {"annotations": []})
    [scene] = read(tmp_path)
    assert scene.objects == []
    write(tmp_path, "scene_1f.json", small_scene() | {"data": [datum(annotations={})]})
    [scene] = read(tmp_path)
    assert scene.problem.reason == "annotations_missing"
    assert scene.problem.detail == "the scene names no 3D boxes of the image"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bounding_box_3d/CAM/2.json", "annotations"),
        ("bounding_box_2d/CAM/1.json", "annotations"),
        ("calibration/cal.json", "camera"),
        ("ontology/ont.json", "ontology"),
    ],
)
def test_a_file_missing_or_cut_leaves_its_images_unread(tmp_path, name, reason):
    add(tmp_path)
    write(tmp_path, name, '{"annotations": [')
    [cut] = read(tmp_path)
    (tmp_path / name).unlink()
    [missing] = read(tmp_path)
    assert (cut.id, cut.image) == ("rgb/CAM/1", "rgb/CAM/1.jpg")
    assert cut.problem.reason == f"{reason}_unreadable"
    assert cut.problem.detail.startswith(f"{name} is not JSON")
    assert missing.problem.reason == f"{reason}_missing"


def test_one_calibration_and_ontology_for_a_folder(tmp_path):
    add(tmp_path)
    (tmp_path / "calibration/cal.json").rename(tmp_path / "calibration.json")
    (tmp_path / "ontology/ont.json").rename(tmp_path / "ontology.json")
    assert only_box(tmp_path).category == "Car"


@pytest.mark.parametrize(
    ("lens", "reason", "told"),
    [
        (LENS | {"fisheye": 1, "k1": 0.2, "k2": 0}, "camera_distorted", "CAM: fisheye, k1: no"),
        (LENS | {"fx": "wide"}, "camera_unreadable", "CAM is not the matrix of a pinhole camera"),
        ({}, "camera_unreadable", "CAM is not the matrix of a pinhole camera"),
    ],
)
def test_a_camera_that_is_no_pinhole_is_unread(tmp_path, lens, reason, told):
    add(tmp_path, lens=lens)
    [scene] = read(tmp_path)
    assert scene.problem.reason == reason
    assert scene.problem.detail.startswith(told)


def test_a_skew_stands_in_the_matrix(tmp_path):
    add(tmp_path, lens=LENS | {"skew": 3.0, "fov": 1.2, "k1": 0.0})
    [scene] = read(tmp_path)
    assert scene.intrinsics[0].tolist() == [500, 3, 320]


@pytest.mark.parametrize(
    ("change", "reason", "told"),
    [
        (
            {"data": [datum(width=0)]},
            "image_size_missing",
            "width is 0, not a whole number above 0",
        ),
        ({"samples": []}, "camera_missing", "calibration.json is not there"),
        ({"samples": [{"datum_keys": 3}, 4]}, "camera_missing", "calibration.json is not there"),
        ({"ontologies": 7}, "ontology_missing", "ontology.json is not there"),
        (
            {"data": [datum(annotations={"1": "../../2.json"})]},
            "annotations_missing",
            "../../2.json",
        ),
        ({"data": [datum(annotations={"1": ["a"]})]}, "annotations_missing", "['a'] is not there"),
        (
            {"data": [datum() | {"id": {"name": "OTHER"}}]},
            "camera_missing",
            "the calibration has no camera OTHER",
        ),
    ],
)
def test_a_broken_scene_file_leaves_the_image_unread(tmp_path, change, reason, told):
    add(tmp_path)
    write(tmp_path, "scene_1f.json", small_scene() | change)
    [scene] = read(tmp_path)
    assert (scene.image, scene.problem.reason) == ("rgb/CAM/1.jpg", reason)
    assert scene.problem.detail.startswith(told)


def test_a_class_that_the_ontology_does_not_name_leaves_the_image_unread(tmp_path):
    for class_id in (0, 9, None, "2"):
        add(tmp_path, BOX_3D | {"class_id": class_id})
        [scene] = read(tmp_path)
        assert scene.problem.reason == "category_unknown"
        assert scene.problem.detail == f"the ontology has no name for {class_id!r}"


def test_lists_of_anything_are_read_without_a_stop(tmp_path):
    add(tmp_path)
    write(tmp_path, "bounding_box_2d/CAM/1.json", {"annotations": [None, 3, {"instance_id": [1]}]})
    assert only_box(tmp_path).bbox_px is None
    write(tmp_path, "bounding_box_3d/CAM/2.json", {"annotations": {"0": BOX_3D}})
    [scene] = read(tmp_path)
    assert scene.problem.detail == "bounding_box_3d/CAM/2.json has no list 'annotations'"


def test_a_folder_of_scenes_is_read_in_order_and_a_damaged_scene_is_one_unread(tmp_path):
    for name in ("b/2", "a"):
        add(tmp_path / name)
    add(tmp_path / "c")
    write(tmp_path, "c/scene_1f.json", '{"data": [')
    write(tmp_path, "d/scene_1.json", {"data": 5})
    add(tmp_path / "e")
    write(tmp_path, "e/scene_2.json", small_scene())
    write(tmp_path, "scene_dataset_v1.0.json", {"scene_splits": {}})
    (tmp_path / "loop").symlink_to(tmp_path)
    scenes = read(tmp_path)
    assert [scene.image for scene in scenes[:2]] == ["a/rgb/CAM/1.jpg", "b/2/rgb/CAM/1.jpg"]
    assert [(s.id, s.image, s.problem.reason) for s in scenes[2:]] == [
        ("c/scene_1f.json", "", "annotations_unreadable"),
        ("d/scene_1.json", "", "annotations_unreadable"),
        ("e/scene_1f.json", "", "scene_ambiguous"),
    ]
    chosen = read(tmp_path / "e", scene_files="scene_2.json")
    assert [len(scene.objects) for scene in chosen] == [1]


def test_problems_image_and_fingerprint(tmp_path):
    source = Dgp(name="d", layout="dgp", path=tmp_path)
    assert source.problems() == [f"scene_files: {tmp_path} holds no folder with a file scene*.json"]
    add(tmp_path / "a")
    assert source.problems() == []
    first = source.fingerprint()
    assert first["files"] == 5
    write(tmp_path, "a/rgb/CAM/1.jpg", "picture")
    assert source.image("a/rgb/CAM/1.jpg") == b"picture"
    assert source.image("a/rgb/CAM/2.jpg") is None
    assert source.fingerprint() == first
    write(tmp_path, "a/bounding_box_3d/CAM/2.json", {"annotations": []})
    assert source.fingerprint()["sha256"] != first["sha256"]
    gone = Dgp(name="d", layout="dgp", path=tmp_path / "no")
    assert gone.problems() == [f"path: {tmp_path / 'no'}: no such folder"]


@pytest.mark.shared
def test_the_real_moment_stands_where_it_was_worked_out_by_hand(shared_data):
    root = shared_data / "spatial3d"
    told = json.loads((root / "derived/omni3d_style_dev.json").read_text())
    ids = {i["file_path"].partition("dgp/")[2]: i["id"] for i in told["images"]}
    scenes = read(root / "dgp")
    found = [scene for scene in scenes if isinstance(scene, Scene)]
    assert [len(scene.objects) for scene in found] == [3, 5, 1, 1, 0, 3]
    for scene in found:
        expected = [a for a in told["annotations"] if a["image_id"] == ids[scene.image]]
        assert [box.category for box in scene.objects] == [a["category_name"] for a in expected]
        for name, key in {
            "center": "center_cam",
            "dimensions": "dimensions",
            "rotation": "R_cam",
        }.items():
            ours = [getattr(box, name) for box in scene.objects]
            np.testing.assert_allclose(ours, [a[key] for a in expected], atol=1e-12)
        assert not scene.objects or mean_iou(scene) > 0.935
    # The scene tells of two further moments, whose files are not there.
    assert {scene.problem.reason for scene in scenes[6:]} == {"annotations_missing"}
    assert len(scenes) == 18
