"""Rows are written by hand here, sound ones first; then one thing is made wrong."""

import copy

import duckdb
import pyarrow as pa
import pytest
from blend_making import made_catalogue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vila2data.blend.verifier import problems
from vila2data.blend.verifier.special import special
from vila2data.build.manifest import BuildFile, Manifest
from vila2data.conversation import find_special
from vila2data.prompts import prompt
from vila2data.schema import INSTRUCT, INSTRUCT_PATHS, INSTRUCT_REJECT

SHORT = prompt("format-short-answer").text
LETTER = prompt("format-option-letter").text
CAPTION = prompt("format-one-sentence-caption").text
DESCRIBE = "Please provide a short description for this region: "
LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: "
PNG = b"\x89PNG\r\n\x1a\n and more"
KINDS = [PNG, b"\xff\xd8\xff\xe0JFIF", b"GIF89a..", b"BM....", b"RIFF\x01\x02\x03\x04WEBPVP8 "]
COLUMNS = {
    "made_vqa": ("vqa", "cc-by-4.0"),
    "made_choices": ("knowledge", "apache-2.0"),
    "made_regions": ("region", "unknown"),
    "made_captions": ("captioning", "cc-by-4.0"),
    "made_turns": ("conversation", "cc-by-nc-4.0"),
    "made_texts": ("text", "cc0-1.0"),
}
UNSAFE = "a special token or role label was left in"
FORM_MISSING = "a question does not end with the sentence that asks for a form of answer"
FORM_ELSEWHERE = "the sentence that asks for a form of answer stands where it must not"
ROTATIONS = "the rotations of a row's choices are not all there"


def row(row_id, *said, images=(), origin=None):
    source = row_id.partition("/")[0]
    task, license_id = COLUMNS[source]
    roles = ("user", "assistant") * len(said)
    return {
        "id": row_id,
        "source": source,
        "task": task,
        "license": license_id,
        "images": [{"bytes": image, "path": None} for image in images],
        "messages": [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)],
        "origin": origin,
    }


def which(choices, form=LETTER, image="<image>\n"):
    lines = [f"{letter}. {text}" for letter, text in zip("ABCDE", choices, strict=False)]
    return image + "\n".join(["Which?", *lines, *([form] if form else [])])


def rotated(name, suffix=""):
    """A conversation of three choices, then of two, in its three rotations."""
    three, two = ["cat", "dog", "emu"], ["yes", "no"]
    for number in range(3):
        first = three[number:] + three[:number]
        by = number % 2
        second = two[by:] + two[:by]
        yield row(
            f"made_choices/{name}/r{number}{suffix}",
            which(first),
            "ABC"[first.index("emu")],
            which(second, form=None, image=""),
            "AB"[second.index("yes")],
            images=[PNG],
        )


def sound():
    return [
        row("made_vqa/a.jpg", f"<image>\nWho?\n{SHORT}", "me", "Who?", "you", images=KINDS[:1]),
        row("made_vqa/b", f"<image>\n<image>\nWhat is it?\n{SHORT}", "犬", images=KINDS[1:3]),
        *rotated("1"),
        *rotated("2"),
        row(
            "made_regions/a.jpg/s0",
            f"<image>\n{DESCRIBE}[0.0, 0.05, 0.5, 1.0].",
            "Red jacket.",
            f"{LOCATE}guy on right.",
            "[0.65, 0.31, 0.86, 0.74]",
            images=KINDS[3:4],
        ),
        row(
            "made_regions/a.jpg/s1", f"<image>\n{LOCATE}1st.", "[0.1, 0.2, 0.1, 0.2]", images=[PNG]
        ),
        row(
            "made_captions/1", f"<image>\n{CAPTION}", "A cat: red.", CAPTION, "A cat.", images=[PNG]
        ),
        row("made_captions/1/c1", f"<image>\n{CAPTION}", "A cat: red.", images=[PNG]),
        row("made_captions/1/d1", f"<image>\n{CAPTION}", "A dog.", images=[PNG]),
        row("made_captions/1/c1/d1", f"<image>\n{CAPTION}", "A dog.", images=[PNG]),
        row("made_captions/1/c2/d1", f"<image>\n{CAPTION}", "A dog.", images=[PNG]),
        row("made_turns/x", "Look <image> here", "ok", "So?", SHORT, images=KINDS[4:], origin="{}"),
        row("made_texts/7", f"Sum?\n{SHORT}", "3"),
    ]


