"""Reading mmdetection3d's info files: three conventions become the camera's frame."""

import json
import math

import numpy as np
import pytest
from making import make_picture
from pydantic import ValidationError

from vila2data.boxes import clip, iou
from vila2data.builders.spatial_relation_qa.scene import Unread
from vila2data.builders.spatial_relation_qa.sources.infos import Mmdet3d
from vila2data.builders.spatial_relation_qa.sources.omni3d import Omni3D
from vila2data.cuboids import corners, projected_boxes
from vila2data.errors import BadInput

P2 = [
    [500.0, 0.0, 300.0, 100.0],
    [0.0, 400.0, 200.0, 40.0],
    [0.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
]
K = [row[:3] for row in P2[:3]]
UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # depth frame to camera
A_BOX = {"bbox": [1, 2, 3, 4], "bbox_label_3d": 2, "bbox_3d": [1, 2, 10, 4, 1.5, 2, 0]}


def kitti(instances, **view):
    seen = {"img_path": "000008.png", "width": 1242, "height": 375, "cam2img": P2, **view}
    return {
        "sample_idx": 8,
        "images": {"CAM2": seen, "CAM0": {"cam2img": P2}},
        "instances": instances,
    }


def nuscenes(cameras, token="t0"):
    """Cameras by name: the instances of each."""
    images = {
        name: {"img_path": f"{name}.jpg", "cam2img": K, "width": 1600, "height": 900}
        for name in cameras
    }
    return {"token": token, "images": images, "cam_instances": cameras, "instances": []}


def sunrgbd(instances, depth2img):
    view = {
        "img_path": "000001.jpg",
        "width": 730,
        "height": 530,
        "depth2img": np.array(depth2img).tolist(),
    }
    return {"images": {"CAM0": view}, "instances": instances}


def source_of(folder, content, **keys):
    file = folder / "infos.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return Mmdet3d(name="m", layout="mmdet3d", path=file, images=folder, **keys)


def read(folder, samples, told, **keys):
    content = {"metainfo": {"dataset": told}, "data_list": samples}
    return list(source_of(folder, content, **keys).scenes(folder))


def reasons(scenes):
    return [
        (s.id, s.problem.reason, s.problem.detail) if isinstance(s, Unread) else s.id
        for s in scenes
    ]


def test_kitti_box_is_lifted_by_half_its_height_and_moved_to_camera_2(tmp_path):
    [scene] = read(tmp_path, [kitti([A_BOX])], "KITTI")
    assert (scene.id, scene.image, scene.width, scene.height) == ("000008", "000008.png", 1242, 375)
    assert scene.intrinsics.tolist() == K
    [car] = scene.objects
    assert car.category == "Car"
    assert car.center == pytest.approx([1 + 100 / 500, 2 - 0.75 + 40 / 400, 10])
    assert car.dimensions == [2.0, 1.5, 4.0]
    assert car.rotation.tolist() == np.eye(3).tolist()
    assert car.bbox_px == [1.0, 2.0, 3.0, 4.0]


def test_kitti_turn_is_about_the_axis_that_points_down(tmp_path):
    box = {**A_BOX, "bbox_3d": [0, 0, 10, 4, 1.5, 2, math.pi / 2]}
    [scene] = read(tmp_path, [kitti([box])], "KITTI")
    assert scene.objects[0].rotation[:, 0] == pytest.approx(
        [0, 0, -1]
    )  # the length points to the camera


def test_kitti_dontcare_is_no_object(tmp_path):
    [scene] = read(tmp_path, [kitti([{**A_BOX, "bbox_label_3d": -1}, A_BOX])], "KITTI")
    assert [thing.category for thing in scene.objects] == ["Car"]


@pytest.mark.parametrize(
    ("occluded", "visibility"),
    [(0, 1.0), (1, 0.75), (2, 0.25), (3, math.nan), (-1, math.nan), (None, math.nan)],
)
def test_kitti_occlusion_becomes_visibility(tmp_path, occluded, visibility):
    [scene] = read(tmp_path, [kitti([{**A_BOX, "occluded": occluded}])], "KITTI")
    assert scene.objects[0].visibility == pytest.approx(visibility, nan_ok=True)


def test_known_truncation_and_points_are_told_and_minus_one_is_unknown(tmp_path):
    boxes = [
        {**A_BOX, "truncated": 0.5, "num_lidar_pts": 7},
        {**A_BOX, "truncated": -1.0, "num_lidar_pts": -1},
    ]
    [scene] = read(tmp_path, [kitti(boxes)], "KITTI")
    first, second = scene.objects
    assert (first.truncation, first.points) == (0.5, 7.0)
    assert np.isnan([second.truncation, second.points]).all()


def test_kitti_classes_stand_in_the_order_of_mmdetection3d(tmp_path):
    [scene] = read(tmp_path, [kitti([{**A_BOX, "bbox_label_3d": n} for n in range(9)])], "KITTI")
    expected = [
        "Pedestrian",
        "Cyclist",
        "Car",
        "Van",
        "Truck",
        "Person_sitting",
        "Tram",
        "Misc",
        "",
    ]
    assert [thing.category for thing in scene.objects] == expected


def test_categories_of_the_file_come_before_those_of_the_data_set(tmp_path):
    content = {
        "data_list": [kitti([A_BOX])],
        "metainfo": {"DATASET": "KITTI", "categories": {"Bus": 2, "Car": 0}},
    }
    [scene] = source_of(tmp_path, content).scenes(tmp_path)
    assert scene.objects[0].category == "Bus"


def test_kitti_boxes_are_of_no_other_camera(tmp_path):
    with pytest.raises(
        BadInput, match=r"infos\.json: its boxes are those of CAM2: set `cameras` so$"
    ):
        read(tmp_path, [kitti([])], "KITTI", cameras=["CAM3"])


def test_each_nuscenes_camera_is_a_scene_with_its_own_boxes_by_their_centre(tmp_path):
    hidden = {**A_BOX, "bbox_label_3d": -1, "bbox_3d_isvalid": False}
    scenes = read(tmp_path, [nuscenes({"CAM_FRONT": [A_BOX, hidden], "CAM_BACK": []})], "nuscenes")
    assert [(s.id, s.image) for s in scenes] == [
        ("t0-CAM_FRONT", "CAM_FRONT.jpg"),
        ("t0-CAM_BACK", "CAM_BACK.jpg"),
    ]
    trailer, other = scenes[0].objects
    assert (trailer.category, trailer.center, trailer.dimensions) == (
        "trailer",
        [1, 2, 10],
        [2, 1.5, 4],
    )
    assert (trailer.vouched, other.vouched, other.category) == (True, False, "")


def test_cameras_that_are_asked_for_are_read_and_their_absence_is_told(tmp_path):
    sample = nuscenes({"CAM_FRONT": [], "CAM_BACK": []})
    scenes = read(tmp_path, [sample], "nuscenes", cameras=["CAM_BACK", "CAM_LEFT"])
    assert reasons(scenes) == [
        "t0-CAM_BACK",
        ("data_list[0]-CAM_LEFT", "sample_incomplete", "no img_path of CAM_LEFT"),
    ]


def test_image_size_is_read_from_the_header_where_the_file_lacks_it(tmp_path):
    (tmp_path / "CAM_FRONT").mkdir()
    (tmp_path / "CAM_FRONT" / "CAM_FRONT.jpg").write_bytes(make_picture(0))
    (tmp_path / "CAM_BACK.jpg").write_bytes(b"no picture")
    sample = nuscenes({"CAM_FRONT": [], "CAM_BACK": [], "CAM_LEFT": []})
    for view in sample["images"].values():
        del view["width"], view["height"]
    front, back, left = read(tmp_path, [sample], "nuscenes")
    assert (front.image, front.width, front.height) == ("CAM_FRONT/CAM_FRONT.jpg", 24, 20)
    assert back.problem.reason == "image_undecodable"
    assert left.problem.reason == "image_missing"


def rotation(x, y):
    """A tilt of the depth frame."""
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    return about_x @ about_y


def test_sunrgbd_camera_is_factored_out_of_depth2img(tmp_path):
    turn = UPRIGHT @ rotation(0.2, -0.1)
    box = {**A_BOX, "bbox_label_3d": 0, "bbox_3d": [1, 4, -0.5, 2.25, 1.75, 1.5, 0.5]}
    [scene] = read(tmp_path, [sunrgbd([box], K @ turn)], "SUNRGBD")
    assert (scene.id, scene.intrinsics) == ("000001", pytest.approx(np.array(K)))
    [bed] = scene.objects
    assert (bed.category, bed.dimensions) == ("bed", [1.75, 1.5, 2.25])
    assert bed.center == pytest.approx(turn @ [1, 4, -0.5])
    assert bed.rotation[:, 0] == pytest.approx(turn @ [math.cos(0.5), math.sin(0.5), 0])  # length
    assert bed.rotation[:, 1] == pytest.approx(turn @ [0, 0, -1])  # height, down
    assert np.linalg.det(bed.rotation) == pytest.approx(1)


@pytest.mark.parametrize(
    ("depth2img", "reason", "detail"),
    [
        (
            np.array(K).T @ UPRIGHT,
            "calibration_broken",
            "the last row of depth2img has length 360.6; a camera's has 1",
        ),
        (
            K @ np.diag([-1, 1, 1]) @ UPRIGHT,
            "calibration_broken",
            "depth2img mirrors space, or flattens it",
        ),
        (
            np.diag([500.0, 0.0, 1.0]) @ UPRIGHT,
            "calibration_broken",
            "depth2img mirrors space, or flattens it",
        ),
        (
            np.zeros((3, 3)),
            "calibration_broken",
            "the last row of depth2img has length 0; a camera's has 1",
        ),
        (np.full((3, 3), math.nan), "camera_unreadable", "depth2img is no 3 x 3 matrix"),
        (np.eye(4), "camera_unreadable", "depth2img is no 3 x 3 matrix"),
        ([], "camera_unreadable", "depth2img is no 3 x 3 matrix"),
    ],
)
def test_matrix_that_no_camera_has_is_told_not_repaired(tmp_path, depth2img, reason, detail):
    assert reasons(read(tmp_path, [sunrgbd([], depth2img)], "SUNRGBD")) == [
        ("000001", reason, detail)
    ]


@pytest.mark.parametrize(
    ("cam2img", "detail"),
    [
        (K, "cam2img has no fourth column"),
        (None, "cam2img is not the matrix of a pinhole camera"),
        (5, "cam2img is not the matrix of a pinhole camera"),
        ([[0.0, 0.0, 1.0, 0.0], *P2[1:]], "cam2img is not the matrix of a pinhole camera"),
        ([P2[0], P2[1], "abcd"], "cam2img is not the matrix of a pinhole camera"),
    ],
)
def test_kitti_camera_that_cannot_be_used_is_told(tmp_path, cam2img, detail):
    assert reasons(read(tmp_path, [kitti([], cam2img=cam2img)], "KITTI")) == [
        ("000008", "camera_unreadable", detail)
    ]


def test_bad_numbers_are_nan_and_bad_instances_no_end(tmp_path):
    boxes = [
        None,
        {**A_BOX, "bbox": [1, 2, 3], "bbox_3d": [1, "2", 10, 4, 1.5, 2, 0], "bbox_label_3d": [2]},
        A_BOX,
    ]
    [scene] = read(tmp_path, [kitti(boxes)], "KITTI")
    first, second, third = scene.objects
    assert np.isnan(first.center).all()
    assert (first.bbox_px, second.bbox_px, first.category, second.category) == (None, None, "", "")
    assert np.isnan(second.center).all()  # one unknown number leaves no place
    assert second.dimensions == [2.0, 1.5, 4.0]
    assert third.dimensions == [2.0, 1.5, 4.0]


def test_samples_that_cannot_be_read_are_told(tmp_path):
    samples = [
        "no sample",
        {**kitti([]), "instances": None},
        kitti([]),
        kitti([], img_path=5),
        kitti([], img_path="a.png", width=0),
        kitti([], img_path="b.png", height=2**31),
    ]
    assert reasons(read(tmp_path, samples, "KITTI")) == [
        ("data_list[0]-CAM2", "sample_incomplete", "no img_path of CAM2"),
        ("000008", "annotations_missing", "has no list of instances"),
        ("000008", "sample_repeated", "an earlier sample has this id"),
        ("data_list[3]-CAM2", "sample_incomplete", "no img_path of CAM2"),
        ("a", "image_size_missing", "width is 0, not a whole number above 0"),
        ("b", "image_size_missing", "height is 2147483648, not a whole number above 0"),
    ]
    samples = [nuscenes({}), nuscenes({"CAM_FRONT": []}, token=None)]
    assert reasons(read(tmp_path, samples, "nuscenes")) == [
        ("data_list[0]", "sample_incomplete", "has no images"),
        ("data_list[1]-CAM_FRONT", "sample_incomplete", "no token"),
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e308, math.nan])
def test_numbers_beyond_any_place_are_no_alarm(tmp_path, value):
    [scene] = read(tmp_path, [sunrgbd([{**A_BOX, "bbox_3d": [value] * 7}], K @ UPRIGHT)], "SUNRGBD")
    assert scene.objects[0].dimensions == pytest.approx([value] * 3, nan_ok=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"metainfo": {}, "data_list": []},
            r"infos\.json: metainfo names the data set None; known: kitti, nuscenes, sunrgbd; set `dataset` where it is one of them$",
        ),
        (
            {"metainfo": {"dataset": "waymo\n"}, "data_list": []},
            r"metainfo names the data set 'waymo\\n'; known: kitti,",
        ),
        ({"data_list": []}, r"metainfo names the data set None; known"),
        (
            {"metainfo": {"dataset": "KITTI"}},
            r"infos\.json: has no array 'data_list'; the layout mmdet3d is an object with metainfo and data_list$",
        ),
        ({"metainfo": {"dataset": "KITTI"}, "data_list": {}}, r"has no array 'data_list'"),
        ([], r"infos\.json: is not readable as JSON: expected \{ at about character 0"),
        (
            '{"metainfo": {"dataset": "KITTI"}, "data_list": []',
            r"expected , or \} at about character 50, the file ends at 50$",
        ),
        (
            '{"metainfo": {"dataset": "KITTI"}, "data_list": [{"images": ',
            r"Expecting value at about character 60, the file ends at 60$",
        ),
    ],
)
def test_what_is_no_info_file_is_refused(tmp_path, content, message):
    with pytest.raises(BadInput, match=message):
        list(source_of(tmp_path, content).scenes(tmp_path))


