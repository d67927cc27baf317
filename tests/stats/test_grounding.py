"""Boxes in generated captions: every convention, every way to break one, and reference boxes."""

import csv
import io
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from vila2data import boxes as exact
from vila2data.boxes import CONVENTIONS
from vila2data.build.manifest import MANIFEST_FILE, BuildFile, Manifest
from vila2data.cli import app
from vila2data.errors import BadInput, BuildError
from vila2data.schema import features_of
from vila2data.stats import Result as Figures
from vila2data.stats import by_config, statistics, upright
from vila2data.stats.box_scales import SCALES, Evidence, scale_of
from vila2data.stats.box_text import boxes_in
from vila2data.stats.categories import Categories, head_words, singular
from vila2data.stats.coco import coco_entries
from vila2data.stats.grounded import covered_share, read_caption
from vila2data.stats.matching import Reference, Written, iou, match
from vila2data.stats.noun_phrases import phrases_of
from vila2data.stats.signals import signals_of

SIZE = (640, 480)
PATCHES = "<patch_index_0044><patch_index_0863>"


def make_build(folder: Path, data_set: str, tables: dict[str, list[dict]]) -> Path:
    files = []
    for config, rows in tables.items():
        path = folder / "data" / config / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        schema = features_of(data_set, config)[0].arrow_schema
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        relative = path.relative_to(folder).as_posix()
        files.append(BuildFile(relative, config, "train", len(rows), path.stat().st_size, ""))
    told = {"schema_version": 1, "license": "cc0-1.0", "default_config": next(iter(tables))}
    rest = {"recipe": {}, "sources": [], "packages": {}, "funnel": [], "stats": {}}
    manifest = Manifest(data_set=data_set, version="1.0.0", files=files, **told, **rest)
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


def row(key: str, text: str, *, task: str = "grounding", size: tuple = SIZE, **values) -> dict:
    signals = signals_of(text)
    told = {name: getattr(signals, name) for name in signals.__slots__}
    place = {"key": key, "width": size[0], "height": size[1]}
    return {**place, "caption": text, "original": "", "task": task, "round": 1, **told, **values}


def recap(folder: Path, rows: list[dict]) -> Path:
    plain = [row("a", "a photo", task="general", round=0)]
    return make_build(folder, "coyo-recap", {"original": plain, "grounding": rows})


def table(build: Path, name: str = "grounding", **options) -> dict:
    [figures] = statistics(build, **options)[name].dicts()
    return figures


def verdicts(text: str, scale: str = "0-1", size: tuple | None = SIZE) -> dict[str, int]:
    return dict(Counter(read_caption(text, SCALES[scale], size).verdicts))


def phrases(text: str) -> list[str | None]:
    return [named.phrase for named in phrases_of(text, boxes_in(text)).named]


sides = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)
drawn_boxes = st.tuples(sides, sides).map(lambda s: (s[0][0], s[1][0], s[0][1], s[1][1]))


@given(
    drawn=st.lists(drawn_boxes, min_size=1, max_size=3), size=st.tuples(*[st.integers(1, 5000)] * 2)
)
@settings(max_examples=60, deadline=None)
def test_what_a_convention_writes_is_read_back_as_it_reads_it_itself(
    drawn: list, size: tuple
) -> None:
    for name, convention in CONVENTIONS.items():
        text = f"Here is {convention.ground('a dog', drawn, size)}, and a cat."
        grounded = read_caption(text, scale_of(name), size)
        [found] = convention.parse(text, size)
        assert set(grounded.verdicts) <= {"sound", "duplicate"}, name
        assert len(grounded.verdicts) == len(drawn), name
        assert {p for _, p in grounded.boxes} == {"a dog"}, name
        read = [box for box, _ in grounded.boxes]
        assert np.allclose(read, list(dict.fromkeys(found.boxes)), atol=1e-12), name
        near = [np.abs(np.array(read) - box).max(axis=1).min() for box in drawn]
        assert max(near) <= convention.precision(size) + 1e-9, name


@pytest.mark.parametrize("text", [
    "[0.1, 0.2, 0.3, 0.4]", "[0.1,0.2,0.3,0.4]", "[ .1 ,.2, 0.3000001,  4e-1 ]", "[0.1 0.2 0.3 0.4]",
    "[0.1,\n  0.2,\n  0.3,\n  0.4\n]", "(0.1, 0.2, 0.3, 0.4)", "([0.1, 0.2, 0.3, 0.4])", "[[0.1, 0.2, 0.3, 0.4]]",
    "(0.1,0.2),(0.3,0.4)", "(0.1, 0.2) (0.3, 0.4)", "<box>(0.1,0.2),(0.3,0.4)</box>", "<box>[[0.1, 0.2, 0.3, 0.4]]</box>",
    "<box>0.1, 0.2, 0.3, 0.4</box>", "<|box_start|>(0.1,0.2),(0.3,0.4)<|box_end|>", "<|box_start|>( 0.1, 0.2 ), ( 0.3, 0.4 )<|box_end|>",
    '```json\n[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "label": "dog"}]\n```', "{'bbox_2d': [0.1, 0.2, 0.3, 0.4]}", '{"bbox": "[0.1, 0.2, 0.3, 0.4]"}',
    f"<object>{PATCHES}</object>", PATCHES, "<object> <patch_index_44> <patch_index_863> </object>",
])  # fmt: skip
def test_one_sound_box_is_seen_however_it_is_written(text: str) -> None:
    assert verdicts(text) == {"sound": 1}
    assert verdicts(f"A dog {text} and more.") == {"sound": 1}


