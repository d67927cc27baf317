"""nuScenes from its tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vila2data.builders.spatial_relation_qa.scene import Cuboid, Scene, Unread
from vila2data.builders.spatial_relation_qa.sources.nuscenes import NuScenes
from vila2data.cuboids import corners, projected_boxes
from vila2data.errors import BadInput

AHEAD = [0.5, -0.5, 0.5, -0.5]
"""A camera's axes (right, down, forward) in a vehicle's (forward, left, up)."""
NO_TURN = [1, 0, 0, 0]
HALF_LEFT = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]
"""A quarter turn to the left, about the axis that points up."""
K = [[100, 0, 50], [0, 100, 40], [0, 0, 1]]


def small_tables() -> dict[str, list[dict[str, Any]]]:
    """One sample, one front camera two metres above the ground, one car ten metres ahead."""
    return {
        "sensor": [
            {"token": "s1", "channel": "CAM_FRONT", "modality": "camera"},
            {"token": "s2", "channel": "LIDAR_TOP", "modality": "lidar"},
        ],
        "calibrated_sensor": [
            calibrated("c1", "s1", [0, 0, 2], AHEAD, K),
            calibrated("c2", "s2", [0, 0, 2], NO_TURN, []),
        ],
        "sample_data": [image("i1", "a"), image("l1", "a", sensor="c2")],
        "ego_pose": [{"token": "e1", "translation": [0, 0, 0], "rotation": NO_TURN}],
        "sample_annotation": [annotation("a", [10, 1, 0.75])],
        "instance": [{"token": "n1", "category_token": "k1", "nbr_annotations": 1}],
        "category": [{"token": "k1", "name": "vehicle.car", "description": ""}],
        "visibility": [
            {"token": str(n), "level": level, "description": ""}
            for n, level in enumerate(["v0-40", "v40-60", "v60-80", "v80-100"], start=1)
        ],
    }


def calibrated(token: str, sensor: str, place: list, turn: list, matrix: list) -> dict[str, Any]:
    return {
        "token": token,
        "sensor_token": sensor,
        "translation": place,
        "rotation": turn,
        "camera_intrinsic": matrix,
    }


def image(token: str, sample: str, *, sensor: str = "c1", pose: str = "e1", **other) -> dict:
    return {
        "token": token,
        "sample_token": sample,
        "ego_pose_token": pose,
        "calibrated_sensor_token": sensor,
        "filename": f"samples/CAM_FRONT/{token}.jpg",
        "width": 100,
        "height": 80,
        "is_key_frame": True,
        **other,
    }


def annotation(
    sample: str, place: list, *, turn: list = NO_TURN, token: str = "t", **other
) -> dict:
    return {
        "token": token,
        "sample_token": sample,
        "instance_token": "n1",
        "visibility_token": "4",
        "translation": place,
        "size": [1.6, 3.9, 1.5],
        "rotation": turn,
        "num_lidar_pts": 7,
        "num_radar_pts": 2,
        **other,
    }


def write(folder: Path, tables: dict[str, list], version: str = "v1.0-mini") -> None:
    (folder / version).mkdir(exist_ok=True)
    for name, rows in tables.items():
        (folder / version / f"{name}.json").write_text(json.dumps(rows, indent=0))


def source(folder: Path, **keys) -> NuScenes:
    return NuScenes(name="nu", layout="nuscenes", path=folder, version="v1.0-mini", **keys)


def read(folder: Path, tables: dict[str, list] | None = None, **keys) -> list[Scene | Unread]:
    if tables is not None:
        write(folder, tables)
    return list(source(folder, **keys).scenes(folder))


def only_box(folder: Path, tables: dict[str, list]) -> Cuboid:
    [scene] = read(folder, tables)
    [box] = scene.objects
    return box


def test_a_car_ahead_reaches_the_camera(tmp_path):
    [scene] = read(tmp_path, small_tables())
    assert (scene.id, scene.image) == ("i1", "samples/CAM_FRONT/i1.jpg")
    assert (scene.width, scene.height, scene.intrinsics.tolist()) == (100, 80, K)
    [box] = scene.objects
    assert box.category == "vehicle.car"
    np.testing.assert_allclose(box.center, [-1, 2 - 0.75, 10], atol=1e-12)
    assert box.dimensions == [1.6, 1.5, 3.9]
    length, down, width = box.rotation.T
    np.testing.assert_allclose(length, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(down, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(width, [-1, 0, 0], atol=1e-12)
    assert (box.visibility, box.points, box.bbox_px) == (0.9, 7, None)
    assert np.isnan(box.truncation)


def test_each_image_uses_the_vehicles_pose_at_its_own_time(tmp_path):
    tables = small_tables()
    tables["sample_data"] = [image("i1", "a"), image("i2", "a", pose="e2")]
    tables["ego_pose"].append({"token": "e2", "translation": [4, 0, 0], "rotation": NO_TURN})
    first, second = read(tmp_path, tables)
    np.testing.assert_allclose(first.objects[0].center, [-1, 1.25, 10], atol=1e-12)
    np.testing.assert_allclose(second.objects[0].center, [-1, 1.25, 6], atol=1e-12)


def test_turns_of_vehicle_camera_and_box_add_up(tmp_path):
    tables = small_tables()
    # The vehicle heads north, its camera looks to its left, so west; the box heads north.
    tables["ego_pose"][0] |= {"translation": [100, 200, 0], "rotation": HALF_LEFT}
    left = product(HALF_LEFT, AHEAD)
    tables["calibrated_sensor"][0] = calibrated("c1", "s1", [1, 0, 2], left, K)
    tables["sample_annotation"] = [annotation("a", [92, 201, 0.5], turn=HALF_LEFT)]
    box = only_box(tmp_path, tables)
    np.testing.assert_allclose(box.center, [0, 1.5, 8], atol=1e-12)
    np.testing.assert_allclose(box.rotation, np.eye(3), atol=1e-12)


def product(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Of quaternions: first b, then a."""
    w, x, y, z = a
    left = [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]]
    return (np.array(left) @ b).tolist()


