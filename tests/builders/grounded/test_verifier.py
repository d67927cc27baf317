"""Rows are made by hand here, and written phrase by phrase; the verifier never does that."""

import copy
from unittest.mock import patch

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vila2data.boxes import CONVENTIONS
from vila2data.build.manifest import BuildFile, Manifest
from vila2data.build.views import connect
from vila2data.builders.grounded_narration import verifier
from vila2data.builders.grounded_narration.recipe import (
    BoxRules,
    GroundedNarrationRecipe,
    Questions,
    Split,
)
from vila2data.builders.grounded_narration.verifier import problems
from vila2data.conversation import neutralise
from vila2data.prompts import prompt
from vila2data.schema import features_of

CONFIGS = ("short", "long", "pool-rejects")
SCHEMAS = {c: features_of("grounded-narration", c)[0].arrow_schema for c in CONFIGS}
NARRATION = list(Questions().narration)
REFER, DESCRIBE = "format-locate-region", "format-describe-region"
SIZE = (640, 480)
A, B, C, D = (
    [0.1, 0.2, 0.3, 0.4],
    [0.25, 0.5, 0.7504, 0.9996],
    [0.0625, 0.0, 1.0, 0.4445],
    [0.5, 0.5, 0.6, 0.75],
)
NOT_CAPTION = "grounded_caption is not the caption with boxes after its phrases"
UNSAFE = "a special token or role label was left in"
E = [0.06, 0.41, 0.9, 0.43]
CAPTION = "Two paper covers on a wire hänger, 犬 of Ann's"
PHRASES = {"Two paper covers": [A, B], "a wire hänger": [C], "犬": [D]}


def stored(box):
    return [float(np.float32(number)) for number in box]


def phrases_of(caption, told):
    """``told`` gives the boxes of each text, in the order of the caption."""
    found, end = [], 0
    for text, boxes in told.items():
        start = caption.index(text, end)
        end = start + len(text)
        span = {"text": text, "start": start, "end": end}
        found.append({**span, "boxes": list(map(stored, boxes)), "score": 0.75})
    return found


def grounded(caption, phrases, written="vila", size=SIZE):
    safe, text, end = neutralise(caption), "", 0
    for each in phrases:
        said = safe[each["start"] : each["end"]]
        text += safe[end : each["start"]] + CONVENTIONS[written].ground(said, each["boxes"], size)
        end = each["end"]
    return text + safe[end:]


def refer(phrase, written="vila"):
    asked = prompt(REFER).text.rstrip(".") + ": " + neutralise(phrase["text"])
    return REFER, asked, CONVENTIONS[written].render_all(phrase["boxes"], SIZE)


def describe(phrase, written="vila"):
    box = CONVENTIONS[written].render(phrase["boxes"][0], SIZE)
    asked = prompt(DESCRIBE).text.rstrip(".") + ": " + box
    return DESCRIBE, asked, neutralise(phrase["text"])


