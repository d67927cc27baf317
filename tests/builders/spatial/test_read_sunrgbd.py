"""SUN RGB-D in the files of VoteNet's extraction."""

import json
from pathlib import Path

import numpy as np
import pytest
from making import make_picture
from pydantic import ValidationError
from spatial_making import mean_iou

from vila2data.builders.spatial_relation_qa.scene import Cuboid, Scene, Unread
from vila2data.builders.spatial_relation_qa.sources.sunrgbd import SunRgbd

LEVEL = "1 0 0 0 1 0 0 0 1\n500 0 0 0 510 0 320 240 1\n"
CHAIR = "chair 10 20 30 40 1 2 3 0.1 0.2 0.3 1 0"


@pytest.fixture
def folder(tmp_path):
    for kind in ("image", "calib", "label"):
        (tmp_path / kind).mkdir()
    return tmp_path


def add(folder: Path, id: str = "000001", label: str = CHAIR, calib: str = LEVEL) -> None:
    (folder / "image" / f"{id}.jpg").write_bytes(make_picture(0))
    (folder / "label" / f"{id}.txt").write_text(label)
    (folder / "calib" / f"{id}.txt").write_text(calib)


def read(folder: Path, **keys) -> list[Scene | Unread]:
    return list(SunRgbd(name="sun", layout="sunrgbd", path=folder, **keys).scenes(folder))


def only_box(folder: Path) -> Cuboid:
    [scene] = read(folder)
    [box] = scene.objects
    return box


def test_a_level_box_reaches_the_camera_by_its_axes_alone(folder):
    add(folder)
    [scene] = read(folder)
    assert (scene.id, scene.image, scene.width, scene.height) == (
        *("000001", "image/000001.jpg"),
        *(24, 20),
    )
    assert scene.intrinsics.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    [box] = scene.objects
    assert box.category == "chair"
    assert box.center == [1, -3, 2]
    assert box.dimensions == [0.2, 0.6, 0.4]
    assert box.rotation.tolist() == np.eye(3).tolist()
    assert box.bbox_px == [10, 20, 40, 60]
    assert np.isnan([box.visibility, box.truncation, box.points]).all()


def test_the_orientation_is_that_of_the_length(folder):
    add(folder, label="bed 0 0 1 1 0 2 0 0.1 0.2 0.3 0 2")
    length, down, width = only_box(folder).rotation.T
    assert length.tolist() == [0, 0, 1]
    assert down.tolist() == [0, 1, 0]
    assert width.tolist() == [-1, 0, 0]


def test_the_tilt_is_stored_by_columns_and_undone(folder):
    # A camera that looks down by 30 degrees: its forward has a part of -sin(30) along the up.
    sin, cos = 0.5, np.sqrt(0.75)
    tilt = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    stored = " ".join(map(repr, map(float, tilt.flatten("F"))))
    ahead = tilt @ [0, 4, 0]  # four metres along the optical axis
    words = " ".join(map(str, ahead))
    add(folder, label=f"box 0 0 1 1 {words} 1 1 1 1 0", calib=f"{stored}\n500 0 0 0 500 0 0 0 1")
    box = only_box(folder)
    assert ahead[2] == -2
    np.testing.assert_allclose(box.center, [0, 0, 4], atol=1e-12)
    np.testing.assert_allclose(box.rotation[:, 1], [0, cos, sin], atol=1e-12)  # down is ahead


def test_words_that_are_no_numbers_are_unknown(folder):
    add(folder, label="lamp 1 2 3 4 far 5 inf 0.1 x 0.3\n\nsofa")
    [scene] = read(folder)
    lamp, sofa = scene.objects
    assert np.isnan(lamp.center).all()  # the turn spreads it
    np.testing.assert_array_equal(lamp.dimensions, [0.2, 0.6, np.nan])
    assert np.isnan(lamp.rotation[:, 0]).all()
    assert sofa.category == "sofa"
    assert np.isnan([*sofa.center, *sofa.dimensions, *sofa.bbox_px]).all()


