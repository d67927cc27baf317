"""Reading Omni3D's JSON: order, unknown values, and what strangers write into it."""

import json
import math

import numpy as np
import pytest

from vila2data import json_stream
from vila2data.builders.spatial_relation_qa.scene import Scene, Unread
from vila2data.builders.spatial_relation_qa.sources.omni3d import Omni3D
from vila2data.errors import BadInput
from vila2data.json_stream import members

K = [[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]
TURN = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
UNKNOWN_BOX = [-1, -1, -1, -1]


def an_image(id, **changes):
    return {
        "id": id,
        "width": 640,
        "height": 480,
        "file_path": f"{id}.jpg",
        "K": K,
        "src_flagged": False,
        **changes,
    }


def an_annotation(image_id, **changes):
    return {
        "image_id": image_id,
        "category_name": "chair",
        "category_id": 7,
        "valid3D": True,
        "behind_camera": False,
        "center_cam": [1.0, 2, 3.5],
        "dimensions": [0.5, 1.5, 2.5],
        "R_cam": TURN,
        "bbox2D_tight": [1, 2, 3, 4],
        "bbox2D_trunc": [5.0, 6.0, 7.0, 8.0],
        "bbox2D_proj": [9.0, 10.0, 11.0, 12.0],
        "visibility": 0.75,
        "truncation": 0.25,
        "lidar_pts": 12,
        "segmentation_pts": 34,
        "depth_error": 0.125,
        **changes,
    }


def read_text(folder, text, **keys):
    file = folder / "set.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    work = folder / "work"
    work.mkdir(exist_ok=True)
    source = Omni3D(name="o", layout="omni3d", path=file, images=folder, **keys)
    return list(source.scenes(work))


def read(folder, images, annotations, categories=(), **keys):
    content = {
        "info": {"name": "x"},
        "annotations": annotations,
        "images": images,
        "categories": list(categories),
    }
    return read_text(folder, json.dumps(content), **keys)


def only(folder, **changes):
    [scene] = read(folder, [an_image(1)], [an_annotation(1, **changes)])
    [thing] = scene.objects
    return thing


def told(scenes):
    return [
        (s.id, s.problem.reason, s.problem.detail) if isinstance(s, Unread) else s.id
        for s in scenes
    ]


def test_scene_is_read_as_it_stands(tmp_path):
    [scene] = read(tmp_path, [an_image(1, file_path="a/b.jpg")], [an_annotation(1)])
    assert (scene.id, scene.image, scene.width, scene.height) == ("1", "a/b.jpg", 640, 480)
    assert scene.intrinsics.tolist() == K
    [chair] = scene.objects
    assert (chair.category, chair.center, chair.dimensions) == (
        "chair",
        [1.0, 2.0, 3.5],
        [0.5, 1.5, 2.5],
    )
    assert chair.rotation.tolist() == TURN
    assert chair.bbox_px == [1.0, 2.0, 3.0, 4.0]
    assert (chair.visibility, chair.truncation, chair.points, chair.depth_error) == (
        0.75,
        0.25,
        12.0,
        0.125,
    )
    assert chair.vouched is True


def test_scenes_come_in_order_of_ids_and_boxes_in_that_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("vila2data.builders.spatial_relation_qa.sources.omni3d._HELD_ROWS", 3)
    monkeypatch.setattr("vila2data.builders.spatial_relation_qa.sources.omni3d._ROWS", 4)
    annotations = [an_annotation(10 - n % 3, category_name=f"c{n}") for n in range(10)]
    scenes = read(tmp_path, [an_image(n) for n in (10, 8, 9, 100)], annotations)
    assert [(s.id, [thing.category for thing in s.objects]) for s in scenes] == [
        ("8", ["c2", "c5", "c8"]),
        ("9", ["c1", "c4", "c7"]),
        ("10", ["c0", "c3", "c6", "c9"]),
        ("100", []),
    ]


@pytest.mark.parametrize(
    ("changes", "box"),
    [
        ({"bbox2D_tight": UNKNOWN_BOX}, [5.0, 6.0, 7.0, 8.0]),
        ({"bbox2D_tight": [1, 2, "3", 4]}, [5.0, 6.0, 7.0, 8.0]),
        ({"bbox2D_tight": UNKNOWN_BOX, "bbox2D_trunc": UNKNOWN_BOX}, [9.0, 10.0, 11.0, 12.0]),
        ({"bbox2D_tight": None, "bbox2D_trunc": [1, 2], "bbox2D_proj": UNKNOWN_BOX}, None),
        ({"bbox2D_tight": [-1, -1, 3, 4]}, [-1.0, -1.0, 3.0, 4.0]),
    ],
)
def test_image_box_is_the_first_that_is_known(tmp_path, changes, box):
    assert only(tmp_path, **changes).bbox_px == box


@pytest.mark.parametrize(
    ("changes", "points"),
    [
        ({"lidar_pts": 0}, 0.0),
        ({"lidar_pts": -1}, 34.0),
        ({"lidar_pts": None, "segmentation_pts": 5}, 5.0),
        ({"lidar_pts": -1, "segmentation_pts": -1}, math.nan),
    ],
)
def test_points_are_lidar_points_where_known_else_segmentation_points(tmp_path, changes, points):
    assert only(tmp_path, **changes).points == pytest.approx(points, nan_ok=True)


def test_minus_one_is_unknown(tmp_path):
    thing = only(tmp_path, visibility=-1, truncation=-1.0, depth_error=-1)
    assert np.isnan([thing.visibility, thing.truncation, thing.depth_error]).all()


@pytest.mark.parametrize(
    ("changes", "vouched"),
    [
        ({"valid3D": False}, False),
        ({"behind_camera": True}, False),
        ({"valid3D": "yes"}, False),
        ({"valid3D": None, "behind_camera": None}, True),
    ],
)
def test_source_vouches_for_valid_boxes_before_the_camera(tmp_path, changes, vouched):
    assert only(tmp_path, **changes).vouched is vouched


def test_category_is_looked_up_where_its_name_is_missing(tmp_path):
    annotations = [
        an_annotation(1, category_name=None),
        an_annotation(1, category_name="", category_id=8),
        {"image_id": 1},
    ]
    [scene] = read(
        tmp_path, [an_image(1)], annotations, [{"id": 7, "name": "sofa"}, "no object", {"id": 9}]
    )
    assert [thing.category for thing in scene.objects] == ["sofa", "", ""]


def test_bad_numbers_are_nan_and_leave_their_neighbours_alone(tmp_path):
    bad = an_annotation(
        1, center_cam=["1", 2.0, None], dimensions=[1, 2], R_cam=[[1, 2, 3], "abc", None]
    )
    [scene] = read(tmp_path, [an_image(1)], [bad, an_annotation(1)])
    first, second = scene.objects
    assert first.center == pytest.approx([math.nan, 2.0, math.nan], nan_ok=True)
    assert np.isnan(first.dimensions).all()
    assert first.rotation.flatten() == pytest.approx([1, 2, 3] + [math.nan] * 6, nan_ok=True)
    assert (second.center, second.dimensions) == ([1.0, 2.0, 3.5], [0.5, 1.5, 2.5])


@pytest.mark.parametrize("value", [True, 10**400, "3", [3]])
def test_only_what_a_float_can_hold_is_a_number(tmp_path, value):
    thing = only(tmp_path, dimensions=[1, 2, value])
    assert thing.dimensions == pytest.approx([1, 2, math.nan], nan_ok=True)


@pytest.mark.parametrize("k", [None, [[1, 0, 0], [0, 1, 0]], [[1, 0, "0"], [0, 1, 0], [0, 0, 1]]])
def test_image_without_camera_matrix_has_no_intrinsics(tmp_path, k):
    [scene] = read(tmp_path, [an_image(1, K=k)], [])
    assert scene.intrinsics is None


def test_flagged_images_are_left_out_unless_accepted(tmp_path):
    images = [an_image(1, src_flagged=True)]
    assert told(read(tmp_path, images, [])) == [("1", "scene_flagged", "src_flagged is true")]
    assert told(read(tmp_path, images, [], flagged=True)) == ["1"]


def test_images_that_cannot_be_told_apart_or_opened_are_unread(tmp_path):
    images = [
        an_image(1),
        an_image(2),
        an_image(2, width=1),
        an_image(3, file_path=None),
        an_image(4, width=0),
        an_image(5, height=10.5),
        an_image(6, width=2**31),
        an_image(None),
        "no object",
        an_image(True),
    ]
    assert told(read(tmp_path, images, [an_annotation(2)])) == [
        "1",
        ("2", "image_id_repeated", "2 images have this id"),
        ("2", "image_id_repeated", "2 images have this id"),
        ("3", "image_path_missing", "file_path is no text"),
        ("4", "image_size_missing", "0.0 x 480.0"),
        ("5", "image_size_missing", "640.0 x 10.5"),
        ("6", "image_size_missing", "2147483648.0 x 480.0"),
        *[
            (
                f"images[{n}]",
                "image_without_id",
                "is no object, or its id is neither a whole number nor text",
            )
            for n in (7, 8, 9)
        ],
    ]


def test_annotations_of_no_image_are_counted_once_per_image(tmp_path):
    annotations = [
        an_annotation(5),
        an_annotation(1),
        an_annotation(5),
        an_annotation(None),
        12,
        [],
    ]
    assert told(read(tmp_path, [an_image(1)], annotations)) == [
        "1",
        ("5", "image_not_listed", "annotations that name it: 2"),
        ("annotations", "image_not_listed", "annotations that name no image: 3"),
    ]


def test_text_that_no_table_takes_is_escaped(tmp_path):
    [scene] = read(
        tmp_path,
        [an_image("\ud800", file_path="a\0\ud800")],
        [an_annotation("\ud800", category_name="é\ud800\n")],
    )
    assert (scene.id, scene.image, scene.objects[0].category) == (
        r"\ud800",
        r"a\x00\ud800",
        r"é\ud800\n",
    )


def test_nan_is_a_number_and_unknown(tmp_path):
    text = '{"images": [{"id": 1, "width": 2, "height": 2, "file_path": "a", "K": [[NaN,0,0],[0,1,0],[0,0,1]]}], "annotations": []}'
    [scene] = read_text(tmp_path, text)
    assert scene.intrinsics is None


WHOLE = json.dumps({"images": [an_image(1)], "annotations": [an_annotation(1)]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"set\.json: is not readable as JSON: expected \{ at about character 0, the file ends at 0$",
        ),
        ("[1, 2]", r"set\.json: is not readable as JSON: expected \{ at about character 0$"),
        (
            "{}",
            r"set\.json: has no array 'images'; the layout omni3d is an object with images, categories and annotations$",
        ),
        ('{"images": []}', r"has no array 'annotations'; the layout omni3d"),
        ('{"images": {}, "annotations": []}', r"has no array 'images'; the layout omni3d"),
        ('{"images": [], "images": []}', r"the key 'images' stands twice at about character 23$"),
        ('{"images": [1 2]}', r"expected , or \] at about character 14$"),
        ('{"images": [1,]}', r"Expecting value at about character 14, the file ends at 16$"),
        ("{5: 1}", r"expected a key at about character 1$"),
        ('{"a": 1} x', r"expected the end of the file at about character 9$"),
        (b'{"a": "\xff"}', r"set\.json: is not UTF-8 at about byte 0$"),
        ('{"a": ' + "[" * 5000, r"too many values within one another at about character 7$"),
        (WHOLE[:307], r"Expecting ',' delimiter at about character 307, the file ends at 307$"),
    ],
)
def test_what_is_no_such_json_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(BadInput, match=message) as raised:
        read_text(tmp_path, text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_file_that_was_cut_is_refused(tmp_path, share):
    with pytest.raises(
        BadInput,
        match=r"set\.json: is not readable as JSON: .* at about character \d+, the file ends at \d+$",
    ):
        read_text(tmp_path, WHOLE[: int(len(WHOLE) * share)])


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_pieces_in_which_a_file_is_read_do_not_show(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", chunk)
    content = {
        "a": [1234567, -1.5e10, "é, ]}", {"b": [[], {}]}, None],
        "c": 123456,
        "d": [],
        "e": {"f": "\\"},
    }
    file = tmp_path / "x.json"
    file.write_bytes(
        b"\xef\xbb\xbf " + json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
    )
    found = {
        key: value if not hasattr(value, "send") else list(value) for key, value in members(file)
    }
    assert found == content


def test_arrays_that_are_not_read_are_passed_over(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": [1, 2, 3], "b": [4, 5], "c": 6}')
    first = {key: next(value) if key != "c" else value for key, value in members(file)}
    assert first == {"a": 1, "b": 4, "c": 6}


def test_whole_number_of_thousands_of_digits_ends_nothing(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": [1' + "0" * 5000 + ", 7]}")
    assert [list(value) for _, value in members(file)] == [[math.inf, 7]]


def test_value_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_MAX_VALUE_CHARS", 100)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 16)
    file = tmp_path / "x.json"
    file.write_text('{"a": ["' + "x" * 1000 + '"]}')
    with pytest.raises(BadInput, match=r"Unterminated string starting at at about character 7$"):
        [list(value) for _, value in members(file)]


def test_missing_files_are_problems_of_their_keys(tmp_path):
    source = Omni3D(name="o", layout="omni3d", path=tmp_path / "no.json", images=tmp_path / "no")
    assert source.problems() == [
        f"path: {tmp_path}/no.json: no such file",
        f"images: {tmp_path}/no: no such folder",
    ]
    with pytest.raises(BadInput, match=r"no\.json: cannot be read: No such file or directory$"):
        list(source.scenes(tmp_path))


def test_images_are_found_in_their_folder_and_nowhere_else(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"jpeg")
    (tmp_path / "secret").write_bytes(b"secret")
    source = Omni3D(name="o", layout="omni3d", path=tmp_path / "x.json", images=folder)
    assert (source.image("a.jpg"), source.image("b.jpg"), source.image("../secret")) == (
        b"jpeg",
        None,
        None,
    )


def test_fingerprint_is_that_of_the_file(tmp_path):
    (tmp_path / "x.json").write_bytes(b"{}")
    source = Omni3D(name="o", layout="omni3d", path=tmp_path / "x.json", images=tmp_path)
    assert source.fingerprint() == {
        "files": 1,
        "bytes": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }


@pytest.mark.shared
def test_real_boxes_are_read(shared_data, tmp_path):
    folder = shared_data / "spatial3d"
    source = Omni3D(
        name="o", layout="omni3d", path=folder / "derived/omni3d_style_dev.json", images=folder
    )
    scenes = list(source.scenes(tmp_path))
    assert all(isinstance(scene, Scene) for scene in scenes)
    counts = [6, 47, 18, 2, 10, 2, 5, 6, 3, 5, 1, 1, 0, 3]
    assert [(s.id, len(s.objects)) for s in scenes] == [
        (str(n), c) for n, c in enumerate(counts, 1)
    ]
    assert scenes[0].objects[0].center == [-2.640150735199174, 0.9396420728495045, 3.682745884]
    assert scenes[0].objects[0].points == 1325
    assert all(source.image(scene.image) for scene in scenes)
