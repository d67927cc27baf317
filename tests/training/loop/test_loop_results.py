"""Results of a loop: of one seed, over seeds, as a page, as pictures."""

import json
import math
import re
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_making import Pretended, read_loop, write_captions, write_loop

from vila2data.errors import BadInput, BuildError
from vila2data.training.evaluation.figures import Figure
from vila2data.training.loop.charts import write_charts
from vila2data.training.loop.command import show_results
from vila2data.training.loop.results import Spread, spread, summaries, write_results
from vila2data.training.loop.rows import Row, Words, read_rows, words_of, write_rows
from vila2data.training.loop.seeds import run_seed
from vila2data.training.loop.stages import Texts
from vila2data.training.loop.tables import cell, page

SCORES = {"base": 0.2, "VILA_0": 0.5, "VILA_1": 0.6, "VILA_2": 0.65}


def a_row(name: str, words: float | None = 10.0, seconds: float = 1.0, **figures: Any) -> Row:
    told = {n: Figure(*f) if isinstance(f, tuple) else f for n, f in figures.items()}
    held = None if words is None else Words(words, 2.0, 5)
    return Row(name, held, "coyo-recap 1.1.0", f"runs/{name}", "sha256:1", seconds, told)


def test_the_rows_of_a_seed_hold_all_that_is_asked_of_them(tmp_path: Path) -> None:
    recipe = read_loop(write_loop(tmp_path, loop={"max_rounds": 1}))
    run_seed(recipe, 0, call=Pretended({"1.1.0": 60, "1.1.1": 30}, SCORES))
    content = json.loads((tmp_path / "out" / "seed-0" / "results.json").read_text())
    rows = {row["round"]: row for row in content["rows"]}
    assert content["seed"] == 0
    assert [row["words"] for row in rows.values()] == [
        {"mean": 3.0, "deviation": 0.0, "captions": 1},  # the one reference of `align_scenes`
        {"mean": 2.5, "deviation": 0.5, "captions": 2},  # "two words", "three more words"
        {"mean": 60.0, "deviation": 1.0, "captions": 2},
        None,
        None,
        {"mean": 30.0, "deviation": 1.0, "captions": 2},
        {"mean": 10.0, "deviation": 1.0, "captions": 2},
    ]
    assert [row["build"] for row in rows.values()] == [
        "scenes 1.0.0",
        "scenes 1.0.0",
        "coyo-recap 1.1.0",
        None,
        None,
        "coyo-recap 1.1.1",
        "coyo-recap 1.1.2",
    ]
    assert rows["VILA_1"]["checkpoint"] == "runs/VILA_1/sft/model"
    assert rows["VILA_1-specialist"]["checkpoint"] == "runs/VILA_1-specialist/specialist/model"
    assert rows["VILA_1"]["figures"]["vqa"] == {"value": 0.6, "standard_error": 0.02, "count": 100}
    asked = rows.pop("VILA_1-specialist-asked")
    assert asked["revision"] == rows["VILA_1-specialist"]["revision"]
    assert len({row["revision"] for row in rows.values()}) == len(rows)
    stages = json.loads((tmp_path / "out" / "seed-0" / "stages.json").read_text())
    for name, row in rows.items():
        own = [told["seconds"] for stage, told in stages.items() if stage.startswith(f"{name}/")]
        assert row["seconds"] == pytest.approx(sum(own), abs=0.05)
    assert read_rows(tmp_path / "out" / "seed-0") == run_seed(recipe, 0, call=Pretended())


TEXTS = st.lists(st.none() | st.text(alphabet="ab \t\n", max_size=12), max_size=8)


@settings(max_examples=25, deadline=None)
@given(captions=TEXTS)
def test_words_are_counted_as_table_1_counts_them(
    tmp_path_factory: pytest.TempPathFactory, captions: Sequence[str | None]
) -> None:
    build = tmp_path_factory.mktemp("b") / "1.0.0"
    write_captions(build, "scenes", "train", captions)
    found = words_of(Texts(build, "train", "caption"))
    counts = [len(re.findall(r"\S+", text or "")) for text in captions]
    counts = [count for count in counts if count]
    if not counts:
        assert found == Words(0.0, 0.0, 0)
        return
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    assert found.captions == len(counts)
    assert found.mean == pytest.approx(mean)
    assert found.deviation == pytest.approx(math.sqrt(variance), abs=1e-9)


