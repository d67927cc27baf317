"""The builder against a slow reference of what docs/grounding.md says, on hostile rows.

By hand, in the repository: PYTHONPATH=tests/plugin python tests/builders/grounded/test_reference.py
100000 compares as many rows as are named by each recipe.
"""

import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import grit_reference as reference
import pyarrow.parquet as pq
import pytest
from grit_making import good_row, hostile_rows, write_grit, write_jsonl, write_parts
from grit_reference import Built, Item, Kept, Rect, Rejected
from hypothesis import given
from hypothesis import strategies as st

from vila2data import registry
from vila2data.boxes import CONVENTIONS, Convention
from vila2data.build.manifest import read_manifest
from vila2data.build.write import write_build
from vila2data.builders.grounded_narration.recipe import GroundedNarrationRecipe
from vila2data.conversation import neutralise
from vila2data.prompts import load_prompts

Row = dict[str, Any]

STRICT = {
    "boxes": {"min_score": 0.7, "max_area": 0.5, "min_side": 0.25},
    "rows": {
        "max_instances": 1,
        "same_instance_iou": 0.75,
        "max_caption_chars": 200,
        "min_clip_similarity_vitb32": 0.22,
        "min_clip_similarity_vitl14": 0.25,
    },
    "split": {"long_from": {"phrases": 2, "words": 4}},
}
DROP_IMAGE = {"large": "drop_image", "malformed": "drop_image"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("double", {}),
    "drop image": ("string", {"boxes": DROP_IMAGE, "questions": {"boxes": "norm3"}}),
    "strict": ("double", STRICT),
    "noun chunk": ("json", {"phrases": {"text": "noun_chunk"}, "questions": {"boxes": "kosmos2"}}),
    "pixels": ("jsonl", {"questions": {"boxes": "pixels", "refer": 2, "describe": 1}}),
    "qwen": ("double", {"questions": {"boxes": "qwen2_5_vl", "describe": 3}}),
    "shikra": ("string", {"questions": {"boxes": "shikra"}, "split": {"long_share": 0.5}}),
}
IN_SUITE = list(CASES)[:5]
ROWS = 500
REASONS = {
    *(
        "no_caption",
        "caption_too_long",
        "low_clip_similarity",
        "no_boxes",
        "malformed",
        "large_box",
    ),
    *(
        "no_box_left",
        "crowded",
        "size_unknown",
        "box_text_in_caption",
        "no_phrase_left",
        "duplicate",
    ),
}


def recipe_of(path: Path = Path("parts"), **blocks: Any) -> GroundedNarrationRecipe:
    content = {
        "builder": "grounded-narration",
        "version": "1.0.0",
        "license": "ms-pl",
        "path": str(path),
        "out": str(path.parent / "builds"),
        "rejects_per_reason": 10**9,
    }
    return GroundedNarrationRecipe.model_validate(content | blocks)


# --- the builder against the reference -----------------------------------------------------------


@cache
def some_rows(case: str, count: int) -> list[Row]:
    """Hostile rows, as they can be written in the form of the case."""
    rows = hostile_rows(count, list(CASES).index(case))
    if CASES[case][0] == "jsonl":
        for row in rows:
            row |= {
                name: None for name, value in row.items() if value != value or value == math.inf
            }
    return rows


@cache
def wanted_of(case: str, count: int) -> Built:
    return reference.build(some_rows(case, count), recipe_of(**CASES[case][1]))


def build(root: Path, rows: Sequence[Row], form: str = "double", /, **blocks: Any) -> Path:
    """The build of rows in three parts or two files of lines."""
    path = root / "parts"
    if form == "jsonl":
        half = len(rows) // 2
        write_jsonl(path / "a.jsonl", rows[:half])
        write_jsonl(path / "b.jsonl", rows[half:])
    else:
        write_parts(path, rows, 3, form)
    recipe = recipe_of(path, **blocks)
    return write_build(registry.load("builders", recipe.builder), recipe)


