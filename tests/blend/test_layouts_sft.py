"""Records of sources for supervised fine-tuning become annotations."""

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sft_making import (
    EMBEDDED,
    ENCODED,
    GOOD,
    HOSTILE,
    OTHER_PNG,
    PNG,
    SFT_LAYOUTS,
    check,
    only,
    read,
    reasons,
)

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.layouts.frames import FRAMES, evenly_spaced, frames_in
from vila2data.corpus.images import Problem

COLUMNS = {name: (*layout.needs, *layout.may_have) for name, layout in SFT_LAYOUTS.items()}


def asked(layout, **changed):
    return [(e.question, e.answer) for e in only(layout, GOOD[layout] | changed).exchanges]


def test_each_layout_has_a_good_record_and_is_known_by_its_name():
    assert set(GOOD) == set(SFT_LAYOUTS)
    assert all(LAYOUTS[name] is layout for name, layout in SFT_LAYOUTS.items())


@pytest.mark.parametrize("layout", GOOD)
def test_a_good_record_has_the_needed_columns_and_no_problem(layout):
    assert set(SFT_LAYOUTS[layout].needs) <= set(GOOD[layout]) <= set(COLUMNS[layout])
    assert reasons(layout, GOOD[layout]) == []
    check(read(layout, GOOD[layout]))


@pytest.mark.parametrize("layout", GOOD)
def test_a_record_without_anything_is_one_problem(layout):
    assert len(reasons(layout, {})) == 1


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("layout", GOOD)
def test_a_hostile_value_in_any_column_is_a_problem_or_a_text(layout, value):
    for column in COLUMNS[layout]:
        check(read(layout, GOOD[layout] | {column: HOSTILE[value]}))
    check(read(layout, dict.fromkeys(COLUMNS[layout], HOSTILE[value])))


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["true", "en", "train", "http://a/b/c.jpg", ENCODED])
)
INNER = ["bytes", "path", "text", "url", "clue", "bboxes", "left", "top", "width", "height"]
KEYS = st.sampled_from(
    [
        *sorted({c for columns in COLUMNS.values() for c in columns}),
        *INNER,
        *["language", "caption_reference_description", "original_answer", "inference"],
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("layout", GOOD)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_record_makes_a_layout_raise(layout, data):
    changed = data.draw(st.dictionaries(st.sampled_from(COLUMNS[layout]), VALUES, max_size=6))
    check(read(layout, GOOD[layout] | changed))


def test_an_instruction_and_what_it_is_about_are_parted_by_an_empty_line():
    found = only("instruction", {"instruction": "Sum up.", "input": "A text.", "output": "Text."})
    assert found == Annotation(
        found.id, "", (), (Exchange("Sum up.\n\nA text.", "Text."),), origin={}
    )
    assert asked("instruction") == [("Add 1 and 2.", "3")]
    assert only("instruction", GOOD["instruction"]).origin == {"kind": "sums"}


def test_a_row_without_an_id_is_named_by_its_texts():
    first, same, other = (
        only("instruction", {"instruction": question, "output": "b"}).id
        for question in ("a", "a", "c")
    )
    assert first == same != other
    assert len(first) == 16
    assert only("instruction", GOOD["instruction"] | {"id": 7}).id == "7"


@pytest.mark.parametrize(
    ("column", "reason"), [("instruction", "question_missing"), ("output", "answer_missing")]
)
def test_an_instruction_needs_both_texts(column, reason):
    assert reasons("instruction", GOOD["instruction"] | {column: " "}) == [reason]


def test_eight_frames_are_spaced_over_the_whole_video():
    assert evenly_spaced(range(15)) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert evenly_spaced(range(8)) == list(range(8))
    assert evenly_spaced("abc") == ["a", "b", "c"]
    assert evenly_spaced(range(100), 3) == [0, 49, 99]


@given(count=st.integers(0, 2000))
def test_frames_rise_from_the_first_to_the_last(count):
    found = evenly_spaced(range(count))
    assert len(found) == min(count, FRAMES)
    assert found == sorted(set(found))
    assert not count or (found[0], found[-1]) == (0, count - 1)


def test_a_video_is_its_folder_or_the_frames_that_its_record_lists():
    assert only("frames", GOOD["frames"]).images == ("v_a/",)
    listed = only("frames", GOOD["frames"] | {"frames": [f"v_a/{n}.jpg" for n in range(15)]})
    assert listed.images == tuple(f"v_a/{n}.jpg" for n in range(0, 15, 2))
    assert listed.group == "v_a"


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path):
    for n in range(1, 16):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / f"a/frame{n}.jpg").touch()
    (tmp_path / "a/notes.txt").touch()
    assert frames_in(tmp_path, "a/") == [f"a/frame{n}.jpg" for n in range(1, 16, 2)]
    assert frames_in(tmp_path, "a/", 2) == ["a/frame1.jpg", "a/frame15.jpg"]