@pytest.mark.parametrize(
    ("token", "visibility"), [("1", 0.2), ("2", 0.5), ("3", 0.7), ("4", 0.9), ("", np.nan)]
)
def test_visibility_is_the_middle_of_its_level(tmp_path, token, visibility):
    tables = small_tables()
    tables["sample_annotation"][0]["visibility_token"] = token
    np.testing.assert_equal(only_box(tmp_path, tables).visibility, visibility)


def test_boxes_of_other_cameras_are_left_out(tmp_path):
    places = {
        "ahead": [10, 0, 1],
        "behind": [-10, 0, 1],
        "beside": [10, 30, 1],
        "above": [9, 0, 99],
    }
    tables = small_tables()
    tables["sample_annotation"] = [
        annotation("a", place, token=name, num_lidar_pts=n)
        for n, (name, place) in enumerate(places.items())
    ]
    assert only_box(tmp_path, tables).points == 0


def test_a_box_partly_in_the_image_stays(tmp_path):
    tables = small_tables()
    # Its centre is 6 m to the left at 10 m ahead, one metre out of the image; its length reaches in.
    tables["sample_annotation"] = [annotation("a", [10, 6, 1], turn=HALF_LEFT)]
    assert only_box(tmp_path, tables).center[0] == pytest.approx(-6)


def test_only_key_frames_of_the_named_cameras_are_read(tmp_path):
    tables = small_tables()
    tables["sensor"].append({"token": "s3", "channel": "CAM_BACK", "modality": "camera"})
    tables["calibrated_sensor"].append(calibrated("c3", "s3", [0, 0, 2], AHEAD, K))
    tables["sample_data"] += [
        image("i2", "a", is_key_frame=False),
        image("i3", "a", sensor="c3", filename="samples/CAM_BACK/i3.jpg"),
    ]
    assert [scene.id for scene in read(tmp_path, tables)] == ["i3", "i1"]
    assert [scene.id for scene in read(tmp_path, cameras=["CAM_BACK"])] == ["i3"]
    assert read(tmp_path, cameras=["' OR 'x' = 'x"]) == []


def test_images_come_with_the_boxes_of_their_own_sample_in_order(tmp_path):
    tables = small_tables()
    samples = ["d", "a", "c", "b"]
    tables["sample_data"] = [image(f"i{s}", s) for s in samples]
    tables["sample_annotation"] = [
        annotation("c", [11, 0, 1], token="z"),
        annotation("c", [12, 0, 1], token="y"),
        annotation("0", [13, 0, 1]),
        annotation("bb", [14, 0, 1]),
        annotation("d", [15, 0, 1]),
        annotation("e", [16, 0, 1]),
    ]
    found = {s.id: [round(box.center[2]) for box in s.objects] for s in read(tmp_path, tables)}
    assert found == {"ia": [], "ib": [], "ic": [12, 11], "id": [15]}
    assert list(found) == ["ia", "ib", "ic", "id"]


def test_records_without_a_sample_belong_nowhere(tmp_path):
    tables = small_tables()
    tables["sample_data"].append(image("i2", "a", sample_token=None))
    tables["sample_annotation"].append(annotation("a", [9, 0, 1], sample_token=None))
    [scene] = read(tmp_path, tables)
    assert (scene.id, len(scene.objects)) == ("i1", 1)