def rows_of(built: Path, config: str) -> list[Row]:
    files = sorted((built / "data" / config).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def comparable(value: Any) -> Any:
    """The same with what is equal to NaN."""
    if isinstance(value, dict):
        return {name: comparable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [comparable(each) for each in value]
    return "NaN" if value != value else value


def without_questions(rows: Sequence[Row]) -> list[Row]:
    left_out = ("messages", "question_ids")
    return [comparable({n: v for n, v in row.items() if n not in left_out}) for row in rows]


def compare(built: Path, rows: Sequence[Row], wanted: Built) -> None:
    for config in ("short", "long"):
        found = without_questions(rows_of(built, config))
        told = comparable(getattr(wanted, config))
        for one, other in zip(found, told, strict=False):
            assert one | {"key": other["key"] and one["key"]} == other
        assert len(found) == len(told)
    pairs = list(zip(rows, wanted.outcomes, strict=True))
    rejected = [(row, outcome.reason) for row, outcome in pairs if isinstance(outcome, Rejected)]
    names = ("key", "id", "url", "caption")
    told = rows_of(built, "pool-rejects")
    assert Counter((*(row[name] for name in names[1:]), row["reject_reason"]) for row in told) == (
        Counter((*(row[name] for name in names[1:]), reason) for row, reason in rejected)
    )
    compare_funnel(built, wanted)


def compare_funnel(built: Path, wanted: Built) -> None:
    steps = {step.step: step for step in read_manifest(built).funnel}
    assert all(step.balanced for step in steps.values())
    by_row = Counter(wanted.rejected)
    duplicates = by_row.pop("duplicate", 0)
    assert steps["rows"].read == len(wanted.outcomes)
    assert steps["rows"].rejected == by_row
    assert steps["kept rows"].rejected == ({"duplicate": duplicates} if duplicates else {})
    assert steps["kept rows"].written == len(wanted.short) + len(wanted.long)
    by_box = Counter(wanted.items)
    assert steps["boxes"].read == by_box.pop("read")
    assert steps["boxes"].rejected == by_box
    assert steps["boxes of kept rows"].rejected == wanted.left_out


def compare_questions(built: Path, recipe: GroundedNarrationRecipe) -> None:
    """The first is one of those that may be asked, the further ones are as many as there can be."""
    for row in (*rows_of(built, "short"), *rows_of(built, "long")):
        ids, turns = row["question_ids"], [turn["content"] for turn in row["messages"]]
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * len(ids)
        assert ids[0] in recipe.questions.narration
        assert turns[:2] == [f"<image>\n{load_prompts()[ids[0]].text}", row["grounded_caption"]]
        assert_further_questions(
            row, list(zip(ids, turns[::2], turns[1::2], strict=True))[1:], recipe
        )


def assert_further_questions(
    row: Row, asked: list[tuple[str, str, str]], recipe: GroundedNarrationRecipe
) -> None:
    convention = recipe.questions.convention
    spans = [(phrase["start"], phrase["end"]) for phrase in row["phrases"]]
    safe = reference.made_safe(row["caption"], spans, convention)
    times = Counter(phrase["text"] for phrase in row["phrases"])
    askable = {
        neutralise(safe[phrase["start"] : phrase["end"]]): phrase["boxes"]
        for phrase in row["phrases"]
        if times[phrase["text"]] == 1 and any(map(str.isalpha, phrase["text"]))
    }
    refer = min(recipe.questions.refer, len(askable))
    assert [name for name, _, _ in asked[:refer]] == ["format-locate-region"] * refer
    for name, question, answer in asked[:refer]:
        text = question.removeprefix(f"{load_prompts()[name].text.removesuffix('.')}: ")
        assert stands(answer, askable.pop(text), row, convention)
    alone = {text: boxes[0] for text, boxes in askable.items() if len(boxes) == 1}
    describe = min(recipe.questions.describe, len(alone))
    assert [name for name, _, _ in asked[refer:]] == ["format-describe-region"] * describe
    for name, question, answer in asked[refer:]:
        box = question.removeprefix(f"{load_prompts()[name].text.removesuffix('.')}: ")
        assert stands(box, [alone.pop(answer)], row, convention)


def stands(written: str, boxes: Sequence[Rect], row: Row, convention: Convention) -> bool:
    """Whether what is written is those boxes, as they are stored, and is so in the caption too."""
    (found,) = convention.parse(written, reference.size_of(row))
    step = convention.precision(reference.size_of(row))
    near = all(
        abs(a - b) <= step + 1e-6
        for read, stored in zip(found.boxes, boxes, strict=True)
        for a, b in zip(read, stored, strict=True)
    )
    return near and written in row["grounded_caption"]


@pytest.mark.parametrize("case", IN_SUITE)
def test_what_is_kept_and_why_the_rest_is_not_are_those_of_the_reference(
    case: str, tmp_path: Path
) -> None:
    form, blocks = CASES[case]
    built = build(tmp_path, some_rows(case, ROWS), form, **blocks)
    compare(built, some_rows(case, ROWS), wanted_of(case, ROWS))
    compare_questions(built, recipe_of(**blocks))


def test_questions_depend_on_the_row_alone(tmp_path: Path) -> None:
    rows = [row for row in some_rows("pixels", ROWS)[:150] if row["key"] is not None]
    blocks = CASES["pixels"][1]
    asked = []
    for name, some in (("all", rows), ("half, turned", rows[::-2])):
        built = build(tmp_path / name, some, **blocks)
        told = (*rows_of(built, "short"), *rows_of(built, "long"))
        asked.append({row["key"]: row["messages"] for row in told})
    shared = asked[0].keys() & asked[1].keys()
    assert len(shared) > 40
    assert all(asked[0][key] == asked[1][key] for key in shared)


# --- the reference against examples and brute force ----------------------------------------------


def row_of(caption: str | None, *items: Any, refs: Any = None, **columns: Any) -> Row:
    plain = dict.fromkeys(good_row(random.Random(0), 0)) | {"width": 100, "height": 50}
    return plain | {"caption": caption, "noun_chunks": [*items], "ref_exps": refs} | columns


def narrated(row: Row, **blocks: Any) -> Kept | Rejected:
    return reference.narrate(row, recipe_of(**blocks))


CAT = [0, 5, 0.1, 0.2, 0.3, 0.4, 0.9]
DOG = [10, 15, 0.5, 0.2, 0.7, 0.4, 0.8]
CAPTION = "a cat and a dog that runs"


@pytest.mark.shared
def test_the_published_row_keeps_the_box_below_seven_tenths(shared_data: Path) -> None:
    row = json.loads((shared_data / "grit" / "grit_rows.jsonl").read_text().splitlines()[0])
    kept = narrated(row)
    assert isinstance(kept, Kept)
    assert kept.items == {"read": 2, "large_box": 1}
    assert kept.grounded_caption == (
        "a wire hanger with a paper cover that reads we heart our customers [0.020,0.311,0.962,0.960]"
    )


def test_a_caption_by_hand() -> None:
    again = [0, 5, 0.1, 0.6, 0.3, 0.9, 0.95]
    refs = [CAT, [10, 25, *DOG[2:]], again, CAT]
    kept = narrated(row_of(CAPTION, CAT, DOG, again, list(CAT), refs=refs))
    assert isinstance(kept, Kept)
    assert kept.grounded_caption == (
        "a cat [0.100,0.200,0.300,0.400];[0.100,0.600,0.300,0.900] "
        "and a dog that runs [0.500,0.200,0.700,0.400]"
    )
    assert kept.left_out == {"blank_phrase": 0, "repeated_box": 1, "overlapping_phrase": 0}
    first, second = kept.phrases
    assert (first["text"], first["score"], second["text"]) == ("a cat", 0.95, "a dog that runs")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (row_of(None, CAT), "no_caption"),
        (row_of("\t \r\n", CAT), "no_caption"),
        (row_of("x" * 5001, CAT), "caption_too_long"),
        (row_of(CAPTION), "no_boxes"),
        (row_of(CAPTION, None, CAT[:5]), "no_box_left"),
        (row_of(CAPTION, *([0, 5, x, 0.2, x + 0.1, 0.4] for x in (0, 0.2, 0.4, 0.6))), "crowded"),
        (row_of("a cat [0.100,0.200,0.300,0.400]", CAT), "box_text_in_caption"),
    ],
)
def test_a_row_is_rejected_by_the_first_reason(row: Row, reason: str) -> None:
    assert narrated(row) == Rejected(reason, narrated(row).items)


