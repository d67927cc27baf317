import math

import pytest
from pages import caption, image_bytes, make_build, scene

from vila2data.corpus.images import ImageLimits
from vila2data.report.overlay import boxes_of
from vila2data.report.phrases import phrases_of
from vila2data.report.pictures import NoPicture, Picture, picture_of
from vila2data.report.source import place_of


def rectangles(page):
    return [
        tuple(float(rect[name]) for name in ("x", "y", "width", "height"))
        for rect in page.all("rect")
    ]


def test_boxes_lie_where_the_build_says(report, spatial):
    page = report(spatial)
    (image,) = page.all("img")
    assert (image["width"], image["height"]) == ("480", "240"), "640 x 320, made smaller"
    (overlay,) = page.all("svg", "boxes")
    assert overlay["viewbox"] == "0 0 480 240"
    assert rectangles(page) == [(120, 120, 120, 120), (0, 0, 48, 48)]
    assert [e.text for e in page.all("rect")] == ["0 car", "1 tree"]
    assert [e.text for e in page.all("text", "number")] == ["0", "1"], (
        "the numbers that relations use"
    )
    assert "object object: left of, target 1, gap 1.50 m" in page.html


def test_boxes_that_cannot_be_drawn_are_counted(report, tmp_path):
    boxes = [(0, 0, math.nan, 1), (0.5, 0.5, 0.5, 0.9), (2, 2, 3, 3), (-1, -1, 0.5, math.inf)]
    rows = [scene(boxes=[*boxes, (-1, -1, 0.5, 2)])]
    page = report(make_build(tmp_path / "b", "spatial-relation-qa", {"default": rows}))
    assert rectangles(page) == [(0, 0, 240, 240)], "clipped to the picture"
    assert "4 more boxes are not drawn" in page.html


def test_a_hundred_boxes_are_drawn_at_most():
    many = [{"category": f"c{n}", "bbox": [0, 0, (n + 1) / 200, 1]} for n in range(150)]
    boxes, left_out = boxes_of([{"objects": many}])
    assert (len(boxes), left_out) == (100, 50)
    assert boxes_of([{"objects": many[:3]}, {"objects": many[:3]}])[1] == 0


@pytest.mark.parametrize("value", [None, 7, "text", [1], [{"bbox": "x"}], [{"bbox": ["a"] * 4}]])
def test_columns_of_another_form_draw_nothing(value):
    assert boxes_of([{"objects": value}])[0] == []
    phrases = phrases_of([{"phrases": value}])
    assert boxes_of([], [box for phrase in phrases for box in phrase.boxes])[0] == []


def test_pictures_are_made_small_and_damaged_ones_refused():
    big = picture_of(image_bytes(3000, 1000), ImageLimits())
    assert isinstance(big, Picture)
    assert (big.width_px, big.height_px) == (480, 160)
    small = picture_of(image_bytes(20, 10), ImageLimits())
    assert isinstance(small, Picture)
    assert (small.width_px, small.height_px) == (20, 10)
    assert picture_of(image_bytes()[:60], ImageLimits()) == NoPicture(
        "The image cannot be shown: image_undecodable."
    )


def test_rows_with_several_images_none_or_a_damaged_one(report, tmp_path):
    def row(key, *images):
        embedded = [{"bytes": image, "path": None} for image in images]
        turns = [{"role": "user", "content": "Read."}, {"role": "assistant", "content": "Stop."}]
        told = {"source": "made", "task": "ocr", "license": "cc0"}
        return {"id": key, **told, "images": embedded, "messages": turns}

    rows = [row("a", image_bytes(), image_bytes()), row("b"), row("c", b"no image")]
    build = make_build(tmp_path / "b", "ocr-blend", {"default": rows})
    assert len(report(build, keys=["a"]).all("img")) == 2
    assert "Text only" in report(build, keys=["b"]).html
    page = report(build, keys=["c"])
    assert "image_undecodable" in page.html
    assert [e.text for e in page.all("p", "text")] == ["Read.", "Stop."]


def test_named_images_are_read_inside_the_build_alone(report, tmp_path):
    (tmp_path / "secret.png").write_bytes(image_bytes())
    for path, found in (("pictures/a.png", 1), ("../secret.png", 0), ("/etc/passwd", 0)):
        image = {"bytes": None, "path": path}
        folder = tmp_path / path.replace("/", "_")
        rows = [scene(image=image)]
        build = make_build(folder, "spatial-relation-qa", {"default": rows})
        (build / "pictures").mkdir()
        (build / "pictures" / "a.png").write_bytes(image_bytes())
        page = report(build)
        assert len(page.all("img")) == found, path
        assert ("not in its folder" in page.html) == (not found)


def test_a_sample_without_a_usable_image_says_so(report, tmp_path):
    rejected = [caption("a", "", original="", reason="image_undecodable")]
    build = make_build(tmp_path / "b", "coyo-recap", {"original": [], "original-rejects": rejected})
    page = report(build)
    assert "the sample has none that can be used" in page.html
    assert "(empty)" in page.html


def test_scenes_show_their_texts_and_questions(report, tmp_path):
    questions = [{"question": "How many?", "answer": "Two.", "kind": "count"}]
    texts = {"alt_text": "img_1", "reference": "Two cubes."}
    rows = [{"key": "a", "image_sha256": "0" * 64, **texts, "questions": questions}]
    page = report(make_build(tmp_path / "b", "scenes", {"train": rows}))
    assert [e.text for e in page.all("p", "text")] == ["img_1", "Two cubes.", "How many?", "Two."]


def test_configs_are_sorted_as_they_are_read():
    configs = [
        "ocr",
        "zoo",
        "round10",
        "round2-rejects",
        "grounding",
        "round2",
        "original",
        "spatial",
    ]
    assert sorted(configs, key=place_of) == [
        *("original", "round2", "round2-rejects", "round10", "spatial", "grounding", "ocr", "zoo")
    ]


def test_a_refused_box_is_shown_with_its_reason_and_without_an_empty_picture(report, tmp_path):
    reject = {
        "id": "s1",
        "source": "made",
        "image_path": "1.jpg",
        "object": 7,
        "category": "night_stand",
        "reject_reason": "behind_camera",
        "detail": "z -4 m",
    }
    tables = {"default": [scene()], "default-rejects": [reject, reject | {"id": "s2"}]}
    page = report(make_build(tmp_path / "b", "spatial-relation-qa", tables))
    assert [e.text for e in page.all("span", "badge")] == ["rejected: behind_camera"] * 2
    assert "night_stand" in page.html
    assert "z -4 m" in page.html
    assert len(page.all("img")) == 1
    assert "names a file that is not" not in page.html
    assert page.html.count("It was refused: the build names its image") == 1, "of s2 alone"
    assert "has no image" not in page.html