def test_a_split_without_annotations_has_scenes_without_objects(tmp_path):
    [scene] = read(tmp_path, small_tables() | {"sample_annotation": [], "instance": []})
    assert scene.objects == []


@pytest.mark.parametrize(
    ("column", "value", "read_as"),
    [
        ("translation", [10, None, "x"], [np.nan] * 3),
        ("translation", "far", [np.nan] * 3),
        ("translation", [1e999, 0, 0], [np.nan] * 3),
        ("translation", [10, 0], [np.nan] * 3),
        ("rotation", [0, 0, 0, 0], [0, 2, 10]),
    ],
)
def test_damaged_numbers_are_unknown_and_their_box_stays(tmp_path, column, value, read_as):
    tables = small_tables()
    tables["sample_annotation"][0] |= {"translation": [10, 0, 0], column: value}
    tables["sample_annotation"].append(annotation("a", [9, 0, 1], token="u"))
    [scene] = read(tmp_path, tables)
    damaged, whole = scene.objects
    np.testing.assert_allclose(damaged.center, read_as, atol=1e-12)
    np.testing.assert_allclose(whole.center, [0, 1, 9], atol=1e-12)
    assert np.isnan(damaged.rotation).any() == (column == "rotation")


def test_a_size_or_count_that_is_no_number_is_unknown(tmp_path):
    tables = small_tables()
    tables["sample_annotation"][0] |= {"size": [1.6, "long", 1e999], "num_lidar_pts": {}}
    box = only_box(tmp_path, tables)
    np.testing.assert_array_equal(box.dimensions, [1.6, np.nan, np.nan])
    assert np.isnan(box.points)


@pytest.mark.parametrize(
    ("table", "change", "reason", "told"),
    [
        ("calibrated_sensor", {"camera_intrinsic": []}, "camera_unreadable", "camera_intrinsic is"),
        ("calibrated_sensor", {"rotation": None}, "camera_unreadable", "the pose of the camera is"),
        ("ego_pose", {"token": "gone"}, "camera_unreadable", "the pose of the ego is missing"),
        ("ego_pose", {"rotation": [0, 0, 0, 0]}, "camera_unreadable", "the pose of the ego is"),
        ("sample_data", {"width": 0}, "image_size_missing", "width is 0, not a whole number above"),
        ("sample_data", {"height": "x"}, "image_size_missing", "height is None, not a whole"),
        ("instance", {"token": "gone"}, "category_unknown", "an annotation's instance leads to no"),
        ("category", {"name": ""}, "category_unknown", "an annotation's instance leads to no"),
    ],
)
def test_a_broken_record_leaves_its_images_unread(tmp_path, table, change, reason, told):
    tables = small_tables()
    tables[table][0] |= change
    [scene] = read(tmp_path, tables)
    assert (scene.id, scene.image) == ("i1", "samples/CAM_FRONT/i1.jpg")
    assert scene.problem.reason == reason
    assert scene.problem.detail.startswith(told)


@pytest.mark.parametrize(
    "damage",
    ['[{"token": "a", "translation": [1, 2', '{"token": "a"}', "", "\x00", '["a", 3]', "[{},"],
)
def test_a_table_cut_short_is_named(tmp_path, damage):
    write(tmp_path, small_tables())
    (tmp_path / "v1.0-mini/ego_pose.json").write_text(damage)
    with pytest.raises(
        BadInput, match=r"ego_pose\.json: must be a JSON array of records: "
    ) as told:
        read(tmp_path)
    assert "\n" not in str(told.value)


def test_problems_name_missing_tables_and_channels(tmp_path):
    write(tmp_path, small_tables())
    assert source(tmp_path, cameras=["CAM_FRONT"]).problems() == []
    assert source(tmp_path, cameras=["CAM_FORNT"]).problems() == [
        "cameras: 'CAM_FORNT' is no camera here; accepted: CAM_FRONT"
    ]
    missing = tmp_path / "v1.0-mini/ego_pose.json"
    missing.unlink()
    assert source(tmp_path).problems() == [f"version: {missing}: no such file"]
    with pytest.raises(
        BadInput, match=r"ego_pose\.json: cannot be read: No such file or directory"
    ):
        read(tmp_path)
    gone = source(tmp_path / "no")
    assert gone.problems() == [f"path: {tmp_path / 'no'}: no such folder"]


def test_fingerprint_and_image(tmp_path):
    write(tmp_path, small_tables())
    first = source(tmp_path).fingerprint()
    assert first["files"] == 8
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/1.jpg").write_bytes(b"1")
    assert source(tmp_path).image("samples/1.jpg") == b"1"
    assert source(tmp_path).image("../1.jpg") is None
    assert source(tmp_path).fingerprint() == first


