"""Captions whose phrases have boxes: what is marked, drawn, and said of what is not."""

import math
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import caption, grounded, image_bytes, make_build, phrase

from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.report.phrases import phrases_of, read_phrases, runs_of
from vila2data.report.pictures import Canvas, NoPicture, Picture, PictureFinder
from vila2data.report.rows import Row
from vila2data.report.turns import conversation_of
from vila2data.report.which import note_of, pictures_of

NAN = math.nan
HALF, CORNER = (0.0, 0.0, 0.5, 1.0), (0.75, 0.75, 1.0, 1.0)
IMAGE = image_bytes(200, 100)
SHA = sha256(IMAGE).hexdigest()


@pytest.fixture
def corpus(tmp_path):
    """Holds one image, with the key ``a``."""
    pack([SourceItem("a", lambda: IMAGE, b"x", {})], tmp_path / "corpus")
    return tmp_path / "corpus"


def narration(folder, *rows, rejects=(), **changes):
    tables = {"short": list(rows), "pool-rejects": list(rejects)}
    return make_build(folder, "grounded-narration", tables, **changes)


def refused(key, text, items, reason="crowded", **values):
    return grounded(key, text, items, reject_reason=reason) | values


def rectangles(page):
    return [
        tuple(float(rect[name]) for name in ("x", "y", "width", "height"))
        for rect in page.all("rect")
    ]


def marks(page):
    return [(e["data-number"], e.text, e["class"]) for e in page.all("mark")]


# --- phrases and marks


def test_items_of_one_place_are_one_phrase_in_the_order_of_the_caption():
    items = [
        phrase("a cat", [HALF], 6, score=0.5),
        phrase("a dog", [HALF]),
        phrase("a cat", [CORNER], 6, score=0.75),
        phrase(None, [HALF], None),
        phrase(None, [HALF], None),
    ]
    found = phrases_of([{"caption": "a dog a cat", "phrases": items}])
    assert [(p.number, p.label, p.span, p.score, len(p.bboxes)) for p in found] == [
        (1, "a dog", (0, 5), 0.5, 1),
        (2, "a cat", (6, 11), 0.75, 2),
        (3, "", None, 0.5, 1),
        (4, "", None, 0.5, 1),
    ]
    assert [(box.colour, box.number) for box in found[1].boxes] == [(1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        *((None, None, "dog"), (None, 5, "dog"), (2, None, "dog"), (-3, 5, "dog"), (2, 2, "")),
        *((5, 2, "dog"), (900, 903, "dog"), (0, 900, "a dog"), (0, 3, "dog"), (2.0, 5.0, "dog")),
    ],
)
def test_offsets_that_do_not_hold_the_text_mark_nothing(start, end, text):
    item = {"text": text, "start": start, "end": end, "boxes": [HALF]}
    (found,) = phrases_of([{"caption": "a dog", "phrases": [item]}])
    assert (found.span, found.label, found.bboxes) == (None, text, (HALF,))
    assert [run.text for run in runs_of("a dog", [found])] == ["a dog"]


def test_offsets_count_characters_not_bytes():
    text = "👩‍👧 und ein Hündchen"
    (found,) = phrases_of([{"caption": text, "phrases": [phrase("ein Hündchen", [HALF], 8)]}])
    assert [run.text for run in runs_of(text, [found])] == ["👩‍👧 und ", "ein Hündchen"]


@pytest.mark.parametrize(
    "values",
    [
        {"caption": None, "phrases": None},
        {"caption": "a dog", "phrases": None},
        {"caption": "a dog", "phrases": [None, 7]},
        {"phrases": "x"},
    ],
)
def test_rows_without_phrases_have_none(values):
    assert phrases_of([values]) == []


def test_a_phrase_without_boxes_or_with_a_score_that_is_none_is_a_phrase():
    item = {"text": "a dog", "start": 0, "end": 5, "boxes": None, "score": NAN}
    (found,) = phrases_of([{"caption": "a dog", "phrases": [item]}])
    assert (found.span, found.score, found.bboxes) == ((0, 5), None, ())


def test_spans_that_overlap_are_parted_and_belong_to_each():
    text = "a dog in a field"
    items = [phrase(text, [HALF]), phrase("a dog", [HALF]), phrase("a field", [HALF], 9)]
    runs = runs_of(text, phrases_of([{"caption": text, "phrases": items}]))
    told = [(r.text, [p.number for p in r.phrases], r.begins) for r in runs]
    assert told == [
        ("a dog", [1, 2], (1, 2)),
        (" in ", [2], ()),
        ("a field", [3, 2], (3,)),
    ]