def test_a_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    build = write_captions(tmp_path / "1.0.0", "scenes", "train", ["a"])
    with pytest.raises(BuildError, match=r"1\.0\.0: cannot be read \(.*alt_text"):
        words_of(Texts(build, "train", "alt_text"))


def test_the_spread_over_seeds() -> None:
    found = spread([0.5, 0.7], [0.03, 0.04])
    assert found.mean == pytest.approx(0.6)
    assert found.deviation == pytest.approx(0.1 * math.sqrt(2))  # n - 1
    assert found.standard_error == pytest.approx(math.sqrt((0.0009 + 0.0016) / 2))
    assert found.seeds == 2
    assert spread([0.5], [None]) == Spread(0.5, None, None, 1)


VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(VALUES, st.data())
def test_summaries_agree_with_an_independent_computation(
    values: Sequence[float], data: st.DataObject
) -> None:
    errors = [data.draw(st.none() | st.floats(0, 0.2)) for _ in values]
    by_seed = {
        seed: [a_row("VILA_0", words=10.0 + seed, seconds=2.0 * seed, vqa=(value, error, 9))]
        for seed, (value, error) in enumerate(zip(values, errors, strict=True))
    }
    (summary,) = summaries(by_seed)
    assert summary.words is not None
    assert summary.words.mean == pytest.approx(10 + (len(values) - 1) / 2)
    assert summary.seconds.mean == pytest.approx(len(values) - 1)
    # One without an error was counted in one scene alone, and is left out.
    told = [(v, e) for v, e in zip(values, errors, strict=True) if e is not None]
    if not told:
        assert "vqa" not in summary.figures
        return
    vqa, count = summary.figures["vqa"], len(told)
    assert vqa.seeds == count
    assert vqa.mean == pytest.approx(math.fsum(value for value, _ in told) / count)
    if count == 1:
        assert vqa.deviation is None
    else:
        deviation = statistics.stdev(value for value, _ in told)
        assert vqa.deviation == pytest.approx(deviation, abs=1e-12)
    expected = math.sqrt(math.fsum(error**2 for _, error in told) / count)
    assert vqa.standard_error == pytest.approx(expected)


def test_rounds_are_ordered_and_last_ones_joined_over_seeds() -> None:
    after = [f"VILA_{{}}{n}" for n in ("-specialist", "-specialist-asked", "+spatial", "+control")]
    by_seed = {
        0: [a_row(n) for n in ("base", "VILA_0", "VILA_1", *(a.format(1) for a in after))],
        1: [
            a_row(n) for n in ("base", "VILA_0", "VILA_1", "VILA_2", *(a.format(2) for a in after))
        ],
    }
    found = [(s.round, s.seconds.seeds) for s in summaries(by_seed)]
    joined = [(a.format("K"), 2) for a in after]
    assert found == [("base", 2), ("VILA_0", 2), ("VILA_1", 2), ("VILA_2", 1), *joined]
    alike = dict.fromkeys((0, 1), by_seed[1])
    assert [s.round for s in summaries(alike)][-4:] == [a.format(2) for a in after]


def test_ten_rounds_are_ordered_by_number() -> None:
    names = [f"VILA_{number}" for number in range(11)]
    found = summaries({0: [a_row(name) for name in reversed(names)]})
    assert [summary.round for summary in found] == names


def test_a_figure_that_some_seeds_lack_is_of_the_others() -> None:
    by_seed = {
        0: [a_row("VILA_0", vqa=(0.4, 0.1, 9), count_accuracy=(None, None, 0))],
        1: [a_row("VILA_0", vqa=(None, None, 0), count_accuracy=(None, None, 0))],
    }
    (summary,) = summaries(by_seed)
    assert summary.figures == {"vqa": Spread(0.4, None, 0.1, 1)}


@pytest.mark.parametrize(
    ("found", "scale", "text"),
    [
        (None, 100, "–"),
        (Spread(0.61234, None, None, 1), 100, "61.2"),
        (Spread(0.61234, None, 0.0049, 1), 100, "61.2 (0.5)"),
        (Spread(0.61234, 0.0151, 0.0049, 3), 100, "61.2 ± 1.5 (0.5)"),
        (Spread(3.456, 0.5, 0.25, 3), 1, "3.46 ± 0.50 (0.25)"),
    ],
)
def test_cells(found: Spread | None, scale: float, text: str) -> None:
    assert cell(found, scale) == text


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every table of a page, as rows by heading."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        heads, _, *rows = [line.strip("| ").split(" | ") for line in block.strip().splitlines()]
        heads = [head.strip() for head in heads]
        heads = heads if len(heads) == len(rows[0]) else ["", *heads]
        found.append([dict(zip(heads, row, strict=True)) for row in rows])
    return found


