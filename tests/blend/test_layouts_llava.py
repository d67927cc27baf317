"""Layouts of LLaVA-1.5's sources: turns, choices, regions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.layouts.choices import coco_photo
from vila2data.corpus.images import Problem


def read(layout: str, record: dict[str, Any]) -> list[Annotation | Problem]:
    return list(LAYOUTS[layout].read(record))


def one(layout: str, record: dict[str, Any]) -> Annotation:
    (found,) = read(layout, record)
    assert isinstance(found, Annotation), found
    return found


def problem(layout: str, record: dict[str, Any]) -> tuple[str, str]:
    (found,) = read(layout, record)
    assert isinstance(found, Problem), found
    return found.reason, found.detail


def turn(who: str, text: object) -> dict[str, object]:
    return {"from": who, "value": text}


def record_of(annotation: Annotation) -> dict[str, Any]:
    """The record of LLaVA's layout that an annotation came from, from what a build stores of it."""
    origin = json.loads(json.dumps(dict(annotation.origin)))
    texts = [text for e in annotation.exchanges for text in (e.question, e.answer)]
    more = origin.get("turns", {})
    turns = [
        turn("gpt" if number % 2 else "human", text) | more.get(str(number), {})
        for number, text in enumerate(texts)
    ]
    named = {key: origin[key] for key in ("id", "image", "model") if key in origin}
    return named | origin.get("other", {}) | {"conversations": turns}


# turns


def test_a_text_row_has_no_image_and_its_turns_as_they_stand() -> None:
    turns = [turn("human", " Hi\n"), turn("gpt", "Hello "), turn("human", "Bye"), turn("gpt", "!")]
    found = one("turns", {"id": "a_0", "model": "", "conversations": turns})
    assert (found.id, found.group, found.images) == ("a_0", "", ())
    assert found.exchanges == (Exchange(" Hi\n", "Hello "), Exchange("Bye", "!"))
    assert found.origin == {"id": "a_0", "model": ""}


@pytest.mark.parametrize("question", ["<image>\nWhat?", "What?\n<image>", "A <image> B"])
def test_the_marker_stays_where_it_stands(question: str) -> None:
    record = {
        "id": 7,
        "image": "coco/a.jpg",
        "conversations": [turn("human", question), turn("gpt", "b")],
    }
    found = one("turns", record)
    assert found.exchanges[0].question == question
    assert (found.id, found.group, found.images) == ("7", "coco/a.jpg", ("coco/a.jpg",))


def test_several_images_are_a_list() -> None:
    record = {"image": ["a.jpg", "b.jpg"], "conversations": [turn("human", "q"), turn("gpt", "a")]}
    assert one("turns", record).images == ("a.jpg", "b.jpg")


@pytest.mark.parametrize("image", [None, "", []])
def test_a_row_whose_image_is_nothing_is_text(image: object) -> None:
    record = {"image": image, "conversations": [turn("human", "q"), turn("gpt", "a")]}
    assert one("turns", record).images == ()
    assert record_of(one("turns", record)) == record


def test_bytes_of_an_image_are_its_identity_and_stay_out_of_the_origin() -> None:
    turns = [turn("human", "q"), turn("gpt", "a")]
    found = one("turns", {"image": {"bytes": b"\xff\xd8", "path": "a.jpg"}, "conversations": turns})
    assert (found.images, found.group, dict(found.origin)) == ((b"\xff\xd8",), "", {})


def test_turns_before_the_human_and_a_last_question_are_left_out_and_counted() -> None:
    pair = [turn("human", "q"), turn("gpt", "a")]
    before = one("turns", {"conversations": [turn("system", "s"), turn("gpt", "g"), *pair]})
    after = one("turns", {"conversations": [*pair, turn("human", "and?")]})
    assert before.exchanges == (Exchange("q", "a", cleaned="turns_before_human"),)
    assert after.exchanges == (Exchange("q", "a", cleaned="last_question_without_answer"),)


PAIR = [turn("human", "q"), turn("gpt", "a")]