def real_tables(info: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of one sample from mmdetection3d's info; each camera's pose of the vehicle is that
    which its ``lidar2cam`` implies.
    """
    tables = small_tables() | {"sensor": [], "calibrated_sensor": [], "sample_data": []}
    tables |= {"ego_pose": [], "sample_annotation": [], "instance": [], "category": []}
    lidar_to_global = np.array(info["ego2global"]) @ info["lidar_points"]["lidar2ego"]
    for name, camera in info["images"].items():
        mount = np.array(camera["cam2ego"])
        ego = lidar_to_global @ np.linalg.inv(np.array(camera["lidar2cam"])) @ np.linalg.inv(mount)
        tables["sensor"].append({"token": name, "channel": name, "modality": "camera"})
        place, turn = mount[:3, 3].tolist(), quaternion(mount[:3, :3])
        tables["calibrated_sensor"].append(calibrated(name, name, place, turn, camera["cam2img"]))
        pose = {"translation": ego[:3, 3].tolist(), "rotation": quaternion(ego[:3, :3])}
        tables["ego_pose"].append({"token": name, **pose})
        row = image(name, "a", sensor=name, pose=name, width=1600, height=900)
        tables["sample_data"].append(row | {"filename": camera["img_path"]})
    for n, box in enumerate(info["instances"]):
        x, y, z, length, width, height, yaw = box["bbox_3d"]
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        place = (lidar_to_global @ [x, y, z, 1])[:3].tolist()
        row = annotation(
            "a", place, turn=quaternion(lidar_to_global[:3, :3] @ turn), token=f"{n:03}"
        )
        row |= {"size": [width, length, height], "num_lidar_pts": box["num_lidar_pts"]}
        tables["sample_annotation"].append(row | {"instance_token": str(n)})
        tables["instance"].append({"token": str(n), "category_token": str(box["bbox_label_3d"])})
    tables["category"] = [{"token": str(n), "name": f"class {n}"} for n in range(-1, 10)]
    return tables


def quaternion(rotation: np.ndarray) -> list[float]:
    """[w, x, y, z]: the axis that the rotation keeps, from the largest eigenvector."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    form = [
        [a + e + i, h - f, c - g, d - b],
        [h - f, a - e - i, b + d, c + g],
        [c - g, b + d, e - a - i, f + h],
        [d - b, c + g, f + h, i - a - e],
    ]
    return np.linalg.eigh(np.array(form))[1][:, -1].tolist()


@pytest.mark.shared
def test_a_real_moment_agrees_with_the_boxes_given_by_camera(shared_data, tmp_path):
    file = shared_data / "spatial3d/nuscenes/ca9a282c/info.json"
    info = json.loads(file.read_text())["data_list"][0]
    scenes = {scene.id: scene for scene in read(tmp_path, real_tables(info))}
    assert len(scenes) == 6
    checked = 0
    for name, given in info["cam_instances"].items():
        scene = scenes[name]
        assert len(scene.objects) >= len(given)
        centers = np.array([box.center for box in scene.objects])
        for told in given:
            nearest = np.linalg.norm(centers - told["bbox_3d"][:3], axis=1).argmin()
            box = scene.objects[nearest]
            np.testing.assert_allclose(box.center, told["bbox_3d"][:3], atol=1e-3)
            length, height, width = told["bbox_3d"][3:6]
            np.testing.assert_allclose(box.dimensions, [width, height, length], atol=1e-6)
            assert box.category == f"class {told['bbox_label_3d']}"
            # The given turn is that about the camera's own axis, so it leaves the tilt out.
            turn = np.arctan2(-box.rotation[2, 0], box.rotation[0, 0])
            assert np.cos(turn - told["bbox_3d"][6]) > 0.999
            assert iou(scene, box, told["bbox"]) > 0.8
            checked += 1
    assert checked == 84


def iou(scene: Scene, box: Cuboid, given: Sequence[float]) -> float:
    """Of a 2D box with the projected, clipped 3D box."""
    points = corners(*(np.array([part]) for part in (box.center, box.dimensions, box.rotation)))
    projected = projected_boxes(points, scene.intrinsics[None])[0]
    projected = projected.clip(0, [scene.width, scene.height] * 2)
    low, high = np.maximum(projected, given), np.minimum(projected, given)
    shared = (high[2:] - low[:2]).clip(0).prod()
    areas = sum(np.prod(np.subtract(b[2:], b[:2])) for b in (projected, given))
    return float(shared / (areas - shared))