def recipe(**changes):
    entries = {name: {} for name in COLUMNS}
    entries |= {"made_captions": {"weight": 2.5}, "made_turns": {"cap": 1}}
    return {"config": "default", "seed": 1, "sources": entries} | changes


def rejects(*told):
    names = ("id", "source", "reject_reason", "detail")
    return [dict(zip(names, each, strict=False)) | {"detail": None} for each in told]


REJECTED = [
    ("made_texts/8", "made_texts", "answer_missing"),
    ("made_texts/7", "made_texts", "answer_missing"),  # another record of that name
    ("made_vqa/b", "made_vqa", "answer_missing"),  # a record, not the image of that name
]


@pytest.fixture(scope="module", autouse=True)
def catalogue(tmp_path_factory):
    with made_catalogue(tmp_path_factory.mktemp("catalogue")):
        yield


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def check(connection):
    """Gives the problems of a build of some rows."""

    def run(rows, told=None, rejected=REJECTED, stats=None, form=None):
        told = recipe() if told is None else told
        form = form or (INSTRUCT_PATHS if told.get("images") == "paths" else INSTRUCT)
        kept = pa.Table.from_pylist(rows, form.arrow_schema)
        refused = pa.Table.from_pylist(rejects(*rejected), INSTRUCT_REJECT.arrow_schema)
        tables = {"default": kept, "default-rejects": refused}
        for name, table in tables.items():
            connection.register(name, table)
        files = [BuildFile("", name, "train", 1, 1, "") for name in tables]
        parts = ("sft-blend", "1.0.0", 4, "", "default", told, [], {}, files, [], stats or {})
        return problems(connection, Manifest(*parts))

    return run


def rules_of(lines):
    return sorted(line.split(": ", 2)[1] for line in lines)


def test_sound_rows_have_no_problem(check):
    stats = {"sources": [{"source": name, "rows": 0} for name in COLUMNS]}
    for each in sound():
        next(s for s in stats["sources"] if s["source"] == each["source"])["rows"] += 1
    assert check(sound(), stats=stats) == []


def said(row_id, place, text):
    """Puts a text in the place of a message."""

    def change(rows):
        (found,) = [each for each in rows if each["id"] == row_id]
        message = found["messages"][place]
        message["content"] = text(message["content"]) if callable(text) else text

    return change


def column(row_id, name, value):
    def change(rows):
        (found,) = [each for each in rows if each["id"] == row_id]
        found[name] = value(found[name]) if callable(value) else value

    return change


def without(*ids):
    return lambda rows: [each for each in rows if each["id"] not in ids]


def and_another(*said, **more):
    return lambda rows: [*rows, row(*said, **more)]