@given(
    st.text(max_size=30),
    st.lists(st.tuples(st.integers(-2, 32), st.integers(-2, 32)), max_size=6),
    st.integers(0, 30),
)
def test_marks_change_no_character(text, spans, cut):
    items = [{"text": text[s:e], "start": s, "end": e, "boxes": []} for s, e in spans]
    found = phrases_of([{"caption": text, "phrases": items}])
    runs = runs_of(text[:cut], found)
    assert "".join(run.text for run in runs) == text[:cut]
    covered = {n for p in found if p.span for n in range(*p.span) if n < min(cut, len(text))}
    assert sum(len(run.text) for run in runs if run.phrases) == len(covered)


# --- boxes that a model wrote


def test_boxes_in_a_caption_are_labelled_with_the_words_before_them():
    text = (
        "A red bus [0.100,0.200,0.300,0.400] stops; near it, one very small brown dog "
        "([0.500, 0.500, 0.750, 0.750]; [0.000, 0.000, 0.250, 0.250])."
    )
    found = read_phrases(text)
    assert [(item["label"], item["boxes"]) for item in found] == [
        ("A red bus", [(0.1, 0.2, 0.3, 0.4)]),
        ("very small brown dog", [(0.5, 0.5, 0.75, 0.75), (0, 0, 0.25, 0.25)]),
    ]
    assert found[0]["text"] == "A red bus [0.100,0.200,0.300,0.400]"
    assert all(text[item["start"] : item["end"]] == item["text"] for item in found)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[0.100,0.200,0.300,0.400] is a dog", [""]),
        ("A dog: [0.100,0.200,0.300,0.400]", ["A dog"]),
        ("It is late. A dog [0.100,0.200,0.300,0.400]", ["A dog"]),
        ("late\nA dog\n[0.100,0.200,0.300,0.400]", ["A dog"]),
        ("A dog [0.1,0.2,0.3,0.4]", []),
        ("A dog [0.900,0.200,0.300,0.400]", []),
        ("A dog [100, 200, 300, 400]", []),
        ("x" * 10_000 + "[0.100,0.200,0.300,0.400]", ["x" * 200]),
    ],
)
def test_only_exact_boxes_are_read(text, labels):
    assert [item["label"] for item in read_phrases(text)] == labels


def test_written_boxes_are_drawn_and_the_text_stays(report, tmp_path, corpus):
    text = "A dog [0.000,0.000,0.500,1.000] and <b>a cat</b> [0.750, 0.750, 1.000, 1.000]."
    told = {"image_sha256": SHA, "width": 200, "height": 100}
    tables = {
        "round1": [caption("a", "A dog [0.500,0.500,0.750,0.750].", round=1, **told)],
        "round1-rejects": [],
        "grounding": [caption("a", text, round=1, task="grounding", **told)],
        "grounding-rejects": [],
    }
    build = make_build(tmp_path / "b", "coyo-recap", tables)
    page = report(build, corpus=corpus)
    assert rectangles(page) == [(0, 0, 100, 100), (150, 75, 50, 25)]
    assert [e.text for e in page.all("p", "text")][-1] == text
    assert marks(page) == [
        ("1", "A dog [0.000,0.000,0.500,1.000]", "colour-0 of of-1"),
        ("2", "and <b>a cat</b> [0.750, 0.750, 1.000, 1.000]", "colour-1 of of-2"),
    ]
    assert len(page.all("img")) == 1
    assert len(report(build).all("div", "blank")) == 1, "without the corpus on a canvas"


# --- what stands in for a picture


@pytest.mark.parametrize(
    ("width", "height", "size", "told"),
    [
        (1024, 693, (480, 325), "a blank canvas of 1024 × 693."),
        (300, 1200, (120, 480), "a blank canvas of 300 × 1200."),
        (8, 1, (480, 60), "a blank canvas of 8 × 1."),
        (20_000, 10, (480, 60), "a blank canvas of 20000 × 10, drawn 8:1."),
        (1, 2**31 - 1, (60, 480), f"a blank canvas of 1 × {2**31 - 1}, drawn 1:8."),
        *((w, h, (480, 480), "a square canvas") for w, h in ((None, 9), (9, 0), (-1, 9))),
    ],
)
def test_a_canvas_has_the_shape_of_the_image(width, height, size, told):
    canvas = Canvas.of(NoPicture("No image: none."), width, height)
    assert (canvas.width_px, canvas.height_px) == size
    assert canvas.note.startswith(f"No image: none. The boxes lie on {told}")