@pytest.mark.parametrize(("text", "expected"), [
    ("[0.1,0.2,0.3,0.4;0.5,0.6,0.7,0.8]", {"sound": 2}),
    ("[0.1,0.2,0.3,0.4;0.5,0.6,0.7]", {"sound": 1, "malformed": 1}),
    ("[0.1,0.2,0.3,0.4;0.5,0.6", {"sound": 1, "malformed": 1}),
    ("[0.1, 0.2, 0.3]", {"malformed": 1}),
    ("[0.1, 0.2, 0.3, 0.4, 0.5]", {"malformed": 1}),
    ("[0.1, 0.2, 0.3, 0.4", {"malformed": 1}),
    ("[0.1, 0.2, 0.3, 0.4 and a cat [0.1, 0.2, 0.3, 0.4]", {"malformed": 1, "sound": 1}),
    ("a dog [0.1", {"malformed": 1}),
    ("[0.1, 0.2, 0.3, 0.4)", {"malformed": 1}),
    ("0.1, 0.2, 0.3, 0.4]", {"malformed": 1}),
    ("[0.1, 0.2, 0.3, nan]", {"malformed": 1}),
    ("[10%, 20%, 0.3, 0.4]", {"malformed": 1}),
    ("[0.1, ?, ?, ?]", {"malformed": 1}),
    ("[0.1.2, 0.2, 0.3, 0.4]", {"malformed": 1}),
    ("[xmin,ymin,xmax,ymax]", {"malformed": 1}),
    ("[x1=0.1, y1=0.2, x2=0.3, y2=0.4]", {"malformed": 1}),
    ("<box></box><box>a dog</box>", {"malformed": 2}),
    ("<box>(0.1,0.2),(0.3,0.4)", {"malformed": 1}),
    ("<box>(0.1,0.2)</box>", {"malformed": 1}),
    ("<box>(0.1,0.2),(0.3,0.4) a cat [0.1,0.2,0.3,0.4]", {"malformed": 1, "sound": 1}),
    ("<|box_start|>(0.1,0.2),(0.3", {"malformed": 1}),
    ("(0.1,0.2),(0.3", {"malformed": 1}),
    ("(1,2),(3,4),(5,6)", {"malformed": 1}),
    ("(0.1,0.2),(0.3,0.4)(0.5,0.6),(0.7,0.8)", {"sound": 2}),
    ("<box>[[0.1,0.2,0.3,0.4],[0.5,0.6,0.7]]</box>", {"sound": 1, "malformed": 1}),
    ('{"bbox_2d": null}', {"malformed": 1}),
    ('{"bbox_2d": []}', {"malformed": 1}),
    ('{"bbox_2d": [0.1, 0.2', {"malformed": 1}),
    ('{"bbox_2d": [[0.1,0.2,0.3,0.4],[0.5,0.6,0.7,0.8]]}', {"sound": 2}),
    (f"<object>{PATCHES}</delimiter_of_multi_objects/><patch_index_0044></object>", {"sound": 1, "malformed": 1}),
    (f"<object>{PATCHES}", {"malformed": 1}),
    ("<object><patch_index_0044><patch_index_08", {"malformed": 1}),
    ("<object>a dog</object>", {"malformed": 1}),
    ("<patch_index_0044>", {"malformed": 1}),
    (f"<patch_index_x>{PATCHES}", {"malformed": 1, "sound": 1}),
    ("<object><patch_index_0863><patch_index_0044></object>", {"degenerate": 1}),
    ("<object><patch_index_0000><patch_index_1024></object>", {"out_of_range": 1}),
    ("[-0.1, 0.2, 0.3, 0.4]", {"out_of_range": 1}),
    ("[0.1, 0.2, 1.001, 0.4]", {"out_of_range": 1}),
    ("[100, 200, 300, 400]", {"out_of_range": 1}),
    ("[0.1, 0.2, 1e400, 0.4]", {"out_of_range": 1}),
    ("[0.3, 0.2, 0.1, 0.4]", {"degenerate": 1}),
    ("[0.1, 0.2, 0.3, 0.2]", {"degenerate": 1}),
    ("[0, 0, 1, 1]", {"sound": 1}),
    ("a dog [0.1,0.2,0.3,0.4], a dog [0.10, 0.20, 0.30, 0.40]", {"sound": 1, "duplicate": 1}),
    ("a dog [0.1,0.2,0.3,0.4;0.1,0.2,0.3,0.4]", {"sound": 1, "duplicate": 1}),
    ("a dog [0.1,0.2,0.3,0.4], a cat [0.1,0.2,0.3,0.4]", {"sound": 2}),
    ("[1, 2]", {"malformed": 1}),
    ("no box [1], [sic], (12), (1, 2) or (1, 2, 3), [a dog, a cat], [2 dogs, a cat], 1, 2, 3, 4 [", {}),
    ("", {}),
])  # fmt: skip
def test_every_breakage_has_its_verdict(text: str, expected: dict) -> None:
    assert verdicts(text) == expected