REGION, CHOICE, PLAIN = "made_regions/a.jpg/s1", "made_choices/1/r1", "made_vqa/b"
FIRST = "made_vqa/a.jpg"
NOT_A_BOX = "a box is not x1, y1, x2, y2 in 0-1 with two decimals"
BAD_IMAGE = "an image is missing, empty or of no known kind"
ROLES = "messages are not turns of user and assistant"
COUNT = "the first question has not one <image> for each image"
COPIES = "a row has a gap among its copies"
NO_LETTER = "an answer is none of the letters of its question"
FULL_STOP = "the text of a region does not end with one full stop"
TWICE = "an exchange stands twice in a row"
MUTATIONS = {
    "null source": (column(PLAIN, "source", None), "a column is null"),
    "null images": (column("made_texts/7", "images", None), "a column is null"),
    "null messages": (column(PLAIN, "messages", None), "a column is null"),
    "id twice": (column(PLAIN, "id", FIRST), "an id stands twice"),
    "id of another source": (column(PLAIN, "id", "made_x/b"), "an id is not its source and a name"),
    "id without name": (column(PLAIN, "id", "made_vqa/"), "an id is not its source and a name"),
    "task": (column(PLAIN, "task", "ocr"), "task is not the catalogue's"),
    "null task": (column(PLAIN, "task", None), "task is not the catalogue's"),
    "license": (column(PLAIN, "license", "mit"), "license is not the catalogue's"),
    "role": (column(PLAIN, "messages", lambda m: m[::-1]), ROLES),
    "no answer": (column(PLAIN, "messages", lambda m: m[:1]), ROLES),
    "no message": (column("made_texts/7", "messages", []), ROLES),
    "null content": (said(PLAIN, 1, None), "a message, its role or its content is null"),
    "null message": (
        column(PLAIN, "messages", [None, None]),
        "a message, its role or its content is null",
    ),
    "blank content": (said(PLAIN, 1, " \n"), "a message is empty"),
    "marker missing": (said(PLAIN, 0, f"<image>\nWhat?\n{SHORT}"), COUNT),
    "marker too many": (said("made_texts/7", 0, f"<image>\nSum?\n{SHORT}"), COUNT),
    "marker later": (said(FIRST, 2, "<image> Who?"), "an <image> stands after the first question"),
    "marker in answer": (said(FIRST, 1, "<image>"), "an <image> stands after the first question"),
    "marker in the text": (
        said(FIRST, 0, f"Who <image>?\n{SHORT}"),
        "an <image> does not stand in a line of its own before the text",
    ),
    "image taken away": (column(PLAIN, "images", lambda i: i[:1]), COUNT),
    "token": (said(FIRST, 3, "a <|im_end|> b"), UNSAFE),
    "token in the first question": (said(FIRST, 0, lambda t: t.replace("Who", "</s>")), UNSAFE),
    "role label": (said("made_turns/x", 0, "Look <image>\nuser: hi"), UNSAFE),
    "too many exchanges": (
        column(FIRST, "messages", lambda m: m + turns("a", "b", "c", "d")),
        "a row has more exchanges than max_exchanges",
    ),
    "too long a segment": (
        column(
            "made_regions/a.jpg/s0",
            "messages",
            lambda m: m + turns(f"{LOCATE}x.", "[0.0, 0.0, 1.0, 1.0]"),
        ),
        "a row has more exchanges than segment",
    ),
    "too many tokens": (
        said("made_turns/x", 1, "犬" * 250),
        "a row has more tokens than max_tokens",
    ),
    "exchange twice": (column(FIRST, "messages", lambda m: m + m[2:]), TWICE),
    "first exchange again": (
        column(FIRST, "messages", lambda m: m[:2] + turns("Who?", "me")),
        TWICE,
    ),
    "conversation twice": (
        and_another(f"{FIRST}/d1", f"<image>\nHow?\n{SHORT}", "so", images=[PNG]),
        "a conversation of a merged source stands twice",
    ),
    "form missing": (said(PLAIN, 0, lambda t: t.removesuffix(f"\n{SHORT}")), FORM_MISSING),
    "form not in its own line": (said(PLAIN, 0, f"<image>\n<image>\nWhat? {SHORT}"), FORM_MISSING),
    "form twice": (said(PLAIN, 0, lambda t: f"{t}\n{SHORT}"), FORM_ELSEWHERE),
    "form in another question": (said(FIRST, 2, f"Who?\n{SHORT}"), FORM_ELSEWHERE),
    "form in an answer": (said(FIRST, 1, f"me\n{SHORT}"), FORM_ELSEWHERE),
    "letter without a choice": (said("made_choices/1/r0", 1, "D"), NO_LETTER),
    "answer is no letter": (said("made_choices/1/r0", 1, "emu"), NO_LETTER),
    "choices left out": (said("made_choices/1/r0", 0, f"<image>\nWhich?\n{LETTER}"), NO_LETTER),
    "choices without rotation": (
        and_another("made_choices/3", which(["a", "b"]), "A", images=[PNG]),
        "a row with choices is no rotation by its id",
    ),
    "rotation missing": (without("made_choices/1/r0"), ROTATIONS),
    "last rotation missing": (without("made_choices/1/r2"), ROTATIONS),
    "letter of another choice": (said(CHOICE, 1, "A"), ROTATIONS),
    "choices not rotated": (said(CHOICE, 0, which(["cat", "dog", "emu"])), ROTATIONS),
    "rotated the other way": (said(CHOICE, 0, which(["emu", "cat", "dog"])), ROTATIONS),
    "second exchange not rotated": (
        said(CHOICE, 2, which(["yes", "no"], form=None, image="")),
        ROTATIONS,
    ),
    "rotations too many": (
        and_another(
            "made_choices/1/r3",
            which(["cat", "dog", "emu"]),
            "C",
            which(["no", "yes"], None, ""),
            "B",
            images=[PNG],
        ),
        ROTATIONS,
    ),
    "box past 1": (said(REGION, 1, "[0.1, 0.2, 1.1, 0.2]"), NOT_A_BOX),
    "box below 0": (said(REGION, 1, "[-0.1, 0.2, 0.1, 0.2]"), NOT_A_BOX),
    "box backwards": (said(REGION, 1, "[0.6, 0.2, 0.1, 0.2]"), NOT_A_BOX),
    "box upside down": (said(REGION, 1, "[0.1, 0.6, 0.1, 0.2]"), NOT_A_BOX),
    "three decimals": (said(REGION, 1, "[0.125, 0.2, 0.5, 0.2]"), NOT_A_BOX),
    "zeros at the end": (said(REGION, 1, "[0.10, 0.2, 0.5, 0.2]"), NOT_A_BOX),
    "whole numbers": (said(REGION, 1, "[0, 0.2, 0.5, 1]"), NOT_A_BOX),
    "no box": (said(REGION, 1, "there"), NOT_A_BOX),
    "no box in a question": (
        said("made_regions/a.jpg/s0", 0, f"<image>\n{DESCRIBE}it."),
        NOT_A_BOX,
    ),
    "region in other words": (
        said(REGION, 0, "<image>\nWhere is it?"),
        "a question about a region is worded in another way",
    ),
    "no full stop": (said("made_regions/a.jpg/s0", 1, "Red jacket"), FULL_STOP),
    "two full stops": (said(REGION, 0, f"<image>\n{LOCATE}it.."), FULL_STOP),
    "small letter": (
        said("made_regions/a.jpg/s0", 1, "red jacket."),
        "the description of a region does not begin with a capital",
    ),
    "copy without the row": (without("made_captions/1/d1"), COPIES),
    "gap among copies": (without("made_captions/1/c1/d1"), COPIES),
    "too many copies": (
        and_another("made_captions/1/c3/d1", f"<image>\n{CAPTION}", "A dog.", images=[PNG]),
        "a row has more copies than its weight",
    ),
    "too few copies": (without("made_captions/1/c1"), "a row has fewer copies than its weight"),
    "empty image": (column(FIRST, "images", [{"bytes": b"", "path": "a"}]), BAD_IMAGE),
    "null bytes": (column(FIRST, "images", [{"bytes": None, "path": "a.jpg"}]), BAD_IMAGE),
    "null image": (column(FIRST, "images", [None]), BAD_IMAGE),
    "no image": (column(FIRST, "images", [{"bytes": b"<html>", "path": "a.jpg"}]), BAD_IMAGE),
    "cut signature": (column(FIRST, "images", [{"bytes": b"\x89PNG", "path": None}]), BAD_IMAGE),
    "not WebP": (column(FIRST, "images", [{"bytes": b"RIFF1234WAVE", "path": None}]), BAD_IMAGE),
}


