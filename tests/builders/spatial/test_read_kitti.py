"""KITTI's object benchmark, and Waymo in its layout."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from making import make_picture
from pydantic import ValidationError
from spatial_making import mean_iou

from vila2data.builders.spatial_relation_qa.scene import Cuboid, Scene, Unread
from vila2data.builders.spatial_relation_qa.sources.kitti import Kitti, WaymoKitti

CAR = "Car 0.25 1 -1.5 10 20 30 40 1.5 1.6 3.9 2 1.7 20 0"
P2 = "P2: 700 0 600 70 0 500 150 -50 0 0 1 0\n"
DONT_CARE = "DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10"


def write(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def add(folder: Path, label: str = CAR, calib: str = P2, id: str = "000008") -> None:
    write(folder, f"image_2/{id}.png", make_picture(1))
    write(folder, f"label_2/{id}.txt", label)
    write(folder, f"calib/{id}.txt", "P0: 1 0 0 0 0 1 0 0 0 0 1 0\n" + calib)


def read(folder: Path) -> list[Scene | Unread]:
    return list(Kitti(name="kitti", layout="kitti", path=folder).scenes(folder))


def only_box(folder: Path) -> Cuboid:
    [scene] = read(folder)
    [box] = scene.objects
    return box


def test_the_box_stands_half_a_height_above_its_place_and_beside_camera_0(tmp_path):
    add(tmp_path)
    [scene] = read(tmp_path)
    assert (scene.id, scene.image) == ("000008", "image_2/000008.png")
    assert (scene.width, scene.height) == (31, 31)
    assert scene.intrinsics.tolist() == [[700, 0, 600], [0, 500, 150], [0, 0, 1]]
    [box] = scene.objects
    assert box.category == "Car"
    np.testing.assert_allclose(box.center, [2 + 0.1, 1.7 - 0.1 - 0.75, 20], atol=1e-12)
    assert box.dimensions == [1.6, 1.5, 3.9]
    assert box.rotation.tolist() == np.eye(3).tolist()
    assert (tuple(box.bbox_px), box.truncation) == ((10, 20, 30, 40), 0.25)
    assert np.isnan([box.points, box.depth_error]).all()


def test_a_third_entry_of_the_fourth_column_moves_along_the_axis(tmp_path):
    add(tmp_path, calib="P2: 700 0 600 600.5 0 500 150 150.0 0 0 1 1\n")
    # K [0.5/700, 0, 1] is the column, so the shift is one metre ahead.
    np.testing.assert_allclose(only_box(tmp_path).center, [2 + 0.5 / 700, 0.95, 21], atol=1e-12)


def test_the_turn_is_about_the_axis_that_points_down(tmp_path):
    add(tmp_path, CAR.rpartition(" ")[0] + f" {-np.pi / 2}")
    length, down, width = only_box(tmp_path).rotation.T
    np.testing.assert_allclose(length, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(down, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(width, [-1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("word", "visibility"),
    [("0", 1.0), ("1", 0.75), ("2", 0.25), ("3", np.nan), ("-1", np.nan), ("x", np.nan)],
)
def test_occlusion_becomes_a_visible_share(tmp_path, word, visibility):
    add(tmp_path, CAR.replace("0.25 1", f"0.25 {word}"))
    np.testing.assert_equal(only_box(tmp_path).visibility, visibility)


@pytest.mark.parametrize(("word", "share"), [("0", 0), ("1.00", 1), ("-1", np.nan), ("8", np.nan)])
def test_truncation_is_a_share_or_unknown(tmp_path, word, share):
    add(tmp_path, CAR.replace("0.25", word))
    np.testing.assert_equal(only_box(tmp_path).truncation, share)


def test_what_nobody_cared_to_label_is_no_object_and_a_score_is_ignored(tmp_path):
    add(tmp_path, f"{DONT_CARE}\n{CAR} 0.5\n\n{CAR}\n")
    [scene] = read(tmp_path)
    first, second = scene.objects
    assert first.center == second.center


def test_broken_words_and_short_lines_are_unknown_numbers(tmp_path):
    add(tmp_path, "Car 0 0 0 1 2 3 4 tall 1.6 inf 2 1.7 nan inf\nVan 0 0 0 1 2")
    [scene] = read(tmp_path)
    car, van = scene.objects
    np.testing.assert_array_equal(car.center, [2.1, np.nan, np.nan])
    np.testing.assert_array_equal(car.dimensions, [1.6, np.nan, np.nan])
    assert np.isnan(car.rotation[0, 0])
    assert van.visibility == 1.0
    assert np.isnan([*van.center, *van.dimensions, *van.bbox_px[2:]]).all()


@pytest.mark.parametrize(
    ("calib", "told"),
    [
        ("", "P2 must hold 12 numbers"),
        ("P2: 700 0 600", "P2 must hold 12 numbers"),
        ("P2: 700 0 600 x 0 500 150 0 0 0 1 0", "P2 must hold 12 numbers"),
        ("P2: 0 0 600 0 0 500 150 0 0 0 1 0", "P2 is not the matrix of a pinhole camera"),
        ("P2: 700 0 600 0 0 500 150 0 0 0 2 0", "P2 is not the matrix of a pinhole camera"),
    ],
)
def test_a_broken_projection_leaves_one_scene_unread(tmp_path, calib, told):
    add(tmp_path, id="1")
    add(tmp_path, id="2", calib=calib)
    good, bad = read(tmp_path)
    assert isinstance(good, Scene)
    assert (bad.id, bad.image, bad.problem.reason) == ("2", "image_2/2.png", "camera_unreadable")
    assert bad.problem.detail == told


@pytest.mark.parametrize(
    ("missing", "reason"), [("calib/7.txt", "camera_missing"), ("image_2/7.png", "image_missing")]
)
def test_a_missing_file_leaves_one_scene_unread(tmp_path, missing, reason):
    add(tmp_path, id="7")
    (tmp_path / missing).unlink()
    [scene] = read(tmp_path)
    assert (scene.problem.reason, scene.problem.detail) == (reason, f"{missing} is not there")


def test_problems_image_and_fingerprint(tmp_path):
    source = Kitti(name="k", layout="kitti", path=tmp_path)
    assert source.problems() == [f"label_files: {tmp_path} holds no file like label_2/{{id}}.txt"]
    add(tmp_path)
    assert source.problems() == []
    assert source.image("image_2/000008.png") == make_picture(1)
    assert source.image("/etc/hostname") is None
    assert source.fingerprint()["files"] == 2


def official(folder: Path, info: dict) -> None:
    """Writes one sample of mmdetection3d's info as the benchmark's own files."""
    lines = []
    for car in info["instances"]:
        x, y, z, length, height, width, yaw = car["bbox_3d"]
        name = "Car" if car["bbox_label_3d"] == 2 else "DontCare"
        words = [car["truncated"], car["occluded"], car["alpha"], *car["bbox"]]
        words += [height, width, length, x, y, z, yaw]
        lines.append(" ".join([name, *map(str, words)]))
    write(folder, "label_2/000008.txt", "\n".join(lines) + "\n")


@pytest.mark.shared
def test_the_real_street_stands_where_it_was_worked_out_by_hand(shared_data, tmp_path):
    real = shared_data / "spatial3d/kitti/000008"
    official(tmp_path, json.loads((real / "000008.info.json").read_text())["data_list"][0])
    p2 = (real / "000008.P2.txt").read_text().split()[:12]
    write(tmp_path, "calib/000008.txt", "P2: " + " ".join(p2))
    write(tmp_path, "image_2/000008.png", (real / "000008.png").read_bytes())
    [scene] = read(tmp_path)
    told = json.loads((shared_data / "spatial3d/derived/omni3d_style_dev.json").read_text())
    expected = [a for a in told["annotations"] if a["image_id"] == 1]
    assert (scene.width, scene.height) == (1242, 375)
    assert scene.intrinsics.tolist() == told["images"][0]["K"]
    assert len(scene.objects) == len(expected) == 6
    for name, key in [
        ("center", "center_cam"),
        ("dimensions", "dimensions"),
        ("rotation", "R_cam"),
    ]:
        ours = [getattr(box, name) for box in scene.objects]
        np.testing.assert_allclose(ours, [a[key] for a in expected], atol=1e-9)
    np.testing.assert_equal(
        [box.visibility for box in scene.objects], [np.nan, 0.75, np.nan, 0.75, 1.0, 1.0]
    )
    assert mean_iou(scene) == pytest.approx(0.98, abs=0.005)


# Waymo: the vehicle has x forward, y left, z up; the cameras here sit 2 m above its origin.

FRONT = np.array([[0, -1, 0, 0], [0, 0, -1, 2], [1, 0, 0, 0], [0, 0, 0, 1.0]])
TURN_LEFT = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def waymo_calibration(front: np.ndarray = FRONT, left: np.ndarray = FRONT @ TURN_LEFT) -> str:
    """Camera 1 looks to the left, the others ahead."""
    lines = [f"P{camera}: 10 0 15 0 0 10 15 0 0 0 1 0" for camera in range(5)]
    for camera in range(5):
        numbers = " ".join(map(str, (left if camera == 1 else front)[:3].flatten()))
        lines.append(f"Tr_velo_to_cam_{camera}: {numbers}")
    return "\n".join(lines)


def waymo_line(
    bottom: Sequence[float], heading: float, *, front: np.ndarray = FRONT, box: str = "1 2 3 4"
) -> str:
    """A box of height 1.5, width 1.6, length 3.9 on the vehicle's place ``bottom``, as the
    converter writes it.
    """
    x, y, z = (front @ [*bottom, 1])[:3]
    return f"Car 0 0 -10 {box} 1.5 1.6 3.9 {x} {y} {z} {-heading - np.pi / 2}"


def add_waymo(folder: Path, labels: dict[int, str], calib: str | None = None) -> None:
    write(folder, "calib/0000000.txt", calib or waymo_calibration())
    for camera in range(5):
        write(folder, f"image_{camera}/0000000.png", make_picture(1))
    for camera, text in labels.items():
        write(folder, f"label_{camera}/0000000.txt", text)


def read_waymo(folder: Path, cameras: Sequence[int] = (0, 1)) -> list[Scene | Unread]:
    source = WaymoKitti(name="waymo", layout="waymo_kitti", path=folder, cameras=cameras)
    return list(source.scenes(folder))


def test_a_box_of_a_side_camera_is_told_in_the_front_cameras_frame(tmp_path):
    # Ten metres to the left of the vehicle, heading ahead: before camera 1, seen from its side.
    add_waymo(tmp_path, {1: waymo_line([0, 10, 0], heading=0)})
    front, left = read_waymo(tmp_path)
    assert (front.id, front.image) == ("0000000_0", "image_0/0000000.png")
    assert front.objects == []
    assert left.id == "0000000_1"
    [box] = left.objects
    np.testing.assert_allclose(box.center, [0, 2 - 0.75, 10], atol=1e-9)
    assert box.dimensions == [1.6, 1.5, 3.9]
    np.testing.assert_allclose(box.rotation, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], atol=1e-9)
    assert tuple(box.bbox_px) == (1, 2, 3, 4)
    assert np.isnan([box.visibility, box.truncation, box.points]).all()


def test_the_front_camera_agrees_with_kittis_own_reading(tmp_path):
    line = waymo_line([12, -3, 0.2], heading=0.7)
    add_waymo(tmp_path, {0: line})
    [box] = read_waymo(tmp_path, [0])[0].objects
    add(tmp_path, line, "P2: 20 0 15 0 0 20 15 0 0 0 1 0")
    same = only_box(tmp_path)
    np.testing.assert_allclose(box.center, same.center, atol=1e-9)
    np.testing.assert_allclose(box.rotation, same.rotation, atol=1e-9)


def test_a_tilted_front_camera_does_not_tilt_the_box_in_the_world(tmp_path):
    # The front camera looks down by 0.1 rad; the box stands upright on the road all the same.
    cos, sin = np.cos(0.1), np.sin(0.1)
    down = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1.0]])
    tilted = down @ FRONT
    label = waymo_line([10, 0, 0], heading=0.3, front=tilted)
    add_waymo(tmp_path, {0: label}, waymo_calibration(front=tilted))
    [box] = read_waymo(tmp_path, [0])[0].objects
    np.testing.assert_allclose(box.center, (tilted @ [10, 0, 0.75, 1])[:3], atol=1e-9)
    np.testing.assert_allclose(box.rotation[:, 1], tilted[:3, :3] @ [0, 0, -1], atol=1e-9)
    heading = [np.cos(0.3), np.sin(0.3), 0]
    np.testing.assert_allclose(box.rotation[:, 0], tilted[:3, :3] @ heading, atol=1e-9)


def test_an_object_of_one_file_is_in_every_image_that_it_reaches(tmp_path):
    # At 45 degrees between two cameras of 112 degrees each; its 2D box is of camera 0 alone.
    add_waymo(tmp_path, {0: waymo_line([10, 10, 0], heading=0.5)})
    front, left = read_waymo(tmp_path)
    assert [tuple(box.bbox_px) for box in front.objects] == [(1, 2, 3, 4)]
    assert [box.bbox_px for box in left.objects] == [None]


def test_objects_that_no_camera_sees_are_left_out(tmp_path):
    behind = waymo_line([-10, 0, 0], heading=0, box="0 0 0 0")
    add_waymo(tmp_path, {0: f"{behind}\n{waymo_line([10, 0, 0], 0, box='0 0 0 0')}"})
    front, left = read_waymo(tmp_path)
    [box] = front.objects
    assert box.bbox_px is None
    assert left.objects == []


def test_an_object_with_a_2d_box_stays_though_its_3d_box_lies_elsewhere(tmp_path):
    add_waymo(tmp_path, {0: waymo_line([-10, 0, 0], heading=0)})
    front, left = read_waymo(tmp_path)
    assert [box.center[2] for box in front.objects] == [-10]
    assert left.objects == []


def test_a_box_counts_once_however_often_it_is_written(tmp_path):
    line = waymo_line([10, 10, 0], heading=0)
    other = waymo_line([10, 10, 0], heading=0, box="5 6 7 8")
    add_waymo(tmp_path, {0: f"{line}\n{line}\n", 1: other})
    front, left = read_waymo(tmp_path)
    assert [tuple(box.bbox_px) for box in front.objects] == [(1, 2, 3, 4)]
    assert [tuple(box.bbox_px) for box in left.objects] == [(5, 6, 7, 8)]


def test_a_damaged_number_keeps_the_box_in_every_image_as_unknown(tmp_path):
    add_waymo(tmp_path, {0: "Car 0 0 -10 1 2 3 4 1.5 1.6 3.9 ? 1 2 0\n" + waymo_line([9, 0, 0], 0)})
    [damaged, whole], [elsewhere] = (scene.objects for scene in read_waymo(tmp_path))
    assert np.isnan(damaged.center).any()
    assert not np.isnan(whole.center).any()
    assert np.isnan(elsewhere.center).any()


def test_a_frame_without_calibration_leaves_each_of_its_images_unread(tmp_path):
    add_waymo(tmp_path, {2: waymo_line([9, 0, 0], 0)})
    (tmp_path / "calib/0000000.txt").unlink()
    scenes = read_waymo(tmp_path, [0, 3])
    assert [(scene.id, scene.problem.reason) for scene in scenes] == [
        ("0000000_0", "camera_missing"),
        ("0000000_3", "camera_missing"),
    ]


def test_a_broken_camera_leaves_its_image_unread_alone(tmp_path):
    calib = waymo_calibration(left=np.zeros((4, 4)))
    add_waymo(tmp_path, {0: waymo_line([9, 0, 0], 0)}, calib)
    (tmp_path / "image_2/0000000.png").unlink()
    front, left, right = read_waymo(tmp_path, [0, 1, 2])
    assert len(front.objects) == 1
    assert left.problem.detail == "Tr_velo_to_cam_1 is no rotation and shift"
    assert (right.image, right.problem.reason) == ("image_2/0000000.png", "image_missing")


def test_waymo_problems_patterns_and_fingerprint(tmp_path):
    source = WaymoKitti(name="w", layout="waymo_kitti", path=tmp_path)
    [problem] = source.problems()
    assert problem.startswith(f"label_files: {tmp_path} holds no file like label_0/{{id}}.txt or")
    add_waymo(tmp_path, {3: waymo_line([9, 0, 0], 0)})
    assert source.problems() == []
    assert source.fingerprint()["files"] == 2
    assert source.image("image_4/0000000.png") == make_picture(1)
    with pytest.raises(ValidationError, match=r"must hold \{camera\}"):
        WaymoKitti(name="w", layout="waymo_kitti", path=tmp_path, label_files="label_all/{id}.txt")
    with pytest.raises(ValidationError, match="Input should be 0, 1, 2, 3 or 4"):
        WaymoKitti(name="w", layout="waymo_kitti", path=tmp_path, cameras=[5])