@pytest.mark.parametrize(("scale", "size", "text", "expected"), [
    ("0-999", SIZE, "(0,0),(999,999) (0,0),(1000,999)", {"sound": 1, "out_of_range": 1}),
    ("0-1000", SIZE, "[0, 0, 1000, 1000] [0, 0, 1001, 1000]", {"sound": 1, "out_of_range": 1}),
    ("pixels", SIZE, "[0, 0, 640, 480] [0, 0, 480, 640]", {"sound": 1, "out_of_range": 1}),
    ("pixels", None, "[0, 0, 640, 480]", {"out_of_range": 1}),
    ("pixels", (0, 5), "[0, 0, 0, 5]", {"out_of_range": 1}),
    ("patches", SIZE, f"[0.1, 0.2, 0.3, 0.4] {PATCHES}", {"malformed": 1, "sound": 1}),
])  # fmt: skip
def test_the_range_is_that_of_the_scale(scale: str, size: tuple, text: str, expected: dict) -> None:
    assert verdicts(text, scale, size) == expected


@pytest.mark.parametrize("part", ["[", "(", "<box>", "<object>", "<patch_index_", "]", "[1, ", "1", "1, ", "(1,2),", '"bbox_2d": [', "<ref>", "the ", "[ ( ", "{ "])  # fmt: skip
def test_a_hostile_caption_takes_no_more_time_than_its_length(part: str) -> None:
    grounded = read_caption(part * 40_000, SCALES["0-1"], SIZE)
    assert not grounded.boxes
    assert set(grounded.verdicts) <= {"malformed"}


def test_many_boxes_in_one_caption_are_all_counted() -> None:
    text = " ".join(f"dog {n} [0, 0, 0.5, {n + 1}e-5]" for n in range(20_000))
    grounded = read_caption(text, SCALES["0-1"], SIZE)
    assert len(grounded.boxes) == 20_000


@pytest.mark.parametrize(("text", "expected"), [
    ("A dog [B] sits on a chair [B].", ["a dog", "a chair"]),
    ("the red car, located at [B], and two green apples ([B])", ["the red car", "two green apples"]),
    ("a man standing on a skateboard [B]", ["a skateboard"]),
    ("a man standing on [B], a car parked at [B]; a tall building [B]", ["a man", "a car", "a tall building"]),
    ("a group of people [B], two of the dogs [B]", ["a group of people", "two of the dogs"]),
    ("two dogs [B] and [B], [B]", ["two dogs"] * 3),
    ("Dogs [B]. Red apples: [B]", ["dogs", "red apples"]),
    ("The coordinates of the cup are [B]; its bounding box is [B]", ["the cup", "the cup"]),
    ("a cat. Dogs [B]", ["dogs"]),
    ("[B]", [None]),
    ("<ref>The Dog</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box> and a cat [B]", ["the dog", "the dog", "a cat"]),
    ("<phrase>a man in a hat</phrase><object><patch_index_0001><patch_index_0099></object>", ["a man in a hat"]),
    ("<|object_ref_start|>cups<|object_ref_end|> [B]", ["cups"]),
    ('[{"bbox_2d": [1,2,3,4], "label": "Dog"}, {"label": "cat", "bbox_2d": [1,2,3,4]}]', ["dog", "cat"]),
])  # fmt: skip
def test_a_box_stands_behind_the_phrase_before_it(text: str, expected: list) -> None:
    assert phrases(text.replace("[B]", "[0.1, 0.2, 0.3, 0.4]")) == expected


def test_phrases_with_and_without_boxes_are_counted() -> None:
    found = read_caption(
        "A dog [0.1,0.2,0.3,0.4] and two cats [0.5,0.5,0.4,0.4] near the lake. Grass [0,0,1,1].",
        SCALES["0-1"],
        None,
    )
    assert found.unmarked == (4, 2)
    marked = read_caption(
        "<ref>a dog</ref><box>(0,0),(1,1)</box> by <ref>a lake</ref>.", SCALES["0-1"], None
    )
    assert marked.marked == (2, 1)