def turns(*texts):
    roles = ("user", "assistant") * len(texts)
    return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_made_wrong_is_told(name, check):
    change, rule = MUTATIONS[name]
    rows = copy.deepcopy(sound())
    rows = change(rows) or rows
    assert rule in rules_of(check(rows))


def test_a_line_tells_how_many_rows_and_the_first_ids(check):
    rows = sound() + [row(f"made_texts/{n}", f"?\n{SHORT}", " ") for n in range(10, 15)]
    assert check(rows) == [
        "default: a message is empty: 5 rows, such as made_texts/10, made_texts/11, made_texts/12"
    ]


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        (
            {"sources": {**recipe()["sources"], "made_texts": {"cap": 1}}},
            ["made_texts"],
        ),
        ({"commercial_only": True}, ["source is non-commercial"]),
        (
            {"sources": {k: v for k, v in recipe()["sources"].items() if k != "made_turns"}},
            ["source is none of the recipe"],
        ),
        (
            {"sources": {**recipe()["sources"], "made_vqa": {"rules": {"max_exchanges": 1}}}},
            ["a row has more exchanges than max_exchanges"],
        ),
        (
            {"sources": {**recipe()["sources"], "made_vqa": {"rules": {"form_in": "every"}}}},
            [FORM_MISSING],
        ),
    ],
)
def test_the_recipe_tells_what_rows_are_measured_by(changes, rules, check):
    rows = [*sound(), row("made_texts/9", f"?\n{SHORT}", "4")]
    assert rules_of(check(rows, recipe(**changes))) == rules