def test_the_page_has_the_paper_s_tables(tmp_path: Path) -> None:
    recipe = read_loop(write_loop(tmp_path, seeds=[0, 1], loop={"max_rounds": 1}))
    for seed, vqa in ((0, 0.6), (1, 0.7)):
        run_seed(recipe, seed, call=Pretended({"1.1.0": 60 + seed}, {**SCORES, "VILA_1": vqa}))
    show_results(recipe)
    text = (tmp_path / "out" / "results.md").read_text()
    (words, vqa), scores, kinds, blind, texts = tables(text)
    assert words["VILA_0"] == "2.5 ± 0.5"
    assert words["VILA_1"] == "60.5 ± 1.0"
    assert vqa["VILA_1"] == "65.0 ± 7.1 (2.0)"
    assert "VILA_1-specialist" not in words
    by_round = {row[""]: row for row in scores}
    assert list(by_round) == [
        *("base", "VILA_0", "VILA_1"),
        *("VILA_1-specialist", "VILA_1-specialist-asked", "VILA_1+spatial", "VILA_1+control"),
    ]
    assert by_round["base"]["VQA"] == "20.0 ± 0.0 (2.0)"
    assert by_round["VILA_1"]["Objects P"] == "65.0 ± 7.1 (2.0)"
    assert by_round["VILA_1"]["Floor"] == "–"
    assert kinds[2] == {"": "VILA_1", "color": "32.5 ± 3.5 (3.0)"}
    assert blind[0]["Objects R"] == "10.0 ± 0.0 (2.0)"
    assert texts[0]["loss shuffled"] == "1.50 ± 0.00 (0.10)"
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["seeds"]["1"] == [row[""] for row in scores]
    assert content["rounds"][2]["figures"]["vqa"]["mean"] == pytest.approx(0.65)


def test_results_of_seeds_that_came_to_none_are_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = read_loop(write_loop(tmp_path, seeds=[0, 1], loop={"max_rounds": 1}))
    show_results(recipe)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out").exists()
    run_seed(recipe, 1, call=Pretended(scores=SCORES))
    show_results(recipe)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["seeds"].keys() == {"1"}
    assert "1 seed. A cell" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": [{}]}', '{"rows": 3}'])
def test_a_damaged_file_of_results_is_told(tmp_path: Path, content: str) -> None:
    write_rows(tmp_path, 0, [a_row("base")])
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(BadInput, match=r"results\.json: is not what a loop writes .*--results"):
        read_rows(tmp_path)


ROWS = st.lists(
    st.builds(
        a_row,
        st.sampled_from(["base", "VILA_0"]),
        words=st.none() | st.floats(0, 99),
        vqa=st.tuples(st.none() | st.floats(0, 1), st.none(), st.integers(0, 9)),
    ),
    max_size=3,
)


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_rows_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder, 3, rows)
    assert read_rows(folder) == rows


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.text]


def test_the_pictures_show_every_round(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    shares: Mapping[str, Any] = {"vqa": (0.5, 0.02, 9), "object_recall": (0.25, 0.02, 9)}
    names = ("base", "VILA_0", "VILA_1", "VILA_1+spatial")
    rows = [a_row(n, words=10.0 * k, **shares) for k, n in enumerate(names)]
    found = write_results(tmp_path, {0: [*rows, a_row("VILA_1-specialist", None, **shares)]})
    assert write_charts(tmp_path, found) == ["words.svg", "scores.svg"]
    words, scores = ((tmp_path / name).read_text() for name in ("words.svg", "scores.svg"))
    assert [text for text in texts_of(words) if "VILA" in text or text == "base"] == list(names)
    shown = [text for text in texts_of(scores) if "VILA" in text or text == "base"]
    assert shown == ["VILA_0", "VILA_1", "VILA_1-specialist", "VILA_1+spatial"]
    assert {"VQA", "Objects R"} <= set(texts_of(scores))
    assert "Objects P" not in texts_of(scores)
    assert page(found, seeds=1, pictures=["words.svg"]).count("![words.svg](words.svg)") == 1