@given(st.lists(st.sampled_from(["a", "the", "dog", "cats", "of", "near", "(big", "red.", "standing", "parked", "it", "[0,0,1,1]", "[0,0,.5,1]", "3", "two", "bounding", "box"]), max_size=25))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_no_more_phrases_have_boxes_than_there_are(words: list) -> None:
    for total, with_box in read_caption(" ".join(words), SCALES["0-1"], None)[2:]:
        assert 0 <= with_box <= total


def likeliest(texts: list[str], size: tuple | None = SIZE) -> str | None:
    evidence = Evidence()
    for text in texts:
        for box in boxes_in(text):
            evidence.add(box, size)
    scale = evidence.scale()
    return scale and scale.name


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (2000, 3000)])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_scale_is_found_from_all_numbers_though_some_are_wrong(name: str, size: tuple) -> None:
    draw = random.Random(name)
    texts = []
    for _ in range(200):
        x1, y1 = draw.uniform(0, 0.9), draw.uniform(0, 0.9)
        box = (x1, y1, draw.uniform(x1, 1), draw.uniform(y1, 1))
        texts.append(CONVENTIONS[name].render(box, size))
    wrong = ["[0.1, 0.2, 0.3, 0.4]", "[5000, 7000, 8000, 9000]", "[-1, 0, 1, 1]"]
    assert likeliest(texts + wrong, size) == scale_of(name).name


def test_there_is_no_scale_without_numbers() -> None:
    assert likeliest(["a dog", "[0.1, 0.2"]) is None
    assert likeliest([f"{PATCHES} [0.1, 0.2, 0.3, 0.4]"]) == "0-1"
    assert likeliest(["[10, 20, 30, 40]"], None) == "0-1000"


def test_an_unknown_convention_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="boxes: 'yolo' is unknown; known: auto, norm3, norm2"):
        scale_of("yolo")


def test_the_covered_share_counts_overlaps_once() -> None:
    assert covered_share([(0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5)]) == 0.375
    assert covered_share([(0, 0, 1, 1), (0.2, 0.2, 0.3, 0.3)]) == 1
    assert covered_share([(0.101, 0.2, 0.104, 0.9)]) == 0  # no centre of a cell
    assert covered_share([(0.004, 0, 0.016, 1)]) == 0.02  # two


@pytest.mark.parametrize(("phrase", "category"), [
    ("two young men", "person"), ("the dogs", "dog"), ("a hot dog", "hot dog"), ("Dogs", "dog"), ("a man in a red shirt", "person"),
    ("a group of people", "person"), ("a pair of skis", "skis"), ("scissors", "scissors"), ("three of the dogs", "dog"),
    ("a teddy bear", "teddy bear"), ("a bear", "bear"), ("a puppy", "dog"), ("big red buses.", "bus"), ("a girl's bike", "bicycle"),
    ("the sofa", "couch"), ("a cup of coffee", "cup"), ("wine-glasses", "wine glass"), ("the sky", None), ("a doghouse", None), ("dog food", None), ("", None), ("of", None),
])  # fmt: skip
def test_a_phrase_names_a_category_by_its_head(phrase: str, category: str | None) -> None:
    known = ["person", "dog", "hot dog", "skis", "scissors", "teddy bear", "bear", "bus", "bicycle", "couch", "cup", "wine glass"]  # fmt: skip
    assert Categories(known).named(phrase) == category


def test_a_name_may_list_several_and_its_own_name_comes_before_a_synonym() -> None:
    named = Categories(["Cabinet/shelf", "airplane_(aircraft)", "man", "person", "(odd)"]).named
    assert [named(p) for p in ("shelves", "a cabinet", "the jet", "men", "a woman", "odd")] == [
        "Cabinet/shelf", "Cabinet/shelf", "airplane_(aircraft)", "man", "person", None,
    ]  # fmt: skip


def test_words_of_the_head_and_singulars() -> None:
    assert head_words("a bunch of ripe bananas on a table") == ["ripe", "banana"]
    plurals = [
        "men",
        "geese",
        "knives",
        "buses",
        "boxes",
        "dishes",
        "glasses",
        "berries",
        "vases",
        "ties",
        "bus",
        "glass",
        "gas",
    ]
    assert [singular(word) for word in plurals] == (
        [
            "man",
            "goose",
            "knife",
            "bus",
            "box",
            "dish",
            "glass",
            "berry",
            "vase",
            "tie",
            "bus",
            "glass",
            "gas",
        ]
    )