@pytest.mark.parametrize(
    ("conversations", "expected"),
    [
        (None, ("conversation_missing", "conversations: is no list of turns")),
        ([], ("conversation_missing", "conversations: is no list of turns")),
        ("text", ("conversation_missing", "conversations: is no list of turns")),
        ([*PAIR, "text"], ("turn_unreadable", "turn 2 has no texts from and value")),
        ([turn("human", None)], ("turn_unreadable", "turn 0 has no texts from and value")),
        ([*PAIR, *PAIR[::-1]], ("roles_broken", "gpt; turn 2 is human's")),
        ([*PAIR[:1], *PAIR], ("roles_broken", "human; turn 1 is gpt's")),
        ([*PAIR, turn("bing", "b")], ("roles_broken", "bing; turn 2 is human's")),
        ([turn("gpt", "a")], ("conversation_missing", "no question with an answer")),
        ([turn("human", "q")], ("conversation_missing", "no question with an answer")),
        ([*PAIR, PAIR[0], turn("gpt", " \n")], ("answer_missing", "turn 3 is empty")),
        ([turn("human", ""), PAIR[1]], ("question_missing", "turn 0 is empty")),
    ],
)
def test_a_broken_conversation_is_refused_as_a_whole(
    conversations: object, expected: tuple[str, str]
) -> None:
    assert problem("turns", {"id": "x", "conversations": conversations}) == expected


def test_an_image_without_a_name_is_refused() -> None:
    record = {"image": ["a.jpg", {}], "conversations": PAIR}
    assert problem("turns", record) == ("image_missing", "1 of 2 images")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
SAID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
SPOKEN = SAID | st.sampled_from(["<image>\nq", "</s>", "USER: x", "a [INST] b", " padded "])
MORE = st.dictionaries(
    st.text(max_size=6).filter(lambda k: k not in ("from", "value")), JSON, max_size=1
)


@st.composite
def valid_records(draw: Callable[[Any], Any]) -> dict[str, Any]:
    """Any record that LLaVA's reader takes."""
    pairs = draw(st.lists(st.tuples(SPOKEN, SPOKEN), min_size=1, max_size=4))
    turns = [
        turn(who, text) | draw(MORE)
        for pair in pairs
        for who, text in zip(("human", "gpt"), pair, strict=True)
    ]
    name = SAID.filter(lambda s: s == s.strip())
    columns = {
        "id": st.integers() | st.text(max_size=8) | st.none(),
        "image": name | st.lists(name, min_size=1, max_size=3),
        "model": st.text(max_size=4) | st.none(),
    }
    present = {key: draw(values) for key, values in columns.items() if draw(st.booleans())}
    known = {"conversations", *columns}
    other = draw(
        st.dictionaries(st.text(max_size=6).filter(lambda k: k not in known), JSON, max_size=2)
    )
    return present | {"conversations": turns} | {k: v for k, v in other.items() if k != "group"}


@settings(max_examples=50)
@given(valid_records())
def test_an_annotation_alone_gives_the_record_back(record: dict[str, Any]) -> None:
    found = one("turns", record)
    back = record_of(found)
    assert back == record
    assert type(back.get("id")) is type(record.get("id"))


def test_keys_of_a_record_cannot_pass_for_what_the_origin_keeps() -> None:
    record = {
        "other": {"x": 1},
        "turns": {"0": {"y": 2}},
        "texts": {"0": "z"},
        "conversations": PAIR,
    }
    assert record_of(one("turns", record)) == record


def test_a_value_that_nests_without_end_or_is_no_number_is_left_out_of_the_origin() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    found = one("turns", {"id": float("inf"), "deep": deep, "kept": 1, "conversations": PAIR})
    assert found.origin == {"other": {"kept": 1}}


@pytest.mark.shared
def test_published_rows_give_themselves_back(shared_data: Path) -> None:
    rows = json.loads((shared_data / "instruct/llava/mix665k_rows.json").read_text())
    for row in rows:
        assert record_of(one("turns", row)) == row
    found = [one("turns", row) for row in rows]
    assert [f.id for f in found] == ["000000033471", "967097339", "2327515"]
    assert [f.images for f in found] == [
        ("coco/train2017/000000033471.jpg",),
        ("ocr_vqa/images/967097339.jpg",),
        ("gqa/images/2327515.jpg",),
    ]
    assert found[2].origin["id"] == 2327515
    assert found[0].exchanges[0] == Exchange(
        "<image>\nWhat are the colors of the bus in the image?",
        "The bus in the image is white and red.",
    )


# choices


def test_a_choice_is_named_by_its_place_letter_or_text() -> None:
    choices = ["cab", "bus"]
    for answer in (1, "B", "(b)", "bus", "1"):
        record = {"id": "q", "question": "What?", "choices": choices, "answer": answer}
        assert one("choices", record).exchanges[0].answer == "bus", answer