@pytest.mark.parametrize(
    ("phrase", "category"),
    [
        ("two small Cats", "cat"),
        ("cat's", "cat"),
        ('"CATS!"', "cat"),
        ("a man in a hat", "man"),
        ("Men OF war", "man"),
        ("of the cats", "cat"),
        ("of", "of"),
        ("strawberries", "strawberry"),
        ("churches", "church"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("buses", "bus"),
        ("tennis", "tennis"),
        ("gas", "gas"),
        ("cups\tto go", "cup"),
        ("a\u00a0cat", "a\u00a0cat"),
        ("dogs'", "dog"),
        ("?!", ""),
    ],
)
def test_the_category_of_a_phrase(phrase: str, category: str) -> None:
    assert reference.category_of(phrase) == category


spans = st.tuples(st.integers(0, 12), st.integers(1, 6)).map(lambda at: (at[0], at[0] + at[1]))


@given(st.lists(spans, max_size=7, unique=True))
def test_no_choice_of_phrases_has_more_than_the_chosen(some: list[tuple[int, int]]) -> None:
    chosen = reference.chosen(some)
    assert len(chosen) == reference.most_phrases(some)
    assert set(chosen) <= set(some)
    assert all(a[1] <= b[0] for a, b in pairwise(chosen))


by = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.lists(spans, min_size=3, max_size=7), st.lists(by, min_size=7, max_size=7))
def test_a_widened_phrase_overlaps_no_other(some: list[Any], drawn: list[Any]) -> None:
    chosen = reference.chosen(some)
    pairs = zip(chosen, drawn, strict=False)
    wanted = [(start - left, end + right) for (start, end), (left, right) in pairs]
    found = reference.widened(chosen, wanted)
    assert all(a[1] <= b[0] for a, b in pairwise(found))
    for place, (span, wide, is_now) in enumerate(zip(chosen, wanted, found, strict=True)):
        others = [*found[:place], *chosen[place + 1 :]]
        free = not any(reference.overlap(wide, other) for other in others)
        assert is_now == (wide if free else span)