def test_an_evaluation_set_is_none_to_train_on(check):
    told = recipe()
    told["sources"] = {**told["sources"], "made_evaluation": {}}
    wrong = row("made_texts/9", "?", "4") | {"id": "made_evaluation/1", "source": "made_evaluation"}
    found = rules_of(check([*sound(), wrong], told))
    assert "source is an evaluation set" in found
    told["sources"]["nowhere"] = {}
    wrong |= {"id": "nowhere/1", "source": "nowhere"}
    assert rules_of(check([*sound(), wrong], told)) == ["source is not in the catalogue"]


def test_names_of_images_are_names_below_their_folder(check):
    rows = [
        {**each, "image_paths": [f"{each['id'][:14]}/b..jpg"] * len(each["images"])}
        for each in sound()[2:]
    ]
    told = recipe(images="paths")
    assert check(rows, told) == []
    for bad in ("", " ", None, "/etc/x.jpg", "a/../../b.jpg", "..\\b.jpg"):
        wrong = copy.deepcopy(rows)
        wrong[0]["image_paths"] = [bad]
        assert rules_of(check(wrong, told)) == [BAD_IMAGE]


def test_rows_of_one_image_are_one_row_where_they_are_merged(check):
    rows = [
        row(f"made_vqa/{name}", f"<image>\nWho?\n{SHORT}", "me", images=[PNG])
        | {"image_paths": ["a.jpg"]}
        for name in ("a.jpg", "b.jpg")
    ]
    assert rules_of(check(rows, recipe(images="paths"))) == [
        "rows of the same image are not merged"
    ]
    assert check(rows[:1], recipe(images="paths")) == []


def test_rotations_that_were_cut_may_differ_after_the_first_exchange(check):
    rows = list(rotated("1"))
    rows[1]["messages"] = rows[1]["messages"][:2]
    assert rules_of(check(rows)) == [ROTATIONS]
    entry = {"rules": {"max_tokens": 100}}
    assert (
        check(rows, recipe(sources={"made_choices": entry, "made_vqa": {}, "made_texts": {}})) == []
    )


def test_names_that_look_like_suffixes_are_names(check):
    forms = [
        row(f"made_captions/{n}", f"<image>\n{CAPTION}", "A.", images=[PNG]) for n in ("c1", "x/c1")
    ]
    copied = [each | {"id": each["id"] + "/c1"} for each in forms]
    texts = [row(f"made_texts/{n}", f"?\n{SHORT}", "4") for n in ("r1", "a/r7", "s1/c4/d2", "/c1")]
    assert check(forms + copied + texts) == []