def test_a_number_is_a_place_even_where_the_choices_are_numbers() -> None:
    record = {"question": "How many?", "choices": ["1", "2", "3"], "answer": 1}
    assert one("choices", record).exchanges == (Exchange("How many?", "2", ("1", "2", "3")),)


def test_a_question_with_choices_may_have_a_hint_and_no_image() -> None:
    record = {
        "question": "Q?",
        "hint": "A hint.",
        "choices": ["a b", "c d"],
        "answer": 0,
        "image": None,
    }
    found = one("choices", record)
    assert (found.images, found.exchanges[0].question) == ((), "A hint.\nQ?")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": 2}, "label_outside_choices"),
        ({"answer": -1}, "label_outside_choices"),
        ({"answer": None}, "answer_missing"),
        ({"answer": True}, "answer_malformed"),
        ({"answer": "zebra"}, "label_unknown"),
        ({"choices": ["x"]}, "choices_too_few"),
        ({"choices": ["x", None]}, "choices_malformed"),
        ({"choices": ["x", "x"]}, "choices_repeated"),
        ({"choices": "xy"}, "choices_malformed"),
        ({"question": ""}, "question_missing"),
        ({"image": {"bytes": b"", "path": None}}, "image_missing"),
        ({"split": "val"}, "not_training"),
    ],
)
def test_a_question_whose_choice_cannot_be_told_is_refused(
    change: dict[str, Any], reason: str
) -> None:
    record = {"question": "Q?", "choices": ["red", "blue"], "answer": 0} | change
    assert problem("choices", record)[0] == reason


@pytest.mark.shared
def test_real_rows_with_choices(shared_data: Path) -> None:
    rows = json.loads((shared_data / "instruct/vqa_rows_no_image.json").read_text())
    row = rows["aokvqa"][0]
    found = one("aokvqa", row | {"id": row["question_id"], "answer": row["correct_choice_idx"]})
    assert found == Annotation(
        id="22MexNkBPpdZGX6sxbxVBH",
        group="coco/train2017/000000299207.jpg",
        images=("coco/train2017/000000299207.jpg",),
        exchanges=(
            Exchange(
                "What is the man by the bags awaiting?",
                "cab",
                ("skateboarder", "train", "delivery", "cab"),
            ),
        ),
    )
    diagram = one("ai2d", rows["ai2d"])
    assert (diagram.id, diagram.images) == ("0.png", ("0.png",))
    assert diagram.exchanges == (
        Exchange("What is A in the diagram?", "face", ("ears", "nose", "mouth", "face")),
        Exchange("What is B in the diagram?", "ears", ("face", "mouth", "nose", "ears")),
    )


def test_a_question_of_a_diagram_that_cannot_be_used_leaves_the_others() -> None:
    questions = {
        "Which?": {"answerTexts": ["up", "down"], "correctAnswer": 1},
        "Where?": {"answerTexts": ["up", "down"], "correctAnswer": 2},
        "Why?": None,
    }
    found = read("ai2d", {"imageName": "1.png", "questions": questions})
    assert [f.reason if isinstance(f, Problem) else f.exchanges for f in found] == [
        "label_outside_choices",
        "choices_malformed",
        (Exchange("Which?", "down", ("up", "down")),),
    ]


# short answers


def test_vqav2_says_which_answer_most_people_gave() -> None:
    record = {
        "question_id": 9000,
        "image_id": 9,
        "question": "What is it?",
        "multiple_choice_answer": "net",
        "answers": [{"answer": "fence"}],
    }
    photo = "coco/train2017/000000000009.jpg"
    assert one("vqa_joined", record) == Annotation(
        "9000", photo, (photo,), (Exchange("What is it?", "net"),)
    )


def test_okvqa_has_the_answer_that_most_people_gave() -> None:
    answers = [
        {"answer": a, "answer_confidence": "yes"} for a in ("race", "ride", "ride", "motocross")
    ]
    record = {"question_id": 1, "image_id": 51606, "question": "What sport?", "answers": answers}
    assert one("vqa_joined", record).exchanges == (
        Exchange("What sport?", "ride", cleaned="majority"),
    )