def talk(text, further=(), question=NARRATION[0]):
    """``messages`` and ``question_ids``."""
    turns = [(question, "<image>\n" + prompt(question).text, text), *further]
    said = [
        {"role": role, "content": content}
        for _, *pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    return {"messages": said, "question_ids": [name for name, *_ in turns]}


def row(key="a", caption=CAPTION, told=PHRASES, written="vila", further=None, **values):
    phrases = phrases_of(caption, told)
    text = grounded(caption, phrases, written)
    plain = {"key": key, "id": 7, "url": "https://example.org/a", "caption": caption}
    clip = {"clip_similarity_vitb32": 0.3, "clip_similarity_vitl14": 0.25}
    turns = talk(text, further(phrases) if further else ())
    size = {"width": SIZE[0], "height": SIZE[1]}
    own = {"image_sha256": None, "image_status": None, "grounded_caption": text}
    return {**plain, **clip, **size, **own, "phrases": phrases, **turns, **values}


def reject(key, reason):
    return {"key": key, "reject_reason": reason}


def recipe(**blocks):
    plain = {"builder": "grounded-narration", "version": "1.0.0", "license": "cc0-1.0"}
    blocks = {"split": {"long_from": {"phrases": 9}}, "path": "parts", **blocks}
    return GroundedNarrationRecipe(**plain, **blocks).model_dump(mode="json")


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Gives the problems of a build of some rows."""
    folder = tmp_path_factory.mktemp("build")
    files = {name: folder / f"{name}.parquet" for name in CONFIGS}
    named = [BuildFile(f.name, name, "train", 1, 1, "") for name, f in files.items()]
    made = Manifest("grounded-narration", "1.0.0", 3, "", "short", {}, [], {}, named, [], {})
    for name, file in files.items():
        pq.write_table(SCHEMAS[name].empty_table(), file)
    connection = connect(folder, made)
    connection.execute("SET threads = 1")

    def run(
        *short, long=(), rejects=(), told=None, long_from=(9, 0), sources=None, configs=CONFIGS
    ):
        for name, rows in zip(CONFIGS, (short, long, rejects), strict=True):
            ided = [{"id": number, **each} for number, each in enumerate(rows)]
            pq.write_table(pa.Table.from_pylist(ided, schema=SCHEMAS[name]), files[name])
        density = dict(zip(("phrases", "words"), long_from, strict=True))
        manifest = Manifest(
            *("grounded-narration", "1.0.0", 3, "", "short", told or recipe()),
            [{"long_from": density}] if sources is None else sources,
            *({}, [file for file in named if file.config in configs], [], {}),
        )
        return problems(connection, manifest)

    return run


def line(rule, *keys, config="short"):
    keys = sorted(keys or ("a",))
    return f"{config}: {rule}: {len(keys)} rows, such as {', '.join(keys[:3])}"


def all_of(check, broken, sound=None, **options):
    """What is told of each of some rows in one build, beside a sound one."""
    rows = [{**each, "key": f"{n:03}", "id": n} for n, each in enumerate(broken)]
    found = [[] for _ in rows]
    with patch.object(verifier, "_SHOWN", 99):
        lines = check(row("sound", id=999, **(sound or {})), *rows, **options)
    for _, rule, keys in (told.split(": ", 2) for told in lines):
        count, _, named = keys.partition(" rows, such as ")
        numbers = [int(key) for key in named.split(", ")]
        assert int(count) == len(numbers)
        for number in numbers:
            found[number].append(rule)
    return found


def with_phrase(number=0, told=PHRASES, **values):
    """A row of which one phrase is changed, and nothing else."""
    made = row(told=told)
    made["phrases"][number].update(values)
    return made


def told_of(each, check, **options):
    (found,) = all_of(check, [each], **options)
    return found


WHOLE = row()


# -- sound rows ---------------------------------------------------------------------------------


def some_turns(phrases, written="vila"):
    first, second, third = phrases
    return [refer(first, written), refer(third, written), describe(second, written)]


@pytest.mark.parametrize("written", CONVENTIONS)
def test_rows_of_every_convention_are_sound(check, written):
    told = recipe(questions={"boxes": written, "refer": 2, "describe": 1})
    thin = {"Two paper covers": [[0.2001, 0.4, 0.2011001, 0.5], B], "犬": [[0.999, 0.0, 1.0, 1.0]]}
    odd = {"USER: {} 'x'": [A], "<im": [B, C], "[1, 2": [E], "%d|": [D]}
    rows = [
        row("plain", written=written, id=1),
        row("turns", written=written, id=2, further=lambda p: some_turns(p, written)),
        row("thin", told=thin, written=written, id=3),
        row("odd", "USER: {} 'x' <image> [1, 2, %d|\n a:b [INST]", odd, written, id=4,
            further=lambda p: [refer(p[0], written), describe(p[3], written)]),
        row("blank ends", " \t Two paper covers, 犬 \r\n", {" \t Two": [A], "犬 \r": [B]}, written, id=5),
    ]  # fmt: skip
    assert check(*rows, told=told) == []


def test_plain_rows_need_not_be_read_one_by_one(check):
    with (
        patch.object(verifier, "grounding_problems", side_effect=AssertionError),
        patch.object(verifier, "turn_problems", side_effect=AssertionError),
    ):
        for written in CONVENTIONS:
            told = recipe(questions={"boxes": written, "refer": 2, "describe": 1})
            turns = row("turns", written=written, further=lambda p, w=written: some_turns(p, w))
            assert check(row(written=written), turns | {"id": 1}, told=told) == []


def test_another_convention_than_the_recipe_s_is_found(check):
    names = ("qwen2_5_vl", "pixels", "norm2", "shikra", "norm3", "kosmos2")
    found = all_of(check, [row(written=written) for written in names])
    assert found == [[NOT_CAPTION]] * 5 + [sorted([NOT_CAPTION, UNSAFE])]


def test_configs_may_be_empty(check):
    assert check() == []


def test_a_rule_is_told_once_with_the_count_and_three_keys(check):
    broken = [row(key, id=n, image_sha256="x") for n, key in enumerate("edcba")]
    rule = "image_sha256 does not agree with image_status"
    assert check(*broken, row("sound")) == [line(rule, *"abcde")]


def test_more_rows_than_are_looked_at_together_are_all_seen(check, monkeypatch):
    monkeypatch.setattr("vila2data.builders.grounded_narration.verifier._ROWS_AT_A_TIME", 2048)
    rows = [WHOLE | {"key": f"{n:04}", "id": n} for n in range(5000)]
    for number in (0, 2047, 2048, 4999):
        rows[number]["grounded_caption"] += "."
    found = check(*rows)
    keys = [f"{n:04}" for n in (0, 2047, 2048, 4999)]
    assert line("the first answer is not grounded_caption", *keys) in found
    assert len(found) == 2


# -- phrases and boxes ----------------------------------------------------------------------------

SPAN = "a phrase's span is none of the caption"
TEXT = "a phrase's text is not what its span says"
ORDER = "phrases overlap or are not in order"
NO_BOX, NO_PHRASE = "a phrase has no box", "a row has no phrase"
NO_IMAGE_BOX = "a box is none in the image"
THIN, LARGE = "a box is thinner than min_side", "a box is larger than max_area"
TWICE, BLANK = "a phrase has a box twice", "a phrase is blank"
OTHER_BOXES = "grounded_caption gives other boxes than phrases"
NAN = float("nan")

SPANS = [
    ({"start": -1}, 0, [SPAN]),
    ({"start": 16}, 0, [SPAN]),
    ({"start": 17}, 0, [SPAN]),
    ({"start": None}, 0, [SPAN]),
    ({"end": None}, 0, [SPAN]),
    ({"end": len(CAPTION) + 1}, 2, [SPAN]),
    ({"end": 2**31 - 1}, 2, [SPAN]),
    ({"start": -(2**31)}, 0, [SPAN]),
    ({"end": 21}, 0, [ORDER]),
    ({"start": 15}, 1, [ORDER]),
    ({"boxes": []}, 1, [NO_BOX]),
    ({"boxes": None}, 1, [NO_BOX]),
    ({"text": "Two paper cover"}, 0, [TEXT]),
    ({"text": "two paper covers"}, 0, [TEXT]),
    ({"text": None}, 0, [TEXT]),
    ({"start": 1}, 0, [TEXT]),
    ({"end": 15}, 0, [TEXT, NOT_CAPTION]),
    ({"end": 37}, 2, [TEXT, NOT_CAPTION]),
]  # fmt: skip


def test_each_rule_of_spans_is_checked(check):
    found = all_of(check, [with_phrase(number, **values) for values, number, _ in SPANS])
    expected = [sorted(rules) for _, _, rules in SPANS]
    assert dict(enumerate(found)) == dict(enumerate(expected))


def test_a_row_without_phrases_is_found(check):
    rows = [row(phrases=phrases) for phrases in (None, [], [None])]
    assert all_of(check, rows) == [[NO_PHRASE], [NO_PHRASE], [NO_BOX, SPAN]]


def test_phrases_out_of_order_are_found(check):
    made = row()
    made["phrases"] = [made["phrases"][n] for n in (1, 0, 2)]
    assert told_of(made, check) == [ORDER]


def test_phrases_may_touch(check):
    assert told_of(row(caption="redcar", told={"red": [A], "car": [B]}), check) == []


def test_a_phrase_of_white_space_is_found_and_one_of_other_space_is_not(check):
    blanks = (" ", "\t\r\n ", "\n", "\u00a0\u2003", "\v")
    rows = [row(caption=f"a{blank}b", told={blank: [A], "b": [B]}) for blank in blanks]
    assert all_of(check, rows) == [[BLANK], [BLANK], [BLANK], [], []]


def test_phrases_beyond_the_basic_plane_are_counted_in_characters(check):
    told = {"🐈🐈": [A], "é": [B], "x": [C]}
    assert told_of(row(caption="🐕 🐈🐈 é🐕x", told=told), check) == []


def boxed(*boxes):
    """A row with these boxes, as far as its text goes soundly written."""
    made = row(told={"Two paper covers": [A], "犬": [D]})
    made["phrases"][0]["boxes"] = [box if box is None else list(box) for box in boxes]
    try:
        made["grounded_caption"] = grounded(CAPTION, made["phrases"])
    except (ValueError, TypeError):
        return made
    return {**made, **talk(made["grounded_caption"])}


BOXES = [
    ([NAN, 0.2, 0.3, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.2, NAN, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.3, NAN], [NO_IMAGE_BOX]),
    ([0.1, None, 0.3, 0.4], [NO_IMAGE_BOX]),
    ([-1e-7, 0.2, 0.3, 0.4], [NO_IMAGE_BOX]),
    ([0.1, -0.5, 0.3, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 1.0000002, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.3, float("inf")], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.3, 1.0000002], [NO_IMAGE_BOX]),
    ([0.3, 0.2, 0.1, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.4, 0.3, 0.2], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.1, 0.4], [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.3, 0.2], [NO_IMAGE_BOX]),
    (None, [NO_IMAGE_BOX]),
    ([0.1, 0.2, 0.1009, 0.4], [THIN]),
    ([0.1, 0.2, 0.3, 0.2009], [THIN]),
    ([0.1, 0.2, 0.101, 0.4], []),
    ([0.0, 0.0, 0.701, 1.0], [LARGE]),
    ([0.0, 0.0, 0.7, 1.0], []),
    ([0.0, 0.0, 1.0, 0.7], []),
]  # fmt: skip


def test_each_rule_of_boxes_is_checked(check):
    found = all_of(check, [boxed(D, box) for box, _ in BOXES])
    assert dict(enumerate(found)) == dict(enumerate(rules for _, rules in BOXES))


def test_boxes_are_measured_by_the_recipe(check):
    told = recipe(boxes=BoxRules(max_area=0.03, min_side=0.15))
    rows = [
        row(told={"犬": [box]})
        for box in ([0, 0, 0.2, 0.16], [0, 0, 0.14, 0.2], [0, 0, 0.16, 0.16])
    ]
    sound = {"told": {"犬": [[0, 0, 0.15, 0.2]]}}
    assert all_of(check, rows, told=told, sound=sound) == [[LARGE], [THIN], []]


def test_a_box_that_stands_twice_in_a_phrase_is_found(check):
    lists = ([A, A], [A, B, A], [A, B, C, D, B], [A, [0.1, 0.5, 0.6, 0.9], A])
    rows = [row(told={"犬": boxes}) for boxes in lists]
    assert all_of(check, rows, told=recipe(rows={"max_instances": 9})) == [[TWICE]] * 4


def test_a_box_may_stand_in_two_phrases_and_share_numbers(check):
    told = {"Two paper covers": [A, [*A[:3], 0.5], [0.1, 0.3, 0.5, 0.9]], "犬": [A]}
    assert told_of(row(told=told), check) == []


def test_scores_are_measured_where_the_recipe_does(check):
    scores = [0.65, 0.6499, None, NAN]
    rows = [with_phrase(1, score=score) for score in scores]
    low = ["a phrase's score is below min_score"]
    told = recipe(boxes={"min_score": 0.65})
    assert all_of(check, rows, told=told) == [[], low, low, low]
    assert all_of(check, rows) == [[]] * 4


# -- crowds ---------------------------------------------------------------------------------------

CROWDED = "a category has more instances than max_instances"
APART = [[n / 10, 0.1, n / 10 + 0.08, 0.5] for n in range(9)]
CHAIN = [[n / 10, 0.1, n / 10 + 0.2, 0.5] for n in range(8)]
NEAR = [[0.1, 0.1, 0.3 + n / 1000, 0.5] for n in range(9)]


def test_a_phrase_with_more_instances_than_may_be_is_found(check):
    told = [APART[:3], APART[:4], [*APART[:3], NEAR[0], NEAR[1]], [*NEAR, *APART[4:6]], CHAIN]
    rows = [row(told={"a wire hänger": boxes}) for boxes in told]
    assert all_of(check, rows) == [[], [CROWDED], [], [], []]
    fewer = recipe(rows={"max_instances": 2})
    assert all_of(check, rows, told=fewer) == [[CROWDED], [CROWDED], [], [CROWDED], []]


def test_boxes_that_hidden_ones_may_link_are_no_crowd(check):
    """With 0.5, one box left out can be the same instance as two that do not touch."""
    told = recipe(rows={"same_instance_iou": 0.5})
    assert told_of(row(told={"犬": APART}), check, told=told) == []


SAME = [
    ("a Dog. and dogs", {"a Dog.": APART[:2], "dogs": APART[2:4]}),
    ("the man's of old, men", {"the man's of old": APART[:2], "men": APART[2:4]}),
    ("big boxes, cities, box", {"big boxes,": APART[:2], "box": APART[2:4]}),
    ("one city in cities", {"one city": APART[:1], "cities": APART[1:4]}),
    ("of dogs with a dog", {"of dogs with a": APART[:2], "dog": APART[2:4]}),
]
OTHERS = [
    ("a dog and a cat", {"a dog": APART[:2], "a cat": APART[2:4]}),
    ("glass and gla", {"glass": APART[:2], "gla": APART[2:4]}),
    ("bus, bu", {"bus": APART[:2], "bu": APART[2:4]}),
    ("'', ()", {"''": APART[:2], "()": APART[2:4]}),
]


def test_noun_chunks_of_one_category_are_a_crowd(check):
    rows = [row(caption=caption, told=told) for caption, told in SAME + OTHERS]
    chunks = recipe(phrases={"text": "noun_chunk"})
    assert all_of(check, rows, told=chunks) == [[CROWDED]] * len(SAME) + [[]] * len(OTHERS)


def test_expressions_say_nothing_of_a_common_category(check):
    rows = [row(caption=caption, told=told) for caption, told in SAME]
    linked = {"a Dog.": NEAR[:4], "dogs": APART[4:7]}
    assert all_of(check, [*rows, row(caption="a Dog. and dogs", told=linked)]) == [[]] * 6


# -- the row's own columns -----------------------------------------------------------------------


def test_a_blank_caption_is_found(check):
    rows = [row() | {"caption": caption} for caption in (None, "", " \t\r\n", " ", "\u2003")]
    found = all_of(check, rows)
    assert ["a caption is blank" in rules for rules in found] == [True] * 4 + [False]


def test_a_long_caption_is_found(check):
    told = recipe(rows={"max_caption_chars": len(CAPTION)})
    rows = [row(), row(caption=CAPTION + "é")]
    rule = "a caption is longer than max_caption_chars"
    assert all_of(check, rows, told=told) == [[], [rule]]


@pytest.mark.parametrize("column", ["clip_similarity_vitb32", "clip_similarity_vitl14"])
def test_clip_similarity_is_measured_where_the_recipe_does(check, column):
    rows = [row(**{column: value}) for value in (0.26, 0.25999, None, NAN, 0.9)]
    told = recipe(rows={f"min_{column}": 0.26})  # above the nearest that is stored
    rule = [f"{column} is below the recipe's"]
    sound = {column: 0.3}
    assert all_of(check, rows, told=told, sound=sound) == [[], rule, rule, rule, []]
    assert all_of(check, rows) == [[]] * 5


def test_a_size_must_be_there_for_pixels_alone(check):
    told, sound = recipe(questions={"boxes": "pixels"}), {"written": "pixels"}
    rule = "boxes are in pixels, but the size is missing"
    sizes = ({"width": None}, {"height": 0}, {"width": -5}, {"width": 1, "height": None})
    rows = [row(written="pixels", **size) for size in sizes]
    assert all_of(check, rows, told=told, sound=sound) == [[rule]] * 4
    assert all_of(check, [row(**size) for size in sizes]) == [[]] * 4


STATUS = "image_status is none that the recipe keeps"
HASH = "image_sha256 does not agree with image_status"


def test_image_status_is_null_without_a_corpus(check):
    rows = [row(image_status="ok", image_sha256="x"), row(image_sha256="x")]
    assert all_of(check, rows) == [["image_status is given without a corpus"], [HASH]]


def test_image_status_is_what_the_recipe_keeps(check):
    images = {"corpus": "corpus", "missing": "keep", "size_differs": "reject"}
    told, has = recipe(images=images), {"image_sha256": "x"}
    sound = {"image_status": "ok", **has}
    rows = [
        row(image_status="missing"),
        row(image_status="phash_differs", **has),
        row(image_status="size_differs", **has),
        row(image_status="found", **has),
        row(),
        row(image_status="missing", **has),
        row(image_status="ok"),
    ]
    rules = [[], [], [STATUS], [STATUS], [STATUS], [HASH], [HASH]]
    assert all_of(check, rows, told=told, sound=sound) == rules


def test_an_id_and_caption_stand_once_in_both_configs(check):
    other = row("other", caption="犬 2", told={"犬": [A]})
    rows = [row("a"), row("b"), other, row("n", id=None), row("m", id=None)]
    dense = [row("c"), row("d", id=8)]
    found = check(*rows, long=dense, told=recipe(split={"long_share": 1.0}))
    rule = line("an id and caption stand twice", *"abc", config="short and long")
    assert found == [
        rule,
        line("a row is below the threshold of long rows", "c", "d", config="long"),
    ]


# -- short and long ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("long_from", "is_long"),
    [((3, 10), True), ((3, 11), False), ((2, 99), True), ((4, 0), False), ((3, 0), True)],
)
def test_rows_are_long_from_the_threshold(check, long_from, is_long):
    density = {"phrases": long_from[0], "words": long_from[1]}
    told = recipe(split={"long_from": density})
    spaced = " ".join(CAPTION.split()).replace("on a", "on\u2003\x1ca")
    made = row(caption=spaced, told={"Two paper covers": [A], "wire": [B], "犬": [D]})
    short, long = (check(**{"told": told, "long_from": long_from}, long=[made]),
                   check(made, told=told, long_from=long_from))  # fmt: skip
    below = line("a row is below the threshold of long rows", config="long")
    above = line("a row is at or above the threshold of long rows")
    assert (short, long) == (([], [above]) if is_long else ([below], []))


def test_a_threshold_that_is_not_told_or_not_the_recipe_s_is_found(check):
    missing = ["sources: long_from, the threshold of long rows, is missing"]
    assert check(row(), sources=[]) == missing
    assert check(row(), sources=[{"path": "x"}, {"long_from": None}]) == missing
    other = ["sources: long_from is not the recipe's split.long_from"]
    assert check(row(), long_from=(9, 1)) == other
    broken = check(row(), sources=[{"long_from": {"phrases": "many"}}])
    assert len(broken) == 1
    assert broken[0].startswith("recipe or sources: phrases: ")


def test_more_long_rows_than_the_share_are_found(check):
    told = recipe(split=Split(long_share=0.5))
    rows = [row(str(n), id=n) for n in range(4)]
    plain = {"told": told, "long_from": (3, 0)}
    above = line("a row is at or above the threshold of long rows", "0", "1")
    assert check(*rows[:2], long=rows[2:], **plain) == [above]
    assert check(rows[0], long=rows[1:], **plain)[0] == (
        "long: holds 3 of 4 rows, more than split.long_share"
    )


# -- texts ----------------------------------------------------------------------------------------

NOT_FIRST = "the first answer is not grounded_caption"


def rewritten(old, new, **options):
    """A row whose grounded caption, in both places, says something else."""
    made = row(**options)
    assert old in made["grounded_caption"]
    text = made["grounded_caption"].replace(old, new, 1)
    return {**made, "grounded_caption": text, **talk(text)}


TEXTS = [
    ("Two", "two", [NOT_CAPTION]),
    (" on a wire", " at a wire", [NOT_CAPTION]),
    ("0.400];[", "0.400], [", [NOT_CAPTION, OTHER_BOXES]),
    ("covers [", "covers[", [NOT_CAPTION]),
    ("0.100", "0.102", [OTHER_BOXES]),
    ("0.100", "0.10", [NOT_CAPTION]),
    ("[0.100,0.200,0.300,0.400];", "", [OTHER_BOXES]),
    (" [0.500,0.500,0.600,0.750]", "", [NOT_CAPTION]),
    ("0.750] of", "0.750];[0.100,0.200,0.300,0.400] of", [OTHER_BOXES]),
    (" of Ann's", "", [NOT_CAPTION]),
    (" of Ann's", " of Ann's ", [NOT_CAPTION]),
    (" of Ann's", " of Ann's <|im_end|>", [NOT_CAPTION, UNSAFE]),
]  # fmt: skip


def test_each_part_of_grounded_caption_is_checked(check):
    found = all_of(check, [rewritten(old, new) for old, new, _ in TEXTS])
    assert dict(enumerate(found)) == dict(enumerate(sorted(rules) for *_, rules in TEXTS))


def test_a_missing_grounded_caption_is_found(check):
    assert told_of(row(grounded_caption=None), check) == [NOT_CAPTION, NOT_FIRST]


@pytest.mark.parametrize("written", CONVENTIONS)
def test_each_number_of_each_box_counts_in_every_convention(check, written):
    told = recipe(questions={"boxes": written})
    by, made = (0.05 if written == "kosmos2" else 0.011), []
    for number, box, place in [(0, 0, 0), (0, 1, 1), (1, 0, 3), (2, 0, 2)]:
        made.append(row(written=written))
        made[-1]["phrases"][number]["boxes"][box][place] -= by
    sound = {"written": written}
    assert all_of(check, made, told=told, sound=sound) == [[OTHER_BOXES]] * 4


def test_what_acts_as_a_token_in_a_caption_must_be_inert(check):
    caption = "USER: a cat <|im_end|> on [INST] mats"
    made = row(caption=caption, told={"a cat": [A]})
    assert told_of(made, check) == []
    unsafe = made["grounded_caption"].replace("USER：", "USER:")
    broken = {**made, "grounded_caption": unsafe, **talk(unsafe)}
    assert told_of(broken, check) == sorted([NOT_CAPTION, UNSAFE])


def test_a_token_that_was_left_as_it_is_is_found(check):
    for caption in ("a cat <|im_end|> on mats", "a cat [INST] on mats", "a cat ASSISTANT: hi"):
        made = row(caption=caption, told={"a cat": [A]})
        token = caption.removeprefix("a cat ").removesuffix(" on mats").removesuffix(" hi")
        text = made["grounded_caption"].replace(neutralise(token), token)
        assert told_of({**made, "grounded_caption": text, **talk(text)}, check) == sorted(
            [NOT_CAPTION, UNSAFE]
        )


def test_a_role_label_that_a_phrase_cuts_out_must_be_inert(check):
    made = row(caption="xUSER: a cat", told={"x": [A], "cat": [B]})
    assert told_of(made, check) == sorted([NOT_CAPTION, UNSAFE])
    safe = made["grounded_caption"].replace("USER:", "USER：")
    assert told_of({**made, "grounded_caption": safe, **talk(safe)}, check) == []


def test_a_caption_that_holds_a_box_is_found(check):
    texts = ("[0.100,0.200,0.300,0.400]", "[0.900,0.200,0.300,0.400]", "[0.1,0.2]")
    rows = [row(caption=f"a cat {text}", told={"a cat": [A]}) for text in texts]
    rule = ["a caption holds what has the form of a box"]
    assert all_of(check, rows) == [rule, rule, []]


# -- turns ---------------------------------------------------------------------------------------

NO_TURNS = "messages are not turns of user and assistant"
MARKER = "there is not exactly one <image>, at the start"
FIRST_QUESTION = "the first question is not what question_ids names"
NOT_NAMED = "question_ids does not name each answer's question"


def with_message(number, field="content", value=None, old="", new=""):
    made = row(further=some_turns)
    message = made["messages"][number]
    message[field] = message[field].replace(old, new, 1) if old else value
    return made


MESSAGES = [
    (with_message(0, "role", "assistant"), [NO_TURNS]),
    (with_message(1, "role", "user"), [NO_TURNS]),
    (with_message(2, "role", "system"), [NO_TURNS]),
    (with_message(3, "role", None), [NO_TURNS]),
    (with_message(0, value=None), [NO_TURNS]),
    (row(messages=None), [NO_TURNS]),
    (row(messages=[]), [NO_TURNS]),
    (row(messages=row()["messages"][:1]), [NO_TURNS]),
    (row(messages=[*row()["messages"], None]), [NO_TURNS]),
    (with_message(0, old="<image>\n", new=""), [MARKER]),
    (with_message(0, old="<image>\n", new="<image><image>\n"), [UNSAFE, MARKER, FIRST_QUESTION]),
    (with_message(0, old="<image>\n", new="\n<image>"), [UNSAFE, MARKER, FIRST_QUESTION]),
    (with_message(0, old="Elaborate", new="elaborate"), [FIRST_QUESTION]),
    (with_message(1, old="Two", new="two"), [NOT_FIRST]),
    (row(question_ids=None), [NOT_NAMED]),
    (row(question_ids=[]), [NOT_NAMED]),
    (row(question_ids=[None]), [NOT_NAMED]),
    (row(question_ids=[NARRATION[0]] * 2), [NOT_NAMED]),
    (row(question_ids=[NARRATION[1]]), [FIRST_QUESTION]),
    (row(question_ids=["ocr-v1"]), ["the first question is none of the recipe's"]),
]  # fmt: skip


def test_each_part_of_messages_is_checked(check):
    told = recipe(questions={"refer": 2, "describe": 1})
    found = all_of(check, [made for made, _ in MESSAGES], told=told)
    assert dict(enumerate(found)) == dict(enumerate(sorted(rules) for _, rules in MESSAGES))


def test_a_question_without_a_share_is_found(check):
    told = recipe(questions={"narration": {NARRATION[0]: 1.0, NARRATION[1]: 0.0}})
    made = row(**talk(row()["grounded_caption"], question=NARRATION[1]))
    assert told_of(made, check, told=told) == ["the first question is none of the recipe's"]


NOT_ABOUT = "a further question and its answer are not about one phrase"
KIND = "a further question is none of refer, then describe"
MANY = "there are more further questions than the recipe's"


def all_boxes(phrase):
    asked = prompt(DESCRIBE).text.rstrip(".") + ": "
    return asked + CONVENTIONS["vila"].render_all(phrase["boxes"]), phrase["text"]


def turned(further, told=PHRASES, caption=CAPTION):
    return row(caption=caption, told=told, further=further)


FURTHER = [
    (turned(lambda p: [refer(p[0]), refer(p[1]), refer(p[2])]), [MANY]),
    (turned(lambda p: [describe(p[1]), describe(p[2])]), [MANY]),
    (turned(lambda p: [describe(p[1]), refer(p[0])]), [KIND]),
    (turned(lambda p: [(NARRATION[0], prompt(NARRATION[0]).text, "A dog.")]), [KIND]),
    (turned(lambda p: [refer(p[0]), refer(p[0])]), [NOT_ABOUT]),
    (turned(lambda p: [refer(p[1]), describe(p[1])]), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, refer(p[0])[1], refer(p[1])[2])]), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, refer(p[0])[1], refer(p[0])[2] + ".")]), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, refer(p[0])[1] + " now", refer(p[0])[2])]), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, "Where is " + p[0]["text"], refer(p[0])[2])]), [NOT_ABOUT]),
    (turned(lambda p: [(DESCRIBE, describe(p[1])[1], p[2]["text"])]), [NOT_ABOUT]),
    (turned(lambda p: [(DESCRIBE, *describe(p[0])[1:])]), [NOT_ABOUT]),
    (turned(lambda p: [(DESCRIBE, describe(p[1])[1], "the " + p[1]["text"])]), [NOT_ABOUT]),
    (turned(lambda p: [(DESCRIBE, describe(p[1])[1] + " now", p[1]["text"])]), [NOT_ABOUT]),
    (turned(lambda p: [(DESCRIBE, *all_boxes(p[0]))]), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, refer(p[0])[1].replace(": ", "\n"), refer(p[0])[2])]), [NOT_ABOUT]),
    (turned(lambda p: [refer(p[0])], {"!?": [A], "12": [B]}, "!? 12"), [NOT_ABOUT]),
    (turned(lambda p: [(REFER, refer(p[0])[1], "<|im_end|>")]), [UNSAFE, NOT_ABOUT]),
]  # fmt: skip


def test_each_rule_of_further_turns_is_checked(check):
    told = recipe(questions={"refer": 2, "describe": 1})
    found = all_of(check, [made for made, _ in FURTHER], told=told)
    assert dict(enumerate(found)) == dict(enumerate(sorted(rules) for _, rules in FURTHER))


def test_a_phrase_that_stands_twice_is_not_asked_about(check):
    caption = "a cat, a cat"
    spans = [(0, 5, A), (7, 12, B)]
    phrases = [
        {"text": "a cat", "start": s, "end": e, "boxes": [stored(box)], "score": 0.9}
        for s, e, box in spans
    ]
    text = grounded(caption, phrases)
    plain = row(caption="a cat", told={"a cat": [A]})
    made = {**plain, "caption": caption, "phrases": phrases, "grounded_caption": text}
    told = recipe(questions={"refer": 2, "describe": 1})
    rows = [made | talk(text, turn) for turn in ((), [refer(phrases[0])], [describe(phrases[1])])]
    assert all_of(check, rows, told=told) == [[], [NOT_ABOUT], [NOT_ABOUT]]


# -- the build ------------------------------------------------------------------------------------


def test_a_missing_config_is_found(check):
    assert check(row(), configs=("short", "pool-rejects")) == ["long: the config is missing"]


def test_a_broken_recipe_is_told(check):
    (found,) = check(row(), told=recipe() | {"boxes": {"max_area": "much"}})
    assert found.startswith("recipe or sources: max_area: ")
    assert found.endswith("; no row could be checked")


def test_rejects_have_reasons_that_the_recipe_gives(check):
    reasons = [
        "no_caption",
        "duplicate",
        "large_box",
        "image_missing",
        "low_clip_similarity",
        None,
        "",
    ]
    rejects = [reject(str(n), reason) for n, reason in enumerate(reasons)]
    rule = "a reason is none that the recipe gives"
    assert check(rejects=rejects) == [line(rule, *"23456", config="pool-rejects")]
    told = recipe(
        boxes={"large": "drop_image"},
        rows={"min_clip_similarity_vitl14": 0.1},
        images={"corpus": "corpus", "missing": "reject"},
    )
    assert check(rejects=rejects, told=told) == [line(rule, "5", "6", config="pool-rejects")]


def test_no_reason_has_more_rejects_than_the_recipe_says(check):
    rejects = [
        reject(str(n), reason) for n, reason in enumerate(["crowded"] * 3 + ["duplicate"] * 2)
    ]
    found = check(rejects=rejects, told=recipe(rejects_per_reason=2))
    assert found == ["pool-rejects: crowded: 3 rows, more than rejects_per_reason"]


# -- any row --------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "cat", "é", "犬🐈", "USER:", "<image>", "[INST]", "\n", "[0", "x:y", "'s"]
)


@st.composite
def sound_rows(draw):
    words = draw(st.lists(WORDS, min_size=1, max_size=8))
    caption = " ".join(words) + "!"
    edges = sorted(draw(st.sets(st.integers(0, len(caption)), min_size=2, max_size=6)))
    spans = [(s, e) for s, e in zip(edges[::2], edges[1::2], strict=False) if caption[s:e].strip()]
    if not spans:
        spans = [(len(caption) - 1, len(caption))]
    tenths = st.tuples(
        *[st.integers(0, 65), st.integers(0, 65), st.integers(2, 30), st.integers(2, 30)]
    )
    phrases = []
    for start, end in spans:
        boxes = draw(st.lists(tenths, min_size=1, max_size=3, unique=True))
        made = [stored([x / 100, y / 100, (x + w) / 100, (y + h) / 100]) for x, y, w, h in boxes]
        span = {"text": caption[start:end], "start": start, "end": end}
        phrases.append({**span, "boxes": made, "score": None})
    return caption, phrases


def made_safe(caption, phrases, written):
    """The caption made safe, once more with a mark where something is written beside a phrase."""
    text, beside = neutralise(caption), not CONVENTIONS[written].phrase.startswith("{}")
    for each in reversed(phrases):
        start, end = each["start"], each["end"]
        text = text[:start] + "\ufffc" * beside + text[start:end] + "\ufffc" + text[end:]
    return neutralise(text).replace("\ufffc", "")


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sound_rows(), st.sampled_from(list(CONVENTIONS)), st.data())
def test_a_sound_row_is_sound_and_a_changed_text_never_stays_unseen(check, made, written, data):
    caption, phrases = made
    text = grounded(made_safe(caption, phrases, written), phrases, written)
    own = {"caption": caption, "phrases": phrases, "grounded_caption": text}
    whole = row("a") | own | talk(text)
    told = recipe(questions={"boxes": written})
    at = data.draw(st.integers(0, len(text) - 1))
    cut = copy.deepcopy(whole) | {
        "key": "b",
        "id": 8,
        "grounded_caption": text[:at] + text[at + 1 :],
    }
    cut |= talk(cut["grounded_caption"])
    found = check(whole, cut, told=told)
    assert found
    assert all(told.endswith("1 rows, such as b") for told in found)


def test_the_views_may_lie_over_several_files(tmp_path):
    for name in CONFIGS:
        for part in (0, 1):
            rows = [row(f"k{part}", id=part)] if name == "short" else []
            table = pa.Table.from_pylist(rows, schema=SCHEMAS[name])
            pq.write_table(table, tmp_path / f"{name}{part}.parquet")
    files = [BuildFile(f"{n}{p}.parquet", n, "train", 1, 1, "") for n in CONFIGS for p in (0, 1)]
    sources = [{"long_from": {"phrases": 9, "words": 0}}]
    manifest = Manifest(
        *("grounded-narration", "1.0.0", 3, "", "short", recipe(), sources, {}, files, [], {})
    )
    connection = connect(tmp_path, manifest)
    assert isinstance(connection, duckdb.DuckDBPyConnection)
    assert problems(connection, manifest) == []