@pytest.mark.parametrize(
    ("rejected", "rule"),
    [
        (("made_texts/9", "made_texts", " "), "a reject has no reason"),
        (("made_texts/9", "made_texts", None), "a reject has no reason"),
        (("x/9", "x", "answer_missing"), "a reject's source is none of the recipe"),
        (("made_choices/1/r0", "made_choices", "leak_text"), "a reject is a row all the same"),
        (("made_vqa/b", "made_vqa", "image_missing"), "a reject is a row all the same"),
    ],
)
def test_rejects_have_a_reason_and_are_not_kept(rejected, rule, check):
    assert rules_of(check(sound(), rejected=[*REJECTED, rejected])) == [rule]


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        (None, []),
        ([{"source": "made_texts", "rows": 1}], []),
        (
            [{"source": "made_texts", "rows": 2}, {"source": "x", "rows": 3}],
            [
                "default: made_texts: 1 rows, the table of sources says 2",
                "default: x: 0 rows, the table of sources says 3",
            ],
        ),
        ([], ["default: made_texts: 1 rows, the table of sources says nothing"]),
        ("x", ["default: made_texts: 1 rows, the table of sources says nothing"]),
        ([7], ["default: made_texts: 1 rows, the table of sources says nothing"]),
    ],
)
def test_counts_are_those_of_the_table_of_sources(told, lines, check):
    rows = [row("made_texts/7", f"Sum?\n{SHORT}", "3")]
    assert check(rows, stats={"sources": told}) == lines


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "recipe: sources: are missing; no row could be checked"),
        ({"sources": {"made_vqa": 7}}, "recipe: 1 validation error for Entry"),
        ({"sources": {"made_vqa": {"weight": 0}}}, "recipe: 1 validation error for Entry weight"),
        (
            {"sources": {"made_vqa": {"rules": {"form": "x"}}}},
            "recipe: there is no prompt 'x'; known: ",
        ),
        ({"sources": {"made_vqa": {}}, "config": "other"}, "other: the config is missing"),
        (
            {"sources": {"made_vqa": {}}, "images": "paths"},
            "default: has no column image_paths, which the recipe asks for",
        ),
    ],
)
def test_what_cannot_be_checked_is_told(told, message, check):
    assert check(sound(), told, form=INSTRUCT)[0].startswith(message)


PIECES = st.sampled_from(
    [
        *"<>|[]/: \n\tſ",
        "<image>",
        "</",
        "s",
        "pad",
        "INST",
        "SYS",
        "CLS",
        "img",
        "tool_calls",
        "user",
        "USER",
        "asſistant",
        "GPT",
        "bot",
        "\u2028",
        "\u3000",
        "<|",
        "|>",
        "im_end",
        "unused1",
        "loc_2",
    ]
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_text_that_could_be_special_is_looked_at(text):
    held = text.replace("<image>", "<\ufffc>")
    assert list(special(pa.array(["plain", text, None, "a: b"]))) == [1] * (
        find_special(held) is not None
    )


TEXTS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "",
            "<image>",
            "<image>\n<image>",
            "A",
            "Z",
            "A. x\nB. y",
            LETTER,
            f"{DESCRIBE}[",
            LOCATE,
            f"{LOCATE}.",
            "user:",
            "made_choices/1/r0",
            "made_choices/1/r9999999999/c1",
            "\x00",
            "/c1",
            "made_captions/c1",
            "made_captions/x/c99999999999",
            "made_vqa/s0/d1",
        ]
    ),
    st.text(max_size=8),
)
MESSAGES = st.lists(
    st.none()
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "", None]), "content": TEXTS}
    ),
    max_size=5,
)
IMAGES = st.lists(
    st.none() | st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=12), "path": TEXTS}),
    max_size=2,
)
ROWS = st.fixed_dictionaries(
    {
        "id": TEXTS,
        "source": st.none() | st.sampled_from([*COLUMNS, "", "nowhere"]),
        "task": TEXTS,
        "license": TEXTS,
        "images": st.none() | IMAGES,
        "messages": st.none() | MESSAGES,
        "origin": TEXTS,
    }
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(ROWS, max_size=5),
    rejected=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=3),
    told=st.sampled_from([recipe(), recipe(images="paths")]),
)
def test_whatever_the_rows_hold_the_answer_is_a_list_of_lines(check, rows, rejected, told):
    rows = [
        each | {"image_paths": each["images"] and [i and i["path"] for i in each["images"]]}
        for each in rows
    ]
    lines = check(rows, told, rejected)
    assert all(isinstance(line, str) for line in lines)
    assert lines or not rows