def test_an_annotation_whose_question_was_not_joined_is_refused() -> None:
    record = {"question_id": 1, "image_id": 2, "multiple_choice_answer": "net"}
    assert problem("vqa_joined", record) == ("question_missing", "is no text")


@pytest.mark.parametrize("image_id", [None, -1, True, 10**12, 1.5, "x", "²", "1" * 13])
def test_what_is_no_number_of_a_photo_names_none(image_id: object) -> None:
    assert coco_photo(image_id) is None
    record = {
        "question_id": 1,
        "image_id": image_id,
        "question": "q",
        "multiple_choice_answer": "a",
    }
    assert problem("vqa_joined", record)[0] == "image_missing"


def test_gqa_names_its_photo_and_is_named_by_its_key() -> None:
    record = {"_key": "02930152", "question": "Is it red?", "imageId": "2354786", "answer": "no"}
    photo = "gqa/images/2354786.jpg"
    assert one("gqa", record) == Annotation(
        "02930152", photo, (photo,), (Exchange("Is it red?", "no"),)
    )


# regions

LADY = {
    "ref_id": 0,
    "image_id": 581857,
    "split": "train",
    "sentences": [
        {"sent": "the lady with the blue shirt", "raw": "THE LADY"},
        {"sent": "blue shirt"},
    ],
    "raw_anns": '{"bbox": [103.93, 299.99, 134.22, 177.42]}',
    "raw_image_info": '{"width": 427, "height": 640}',
    "bbox": [103.93, 299.99, 238.15, 477.41],
}


def test_a_reference_of_the_hub_takes_the_box_of_its_annotation() -> None:
    found = one("refcoco", LADY)
    assert (found.id, found.images) == ("0", ("coco/train2017/000000581857.jpg",))
    assert [(e.question, e.answer) for e in found.exchanges] == [
        ("", "the lady with the blue shirt"),
        ("", "blue shirt"),
    ]
    # [243, 469, 558, 746] of 1000 in the data of others
    expected = pytest.approx((0.243, 0.469, 0.558, 0.746), abs=0.0006)
    assert all(e.box == expected for e in found.exchanges)


def test_a_reference_as_json_has_left_top_width_and_height() -> None:
    plain = {k: v for k, v in LADY.items() if not k.startswith("raw")}
    found = one("refcoco", plain | {"bbox": [10, 20, 30, 40], "width": 100, "height": 200})
    assert found.exchanges[0].box == (0.1, 0.1, 0.4, 0.3)


@pytest.mark.shared
def test_a_real_reference_without_its_box_is_refused(shared_data: Path) -> None:
    row = json.loads((shared_data / "instruct/vqa_rows_no_image.json").read_text())["refcoco"][0]
    assert problem("refcoco", row)[0] == "box_unusable"
    boxed = row | {"bbox": [103.93, 299.99, 134.22, 177.42], "width": 427, "height": 640}
    assert [e.answer for e in one("refcoco", boxed).exchanges] == [
        "the lady with the blue shirt",
        "lady with back to us",
        "blue shirt",
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "testA"}, "not_training"),
        ({"image_id": None}, "image_missing"),
        ({"sentences": []}, "answer_missing"),
        ({"sentences": [{"sent": " "}]}, "answer_missing"),
        ({"raw_image_info": "{}"}, "box_unusable"),
        ({"raw_anns": '{"bbox": [500, 0, 10, 10]}'}, "box_unusable"),
        ({"raw_anns": '{"bbox": [0, 0, 0, 10]}'}, "box_unusable"),
        ({"raw_anns": '{"bbox": [0, 0, NaN, 10]}'}, "box_unusable"),
        ({"raw_anns": '{"bbox": [0, 0, 10]}'}, "box_unusable"),
        ({"raw_anns": '{"bbox": [true, 0, 10, 10]}'}, "box_unusable"),
        (
            {"raw_anns": "[" * 100_000, "raw_image_info": '{"width": 0, "height": 9}'},
            "box_unusable",
        ),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(change: dict[str, Any], reason: str) -> None:
    assert problem("refcoco", LADY | change)[0] == reason


def region(
    phrase: object, x: object = 0, y: object = 0, width: object = 80, height: object = 60
) -> dict[str, Any]:
    return {"phrase": phrase, "x": x, "y": y, "width": width, "height": height, "region_id": 4}


GENOME = {
    "id": 2,
    "url": "https://cs.stanford.edu/people/rak248/VG_100K_2/2.jpg",
    "width": 800,
    "height": 600,
}