@pytest.mark.parametrize("name", ["b/", "../a/", "/etc/", "a.txt"])
def test_frames_of_no_folder_of_the_source_are_none(tmp_path: Path, name):
    (tmp_path / "c" / "a").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "c" / "a.txt").touch()
    assert frames_in(tmp_path / "c", name) == []


def test_a_caption_of_a_video_has_no_question_and_the_first_of_several_is_used():
    found = only("frames", {"video": "video7", "answer": ["a man sings", "a song"]})
    assert found.exchanges == (Exchange("", "a man sings"),)


@pytest.mark.parametrize(("split", "used"), [("train", 1), ("Training", 1), ("test", 0)])
def test_videos_of_another_split_are_refused(split, used):
    found = read("frames", GOOD["frames"] | {"split": split})
    assert [isinstance(one, Annotation) for one in found] == [bool(used)]
    assert used or found == [Problem("other_split", split)]


@pytest.mark.parametrize("column", ["image", "image_base64_str", "image_str", "img_str"])
def test_images_in_base64_are_found_under_any_of_their_names(column):
    record = {"input": "Is it?", "output": "Yes.", column: [ENCODED]}
    assert only("m3it", record).images == (PNG,)


def test_frames_in_base64_are_spaced_evenly_and_need_no_question():
    frames = [b64encode(bytes([n])).decode() for n in range(15)]
    found = only("m3it", {"image_str": frames, "output": "A man.", "instruction": "Describe."})
    assert found.images == tuple(bytes([n]) for n in range(0, 15, 2))
    assert found.exchanges == (Exchange("Describe.", "A man."),)
    assert only("m3it", {"image_str": frames, "output": "A man."}).exchanges[0].question == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"img_str": "no base64!"}, "image_undecodable"),
        ({"img_str": [ENCODED, "ü"]}, "image_undecodable"),
        ({"img_str": []}, "image_missing"),
        ({"output": ""}, "answer_missing"),
    ],
    ids=["letters", "umlaut", "empty", "no answer"],
)
def test_base64_that_is_none_is_a_problem(changed, reason):
    assert reasons("m3it", GOOD["m3it"] | changed) == [reason]


def test_a_pair_is_named_as_its_files_are_or_held_by_its_record():
    named = only("pairs_of_images", GOOD["pairs_of_images"])
    assert named.images == ("12/train-10171-0-img0.png", "12/train-10171-0-img1.png")
    assert named.exchanges == (Exchange("True or false: Two dogs are there.", "True"),)
    sides = {"left": EMBEDDED, "right": OTHER_PNG, "label": False}
    held = only("pairs_of_images", GOOD["pairs_of_images"] | sides)
    assert (held.images, held.exchanges[0].answer) == ((PNG, OTHER_PNG), "False")


def test_half_a_pair_and_an_unknown_label_are_problems():
    good = GOOD["pairs_of_images"]
    assert reasons("pairs_of_images", good | {"left": PNG}) == ["image_missing"]
    assert read("pairs_of_images", good | {"label": "maybe"}) == [
        Problem("label_unknown", "maybe; true or false is accepted")
    ]


def test_of_nlvr_s_permutations_the_first_is_used():
    found = only("nlvr", GOOD["nlvr"])
    assert found.images == ("5/train-72-0-0.png",)
    assert found.exchanges == (Exchange("True or false: There is a square.", "False"),)


def test_choices_that_are_pictures_are_asked_for_by_number():
    found = only("stem", GOOD["stem"])
    assert found.images == (PNG, OTHER_PNG)
    pictures = ("picture 1", "picture 2")
    assert found.exchanges == (Exchange("Which is a square?", "picture 2", choices=pictures),)
    assert found.origin == {"subject": "math", "grade": "grade-1"}
    after = only("stem", GOOD["stem"] | {"problem_pic": EMBEDDED})
    assert after.images == (PNG, PNG, OTHER_PNG)
    assert after.exchanges[0].choices == ("picture 2", "picture 3")
    texts = only("stem", GOOD["stem"] | {"choices": ["a", "b"], "choices_pic": None})
    assert (texts.images, texts.exchanges[0].answer) == ((), "b")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"choices_pic": [PNG, None, OTHER_PNG]}, "choices_unusable"),
        ({"choices": ["a", "a"], "choices_pic": None}, "choices_unusable"),
        ({"answer_idx": 2}, "label_unknown"),
        ({"answer_idx": -1}, "label_unknown"),
        ({"answer_idx": True}, "label_unknown"),
    ],
    ids=["lost", "twice", "behind", "before", "truth"],
)
def test_choices_that_cannot_be_told_apart_or_pointed_at_are_problems(changed, reason):
    assert reasons("stem", GOOD["stem"] | changed) == [reason]