def test_a_direction_of_no_length_is_unknown(folder):
    add(folder, label="lamp 1 2 3 4 1 2 3 1 1 1 0 0")
    assert np.isnan(only_box(folder).rotation[:, 0]).all()


def test_a_scene_without_a_box_is_a_scene(folder):
    add(folder, label="")
    [scene] = read(folder)
    assert scene.objects == []


@pytest.mark.parametrize(
    ("calib", "told"),
    [
        ("1 0 0", "calib/7.txt holds 3 numbers, not 18"),
        ("2 0 0 0 1 0 0 0 1 500 0 0 0 500 0 1 1 1", "the first nine numbers are no rotation"),
        ("1 0 0 0 1 0 0 0 x 500 0 0 0 500 0 1 1 1", "the first nine numbers are no rotation"),
        ("1 0 0 0 1 0 0 0 1 500 0 9 0 500 9 0 0 1", "calib/7.txt is not the matrix of a pinhole"),
        ("1 0 0 0 1 0 0 0 1 500 7 0 0 500 0 9 9 1", "calib/7.txt is not the matrix of a pinhole"),
        ("1 0 0 0 1 0 0 0 1 0 0 0 0 500 0 9 9 1", "calib/7.txt is not the matrix of a pinhole"),
    ],
)
def test_a_broken_calibration_leaves_one_scene_unread(folder, calib, told):
    add(folder, "1")
    add(folder, "7", calib=calib)
    good, bad = read(folder)
    assert isinstance(good, Scene)
    assert (bad.id, bad.image, bad.problem.reason) == ("7", "image/7.jpg", "camera_unreadable")
    assert told in bad.problem.detail


@pytest.mark.parametrize(
    ("missing", "reason"), [("calib/1.txt", "camera_missing"), ("image/1.jpg", "image_missing")]
)
def test_a_missing_file_leaves_one_scene_unread(folder, missing, reason):
    add(folder, "1")
    (folder / missing).unlink()
    [scene] = read(folder)
    assert (scene.id, scene.problem.reason) == ("1", reason)
    assert scene.problem.detail == f"{missing} is not there"


def test_unreadable_files_are_told_without_their_folder(folder):
    add(folder, "1")
    add(folder, "2")
    (folder / "label" / "1.txt").write_bytes(b"\xff\xfe")
    (folder / "image" / "2.jpg").write_bytes(b"no image")
    text, image = read(folder)
    assert (text.problem.reason, text.problem.detail) == (
        "annotations_unreadable",
        "label/1.txt: UnicodeDecodeError",
    )
    assert (image.problem.reason, image.problem.detail) == (
        "image_undecodable",
        "image/2.jpg: is no JPEG, PNG, WebP, GIF or BMP",
    )


def test_a_turned_image_does_not_fit_its_camera(folder):
    add(folder)
    (folder / "image" / "000001.jpg").write_bytes(make_picture(0, exif_orientation=6))
    [scene] = read(folder)
    assert scene.problem.reason == "image_turned"


def test_a_header_longer_than_the_first_read_is_found(folder):
    add(folder)
    comment = b"\xff\xfe\xff\xff" + bytes(65533)
    (folder / "image" / "000001.jpg").write_bytes(
        make_picture(0)[:2] + comment * 3 + make_picture(0)[2:]
    )
    [scene] = read(folder)
    assert (scene.width, scene.height) == (24, 20)