def test_the_second_of_two_phrases_is_not_widened_over_what_the_first_gained() -> None:
    assert reference.widened([(0, 1), (4, 5)], [(0, 3), (2, 5)]) == [(0, 3), (4, 5)]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1), st.integers(0, 10))
def test_one_density_lower_would_be_too_many(dense: list[tuple[int, int]], most: int) -> None:
    recipe = recipe_of(split={"long_share": min(most / len(dense), 1)})
    threshold = reference.threshold_of(dense, recipe) or (math.inf, 0)
    assert sum(each >= threshold for each in dense) <= most
    lower = [each for each in dense if each < threshold]
    assert not lower or sum(each >= max(lower) for each in dense) > most


@given(st.lists(st.tuples(*[st.integers(0, 8)] * 4), min_size=1, max_size=6))
def test_instances_are_those_that_are_like_no_earlier_box(corners: list[Any]) -> None:
    boxes = [(x / 16, y / 16, (x + w + 1) / 16, (y + h + 1) / 16) for x, y, w, h in corners]
    items = [Item(n, (0, 3), box, None) for n, box in enumerate(boxes)]
    like = {
        b
        for a, b in combinations(range(len(boxes)), 2)
        if cells_shared(*(boxes[n] for n in (a, b)))
    }
    wanted = len(boxes) - len(like)
    assert reference.instances(items, "cat", 0.75) == {"cat": wanted}


