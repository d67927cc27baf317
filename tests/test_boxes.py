"""Boxes as numbers and as text: what is written is read back, and nothing else is read."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.boxes import CONVENTIONS, Found, clip, iou, xywh_from_xyxy, xyxy_from_xywh

BOX = (0.1234, 0.25, 0.5, 0.98765)
SIZE = (640, 480)
WRITTEN = {
    "norm3": "[0.123, 0.250, 0.500, 0.988]",
    "norm2": "[0.12, 0.25, 0.50, 0.99]",
    "llava": "[0.12, 0.25, 0.5, 0.99]",
    "shikra": "[0.123,0.250,0.500,0.988]",
    "vila": "[0.123,0.250,0.500,0.988]",
    "ferret": "[123, 250, 500, 988]",
    "kosmos2": "<object><patch_index_0259><patch_index_1007></object>",
    "qwen_vl": "<box>(123,250),(500,987)</box>",
    "qwen2_vl": "<|box_start|>(123,250),(500,987)<|box_end|>",
    "qwen2_5_vl": '{"bbox_2d": [79, 120, 320, 474]}',
    "qwen3_vl": '{"bbox_2d": [123, 250, 500, 988]}',
    "pixels": "[79, 120, 320, 474]",
}
SECOND = (0.0, 0.0, 1.0, 1.0)
TOGETHER = {
    "norm3": "[0.123, 0.250, 0.500, 0.988], [0.000, 0.000, 1.000, 1.000]",
    "llava": "[0.12, 0.25, 0.5, 0.99], [0.0, 0.0, 1.0, 1.0]",
    "shikra": "[0.123,0.250,0.500,0.988;0.000,0.000,1.000,1.000]",
    "kosmos2": "<object><patch_index_0259><patch_index_1007></delimiter_of_multi_objects/>"
    "<patch_index_0000><patch_index_1023></object>",
    "qwen_vl": "<box>(123,250),(500,987)</box><box>(0,0),(999,999)</box>",
}
GROUNDED = {
    "norm3": "a dog [0.123, 0.250, 0.500, 0.988]",
    "kosmos2": "<phrase>a dog</phrase><object><patch_index_0259><patch_index_1007></object>",
    "qwen_vl": "<ref>a dog</ref><box>(123,250),(500,987)</box>",
    "qwen2_vl": "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(123,250),(500,987)<|box_end|>",
}
NO_BOXES = [
    (0.5, 0.1, 0.5, 0.2), (0.6, 0.1, 0.5, 0.2), (0.1, 0.2, 0.5, 0.1), (-0.001, 0, 1, 1), (0, 0, 1.001, 1),
    (math.nan, 0, 1, 1), (0, 0, math.inf, 1), (0, 0, 1), (0, 0, 1, 1, 1), (),
]  # fmt: skip


sides = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)
boxes = st.tuples(sides, sides).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))
sizes = st.tuples(st.integers(1, 9000), st.integers(1, 9000))
each = pytest.mark.parametrize("name", CONVENTIONS)


def test_every_convention_writes_its_own_form() -> None:
    assert {name: c.render(BOX, SIZE) for name, c in CONVENTIONS.items()} == WRITTEN
    assert {c.name for c in CONVENTIONS.values()} == set(CONVENTIONS)
    assert all(len(c.about) > 20 for c in CONVENTIONS.values())


@pytest.mark.parametrize(("name", "text"), TOGETHER.items())
def test_several_boxes_of_a_phrase_stand_together(name: str, text: str) -> None:
    convention = CONVENTIONS[name]
    assert convention.render_all([BOX, SECOND]) == text
    [found] = convention.parse(f"two dogs {text} and more")
    assert (found.start, found.end) == (9, 9 + len(text))
    assert convention.render_all(found.boxes) == text
    assert convention.read(text) is None


@pytest.mark.parametrize(("name", "text"), GROUNDED.items())
def test_a_phrase_is_written_before_its_boxes(name: str, text: str) -> None:
    assert CONVENTIONS[name].ground("a dog", [BOX]) == text


@given(drawn=st.lists(boxes, min_size=1, max_size=3), size=sizes)
@settings(max_examples=80, deadline=None)
def test_boxes_are_read_back_within_the_precision(drawn: list, size: tuple) -> None:
    for convention in CONVENTIONS.values():
        text = convention.render_all(drawn, size)
        [found] = convention.parse(f"({text})", size)
        assert (found.start, found.end) == (1, 1 + len(text)), convention.name
        assert np.abs(np.array(found.boxes) - drawn).max() <= convention.precision(size) + 1e-9, (
            convention.name
        )
        assert convention.render_all(found.boxes, size) == text
        one = convention.render(drawn[0], size)
        assert convention.read(one, size) == found.boxes[0]
        assert convention.read(one + ".", size) is None
        each = [convention.render(box, size) for box in drawn]
        assert convention.render_each(np.array(drawn), [size] * len(drawn)) == each


def test_precision_is_one_step() -> None:
    steps = {name: 1 / c.precision((200, 300)) for name, c in CONVENTIONS.items()}
    assert steps == pytest.approx(
        dict.fromkeys(["norm3", "shikra", "vila", "ferret", "qwen3_vl"], 1000)
        | {"norm2": 100, "llava": 100, "kosmos2": 32, "qwen_vl": 999, "qwen2_vl": 999}
        | {"pixels": 200, "qwen2_5_vl": 200}
    )


@each
@pytest.mark.parametrize("box", NO_BOXES)
def test_what_is_no_box_is_refused_by_name(name: str, box: tuple) -> None:
    with pytest.raises(ValueError, match="must be 0 <= x1 < x2 <= 1") as error:
        CONVENTIONS[name].render(box, SIZE)
    assert str(error.value).startswith(f"box {[float(v) for v in box]}: ")


def test_no_boxes_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="no box to write"):
        CONVENTIONS["norm3"].render_all([])


@pytest.mark.parametrize("size", [None, (0, 10), (10, -1)])
@pytest.mark.parametrize("name", ["pixels", "qwen2_5_vl"])
def test_pixels_need_the_size(name: str, size: tuple | None) -> None:
    for call in (
        lambda c: c.render(BOX, size),
        lambda c: c.parse("", size),
        lambda c: c.precision(size),
    ):
        with pytest.raises(ValueError, match=f"'{name}' needs the image's width and height"):
            call(CONVENTIONS[name])


def test_a_box_thinner_than_a_step_becomes_one_step_wide() -> None:
    norm2 = CONVENTIONS["norm2"]
    assert norm2.render((0.501, 0.2, 0.502, 0.4)) == "[0.50, 0.20, 0.51, 0.40]"
    assert norm2.render((0.497, 0.2, 0.499, 0.4)) == "[0.49, 0.20, 0.50, 0.40]"
    assert norm2.render((0.0, 0.0, 1e-9, 1e-9)) == "[0.00, 0.00, 0.01, 0.01]"
    assert norm2.render((math.nextafter(1, 0), 0.0, 1.0, 1.0)) == "[0.99, 0.00, 1.00, 1.00]"


def test_kosmos2_reads_as_its_processor_does() -> None:
    def read(first: int, last: int) -> tuple | None:
        return CONVENTIONS["kosmos2"].read(
            f"<object><patch_index_{first:04d}><patch_index_{last:04d}></object>"
        )

    assert read(44, 863) == (0.390625, 0.046875, 0.984375, 0.828125)
    assert read(5, 911) == (0.171875, 0.015625, 0.484375, 0.890625)
    assert read(33, 33) == (1 / 32, 1 / 32, 2 / 32, 2 / 32)
    assert read(33, 35) == (1 / 32, 1 / 32, 4 / 32, 2 / 32)
    assert read(33, 97) == (1 / 32, 1 / 32, 2 / 32, 4 / 32)
    assert read(97, 33) is None
    assert read(35, 97) is None
    assert read(0, 1024) is None


@pytest.mark.parametrize("text", [
    "[0.1, 0.2, 0.3, 0.4]", "[0.100,0.200,0.300,0.400]", "[0.100, 0.200, 1.300, 0.400]", "[1, 2, 3, 4]",
    "[0.300, 0.200, 0.100, 0.400]", "[0.100, 0.200, 0.100, 0.400]", "[0.100, 0.200, 0.300]", "[-0.100, 0.200, 0.300, 0.400]",
    "[٠.100, 0.200, 0.300, 0.400]", "[0.100, 0.200, 0.300, 0.400", "", "[" * 5000 + "0.100, " * 5000,
    "[0.100, 0.200, 0.300, 0.400], [0.300, 0.200, 0.100, 0.400]",
])  # fmt: skip
def test_other_forms_and_bad_boxes_are_not_found(text: str) -> None:
    assert CONVENTIONS["norm3"].parse(text) == []


def test_numbers_beyond_the_grid_are_no_boxes() -> None:
    assert CONVENTIONS["ferret"].parse("[0, 0, 1001, 10] [0, 0, 1000, 010]") == []
    assert CONVENTIONS["qwen_vl"].read("<box>(0,0),(1000,10)</box>") is None
    assert CONVENTIONS["pixels"].read("[0, 0, 641, 10]", SIZE) is None
    assert CONVENTIONS["pixels"].read("[0, 0, 640, 480]", SIZE) == (0, 0, 1, 1)


def test_every_place_is_told() -> None:
    text = "the chair [0.100, 0.200, 0.300, 0.400] or [0.000, 0.000, 1.000, 1.000]?"
    assert CONVENTIONS["norm3"].parse(text) == [
        Found(((0.1, 0.2, 0.3, 0.4),), 10, 38), Found(((0.0, 0.0, 1.0, 1.0),), 42, 70),
    ]  # fmt: skip


def test_qwens_newer_forms_are_json() -> None:
    for name in ("qwen2_5_vl", "qwen3_vl"):
        assert (
            len(json.loads(CONVENTIONS[name].render(np.array(BOX, np.float32), SIZE))["bbox_2d"])
            == 4
        )


def test_iou_is_of_pairs() -> None:
    a = np.array(
        [[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1], [1, 1, 1, 1], [np.nan, 0, 1, 1], [2, 2, 0, 0]],
        float,
    )
    b = np.array(
        [[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]], float
    )
    np.testing.assert_allclose(iou(a, b), [1 / 7, 1, 0, 0, np.nan, 0])
    assert iou(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


def test_boxes_are_cut_at_the_image() -> None:
    given_px = np.array([[-5, -5, 50, 50], [90, 10, 200, 300], [300, 300, 400, 400], [np.nan] * 4])
    expected = np.array([[0, 0, 50, 50], [90, 10, 100, 80], [100, 80, 100, 80], [np.nan] * 4])
    np.testing.assert_array_equal(clip(given_px, 100, 80), expected)
    own = clip(given_px[:2], np.array([10.0, 100.0]), np.array([20.0, 80.0]))
    np.testing.assert_array_equal(own, [[0, 0, 10, 20], [90, 10, 100, 80]])


def test_both_layouts_of_boxes_turn_into_each_other() -> None:
    xywh = np.array([[[1.0, 2.0, 3.0, 4.0]]])
    np.testing.assert_array_equal(xyxy_from_xywh(xywh), [[[1, 2, 4, 6]]])
    np.testing.assert_array_equal(xywh_from_xyxy(xyxy_from_xywh(xywh)), xywh)