def test_recipe_may_name_the_data_set_that_the_file_does_not(tmp_path):
    source = source_of(tmp_path, {"data_list": [kitti([A_BOX])]}, dataset="kitti")
    assert [scene.id for scene in source.scenes(tmp_path)] == ["000008"]
    with pytest.raises(ValidationError, match="at least 1 item"):
        source_of(tmp_path, {}, cameras=[])


def test_missing_files_are_problems_of_their_keys(tmp_path):
    source = Mmdet3d(name="m", layout="mmdet3d", path=tmp_path / "a.json", images=tmp_path / "b")
    assert source.problems() == [
        f"path: {tmp_path}/a.json: no such file",
        f"images: {tmp_path}/b: no such folder",
    ]


def test_fingerprint_and_image_are_those_of_the_files(tmp_path):
    source = source_of(tmp_path, {})
    assert source.fingerprint() == {
        "files": 1,
        "bytes": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    assert (source.image("infos.json"), source.image("../infos.json")) == (b"{}", None)


def real(shared_data, file, images):
    folder = shared_data / "spatial3d"
    return Mmdet3d(name="m", layout="mmdet3d", path=folder / file, images=folder / images)


def mean_iou(scene):
    """Of the projected, clipped boxes with the file's own."""
    columns = (
        [getattr(o, key) for o in scene.objects] for key in ("center", "dimensions", "rotation")
    )
    points = corners(*(np.array(column) for column in columns))
    boxes = projected_boxes(points, np.broadcast_to(scene.intrinsics, (len(points), 3, 3)))
    inside = clip(boxes, scene.width, scene.height)
    return float(iou(inside, np.array([o.bbox_px for o in scene.objects])).mean())


def far_from(scene, reference):
    """The largest difference of any number of the boxes."""
    pairs = zip(scene.objects, reference.objects, strict=True)
    keys = ("center", "dimensions", "rotation")
    return max(
        np.abs(np.array(getattr(a, k)) - np.array(getattr(b, k))).max()
        for a, b in pairs
        for k in keys
    )


@pytest.mark.shared
def test_real_kitti_and_nuscenes_boxes_lie_where_they_were_derived(shared_data, tmp_path):
    folder = shared_data / "spatial3d"
    derived = Omni3D(
        name="o", layout="omni3d", path=folder / "derived/omni3d_style_dev.json", images=folder
    )
    expected = {scene.image: scene for scene in derived.scenes(tmp_path)}
    ious = {}
    for file, images in (
        ("kitti/000008/000008.info.json", "kitti/000008"),
        ("nuscenes/ca9a282c/info.json", "nuscenes/ca9a282c"),
    ):
        for scene in real(shared_data, file, images).scenes(tmp_path):
            reference = expected[f"{images}/{scene.image}"]
            assert far_from(scene, reference) < 1e-3
            assert [o.category for o in scene.objects] == [o.category for o in reference.objects]
            assert scene.intrinsics.tolist() == reference.intrinsics.tolist()
            assert (scene.width, scene.height) == (reference.width, reference.height)
            ious[scene.id.partition("-")[2]] = round(mean_iou(scene), 3)
    assert ious == {
        "": 0.976,
        "CAM_FRONT": 0.942,
        "CAM_FRONT_RIGHT": 0.982,
        "CAM_FRONT_LEFT": 0.901,
        "CAM_BACK": 0.956,
        "CAM_BACK_LEFT": 0.978,
        "CAM_BACK_RIGHT": 0.969,
    }


@pytest.mark.shared
def test_real_sunrgbd_boxes_lie_as_the_label_and_calibration_say(shared_data, tmp_path):
    folder = shared_data / "spatial3d/sunrgbd/000001"
    content = json.loads((folder / "mmdet3d_test_info.BROKEN_CALIB.json").read_text())
    tilt, camera = np.loadtxt(folder / "000001.calib.txt").reshape(2, 3, 3).swapaxes(1, 2)
    content["data_list"][0]["images"]["CAM0"]["depth2img"] = (camera @ UPRIGHT @ tilt.T).tolist()
    [scene] = source_of(tmp_path, content).scenes(tmp_path)
    labels = [line.split() for line in (folder / "000001.label.txt").read_text().splitlines()]
    assert [thing.category for thing in scene.objects] == ["bed", "night_stand", "dresser"]
    for thing in scene.objects:
        [words] = [words for words in labels if words[0] == thing.category]
        *_, x, y, z, w, length, h, cos, sin = map(float, words[1:])
        assert thing.center == pytest.approx(UPRIGHT @ tilt.T @ [x, y, z], abs=1e-3)
        assert thing.dimensions == pytest.approx([2 * w, 2 * h, 2 * length], abs=1e-3)
        assert thing.rotation[:, 0] == pytest.approx(UPRIGHT @ tilt.T @ [cos, sin, 0], abs=1e-3)
    assert scene.intrinsics == pytest.approx(camera, abs=0.01)
    assert mean_iou(scene) == pytest.approx(0.58, abs=0.01)


@pytest.mark.shared
def test_real_broken_calibration_is_found(shared_data, tmp_path):
    source = real(
        shared_data, "sunrgbd/000001/mmdet3d_test_info.BROKEN_CALIB.json", "sunrgbd/000001"
    )
    assert reasons(source.scenes(tmp_path)) == [
        (
            "000001",
            "calibration_broken",
            "the last row of depth2img has length 451.1; a camera's has 1",
        )
    ]