def cells_shared(a: Any, b: Any) -> bool:
    """Whether three quarters of the cells in one of two boxes are in both."""
    first, second = (
        {
            (x, y)
            for x in range(int(box[0] * 16), int(box[2] * 16))
            for y in range(int(box[1] * 16), int(box[3] * 16))
        }
        for box in (a, b)
    )
    return len(first & second) >= 0.75 * len(first | second)


@pytest.mark.parametrize("boxes", CONVENTIONS)
def test_boxes_of_a_grounded_caption_are_read_back_one_run_for_each_phrase(boxes: str) -> None:
    recipe = recipe_of(questions={"boxes": boxes})
    for row in some_rows("defaults", ROWS)[:200]:
        kept = reference.narrate(row, recipe)
        if isinstance(kept, Kept):
            size = reference.size_of(row)
            found = recipe.questions.convention.parse(kept.grounded_caption, size)
            assert [len(f.boxes) for f in found] == [len(p["boxes"]) for p in kept.phrases]


# --- what the rows are ---------------------------------------------------------------------------


def test_hostile_rows_are_the_same_for_the_same_seed_and_many_are_good() -> None:
    rows = hostile_rows(300, 3)
    assert comparable(rows) == comparable(hostile_rows(300, 3)) != comparable(hostile_rows(300, 4))
    assert sum(isinstance(narrated(row), Kept) for row in rows) > 100
    assert all(len(neutralise(row["caption"] or "")) == len(row["caption"] or "") for row in rows)


def test_hostile_rows_give_every_reason_and_no_item_is_lost() -> None:
    reasons, items = Counter[str](), Counter[str]()
    for case in IN_SUITE:
        built = wanted_of(case, ROWS)
        reasons += built.rejected
        for outcome in built.outcomes:
            items += outcome.items
            if isinstance(outcome, Kept):
                items += outcome.left_out
                boxes = sum(len(phrase["boxes"]) for phrase in outcome.phrases)
                rejected = outcome.items.total() - outcome.items["read"]
                assert outcome.items["read"] == boxes + rejected + outcome.left_out.total()
    assert reasons.keys() == REASONS
    assert min(reasons.values()) > 2
    assert items.keys() == {
        *("read", "malformed_span", "malformed_box", "thin_box", "low_score", "large_box"),
        *("blank_phrase", "repeated_box", "overlapping_phrase"),
    }


def test_plausible_rows_are_as_many_as_asked_and_a_quarter_is_kept(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        write_grit(folder, rows=3001, parts=2, seed=5, row_group_rows=1000)
    files = [sorted(folder.iterdir()) for folder in folders]
    assert [file.name for file in files[0]] == ["coyo_0_snappy.parquet", "coyo_1_snappy.parquet"]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]
    rows = [row for file in files[0] for row in pq.read_table(file).to_pylist()]
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in range(3001)]
    built = reference.build(rows, recipe_of())
    assert 0.2 < (len(built.short) + len(built.long)) / len(rows) < 0.3
    assert built.rejected.keys() == {"no_box_left", "crowded", "duplicate"}
    texts = [row["caption"][int(i[0]) : int(i[1])] for row in rows for i in row["noun_chunks"]]
    assert all(text == text.strip() != "" for text in texts)


if __name__ == "__main__":
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            count = int(sys.argv[1])
            made = build(Path(folder), some_rows(name, count), CASES[name][0], **CASES[name][1])
            compare(made, some_rows(name, count), wanted_of(name, count))
            compare_questions(made, recipe_of(**CASES[name][1]))
            sys.stdout.write(f"{name}: {count} rows agree\n")
