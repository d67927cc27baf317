"""Records of sources of text in images become annotations."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocr_making import EMBEDDED, GOOD, HOSTILE, OCR_LAYOUTS, PNG, check, exchanges, read, reasons

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import RULES
from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.source import Source
from vila2data.prompts import load_prompts

COLUMNS = {name: (*layout.needs, *layout.may_have) for name, layout in OCR_LAYOUTS.items()}


def without(layout: str, *columns: str, **changed: Any) -> dict[str, Any]:
    return {k: v for k, v in GOOD[layout].items() if k not in columns} | changed


def test_each_layout_has_a_good_record():
    assert set(GOOD) == set(OCR_LAYOUTS)
    assert all(LAYOUTS[name] is layout for name, layout in OCR_LAYOUTS.items())


@pytest.mark.parametrize("layout", GOOD)
def test_a_good_record_has_no_problem(layout):
    assert reasons(layout, GOOD[layout]) == []
    check(read(layout, GOOD[layout]))


@pytest.mark.parametrize("layout", GOOD)
def test_a_good_record_has_the_columns_that_are_needed(layout):
    assert set(OCR_LAYOUTS[layout].needs) <= set(GOOD[layout])


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_is_a_problem_or_a_text(value):
    for layout, columns in COLUMNS.items():
        for column in columns:
            check(read(layout, GOOD[layout] | {column: HOSTILE[value]}))
        check(read(layout, dict.fromkeys(columns, HOSTILE[value])))


@pytest.mark.parametrize("layout", GOOD)
def test_a_record_without_anything_is_a_problem(layout):
    assert len(reasons(layout, {})) == 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["A", "b)", "A. x", "train", "unanswerable", "a.png", '{"gt_parse": {}}', PNG]
    )
)
json_like = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["user", "assistant", "source", "bytes", "path", "answer", "gt_parse"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("layout", GOOD)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_record_makes_a_layout_fail(layout, data):
    # A good record with some columns changed comes further than one of arbitrary values.
    changed = data.draw(st.dictionaries(st.sampled_from(COLUMNS[layout]), json_like, max_size=4))
    check(read(layout, GOOD[layout] | changed))


# question_answer


def test_a_question_may_have_no_image():
    record = {"question": "What is 2 + 2?", "answer": 4}
    expected = Exchange("What is 2 + 2?", "4", cleaned="number_as_text")
    assert read("question_answer", record) == [Annotation("", "", (), (expected,))]
    for nothing in (None, []):
        assert read("question_answer", record | {"image": nothing}) == read(
            "question_answer", record
        )


def test_an_image_that_is_broken_is_not_none():
    record = {"question": "What?", "answer": "a"}
    for broken in ({"bytes": None, "path": None}, "", b"", [None], ["a.png", None], [["a.png"]]):
        assert reasons("question_answer", record | {"image": broken}) == ["image_missing"]


def test_rows_with_the_same_image_have_the_same_group():
    def group(**columns: Any) -> str:
        (found,) = read("question_answer", {"question": "What?", "answer": "a", **columns})
        return found.group

    assert group(image="a.png") == "a.png"
    assert group(images=["a.png", "b.png"]) == "a.png b.png"
    assert group(image="a.png", group=17) == "17"
    assert group(image=EMBEDDED) == ""


def test_answers_of_several_people_are_one():
    record = {"question": "What?", "answer": ["a", "b", "b"]}
    assert exchanges("question_answer", record) == (Exchange("What?", "b", cleaned="majority"),)
    assert reasons("question_answer", record | {"answer": ["unanswerable"] * 10}) == [
        "unanswerable"
    ]


def test_an_answer_with_choices_is_one_of_them():
    record = GOOD["question_answer"]
    plain = Exchange("Which colour?", "red", ("red", "blue"))
    assert exchanges("question_answer", record) == (plain,)
    assert exchanges("question_answer", record | {"answer": "A"}) == (plain,)
    cleaned = Exchange("Which colour?", "blue", ("red", "blue"), cleaned="choice_number")
    assert exchanges("question_answer", record | {"answer": "1"}) == (cleaned,)
    assert reasons("question_answer", record | {"answer": "green"}) == ["label_unknown"]
    assert reasons("question_answer", record | {"choices": ["red"]}) == ["choices_too_few"]


def test_a_question_must_be_a_text():
    assert reasons("question_answer", {"question": None, "answer": "a"}) == ["question_missing"]
    assert reasons("question_answer", {"question": "What?", "answer": None}) == ["answer_missing"]


# captions


def test_each_caption_is_an_exchange_without_question():
    (found,) = read("captions", GOOD["captions"])
    expected = (Exchange("", "A sign."), Exchange("", "A red sign."))
    assert found == Annotation("0a", "", (PNG,), expected)
    assert exchanges("captions", without("captions", captions="A sign.")) == expected[:1]


def test_a_caption_that_is_none_leaves_the_others():
    found = read("captions", without("captions", captions=["A sign.", None, ["a"]]))
    problems, (annotation,) = found[:2], found[2:]
    assert [(p.reason, p.detail) for p in problems] == [
        ("answer_missing", "caption 1 is null"),
        ("answer_malformed", "caption 2 is a list, not a text or a number"),
    ]
    assert annotation.exchanges == (Exchange("", "A sign."),)
    assert reasons("captions", without("captions", captions=[])) == ["answer_missing"]
    assert reasons("captions", without("captions", image=None)) == ["image_missing"]


def test_the_condensed_caption_comes_before_its_parts():
    good = GOOD["textocr_gpt4v"]
    assert exchanges("textocr_gpt4v", good) == (Exchange("", "A bottle that says 'GIN'."),)
    parts = good | {"caption_condensed": None}
    joined = "A bottle.\nThe label says 'GIN'."
    assert exchanges("textocr_gpt4v", parts) == (Exchange("", joined),)
    whole = {"image": "0a.jpg", "caption": good["caption"]}
    cleaned = Exchange("", joined, cleaned="headings_left_out")
    assert exchanges("textocr_gpt4v", whole) == (cleaned,)
    marked = whole | {"caption": "**DESCRIPTION:**\nA bottle.\n\n## TEXT\nThe label says 'GIN'."}
    assert exchanges("textocr_gpt4v", marked) == (cleaned,)
    assert exchanges("textocr_gpt4v", whole | {"caption": "TEXT on it"}) == (
        Exchange("", "TEXT on it"),
    )
    assert reasons("textocr_gpt4v", whole | {"caption": "TEXT"}) == ["answer_missing"]


# cauldron


def test_the_cauldrons_turns_stay_in_order_and_name_their_set():
    (found,) = read("cauldron", GOOD["cauldron"])
    expected = (Exchange("What is A?", "Answer: B"), Exchange("What is B?", "Answer: C"))
    assert found == Annotation("", "", (PNG,), expected, {"sources": ["AI2D"]})


def test_a_turn_of_the_cauldron_that_is_broken_leaves_the_others():
    broken = [None, {"user": "", "assistant": "a"}, {"user": "q", "assistant": None}]
    found = read("cauldron", without("cauldron", texts=[*broken, *GOOD["cauldron"]["texts"]]))
    assert [(p.reason, p.detail) for p in found[:3]] == [
        ("question_missing", "exchange 0: is a NoneType"),
        ("question_missing", "exchange 1: is no text"),
        ("answer_missing", "exchange 2: is null"),
    ]
    assert len(found[3].exchanges) == 2
    assert reasons("cauldron", without("cauldron", texts=[])) == ["question_missing"]
    assert reasons("cauldron", without("cauldron", images=[])) == ["image_missing"]
    assert reasons("cauldron", without("cauldron", images=[EMBEDDED, None])) == ["image_missing"]


# documents


def test_of_docvqas_answers_the_first_is_taken():
    (found,) = read("docvqa", GOOD["docvqa"])
    answer = Exchange("what is the date?", "1/8/93", cleaned="first_of_several")
    assert found == Annotation("337", "", (PNG,), (answer,))


@pytest.mark.parametrize("split", ["val", "validation", "test", "", 2, ["train"]], ids=str)
def test_rows_that_say_they_are_held_out_are_not_trained_on(split):
    assert reasons("docvqa", without("docvqa", data_split=split)) == ["not_training"]
    assert reasons("ocrvqa", without("ocrvqa", set_name=split)) == ["not_training"]
    assert reasons("ocrvqa", without("ocrvqa", "set_name", split=split)) == ["not_training"]


@pytest.mark.parametrize("split", ["train", "Training", 1, "1", 1.0, None], ids=str)
def test_rows_of_training_or_without_a_split_are(split):
    assert reasons("docvqa", without("docvqa", data_split=split)) == []
    assert reasons("ocrvqa", without("ocrvqa", "set_name", split=split)) == []


def test_charts_come_as_rows_of_the_hub_or_of_the_original_files():
    (row,) = read("chartqa", GOOD["chartqa"])
    (record,) = read("chartqa", {"imgname": "1.png", "query": "How many?", "label": "14"})
    assert row == Annotation("", "", (PNG,), (Exchange("How many?", "14"),))
    assert record == Annotation("", "1.png", ("1.png",), (Exchange("How many?", "14"),))
    assert reasons("chartqa", without("chartqa", label=["14", "15"])) == ["label_several"]
    assert reasons("chartqa", without("chartqa", "image")) == ["image_missing"]


def test_photos_of_textvqa_are_named_by_their_id():
    (found,) = read("textvqa", GOOD["textvqa"])
    answer = Exchange("what is the brand?", "nokia", cleaned="majority")
    assert found == Annotation("0", "0054c91397f2fe05.jpg", ("0054c91397f2fe05.jpg",), (answer,))
    (named,) = read("textvqa", without("textvqa", image="train/a.jpg"))
    assert named.images == ("train/a.jpg",)


@pytest.mark.parametrize(
    ("label", "cleaned"),
    [
        ("B", None),
        ("B)", "letter_decorated"),
        ("(B)", "letter_decorated"),
        ("b", "letter_lower_case"),
        ("It falls", "option_text"),
        ("B) It falls", "letter_and_text"),
    ],
)
def test_labels_of_arxivqa_mean_a_choice(label, cleaned):
    (found,) = exchanges("arxivqa", without("arxivqa", label=label))
    choices = ("It rises", "It falls", "Nothing", "Both")
    assert found == Exchange("What happens?", "It falls", choices, cleaned=cleaned)


def test_labels_of_arxivqa_that_mean_several_or_none_are_problems():
    assert reasons("arxivqa", without("arxivqa", label="A and B")) == ["label_several"]
    assert reasons("arxivqa", without("arxivqa", label="It stays")) == ["label_unknown"]
    assert reasons("arxivqa", without("arxivqa", label="1")) == ["label_unknown"]
    assert reasons("arxivqa", without("arxivqa", options="['a', 'b']")) == ["choices_malformed"]


def test_questions_of_ocrvqa_are_paired_with_their_answers():
    (found,) = read("ocrvqa", GOOD["ocrvqa"])
    assert found.id == "761183272"
    assert found.images == (PNG,)
    assert found.exchanges == (
        Exchange("Who wrote this book?", "Sandra Boynton"),
        Exchange("What is the title?", "Calendar 2016"),
    )


def test_lists_of_different_length_pair_nothing():
    found = read("ocrvqa", without("ocrvqa", answers=["Sandra Boynton"]))
    assert [(p.reason, p.detail) for p in found] == [
        ("answers_mismatched", "2 questions, 1 answers")
    ]
    assert reasons("ocrvqa", without("ocrvqa", answers=None)) == ["answers_mismatched"]
    assert reasons("ocrvqa", without("ocrvqa", questions=[], answers=[])) == ["question_missing"]


def test_one_broken_pair_leaves_the_others():
    found = read("ocrvqa", without("ocrvqa", answers=[None, "Calendar 2016"]))
    assert (found[0].reason, found[0].detail) == ("answer_missing", "exchange 0: is null")
    assert found[1].exchanges == (Exchange("What is the title?", "Calendar 2016"),)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a.com/I/61Y5cOdHJbL.jpg", "images/17.jpg"),
        ("http://a.com/I/51.gif?x=1.png", "images/17.gif"),
        ("http://a.com/I/51.php", "images/17.jpg"),
        ("http://[a", "images/17.jpg"),
        (None, "images/17.jpg"),
    ],
)
def test_a_cover_of_the_original_file_is_named_by_its_key(url, name):
    record = {"_key": "17", "imageURL": url, "questions": ["q"], "answers": ["a"], "split": 1}
    (found,) = read("ocrvqa", record)
    assert (found.id, found.group, found.images) == ("17", name, (name,))


def test_the_text_of_a_drawn_page_is_parsed_never_run():
    assert exchanges("synthdog", GOOD["synthdog"]) == (Exchange("", "the quick brown"),)
    python = "{'gt_parse': {'text_sequence': 'a'}}"
    malformed = [
        python,
        "[" * 100_000,
        "7",
        "{}",
        '{"gt_parse": {"text_sequence": ["a"]}}',
        None,
        7,
    ]
    for value in malformed:
        found = reasons("synthdog", without("synthdog", ground_truth=value))
        assert found == ["ground_truth_malformed"]
    empty = json.dumps({"gt_parse": {"text_sequence": " "}})
    assert reasons("synthdog", without("synthdog", ground_truth=empty)) == ["answer_missing"]


def test_a_drawn_page_may_be_a_file_beside_its_text():
    (found,) = read("synthdog", without("synthdog", "image", file_name="image_0.jpg"))
    assert (found.id, found.images) == ("image_0.jpg", ("image_0.jpg",))


# real rows


@pytest.mark.shared
def test_real_charts_have_no_problem(shared_data):
    for name, count in (("chartqa_augmented", 22), ("chartqa_official_rows", 7)):
        rows = json.loads((shared_data / f"ocr/chartqa/{name}.json").read_text())
        found = [exchanges("chartqa", row) for row in rows]
        assert len(found) == count
        assert [e.answer for (e,) in found] == [row["label"].strip() for row in rows]


@pytest.mark.shared
def test_real_pages_of_a_validation_set_are_refused_as_training(shared_data):
    rows = json.loads((shared_data / "ocr/docvqa/val_v1.0.json").read_text())["data"]
    assert [reasons("docvqa", row) for row in rows] == [["not_training"]] * 10
    (trained,) = json.loads((shared_data / "ocr/docvqa/rows_withQT_no_image.json").read_text())
    (found,) = read("docvqa", trained)
    assert (found.id, found.group) == ("337", "documents/xnbl0037_1.png")
    assert found.exchanges == (Exchange("what is the date mentioned in this letter?", "1/8/93"),)


@pytest.mark.shared
def test_real_pages_become_questions_about_one_page(shared_data):
    rows = json.loads((shared_data / "ocr/docvqa/val_v1.0.json").read_text())["data"]
    found = [one for row in rows for one in read("docvqa", row | {"data_split": None})]
    assert {annotation.group for annotation in found} == {"documents/ffjw0228_11.png"}
    assert [a.exchanges[0].answer for a in found][:3] == ["$123,110", "10,596", "3,700"]
    assert [a.exchanges[0].cleaned for a in found][:2] == [None, "first_of_several"]


@pytest.mark.shared
def test_real_noisy_answers_have_a_majority(shared_data):
    file = shared_data / "ocr/textvqa/textvqa_v0.1_rows_no_image.json"
    found = [exchanges("textvqa", row)[0] for row in json.loads(file.read_text())["data"]]
    assert [(e.answer, e.cleaned) for e in found] == [
        ("11:28", None),
        ("samsung", None),
        ("40", "non_answers_left_out"),
        ("vartburg", "majority"),
        ("music which has freedom of feeling", "majority"),
        ("germ-x", "majority"),
        ("8:45 pm", "majority"),
        ("1013", "majority"),
    ]


@pytest.mark.shared
def test_a_real_cover_has_its_questions(shared_data):
    file = shared_data / "ocr/ocrvqa/dataset_rows_no_image.json"
    ((key, row),) = json.loads(file.read_text()).items()
    (found,) = read("ocrvqa", row | {"_key": key})
    assert (found.id, found.images) == ("761183272", ("images/761183272.jpg",))
    assert [e.answer for e in found.exchanges][-2:] == ["No", "2016"]
    assert len(found.exchanges) == 5


@pytest.mark.shared
def test_real_diagrams_have_choices(shared_data):
    rows = json.loads((shared_data / "instruct/vqa_rows_no_image.json").read_text())["ai2d"]
    real = rows["questions"]["What is A in the diagram?"]
    record = {
        "question": "What is A?",
        "choices": real["answerTexts"],
        "answer": str(real["correctAnswer"]),
    }
    (found,) = exchanges("question_answer", record | {"image": rows["imageName"]})
    assert (found.answer, found.cleaned) == ("face", "choice_number")


# the catalogue


@cache
def entries() -> dict[str, dict[str, Any]]:
    folder = files("vila2data.blend.catalog")
    return {
        name: entry
        for file in ("ocr.yaml", "cauldron.yaml")
        for name, entry in yaml.safe_load((folder / file).read_text("utf-8")).items()
    }


def test_entries_of_the_catalogue_have_a_known_layout_and_form():
    forms = load_prompts()
    for name, entry in entries().items():
        source = Source.model_validate(entry)
        assert source.layout in LAYOUTS, name
        assert source.rules.form is None or source.rules.form in forms, name
        layout = LAYOUTS[source.layout]
        assert set(source.columns) <= {*layout.needs, *layout.may_have}, name
        asks = source.layout not in ("captions", "textocr_gpt4v", "synthdog")
        assert asks or source.rules.form is not None, f"{name}: asks nothing"


def test_the_cauldron_has_50_sets_of_which_the_ocr_blend_takes_35(pytestconfig):
    recipe = yaml.safe_load(
        (pytestconfig.rootpath / "recipes/ocr_blend/vila2.yaml").read_text("utf-8")
    )
    sets = {name for name in entries() if name.startswith("cauldron_")}
    taken = sets & set(recipe["sources"])
    without_text = "aokvqa clevr clevr_math cocoqa localized_narratives mimic_cgd nlvr2 okvqa raven spot_the_diff tallyqa visual7w vqarad vqav2 vsr"
    assert len(sets) == 50
    assert len(taken) == 35
    assert sets - taken == {f"cauldron_{name}" for name in without_text.split()}
    assert {Source.model_validate(entries()[name]).status for name in taken} == {"available"}


def test_the_test_questions_of_ai2d_name_what_to_train_on_instead():
    entry = Source.model_validate(entries()["ai2d"])
    assert (entry.hub, entry.status, entry.split) == ("lmms-lab/ai2d", "evaluation", "evaluation")
    assert entry.substitute == "cauldron_ai2d"
    assert "lmms-lab/DocVQA" not in {e.get("hub") for e in entries().values()}


def test_every_rule_that_a_layout_applies_has_a_description():
    cleaned = {
        e.cleaned
        for layout, record in GOOD.items()
        for e in exchanges(layout, record)
        if e.cleaned is not None
    }
    assert cleaned == {"first_of_several", "majority"}
    assert cleaned | {"headings_left_out"} <= set(RULES)
