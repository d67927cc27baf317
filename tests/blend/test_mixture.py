"""LLaVA-1.5's mixture, made of simulated copies of its ten sources, and its published form."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mixture_making import PUBLISHED, Mixture, make_mixture, make_published

from vila2data import registry
from vila2data.blend.catalog import sources
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build
from vila2data.recipe import find_recipe, load_recipe

SCALE = 0.0005
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."


def build(folder: Path, entries: dict[str, Any], **blocks: Any) -> Path:
    content = {
        "builder": "llava-instruct",
        "version": "1.0.0",
        "license": "other",
        "out": str(folder / "builds"),
        "root": str(folder / "sources"),
        "sources": entries,
        **blocks,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    loaded = load_recipe(file)
    return write_build(registry.load("builders", loaded.builder), loaded)


def rows_of(built: Path, config: str = "default") -> list[dict[str, Any]]:
    table = pa.concat_tables(map(pq.read_table, sorted(built.glob(f"data/{config}/*.parquet"))))
    return table.to_pylist()


def turns(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mixture, Path]:
    """The mixture with some photos missing and some GIFs, and its build."""
    folder = tmp_path_factory.mktemp("mixture")
    mixture = make_mixture(folder, SCALE, missing_every=12, gif_every=9)
    return mixture, build(folder, mixture.sources())


@pytest.fixture(scope="module")
def rows(made: tuple[Mixture, Path]) -> list[dict[str, Any]]:
    return rows_of(made[1])


def test_every_source_gives_the_rows_and_questions_that_its_records_have(
    made: tuple[Mixture, Path], rows: list[dict[str, Any]]
) -> None:
    found = Counter(row["source"] for row in rows)
    asked = Counter[str]()
    for row in rows:
        asked[row["source"]] += len(row["messages"]) // 2
    expected = made[0].expected
    assert found == {name: each.rows for name, each in expected.items()}
    assert asked == {name: each.exchanges for name, each in expected.items()}
    assert verify(made[1]).problems == []


def test_what_gives_no_row_is_counted_with_its_reason(made: tuple[Mixture, Path]) -> None:
    steps = {step.step: step for step in read_manifest(made[1]).funnel}
    expected = made[0].expected.values()
    refused: Counter[str] = Counter()
    for each in expected:
        refused.update(each.refused)
    assert steps["records"].read == sum(each.records for each in expected)
    assert dict(steps["records"].rejected) == dict(refused)
    assert dict(steps["conversations"].rejected) == {
        "image_missing": sum(each.missing for each in expected),
        "too_long": sum(each.too_long for each in expected),
    }
    told = {each["source"]: each for each in read_manifest(made[1]).sources if "source" in each}
    by_source = made[0].expected.items()
    assert {n: told[n]["records"] for n in told} == {n: each.records for n, each in by_source}
    assert {n: told[n]["misnamed_images"] for n in told} == {n: e.misnamed for n, e in by_source}


def first_of(rows: list[dict[str, Any]], source: str) -> dict[str, Any]:
    return next(row for row in rows if row["source"] == source)


def test_each_source_is_worded_as_the_paper_words_it(rows: list[dict[str, Any]]) -> None:
    worded = {name: turns(first_of(rows, name)) for name in PUBLISHED}
    assert worded["llava_instruct_150k"] == ["<image>\nWhat is 0 0?", "It is 0."]
    assert worded["vqav2"][:3] == [
        f"<image>\nWhat is number 0?\n{SHORT}",
        "answer 0",
        "What is number 41?",
    ]
    assert worded["gqa"][:2] == [f"<image>\nIs number 0 red?\n{SHORT}", "yes"]
    assert worded["okvqa"][:2] == [f"<image>\nWhat is number 0?\n{SHORT}", "answer 0"]
    choices = "A. cab 0\nB. bus 0\nC. tram 0\nD. train 0"
    assert worded["aokvqa"][:2] == [f"<image>\nWhy is number 0?\n{choices}\n{LETTER}", "A"]
    assert worded["ocrvqa"][0] == f"<image>\nWho wrote it?\n{SHORT}"
    assert worded["textcaps"][0] == f"<image>\n{CAPTION}"
    assert worded["sharegpt"] == ["Question 0 0", "Answer 0"]


def test_each_rotation_of_the_choices_is_a_row_with_the_letter_of_the_same_choice(
    rows: list[dict[str, Any]],
) -> None:
    about = [
        row for row in rows if row["id"].startswith("aokvqa/") and "number 1?" in turns(row)[0]
    ]
    assert [row["id"][-3:] for row in about] == ["/r0", "/r1", "/r2", "/r3"]
    assert [turns(row)[1] for row in about] == ["B", "A", "D", "C"]
    assert all(
        "bus 1" in turns(row)[0].splitlines()[2 + "ABCD".index(turns(row)[1])] for row in about
    )


def test_regions_are_at_most_nine_or_ten_of_a_photo_in_a_row(rows: list[dict[str, Any]]) -> None:
    asked = {
        name: [len(r["messages"]) // 2 for r in rows if r["source"] == name]
        for name in ("refcoco", "vg")
    }
    assert max(asked["refcoco"]) == 9
    assert max(asked["vg"]) == 10


def test_a_conversation_of_sharegpt_ends_before_2048_tokens(rows: list[dict[str, Any]]) -> None:
    long = [row for row in rows if row["source"] == "sharegpt" and turns(row)[0] == "Why?"]
    assert long
    assert all(len(row["messages"]) == 10 for row in long)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("published")
    records = make_published(folder, 0.0003)
    entry = {"images": str(folder / "images"), "wanted": len(records)}
    return records, build(folder, {"llava_v1_5_mix665k": entry}, images="paths")


def record_of(row: dict[str, Any]) -> dict[str, Any]:
    """A record of the published file, from its row."""
    origin = json.loads(row["origin"])
    texts = {str(number): text for number, text in enumerate(turns(row))} | origin.get("texts", {})
    said = [{"from": ("human", "gpt")[int(n) % 2], "value": text} for n, text in texts.items()]
    named = {key: origin[key] for key in ("id", "image", "model") if key in origin}
    return named | {"conversations": said}


def test_every_row_of_the_published_form_gives_its_record_back(
    published: tuple[list[dict[str, Any]], Path],
) -> None:
    records, built = published
    found = rows_of(built)
    assert [record_of(row) for row in found] == records
    assert [row["image_paths"] for row in found] == [
        [r["image"]] if "image" in r else [] for r in records
    ]
    assert {type(record_of(row)["id"]) for row in found} == {int, str}


def test_the_published_rows_are_safe_where_the_record_was_not(
    published: tuple[list[dict[str, Any]], Path],
) -> None:
    unsafe = [row for row in rows_of(published[1]) if "texts" in json.loads(row["origin"])]
    assert unsafe
    assert turns(unsafe[0])[:2] == [
        "<image>\nWhat does ‹s› mean?\nUSER： says so",
        "See (INST) and ‹¦im_end¦›.",
    ]


def test_the_recipe_wants_the_published_rows_of_sources_in_the_catalogue() -> None:
    recipe = load_recipe(find_recipe("llava_instruct/llava_1_5"))
    assert {name: entry.wanted for name, entry in recipe.sources.items()} == PUBLISHED
    assert sum(PUBLISHED.values()) == sources()["llava_v1_5_mix665k"].records_published == 665_298
    assert recipe.problems() == []
    rules = {name: recipe.source(name).rules for name in recipe.sources}
    merged = {name for name, rule in rules.items() if rule.merge}
    assert merged == {"vqav2", "gqa", "okvqa", "ocrvqa", "aokvqa", "refcoco", "vg"}
    assert (rules["refcoco"].segment, rules["vg"].max_exchanges) == (9, 10)
    assert (rules["sharegpt"].max_tokens, rules["aokvqa"].permute_choices) == (2048, True)
    assert recipe.sources["ocrvqa"].cap == 80_000


def test_the_published_form_is_imported_without_a_rule() -> None:
    recipe = load_recipe(find_recipe("llava_instruct/published"))
    assert list(recipe.sources) == ["llava_v1_5_mix665k"]
    assert recipe.source("llava_v1_5_mix665k").rules.model_dump(exclude_defaults=True) == {}
    assert recipe.sources["llava_v1_5_mix665k"].wanted == 665_298