def test_regions_of_a_photo_are_one_annotation_and_their_boxes_lie_in_it() -> None:
    regions = [region("a clock", 80, 60), region("over the edge", -80, 540, 1000, 120)]
    found = one("visual_genome", GENOME | {"regions": regions})
    photo = "vg/VG_100K_2/2.jpg"
    assert (found.id, found.group, found.images) == ("VG_100K_2/2", photo, (photo,))
    assert [e.box for e in found.exchanges] == [(0.1, 0.1, 0.2, 0.2), (0.0, 0.9, 1.0, 1.0)]


def test_a_region_that_cannot_be_used_leaves_the_others() -> None:
    regions = [region(None), region("gone", x=800), "text", region("kept")]
    found = read("visual_genome", GENOME | {"regions": regions})
    assert [f.reason if isinstance(f, Problem) else len(f.exchanges) for f in found] == [
        "answer_missing",
        "box_unusable",
        "box_unusable",
        1,
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"url": None}, "image_missing"),
        ({"url": "2.jpg"}, "image_missing"),
        ({"url": "https://x/VG_100K/"}, "image_missing"),
        ({"regions": []}, "answer_missing"),
        ({"regions": None}, "answer_missing"),
        ({"width": None}, "box_unusable"),
        ({"height": 10**400}, "box_unusable"),
    ],
)
def test_a_photo_whose_regions_cannot_be_placed_is_refused(
    change: dict[str, Any], reason: str
) -> None:
    record = GENOME | {"regions": [region("a clock")]} | change
    assert problem("visual_genome", record)[0] == reason


# any record

LEAVES = JSON | st.floats() | st.binary(max_size=4)
INNER = st.sampled_from(
    ["from", "value", "sent", "answer", "phrase", "x", "width", "bytes", "path"]
)
VALUES = (
    LEAVES
    | st.lists(LEAVES, max_size=3)
    | st.lists(st.dictionaries(INNER, LEAVES, max_size=3), max_size=2)
)
VALID: dict[str, dict[str, Any]] = {
    "turns": {"id": "a", "image": "a.jpg", "conversations": PAIR},
    "choices": {"question": "q", "choices": ["x", "y"], "answer": 0},
    "aokvqa": {"question": "q", "choices": ["x", "y"], "answer": 0, "image_id": 1},
    "ai2d": {
        "imageName": "a.png",
        "questions": {"q": {"answerTexts": ["x", "y"], "correctAnswer": 0}},
    },
    "vqa_joined": {"question": "q", "question_id": 1, "image_id": 2, "answers": [{"answer": "a"}]},
    "gqa": {"question": "q", "answer": "a", "imageId": "1", "_key": "1"},
    "refcoco": LADY,
    "visual_genome": GENOME | {"regions": [region("a clock")]},
}


@settings(max_examples=80)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_no_layout_raises_and_each_says_something_of_any_record(
    name: str, data: st.DataObject
) -> None:
    layout = LAYOUTS[name]
    columns = st.sampled_from(sorted({*layout.needs, *layout.may_have}))
    record = VALID[name] | data.draw(st.dictionaries(columns, VALUES, min_size=1, max_size=2))
    found = read(name, record)
    assert found
    for each in found:
        if isinstance(each, Problem):
            continue
        assert each.exchanges
        json.dumps(dict(each.origin), allow_nan=False)
        for exchange in each.exchanges:
            assert exchange.answer.strip()
            assert not exchange.choices or exchange.answer in exchange.choices
            if exchange.box is not None:
                left, top, right, bottom = exchange.box
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1


@pytest.mark.parametrize("name", VALID)
def test_the_records_that_are_made_worse_are_good(name: str) -> None:
    assert one(name, VALID[name]).exchanges


@given(st.lists(st.lists(st.floats() | st.integers(), min_size=6, max_size=6), max_size=3))
@settings(max_examples=60)
def test_a_box_is_in_its_image_or_refused(numbers: list[list[float]]) -> None:
    for x, y, width, height, image_width, image_height in numbers:
        record = LADY | {"raw_anns": None, "raw_image_info": None, "bbox": [x, y, width, height]}
        for each in read("refcoco", record | {"width": image_width, "height": image_height}):
            if isinstance(each, Annotation):
                left, top, right, bottom = each.exchanges[0].box or (0, 0, 0, 0)
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1