def test_boxes_without_a_picture_lie_on_a_canvas(report, tmp_path):
    row = grounded("r", "a dog, a cat", [phrase("a dog", [HALF, CORNER]), phrase("a cat", [], 7)])
    page = report(narration(tmp_path / "b", row))
    (canvas,) = page.all("div", "blank")
    assert canvas["style"] == "width:480px;aspect-ratio:480/240"
    assert rectangles(page) == [(0, 0, 240, 240), (360, 180, 120, 60)]
    assert {e["class"] for e in page.all("rect")} == {"colour-0 of of-1"}
    assert [e.text for e in page.all("text", "number")] == ["1", "1"]
    assert page.all("img") == []
    assert "No image: the build was made without a corpus. The boxes lie on" in page.html
    legend = [" ".join(e.text.split()) for e in page.all("ul", "legend")[0:1]]
    assert legend == ["1 a dog × 2 0.50 2 a cat 0.50 (no box drawn)"]


def test_a_row_without_boxes_has_no_canvas(report, tmp_path):
    items = [[], [phrase("a dog", [])], [phrase("a dog", [(0, 0, 0, 1)])]]
    rows = [grounded(f"r{n}", "a dog", phrases) for n, phrases in enumerate(items)]
    page = report(narration(tmp_path / "b", *rows))
    assert page.all("div", "blank") == []
    told = "No image: the build was made without a corpus."
    assert [e.text for e in page.all("div", "none")] == [told] * 3


@pytest.mark.parametrize(
    ("values", "reason", "note"),
    [
        ({"image_sha256": SHA, "image_status": "ok"}, None, None),
        ({"image_sha256": SHA, "image_status": "size_differs"}, None, "sides are in another ratio"),
        ({"image_sha256": SHA, "image_status": "phash_differs"}, None, "does not look like"),
        (
            {"image_sha256": "0" * 64, "image_status": "size_differs"},
            "with this key and hash",
            None,
        ),
        ({"image_sha256": None, "image_status": None}, "was made without a corpus", None),
        ({"image_sha256": None, "image_status": "missing"}, "corpus did not hold it", None),
        ({"image_sha256": None, "image_status": "new"}, "the row names none", None),
        ({"reject_reason": "crowded"}, "the row was rejected, and names none", None),
    ],
)
def test_an_image_that_only_shares_the_key_is_not_shown(tmp_path, corpus, values, reason, note):
    rows = [Row("short", False, grounded("a", "a dog") | values, None)]
    pictures = pictures_of("a", rows, PictureFinder(tmp_path, corpus))
    (picture,) = pictures
    assert isinstance(picture, Picture) == (reason is None)
    assert reason is None or reason in picture.reason
    found = note_of(pictures, rows)
    assert found is None if note is None else note in found


def test_each_row_with_a_key_has_its_own_picture_and_says_its_status(report, tmp_path, corpus):
    statuses = {"ok": SHA, "size_differs": SHA, "<b>missing": None, None: None}
    items = [phrase("a dog", [HALF])]
    rows = [
        grounded("a", "a dog", items, image_status=status, image_sha256=known)
        for status, known in statuses.items()
    ]
    bad = refused("a", "a dog", items)
    page = report(narration(tmp_path / "b", *rows, rejects=[bad]), corpus=corpus)
    assert (len(page.all("img")), len(page.all("div", "blank"))) == (2, 3)
    assert rectangles(page) == [(0, 0, 100, 100)] * 2 + [(0, 0, 240, 240)] * 3
    told = [e.text for e in page.all("div") if e.text.startswith("image status")]
    assert told == ["image status size_differs", "image status <b>missing"]
    assert "boxes may lie wrong" in page.all("p", "warning")[0].text


# --- the page


def test_captions_and_labels_are_text(report, tmp_path):
    hostile = "</p></mark><script>alert(1)</script>\"'{{7*7}}&amp;\u202e"
    text = f"a {hostile} b"
    row = grounded("r", text, [phrase(hostile, [HALF], 2), phrase("no" + hostile, [CORNER])])
    bad = refused("q", text, [phrase(hostile, [HALF], 2)], hostile, detail=hostile)
    page = report(narration(tmp_path / "b", row, rejects=[bad]))
    assert page.all("script") == []
    texts = [e.text for e in page.all("p", "marked")]
    assert texts == [text, text]
    assert marks(page) == [("1", hostile, "colour-0 of of-1")] * 2
    assert {e.text for e in page.all("title")[1:]} == {f"1 {hostile}", f"2 no{hostile}"}