def brute_force(written: list, references: list, crowds: list) -> tuple[int, int]:
    """Greedy matching, by walking all pairs again for each match."""
    left, free, matched = list(range(len(written))), list(range(len(references))), 0
    while True:
        pairs = [(iou(written[n], references[m]), -n, -m) for n in left for m in free]
        value, n, m = max(pairs, default=(0, 0, 0))
        if value < 0.5:
            break
        left.remove(-n)
        free.remove(-m)
        matched += 1
    area = lambda b: max(b[2] - b[0], 0) * max(b[3] - b[1], 0)  # noqa: E731
    both = lambda a, b: (*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:]))  # noqa: E731
    inside = [
        n for n in left
        if any(both(written[n], c)[0] < both(written[n], c)[2] and area(both(written[n], c)) >= area(written[n]) / 2 for c in crowds)
    ]  # fmt: skip
    return matched, len(inside)


def random_box(draw: random.Random) -> tuple:
    x1, y1 = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
    return (x1, y1, x1 + draw.uniform(0.2, 0.5), y1 + draw.uniform(0.2, 0.5))


def test_matching_is_that_of_brute_force_on_random_boxes() -> None:
    draw = random.Random(5)
    seen = Counter()
    for _ in range(150):
        written, references, crowds = (
            [random_box(draw) for _ in range(draw.randint(0, 6))] for _ in range(3)
        )
        crowds = crowds[:1]
        told = [Reference(b, "dog") for b in references] + [
            Reference(b, "dog", True) for b in crowds
        ]
        found = match([Written(b, None) for b in written], told)
        assert found == brute_force(written, references, crowds)
        seen += Counter(matched=found[0], ignored=found[1])
        by_name = match([Written(b, "dog") for b in written], told, by_category=True)
        assert by_name == found
        assert match([Written(b, "cat") for b in written], told, by_category=True) == (0, 0)
    assert min(seen["matched"], seen["ignored"]) > 20


def test_the_highest_iou_is_matched_first_though_another_order_matched_more() -> None:
    references = [Reference((0, 0, 1, 1), "dog"), Reference((0, 0, 1, 0.55), "dog")]
    written = [Written((0, 0, 1, 0.9), None), Written((0, 0.3, 1, 1), None)]
    assert match(written, references) == (1, 0)