def test_renamed_copies_are_read_by_pattern_in_order_of_id(tmp_path):
    for id in ("b [1]", "a"):
        (tmp_path / id).mkdir()
        (tmp_path / id / f"{id}.jpg").write_bytes(make_picture(0))
        (tmp_path / id / f"{id}[v1].txt").write_text(CHAIR)
        (tmp_path / id / "camera.txt").write_text(LEVEL)
    (tmp_path / "a" / "other[v1].txt").write_text(CHAIR)
    (tmp_path / "a" / "av.txt").write_text(CHAIR)
    keys = {"image_files": "{id}/{id}.jpg", "calib_files": "{id}/camera.txt"}
    scenes = read(tmp_path, label_files="{id}/{id}[v1].txt", **keys)
    assert [(scene.id, scene.image) for scene in scenes] == [
        ("a", "a/a.jpg"),
        ("b [1]", "b [1]/b [1].jpg"),
    ]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("label.txt", r"must hold \{id\}"),
        ("../{id}.txt", "must be relative to the source's path and stay inside it"),
        ("/{id}.txt", "must be relative to the source's path and stay inside it"),
    ],
)
def test_patterns_name_files_by_id_inside_the_folder(tmp_path, pattern, told):
    with pytest.raises(ValidationError, match=told):
        SunRgbd(name="s", layout="sunrgbd", path=tmp_path, label_files=pattern)


def test_problems_name_the_key(folder):
    source = SunRgbd(name="s", layout="sunrgbd", path=folder)
    assert source.problems() == [f"label_files: {folder} holds no file like label/{{id}}.txt"]
    add(folder)
    assert source.problems() == []
    gone = SunRgbd(name="s", layout="sunrgbd", path=folder / "no")
    assert gone.problems() == [f"path: {folder / 'no'}: no such folder"]


def test_images_are_given_from_inside_the_folder_alone(folder):
    add(folder)
    source = SunRgbd(name="s", layout="sunrgbd", path=folder / "image")
    assert source.image("000001.jpg") == make_picture(0)
    assert source.image("../label/000001.txt") is None
    assert source.image("2.jpg") is None


def test_the_fingerprint_changes_with_a_byte_or_a_name_and_not_with_the_place(folder, tmp_path):
    add(folder)
    source = SunRgbd(name="s", layout="sunrgbd", path=folder)
    first = source.fingerprint()
    assert (first["files"], first["bytes"]) == (2, len(CHAIR) + len(LEVEL))
    (folder / "label/000001.txt").write_text(CHAIR.replace("chair", "stool"))
    second = source.fingerprint()
    assert second["bytes"] == first["bytes"]
    assert second["sha256"] != first["sha256"]
    (folder / "label/000001.txt").rename(folder / "label/000002.txt")
    assert source.fingerprint()["sha256"] not in (first["sha256"], second["sha256"])
    other = folder.parent / "elsewhere"
    for kind in ("image", "calib", "label"):
        (other / kind).mkdir(parents=True)
    add(other)
    assert SunRgbd(name="s", layout="sunrgbd", path=other).fingerprint() == first


@pytest.mark.shared
def test_the_real_bedroom_stands_where_it_was_worked_out_by_hand(shared_data):
    root = shared_data / "spatial3d"
    names = {f"{k}_files": f"{{id}}/{{id}}.{k}.txt" for k in ("calib", "label")}
    [scene] = read(root / "sunrgbd", image_files="{id}/{id}.jpg", **names)
    told = json.loads((root / "derived/omni3d_style_dev.json").read_text())
    [image] = [i for i in told["images"] if i["source_dataset"] == "sunrgbd"]
    expected = [a for a in told["annotations"] if a["image_id"] == image["id"]]
    assert (scene.width, scene.height, scene.intrinsics.tolist()) == (730, 530, image["K"])
    assert [o.category for o in scene.objects] == [a["category_name"] for a in expected]
    for name, key in [
        ("center", "center_cam"),
        ("dimensions", "dimensions"),
        ("rotation", "R_cam"),
    ]:
        ours = [getattr(box, name) for box in scene.objects]
        np.testing.assert_allclose(ours, [a[key] for a in expected], atol=1e-12)
    assert mean_iou(scene) == pytest.approx(0.5736, abs=1e-4)