def test_a_dialog_has_its_rounds_in_order_with_question_marks():
    found = only("dialog", GOOD["dialog"])
    assert asked("dialog") == [("is it big?", "no"), ("Is it asleep?", "yes")]
    assert (found.id, found.group) == ("coco/train2014/1.jpg",) * 2
    assert found.origin == {"caption": "a cat"}


def test_a_dialog_may_point_into_lists_and_hold_objects():
    rounds = [{"question": 1, "answer": 0}, {"question": {"text": "Why?"}, "answer": {"text": "x"}}]
    lists = {"questions": ["what", "who is it"], "answers": ["Ann"]}
    assert asked("dialog", dialog=rounds, **lists) == [("who is it?", "Ann"), ("Why?", "x")]


@pytest.mark.parametrize("place", [2, -1, True])
def test_a_place_outside_its_list_is_a_problem(place):
    lists = {"questions": ["what", "who"], "answers": ["Ann"]}
    rounds = [{"question": place, "answer": 0}, {"question": 0, "answer": 0}]
    assert reasons("dialog", GOOD["dialog"] | {"dialog": rounds} | lists) == ["question_missing"]


def test_an_image_is_named_by_its_number_or_the_end_of_its_address():
    record = GOOD["image_by_id"]
    assert only("image_by_id", record).images == ("2392588.jpg",)
    address = "https://a.org/people/VG_100K_2/2392588.jpg"
    assert only("image_by_id", record | {"url": address}).images == ("VG_100K_2/2392588.jpg",)
    assert only("image_by_id", record).group == "2392588"


def test_a_clue_is_asked_about_with_its_boxes():
    found = only("sherlock", GOOD["sherlock"])
    question = "What does this clue suggest: wet road, at [0.10, 0.50, 0.60, 1.00]?"
    assert found.exchanges == (Exchange(question, "it rained"),)
    assert (found.id, found.images) == ("e5", ("VG_100K/5.jpg",))


@pytest.mark.parametrize(
    "box",
    [
        {"left": 200, "top": 0, "width": 5, "height": 5},
        {"left": 0, "top": 0, "width": 0, "height": 5},
        {"left": 0, "top": 0, "width": 5, "height": -5},
        {"left": "0", "top": 0, "width": 5, "height": 5},
        {"left": -5, "top": 0, "width": 9, "height": 5},
    ],
    ids=["outside", "empty", "negative", "text", "before"],
)
def test_a_clue_with_a_box_that_is_none_is_a_problem(box):
    record = GOOD["sherlock"]
    inputs = record["inputs"] | {"bboxes": [*record["inputs"]["bboxes"], box]}
    assert reasons("sherlock", record | {"inputs": inputs}) == ["box_unusable"]


def test_a_page_s_english_caption_is_used_or_else_its_alt_text():
    assert asked("wit") == [("", "A tower")]
    features = GOOD["wit"]["wit_features"]
    without = features | {"caption_reference_description": [None, None]}
    assert asked("wit", wit_features=without) == [("", "tower")]
    rows = [{"language": "en", "caption_alt_text_description": "a"}, None]
    assert asked("wit", wit_features=rows) == [("", "a")]
    german = {"language": ["de"], "caption_reference_description": ["Ein Turm"]}
    assert reasons("wit", GOOD["wit"] | {"wit_features": german}) == ["answer_missing"]


def test_of_an_entity_s_names_the_first_written_one_is_the_answer():
    assert asked("viquae") == [("Who is this man?", "Bach")]
    assert asked("viquae", output={"answer": ["J. S. Bach"]}) == [
        ("Who is this man?", "J. S. Bach")
    ]


@pytest.mark.parametrize(
    ("changed", "answers"),
    [
        ({}, ["a dog"]),
        ({"answer": 0}, ["a cat"]),
        ({"answer": "a dog"}, ["a dog"]),
        ({"answer": "Z"}, ["Z"]),
        ({"answer": -1}, ["-1"]),
        ({"answer": None}, [""]),
        ({"answer": None, "answers": ["1", "2", "1"], "choices": None}, ["1", "2"]),
        ({"answer": None, "answers": [{"answer": "x"}], "choices": None}, ["x"]),
        ({"choices": None, "A": "one", "B": "two"}, ["two"]),
    ],
    ids=["letter", "place", "text", "far", "before", "hidden", "several", "objects", "columns"],
)
def test_answers_of_a_benchmark_are_texts(changed, answers):
    found = only("benchmark", GOOD["benchmark"] | changed)
    assert [exchange.answer for exchange in found.exchanges] == answers
    assert {exchange.question for exchange in found.exchanges} == {"What is B?"}


def test_a_benchmark_may_show_several_images():
    images = {"image": [EMBEDDED], "image_2": OTHER_PNG, "image_3": None}
    assert only("benchmark", GOOD["benchmark"] | images).images == (PNG, OTHER_PNG)
    assert reasons("benchmark", {"question": "What?"}) == ["image_missing"]