def test_iou_is_that_over_arrays() -> None:
    draw = random.Random(6)
    a, b = ([random_box(draw) for _ in range(50)] for _ in range(2))
    assert [iou(*pair) for pair in zip(a, b, strict=True)] == pytest.approx(
        exact.iou(np.array(a), np.array(b))
    )
    assert iou((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Four captions with every verdict."""
    return recap(tmp_path / "build", [
        row("a", "A dog [0.1,0.1,0.5,0.5] and a cat [0.5,0.5,0.9,0.9], a dog [0.1,0.1,0.5,0.5]."),
        row("b", "A horse [0.1,0.1,0.5,0.5] by a tree [0.2,0.2,1.2,0.4] and the lake [0.3,0.3,0.2,0.4]."),
        row("c", "The lake is calm."),
        row("d", "A person [0.0,0.0,0.5,1.0]. A boat [0.1,0.2"),
    ])  # fmt: skip


FIGURES = {
    "config": "grounding", "scale": "0-1", "convention": "auto", "phrases_by": "words", "captions": 4,
    "captions_with_boxes": 3, "captions_with_boxes_share": 0.75, "boxes": 8, "boxes_per_caption": 2.0,
    "sound": 4, "malformed": 1, "out_of_range": 1, "degenerate": 1, "duplicate": 1,
    "sound_share": 0.5, "malformed_share": 0.125, "out_of_range_share": 0.125, "degenerate_share": 0.125, "duplicate_share": 0.125,
    "phrases": 9, "phrases_with_boxes": 4, "phrases_with_boxes_share": 0.4444, "image_covered_share": 0.3267,
}  # fmt: skip


def test_a_row_per_config_says_what_its_captions_hold(build: Path) -> None:
    assert table(build) == FIGURES
    assert list(statistics(build)) == ["length", "quality", "gate", "grounding"]


def test_the_given_convention_is_taken_and_told(build: Path) -> None:
    told = table(build, boxes="pixels")
    assert (told["scale"], told["convention"]) == ("pixels", "pixels")
    assert (told["sound"], told["out_of_range"], told["degenerate"]) == (5, 0, 1)
    with pytest.raises(BadInput, match="boxes: 'x' is unknown"):
        statistics(build, boxes="x")


def test_the_scale_holds_for_the_whole_config(tmp_path: Path) -> None:
    rows = [row(str(n), f"a dog [0.1, 0.2, 0.3, 0.{n + 5}]") for n in range(4)]
    told = table(recap(tmp_path, [*rows, row("x", "a dog [100, 200, 300, 400]")]))
    assert (told["scale"], told["sound"], told["out_of_range"]) == ("0-1", 4, 1)


def test_a_config_without_boxes_has_no_shares(tmp_path: Path) -> None:
    told = table(recap(tmp_path, [row("a", "a dog", size=(None, None)), row("b", "")]))
    assert (told["scale"], told["boxes"], told["sound_share"]) == ("none", 0, None)
    assert (told["phrases"], told["phrases_with_boxes_share"], told["image_covered_share"]) == (
        1,
        0.0,
        None,
    )


def test_phrases_are_counted_by_marks_where_most_are_marked(tmp_path: Path) -> None:
    marked = "<ref>a dog</ref><box>(1,2),(300,400)</box> at a lake by <ref>a tree</ref>"
    told = table(
        recap(tmp_path, [row("a", marked), row("b", marked), row("c", "a cat (1,2),(3,4)")])
    )
    assert (told["scale"], told["phrases_by"]) == ("0-999", "marks")
    assert (told["phrases"], told["phrases_with_boxes"]) == (4, 2)


def test_a_build_without_a_grounding_config_has_no_such_table_and_imports_nothing_for_it(
    tmp_path: Path,
) -> None:
    plain = [row("a", "a photo [0.1, 0.2, 0.3, 0.4]", task="general")]
    made = make_build(tmp_path / "b", "coyo-recap", {"original": plain})
    code = (
        "import sys; from pathlib import Path; from vila2data.stats import statistics\n"
        "print(list(statistics(Path(sys.argv[1]))))\n"
        "print([m for m in sys.modules if m.startswith('vila2data.stats.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, made], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['length', 'quality', 'gate']", "['vila2data.stats.run']"]


def test_a_damaged_file_is_one_line(build: Path) -> None:
    file = build / "data/grounding/train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    content[4:2000] = b"\xff" * 1996
    file.write_bytes(content)
    with pytest.raises((BadInput, BuildError), match=r"query|cannot be read"):
        statistics(build)


def test_tables_stand_upright_for_people(build: Path) -> None:
    [(title, shown)] = upright("Boxes", statistics(build)["grounding"])
    assert title == "Boxes: config grounding, scale 0-1, convention auto, phrases by words"
    assert shown.columns == ["", "count", "share"]
    assert ("captions with boxes", 3, 0.75) in shown.rows
    assert ("boxes per caption", 2.0, None) in shown.rows
    assert shown.rows[-1] == ("image covered", None, 0.3267)
    [(_, shown)] = upright("", Figures(["precision", "hallucinated"], [(0.5, 2)]))
    assert shown.rows == [("precision", None, 0.5), ("hallucinated", 2, None)]


def test_csv_has_the_figures_in_the_row_of_the_config(build: Path) -> None:
    columns, [original, grounding] = by_config({"b": statistics(build)})
    assert columns[:3] == ["build", "config", "captions"]
    assert len(set(columns)) == len(columns)
    assert dict(zip(columns, grounding, strict=True)).items() >= FIGURES.items()
    assert original[columns.index("sound")] is None


def coco(
    file: Path, boxes: dict[str, list], *, crowds: dict[str, list] | None = None, **more
) -> Path:
    """Instances of images of 640 x 480: of each file name a list of (category, xywh)."""
    names = ["person", "dog", "cat", "couch"]
    annotations = [
        {
            "image_id": n,
            "category_id": names.index(c),
            "bbox": xywh,
            "iscrowd": int(one is not boxes),
        }
        for one in (boxes, crowds or {})
        for n, image in enumerate(boxes)
        for c, xywh in one.get(image, [])
    ]
    images = [{"id": n, "file_name": i, "width": 640, "height": 480} for n, i in enumerate(boxes)]
    categories = [{"id": n, "name": c} for n, c in enumerate(names)]
    content = {
        "info": {"year": 2017},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    file.write_text(json.dumps(content | more))
    return file


def scores(build: Path, references: Path) -> dict:
    return table(build, "references", references=references)


@pytest.fixture
def told(build: Path, tmp_path: Path) -> dict:
    """Of the build of four captions: a dog is right, a cat is a couch, b has nothing but a crowd."""
    file = coco(
        tmp_path / "instances.json",
        {
            "a.jpg": [("dog", [64, 48, 256, 192]), ("couch", [320, 240, 256, 192]), ("dog", [0, 0, 32, 24])],
            "b.jpg": [],
            "d.png": [("person", [0, 0, 320, 480])],
            "z.jpg": [("cat", [0, 0, 64, 48])],
        },
        crowds={"b.jpg": [("person", [0, 0, 640, 480])]},
    )  # fmt: skip
    return scores(build, file)


def test_boxes_are_compared_with_the_references(told: dict) -> None:
    assert told == {
        "config": "grounding", "images_by": "key", "captions_with_references": 3, "captions_without_references": 1,
        "references_without_captions": 1, "ambiguous_references": 0, "unusable_references": 0,
        "reference_boxes": 4, "judged_boxes": 4, "in_crowd": 1, "matched": 3, "precision": 1.0, "recall": 0.75,
        "named_matched": 2, "named_precision": 0.5, "named_recall": 0.5,
        "naming_a_category": 3, "hallucinated": 1, "hallucinated_share": 0.3333,
    }  # fmt: skip


@pytest.mark.parametrize(("key", "name", "image_id", "row_id", "way"), [
    ("train_7_v2", "train/7.v2.jpg", 3, None, "key"),
    ("7", "train/7.jpg", 3, None, "file name"),
    ("41", "x.jpg", 41, None, "key as image id"),
    ("k", "x.jpg", 41, 41, "image id"),
])  # fmt: skip
def test_images_meet_captions_by_name_or_by_id(
    tmp_path: Path, key: str, name: str, image_id: int, row_id: int | None, way: str
) -> None:
    made = recap(tmp_path / "b", [row(key, "a dog [0, 0, 0.5, 0.5]", id=row_id)])
    images = [{"id": image_id, "file_name": name, "width": 100, "height": 100}]
    annotations = [{"image_id": image_id, "category_id": 1, "bbox": [0, 0, 50, 50]}]
    file = coco(tmp_path / "i.json", {}, images=images, annotations=annotations)
    told = scores(made, file)
    assert (told["images_by"], told["named_matched"], told["recall"]) == (way, 1, 1.0)


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    good = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}
    bad = [{"bbox": [0, 0, 5]}, {"bbox": [0, 0, 0, 5]}, {"bbox": [0, 0, float("nan"), 5]}, {"bbox": None}, {"image_id": 9},
           {"category_id": 9}, {"bbox": [200, 0, 50, 50]}, {"bbox": "abcd"}]  # fmt: skip
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}
    twins = [image | {"id": 2, "file_name": "t.jpg"}, image | {"id": 3, "file_name": "t.png"}]
    broken = [image | {"id": 4, "width": 0}, {"id": 5}, None]
    annotations = [good, *(good | change for change in bad), 7]
    file = coco(tmp_path / "i.json", {}, images=[image, *twins, *broken], annotations=annotations)
    made = recap(
        tmp_path / "b", [row("a", "a dog [0, 0, 0.5, 0.5]"), row("t", "a dog [0, 0, 0.5, 0.5]")]
    )
    told = scores(made, file)
    assert told["unusable_references"] == len(bad) + 1 + len(broken)
    assert (told["ambiguous_references"], told["captions_without_references"]) == (2, 1)
    assert (told["reference_boxes"], told["matched"]) == (1, 1)


def test_reference_boxes_are_cut_to_the_image_and_only_captions_of_the_task_are_read(
    tmp_path: Path,
) -> None:
    file = coco(tmp_path / "i.json", {"a.jpg": [("dog", [-640, -480, 960, 720])], "b.jpg": []})
    rows = [row("a", "a dog [0, 0, 0.5, 0.5]"), row("b", "a dog [0, 0, 1, 1]", task="ocr")]
    told = scores(recap(tmp_path / "b", rows), file)
    assert (told["precision"], told["recall"], told["references_without_captions"]) == (1.0, 1.0, 1)


def test_references_of_other_images_are_told_and_nothing_is_divided_by_none(
    build: Path, tmp_path: Path
) -> None:
    told = scores(build, coco(tmp_path / "i.json", {"y.jpg": [("dog", [0, 0, 9, 9])]}))
    assert (told["captions_without_references"], told["references_without_captions"]) == (4, 1)
    assert (told["precision"], told["recall"], told["hallucinated_share"]) == (None, None, None)


def scenes(folder: Path, objects: dict[str, list]) -> Path:
    rows = [
        {"key": key, "objects": [{"category": c, "bbox": b} for c, b in told]}
        for key, told in objects.items()
    ]
    return make_build(folder, "scenes", {"train": rows[:1], "test": rows[1:]})


def test_a_build_of_scenes_gives_references(build: Path, tmp_path: Path) -> None:
    made = scenes(
        tmp_path / "scenes",
        {"a": [("dog", [0.1, 0.1, 0.5, 0.5]), ("table", [0.9, 0.9, 0.1, 1.0])], "d": [], "y": []},
    )
    told = scores(build, made)
    assert told["images_by"] == "key"
    assert (told["captions_with_references"], told["references_without_captions"]) == (2, 1)
    assert (told["judged_boxes"], told["matched"], told["reference_boxes"]) == (3, 1, 1)
    assert (told["unusable_references"], told["precision"], told["recall"]) == (1, 0.3333, 1.0)


@pytest.mark.parametrize(("content", "message"), [
    ("[", "is not JSON as COCO's instances are: '{' expected, found '\\['"),
    ('{"images": [], "annotations": []}', "has no list 'categories'; references are COCO's instances"),
    ('{"images": 5, "annotations": [], "categories": []}', "has no list 'images'"),
    ('{"images": [{"id": 1', "is not JSON as COCO's instances are: Expecting"),
    ('{"images": [' + "[" * 100_000, "is not JSON as COCO's instances are"),
    ("", "'{' expected, found ''"),
])  # fmt: skip
def test_what_is_no_file_of_instances_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "i.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message) as error:
        list(coco_entries(file))
    assert str(error.value).startswith(str(file))


def test_references_that_are_not_there_or_another_build_are_refused(
    build: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no such file of references"):
        statistics(build, references=tmp_path / "none.json")
    with pytest.raises(
        BadInput, match="is a build of coyo-recap; references are a build of scenes or COCO"
    ):
        statistics(build, references=build)
    with pytest.raises(BuildError, match="is no build"):
        statistics(build, references=tmp_path)


def test_a_file_is_read_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = coco(
        tmp_path / "i.json",
        {"a.jpg": [("dog", [1, 2, 3, 4])], "é.jpg": []},
        info=1234567890,
        empty=[],
    )
    whole = list(coco_entries(file))
    for size in (1, 2, 7):
        monkeypatch.setattr("vila2data.stats.coco._CHUNK_CHARS", size)
        assert list(coco_entries(file)) == whole
    monkeypatch.setattr("vila2data.stats.coco._MAX_ELEMENT_CHARS", 20)
    with pytest.raises(BadInput, match="an element of more than 20 characters"):
        list(coco_entries(file))


@pytest.mark.shared
def test_captions_of_the_reference_boxes_of_real_photos_are_all_right(
    shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "captions/coco/instances.json"
    content = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    true, shifted, crowds = [], [], 0
    for image in content["images"]:
        width, height = image["width"], image["height"]
        parts, moved = [], []
        for a in content["annotations"]:
            x, y, w, h = a["bbox"]
            if a["image_id"] != image["id"]:
                continue
            crowds += a["iscrowd"]
            if not a["iscrowd"]:
                parts.append(
                    f"a {names[a['category_id']]} [{x:.3f}, {y:.3f}, {min(x + w, width):.3f}, {min(y + h, height):.3f}]"
                )
                moved.append(
                    f"a zebra [{x:.3f}, {y:.3f}, {x + w / 4:.3f}, {y + h:.3f}]"
                )  # a quarter of each
        at = {"size": (width, height)}
        true.append(row(Path(image["file_name"]).stem, " and ".join(parts), **at))
        shifted.append(row(Path(image["file_name"]).stem, " and ".join(moved), **at))
    assert (len(true), crowds) == (40, 5)
    right = recap(tmp_path / "right", true)
    told = scores(right, file)
    assert table(right)["scale"] == "pixels"
    assert (told["images_by"], told["reference_boxes"], told["unusable_references"]) == (
        "key",
        400,
        0,
    )
    assert (told["captions_without_references"], told["references_without_captions"]) == (0, 0)
    assert (told["precision"], told["recall"], told["hallucinated"]) == (1.0, 1.0, 0)
    assert (told["named_precision"], told["named_recall"], told["naming_a_category"]) == (
        1.0,
        1.0,
        400,
    )
    wrong = scores(recap(tmp_path / "wrong", shifted), file)
    assert (wrong["named_matched"], wrong["named_recall"]) == (0, 0.0)
    assert wrong["matched"] <= 8  # quarters that are another object by chance
    assert wrong["hallucinated_share"] == 1.0


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["stats", *map(str, arguments)])


def test_the_command_shows_it_in_every_form(build: Path, tmp_path: Path) -> None:
    file = coco(tmp_path / "i.json", {"a.jpg": [("dog", [64, 48, 256, 192])]})
    told = json.loads(command(build, "--references", file, "--json").stdout)[str(build)]
    assert told["grounding"] == [FIGURES]
    assert told["references"][0]["recall"] == 1.0
    shown = command(build, "--references", file, "--boxes", "vila").stdout
    assert "captions: config grounding, scale 0-1, convention vila, phrases by words\n" in shown
    assert "Boxes against references: config grounding, images by key\n" in shown
    rows = list(csv.DictReader(io.StringIO(command(build, "--csv").stdout)))
    assert [r["sound"] for r in rows] == ["", "4"]


def test_options_that_nothing_uses_are_refused(tmp_path: Path) -> None:
    plain = [row("a", "a photo", task="general")]
    made = make_build(tmp_path / "b", "coyo-recap", {"original": plain})
    for option in (["--boxes", "vila"], ["--references", "i.json"]):
        with pytest.raises(BadInput, match="no build has a config of task grounding"):
            raise command(made, *option).exception or AssertionError
