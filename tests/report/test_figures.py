"""What is drawn of boxes in space: wire frames, the top view, the solids, the questions."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import asked, image_bytes, make_build, solid, space_row
from PIL import Image

from vila2data.errors import BadInput, MissingExtra
from vila2data.report import figures, view3d
from vila2data.report.charts import check_svg
from vila2data.report.figures import figures_of
from vila2data.report.labels import Labels
from vila2data.report.lines import clipped, hull
from vila2data.report.overlay import boxes_of
from vila2data.report.space import space_of
from vila2data.report.topview import step_of, top_view
from vila2data.report.turns import conversation_of
from vila2data.report.wires import wires_of

NAN, INF = math.nan, math.inf
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def wires(*objects, relations=(), **values):
    return wires_of(space_of(space_row(objects, relations, **values)))


def top(*objects, relations=(), **values):
    return top_view(space_of(space_row(objects, relations, **values)))


def numbers(path):
    return [float(number) for number in NUMBER.findall(path)]


def spatial(folder, *rows):
    return make_build(folder, "spatial-relation-qa", {"default": list(rows)})


# --- wire frames


def test_a_wire_frame_is_the_projection_of_the_edges():
    frames = wires(solid((0, 0, 5), (2, 1, 1)))
    assert (frames.width_px, frames.height_px) == (200, 100)
    (wire,) = frames.wires
    # The near face lies at z = 4, the far one at z = 6; half sizes x 0.5, y 0.5.
    assert wire.near == (
        "M87.5 37.5L112.5 37.5M112.5 37.5L112.5 62.5M112.5 62.5L87.5 62.5M87.5 62.5L87.5 37.5"
    )
    assert wire.rest.count("M") == 8
    assert "M91.7 41.7L108.3 41.7" in wire.rest
    assert "M87.5 37.5L91.7 41.7" in wire.rest


def test_the_near_face_is_that_which_is_turned_to_the_camera():
    wide = [50.0, 0, 100, 0, 50, 50, 0, 0, 1]
    (wire,) = wires(solid((-4, 0, 3)), intrinsics=wide).wires
    assert sorted(set(numbers(wire.near)[::2])) == [30.0, 50.0], "x = -3.5, z from 2.5 to 3.5"
    (wire,) = wires(solid((-2, 0, 4)), intrinsics=wide).wires
    assert sorted(set(numbers(wire.near)[::2])) == [64.3, 78.6], "z = 3.5"
    (wire,) = wires(solid((0, 0, 1), (4, 4, 4))).wires
    assert wire.near == "", "the camera stands in it"
    assert wire.rest


def test_wire_frames_are_clipped_to_the_picture_and_to_what_lies_before_the_camera():
    (wire,) = wires(solid((0, 1, 2), (6, 1, 1))).wires  # reaches from z = -1 to z = 5
    found = numbers(wire.near + wire.rest)
    assert found
    assert all(0 <= x <= 200 for x in found[::2])
    assert all(0 <= y <= 100 for y in found[1::2])
    assert wires(solid((0, 0, -5)), solid((90, 0, 1))).wires == []


def test_what_is_asked_about_lies_on_top():
    objects = [solid((x, 0, 9), category=f"c{x}") for x in range(4)]
    drawn = wires(*objects, relations=[asked(2, 1)]).wires
    assert [(wire.number, wire.has_role) for wire in drawn] == [
        *((3, False), (0, False), (2, True), (1, True))
    ]
    assert [wire.colour for wire in drawn] == [3, 0, 2, 1]


def test_the_page_shows_layers_with_switches_numbers_and_hostile_labels_as_text(report, tmp_path):
    hostile = '</title></svg><script>alert(1)</script>"\x00\u202e'
    objects = [
        *(solid((x, 0, 9), category=f"c{x}") for x in range(2)),
        solid((2, 0, 9), category=hostile),
    ]
    relations = [asked(-1, 1), asked(1, 2, relation=hostile), asked(1, 2, gap=NAN)]
    flat = space_row(objects, key="flat", intrinsics=None)
    build = spatial(tmp_path / "b", space_row(objects, relations), flat)
    page = report(build, keys=["s1"])
    assert [e["class"] for e in page.all("svg")] == ["boxes", "wires", "numbers", "top"]
    assert [e["class"] for e in page.all("input")] == ["layer-boxes", "layer-wires"]
    style = page.all("style")[0].text
    for layer in ("boxes", "wires"):
        assert f".layer-{layer}:not(:checked)) .{layer}" in style
    groups = [(e.text[:7], e["class"]) for e in page.all("g")]
    assert groups == [("0 c0", "colour-0 plain"), ("2 </tit", "colour-2"), ("1 c1", "colour-1")]
    assert [e["class"] for e in page.all("rect")] == ["colour-1", "colour-2", "colour-0 plain"]
    assert page.all("script") == []
    assert "2 </title></svg>" in {e.text for e in page.all("text", "name")}
    whos = [e.text for e in page.all("div", "who")]
    assert [who.split(" · ")[0] for who in whos] == ["Q1", "Q1", "Q2", "Q2", "Q3", "Q3"]
    assert [e.text for e in page.all("text", "question")] == ["Q1", "Q2,3"]
    assert whos[1].endswith("left of, target 1, gap 1.00 m, anchor the camera, candidates -1 1")
    assert whos[5].endswith("object object: left of, target 2, anchor 1, candidates 1 2")
    page = report(build, keys=["flat"])
    assert page.all("input") == page.all("polygon", "sight") == []
    assert [e["class"] for e in page.all("svg")] == ["boxes", "top"]


# --- the top view


def test_the_top_view_is_to_scale():
    view = top(solid((0, 0, 2)), solid((0, 0, 4), (1, 1, 2)))
    (_, near), (_, far) = [sorted_sides(foot) for foot in view.footprints[::-1]]
    per_m = near
    assert far == pytest.approx(per_m, abs=0.2)
    wide = sorted_sides(view.footprints[0])
    assert wide == (pytest.approx(2 * per_m, abs=0.2), pytest.approx(per_m, abs=0.2))
    assert 4.5 * per_m + 52 == pytest.approx(460, abs=1), "from the camera to z = 4.5"
    assert view.step_m == 1
    lines = [label.text for label in view.distances]
    assert lines[:4] == ["1 m", "2 m", "3 m", "4 m"]
    at = {label.text: label.y_px for label in view.distances}
    assert at["1 m"] - at["3 m"] == pytest.approx(2 * per_m, abs=0.2)


def sorted_sides(foot):
    points = np.array(numbers(foot.points)).reshape(-1, 2)
    size = points.max(axis=0) - points.min(axis=0)
    return float(size[0]), float(size[1])


@pytest.mark.parametrize(
    ("least", "step"), [(0.09, 0.1), (1, 1), (1.1, 2), (3, 5), (7, 10), (1000, 1000), (2e5, 2e5)]
)
def test_grids_have_round_steps(least, step):
    assert step_of(least) == pytest.approx(step)


def test_the_wedge_is_what_the_camera_sees():
    view = top(solid((0, 0, 5)))
    x, y = np.array(numbers(view.sight)).reshape(-1, 2).T
    slopes = [(x[n] - x[2]) / (y[2] - y[n]) for n in (0, 1)]
    assert slopes == pytest.approx([-1, 1], abs=0.01), "100 px on either side at f = 100 px"


def test_far_outliers_are_left_out_and_counted():
    near = [solid((n, 0, 6)) for n in range(5)]
    view = top(*near, solid((0, 0, 900)), solid((0, 0, 7), (5e4, 1, 1)))
    assert (len(view.footprints), view.far, view.step_m) == (5, 2, 1)
    asked_about = top(*near, solid((0, 0, 120)), relations=[asked(-1, 5)])
    assert (asked_about.far, asked_about.step_m) == (0, 20)
    alone = top(solid((0, 0, 9e5)))
    assert (len(alone.footprints), alone.far) == (1, 0)


def test_questions_are_arrows_from_anchor_to_target():
    objects = [solid((x, 0, 9)) for x in (-3, 0, 3)]
    relations = [asked(0, 2), asked(-1, 1), asked(0, 2), asked(7, 0), asked(2, 0), asked(None, 1)]
    view = top(*objects, relations=relations)
    assert [(arrow.title, arrow.from_camera) for arrow in view.arrows] == [
        *(("Q1,3", False), ("Q2", True), ("Q5", False))
    ]
    assert [label.text for label in view.questions] == ["Q1,3", "Q2", "Q5"]
    there, back = (numbers(view.arrows[n].path)[:4] for n in (0, 2))
    assert there == back[2:] + back[:2]
    assert there[0] < there[2], "from the anchor on the left to the target on the right"


def test_notes_name_a_dozen_candidates_and_leave_out_what_is_no_number():
    relations = [asked(0, 1, gap=NAN), asked(0, 1, gap=None, candidates=list(range(40)))]
    row = space_row([], relations)
    notes = [turn.note for turn in conversation_of("default", row).turns]
    assert notes[1] == "object object: left of, target 1, anchor 0, candidates 0 1"
    assert notes[3].endswith("candidates 0 1 2 3 4 5 6 7 8 9 10 11 and 28 more")


def test_names_of_many_objects_do_not_lie_upon_each_other():
    rng = np.random.default_rng(0)
    objects = [solid((x, 0, z)) for x, z in rng.uniform((-15, 5), (15, 60), (40, 2))]
    view = top(*objects, relations=[asked(0, 1), asked(-1, 2)])
    placed = view.distances + view.questions + view.names
    assert len(placed) > 40
    again = Labels(440, 460)
    areas = [again._area(label.text, (label.x_px, label.y_px)) for label in placed]
    for n, (left, upper, right, lower) in enumerate(areas):
        for other in areas[:n]:
            apart = left >= other[2] or other[0] >= right or upper >= other[3] or other[1] >= lower
            assert apart, (placed[n].text, areas[n], other)
    named = {label.text for label in view.names}
    assert {"0 car", "1 car", "2 car"} <= named
    assert all(label.minor == (" " not in label.text) for label in view.names)


def test_a_label_that_must_stand_does():
    labels = Labels(100, 100)
    assert labels.place("one", [(50, 50)])
    assert not labels.place("two", [(52, 50), (48, 51)])
    assert labels.place("two", [(52, 50), (20, 20)], minor=True)
    assert labels.place("six", [(-9, 500)], must=True)
    assert labels.place("six", [(-9, 500)], must=True)
    assert [(label.text, label.minor) for label in labels.take()] == [
        *(("one", False), ("two", True), ("six", False), ("six", False))
    ]
    assert labels.take() == []
    assert not labels.place("one", [(50, 50)]), "the place stays taken"
    assert labels.width_px("汽车") > labels.width_px("ab")


# --- geometry of lines

edges = st.floats(-1e13, 1e13) | st.integers(-3, 13).map(float) | st.just(NAN)


@given(st.lists(edges, min_size=4, max_size=4))
def test_a_clipped_segment_lies_in_the_frame_and_in_the_segment(values):
    segment = np.array(values).reshape(1, 2, 2)
    parts = clipped(segment, (10.0, 5.0))
    assert np.isfinite(parts).all()
    assert ((parts >= 0) & (parts <= (10, 5))).all()
    inside = np.isfinite(segment).all() and ((segment >= 0) & (segment <= (10, 5))).all()
    if inside and (segment[0, 0] != segment[0, 1]).any():
        assert parts == pytest.approx(segment)


@pytest.mark.parametrize(
    ("segment", "part"),
    [
        ([[-5, 2], [15, 2]], [[0, 2], [10, 2]]),
        ([[3, 9], [3, -9]], [[3, 5], [3, 0]]),
        ([[-1, -1], [4, 4]], [[0, 0], [4, 4]]),
        ([[-5, 6], [15, 6]], None),
        ([[11, 0], [20, 5]], None),
        ([[-2, 4], [2, 8]], None),
        ([[2, 2], [NAN, 2]], None),
    ],
)
def test_segments_are_clipped(segment, part):
    parts = clipped(np.array([segment], dtype=float), (10.0, 5.0))
    assert parts.tolist() == ([] if part is None else [part])


points = st.tuples(st.integers(-9, 9), st.integers(-9, 9))


@given(st.lists(points, min_size=1, max_size=8))
def test_a_hull_is_convex_and_holds_every_point(given_points):
    corners = hull(given_points)
    assert set(corners) <= set(given_points)
    if len(corners) > 2:
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            for x, y in given_points:
                assert (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) >= 0


# --- damage, bulk, hostility


DAMAGED = [
    *({"center": [NAN, 0, 5]}, {"center": [0, 0, INF]}, {"center": None}),
    *({"dimensions": [0, 1, 1]}, {"dimensions": [-1, -1, -1]}, {"dimensions": [1e30, 1, 1]}),
    *({"rotation": [0.0] * 9}, {"rotation": [2.0, 0, 0, 0, 2, 0, 0, 0, 2]}),
    {"rotation": [NAN] * 9},
]
OF_ANOTHER_FORM = [
    *({"center": [1, 2]}, {"center": "far"}, {"center": [10**400, 0, 1]}, {"center": {"x": 1}}),
    *({"rotation": [[1, 0, 0]] * 3}, {"dimensions": [True] * 3}, {"dimensions": ["1", "1", "1"]}),
]
BAD_CAMERAS = [
    *(None, [0.0] * 9, [NAN] * 9, [100.0, 0, 100, 0, 0, 50, 0, 0, 1]),
    *([100.0, 0, 100, 0, 100, 50, 0, 0, 0], [100.0, 0, 0, 0, 100, 0, 100, 50, 1]),
    [-100.0, 0, 100, 0, 100, 50, 0, 0, 1],
]


@pytest.mark.parametrize("damage", DAMAGED + OF_ANOTHER_FORM)
def test_damaged_boxes_are_left_out_and_counted(damage):
    bad = solid((0, 0, 5)) | damage
    assert space_of({"objects": [bad]}) is None
    row = space_row([solid((0, 0, 5)), bad], [asked(0, 1), asked(1, 0)])
    drawn = figures_of([row], with_view=False)
    assert [wire.number for wire in drawn.wires.wires] == [0]
    assert (drawn.left_out, drawn.top.arrows) == (1, [])


@pytest.mark.parametrize("value", [None, 7, "text", [1], [None], {}, [{"center": "x"}]])
def test_rows_of_another_form_draw_nothing(value):
    row = {"objects": value, "relations": value, "intrinsics": value, "width": value}
    assert figures_of([row], with_view=True) is None
    drawn = figures_of([row | {"objects": [solid((0, 0, 5))]}], with_view=False)
    assert (drawn.wires, len(drawn.top.footprints)) == (None, 1)


@pytest.mark.parametrize("intrinsics", BAD_CAMERAS)
def test_without_a_camera_that_projects_there_are_no_wire_frames(intrinsics):
    row = space_row([solid((0, 0, 5))], [asked(-1, 0)], intrinsics=intrinsics)
    drawn = figures_of([row], with_view=False)
    assert (drawn.wires, drawn.top.sight, len(drawn.top.arrows)) == (None, "", 1)


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -1}, {"width": None}, {"width": "9"}])
def test_without_a_size_there_are_no_wire_frames(size):
    assert wires(solid((0, 0, 5)), **size) is None


def test_damage_and_odd_places_make_a_page_with_finite_drawings(report, tmp_path):
    places = [(0, 0, 0), (0, 0, 0.05), (0, 0, -3), (1e6, 1e6, 1e6), (0, -40, 1e-9), (5, 5, 5)]
    sizes = [(1, 1, 1), (1e-6, 1e-6, 1e-6), (1e6, 1e6, 1e6), (0.1, 0.1, 30)]
    cameras = [*BAD_CAMERAS, [1e-3, 1e6, -1e6, 0, 1e6, 1e6, 0, 0, 1.0]]
    good = solid((0, 0, 5))
    odd = [[solid(p, s) for p in places for s in sizes], *([solid(p)] for p in places)]
    rows = [
        *(space_row([good, good | bad], [asked(0, 1)], f"d{n}") for n, bad in enumerate(DAMAGED)),
        *(space_row(o, [asked(0, 3), asked(-1, 0)], f"o{n}") for n, o in enumerate(odd)),
        *(space_row([good], [], f"k{n}", intrinsics=k) for n, k in enumerate(cameras)),
    ]
    small = {"image": {"bytes": image_bytes(20, 10), "path": None}}
    page = report(spatial(tmp_path / "b", *(row | small for row in rows)), samples=99)
    assert len(page.all("svg", "top")) == len(rows)
    assert page.html.count("1 more are not drawn: no usable box in space") == len(DAMAGED)
    for svg in re.findall(r"<svg class.*?</svg>", page.html, re.DOTALL):
        check_svg(svg)
    drawn = ("d", "points", "x", "y", "width", "height")
    values = [e[name] for e in page.elements for name in drawn if e[name]]
    assert len(values) > 500
    assert [value for value in values if not re.fullmatch(r"[ML\d., -]*", value)] == []


def test_ten_thousand_boxes_are_drawn_in_bounded_room():
    rng = np.random.default_rng(0)
    many = [solid(c) for c in rng.uniform((-20, -2, 2), (20, 2, 60), (10_000, 3)).tolist()]
    row = space_row(many, [asked(n, 9_000 + n) for n in range(1_000)])
    drawn = figures_of([row], with_view=False)
    assert sum(len(wire.near + wire.rest) for wire in drawn.wires.wires) < 60_000
    assert sum(len(foot.points) for foot in drawn.top.footprints) < 20_000
    assert len(drawn.top.arrows) == 12
    assert drawn.left_out == 10_000 - 150
    assert {9_000, 9_011} <= {wire.number for wire in drawn.wires.wires}, "what is asked about"
    boxes, left_out = boxes_of([row])
    assert (len(boxes), left_out) == (100, 9_900)
    assert all(box.has_role for box in boxes)


# --- solids


def test_at_most_twelve_samples_are_drawn_as_solids(report, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "view_of_space", lambda space: Image.new("RGB", (64, 48)))
    small = {"bytes": image_bytes(20, 10), "path": None}
    boxes = [solid((0, 0, 5))]
    rows = [space_row(boxes, [asked(-1, 0)], f"s{n}", image=small) for n in range(14)]
    page = report(spatial(tmp_path / "b", *rows))
    views = [e for e in page.all("img") if e["alt"].startswith("Boxes in space")]
    assert len(views) == 12
    assert len(page.all("svg", "top")) == 14


def test_without_open3d_there_are_no_solids():
    row = space_row([solid((0, 0, 5))], [asked(-1, 0)])
    assert figures_of([row], with_view=True).view is None
    with pytest.raises(MissingExtra, match=r"open3d is not installed.*vila2data\[spatial\]"):
        view3d.view_of(row)


@pytest.mark.parametrize("error", [OSError, ImportError])
def test_an_open3d_that_cannot_be_loaded_is_told(monkeypatch, error):
    def broken(module, *, extra):
        raise error("libGL.so.1: cannot open shared object file\nmore")

    monkeypatch.setattr(view3d, "require", broken)
    with pytest.raises(MissingExtra, match=r"cannot be loaded: libGL\.so\.1: cannot open"):
        view3d.view_of(space_row([solid((0, 0, 5))]))


def test_a_row_without_boxes_has_no_view():
    with pytest.raises(BadInput, match="row 's1': objects: none has a box in space; center"):
        view3d.view_of(space_row([solid((0, 0, NAN))]))


def test_solids_have_the_colours_of_their_labels(open3d, tmp_path):
    objects = [solid((-2, 0, 8), (2, 2, 2)), solid((2, 0, 8), (2, 2, 2), "tree")]
    row = space_row([*objects, solid((0, 0, 14), (2, 2, 2), "sign")], [asked(0, 1)])
    pixels = np.asarray(view3d.view_of(row)).astype(int)
    assert pixels.shape == (480, 640, 3)
    red, green, blue = pixels.transpose(2, 0, 1)
    bluish = (blue > 120) & (blue - red > 80)
    orange = (red > 120) & (red - blue > 80)
    assert min(bluish.sum(), orange.sum()) > 2_000
    assert np.nonzero(bluish)[1].mean() < np.nonzero(orange)[1].mean(), "left, right"
    assert ((green - red > 80) & (green - blue > 30)).sum() == 0, "what no question names is pale"
    assert np.array_equal(pixels, np.asarray(view3d.view_of(row))), "the same, again"
    view3d.save_view(row, tmp_path / "view.png")
    with Image.open(tmp_path / "view.png") as saved:
        assert np.array_equal(np.asarray(saved), pixels)
    with pytest.raises(BadInput, match=r"view\.xyz: no form of picture ends so"):
        view3d.save_view(row, tmp_path / "view.xyz")
    view = figures_of([row], with_view=True).view
    assert (view.width_px, view.height_px) == (640, 480)


@pytest.mark.parametrize(
    "objects",
    [
        [solid((0, 0, 0), (1e6, 1e6, 1e6))],
        [solid((1e6, -1e6, 1e6))],
        [solid((0, 0, -4)), solid((0, 0, 1e-6), (1e-6, 1e-6, 1e-6))],
        [solid((0, 0, 5), rotation=[0, -1, 0, 1, 0, 0, 0, 0, 1])],  # on its side
        [solid((0, 0, 5), rotation=[1, 0, 0, 0, 0, -1, 0, 1, 0])],  # seen from above
    ],
)
def test_odd_boxes_have_a_view(open3d, objects):
    assert view3d.view_of(space_row(objects, intrinsics=None)).size == (640, 480)


# --- real data


@pytest.mark.shared
def test_wire_frames_lie_where_the_sources_own_boxes_do(shared_data):
    found = json.loads((shared_data / "spatial3d/derived/omni3d_style_dev.json").read_text())
    image = next(image for image in found["images"] if image["source_dataset"] == "kitti")
    boxes = [b for b in found["annotations"] if b["image_id"] == image["id"]]
    objects = [
        solid(b["center_cam"], b["dimensions"], rotation=[x for row in b["R_cam"] for x in row])
        for b in boxes
    ]
    intrinsics = [x for row in image["K"] for x in row]
    size = {"width": image["width"], "height": image["height"]}
    frames = wires(*objects, intrinsics=intrinsics, **size)
    assert len(frames.wires) == 6
    for wire in frames.wires:
        xy = np.array(numbers(wire.near + wire.rest)).reshape(-1, 2)
        own = boxes[wire.number]["bbox2D_tight"]
        drawn = [*xy.min(axis=0), *xy.max(axis=0)]
        assert drawn == pytest.approx(own, abs=12), wire.number