def test_rejected_rows_show_their_reason_and_count_the_boxes_that_cannot_be_drawn(report, tmp_path):
    drawn = [phrase("a dog", [HALF]), phrase(None, [CORNER], None), phrase("dog", [CORNER], 900)]
    bad = [(NAN, 0, 1, 1), (0.9, 0.1, 0.2, 0.4), (10, 20, 300, 400), (0, 0, math.inf, 1)]
    left_out = [phrase("a dog", [box]) for box in bad]
    row = refused("r", "a dog", drawn + left_out, detail="dog: 4 instances")
    nothing = refused("n", None, (), "no_caption", width=None, height=None, phrases=None)
    page = report(narration(tmp_path / "b", rejects=[row, nothing]), keys=["r", "n"])
    assert rectangles(page) == [(0, 0, 240, 240), (360, 180, 120, 60), (360, 180, 120, 60)]
    assert "4 more boxes are not drawn" in page.html
    assert [e.text for e in page.all("span", "badge")] == [
        *("rejected: crowded", "rejected: no_caption")
    ]
    first, second = (" ".join(e.text.split()) for e in page.all("section", "rejected"))
    assert first == (
        "pool-rejects: caption rejected: crowded a dog 1 a dog 0.50 "
        "2 no text 0.50 (not at its place in the text) "
        "3 dog 0.50 (not at its place in the text) dog: 4 instances"
    )
    assert second == "pool-rejects: caption rejected: no_caption (empty)"


def test_rows_with_the_same_key_stand_each_for_itself_the_kept_first(report, tmp_path):
    rows = [grounded("r", text, [phrase(text, [HALF])]) for text in ("a dog", "a cat")]
    bad = refused("r", "a cow", [phrase("a cow", [CORNER])], "duplicate")
    page = report(narration(tmp_path / "b", *rows, rejects=[bad]))
    assert [e.text for e in page.all("mark")] == ["a dog", "a cat", "a cow"]
    assert len(page.all("article")) == len({e["id"] for e in page.all("article")}) == 3
    assert {a["href"][1:] for a in page.all("a")} <= set(page.ids())


def test_a_hundred_phrases_are_shown_at_most(report, tmp_path):
    text = "".join(f"x{n:03} " for n in range(130))
    many = [phrase(f"x{n:03}", [(n / 200, 0, 1, 1)], 5 * n) for n in range(130)]
    page = report(narration(tmp_path / "b", grounded("r", text, many)))
    assert len(page.all("rect")) == len(page.all("mark")) == len(page.all("li")) == 100
    assert "30 more boxes are not drawn" in page.html
    style = page.all("style")[0].text
    assert ".of-100:focus) .of-100\n" in style
    assert ".of-101" not in style


def test_small_boxes_lie_upon_large_ones(report, tmp_path):
    row = grounded("r", "a dog, a cat", [phrase("a dog", [CORNER]), phrase("a cat", [HALF], 7)])
    page = report(narration(tmp_path / "b", row))
    assert [e["class"] for e in page.all("rect")] == ["colour-1 of of-2", "colour-0 of of-1"]


def test_pages_without_phrases_carry_no_rules_for_them(report, spatial):
    assert ".of-1" not in report(spatial).html


def test_very_long_captions_are_cut_with_their_marks(report, tmp_path):
    text = "a dog" + "é" * 9_000
    row = grounded("r", text, [phrase("a dog", [HALF]), phrase(text[5:], [CORNER], 5)])
    page = report(narration(tmp_path / "b", row))
    assert [len(e.text) for e in page.all("mark")] == [5, 5_995]
    assert "3,005 more characters are not shown" in page.html
    assert "é" * 60 + "…" in page.all("ul", "legend")[0].text


@pytest.mark.parametrize(
    ("columns", "notes"),
    [
        ({"question_ids": ["q1", "q2"]}, ["", "q1", "", "q2"]),
        ({"question_ids": ["q1"]}, ["", "q1", "", ""]),
        (
            {"tasks": ["general", "ocr"], "question_ids": [None, "q2"]},
            ["", "general", "", "ocr, q2"],
        ),
        ({"tasks": ["ocr"], "question_ids": [None, "q2"]}, ["", "ocr", "", "q2"]),
        ({"question_ids": None}, ["", "", "", ""]),
    ],
)
def test_turns_tell_their_questions(columns, notes):
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": "."} for role in roles]
    turns = conversation_of("c", {"messages": messages} | columns).turns
    assert [turn.note for turn in turns] == notes
