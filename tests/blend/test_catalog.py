"""The catalogue of sources is whole, and tells what the paper's blends are made of."""

import ast
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sft_making import GOOD, JOINED, ROWS

from vila2data.blend import listing
from vila2data.blend.annotation import Annotation
from vila2data.blend.catalog import sources
from vila2data.blend.files import Folder
from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.recipe import BlendRecipe
from vila2data.blend.source import Source
from vila2data.errors import BadInput, RecipeError
from vila2data.prompts import load_prompts
from vila2data.recipe import parse_recipe

ROOT = Path(__file__).parent.parent.parent

PAPER = {
    "LLaVA-SFT": ["llava_v1_5_mix665k"],
    "MSR-VTT": ["msr_vtt", "m3it_msr_vtt"],
    "TextCaps": ["textcaps"],
    "Image Paragraph Captioning": [
        "image_paragraph_captioning",
        "m3it_image_paragraph_captioning",
    ],
    "CLEVR": ["clevr", "m3it_clevr", "cauldron_clevr"],
    "NLVR": ["nlvr", "m3it_nlvr"],
    "VisualMRC": ["visualmrc", "m3it_visualmrc", "cauldron_visualmrc"],
    "ActivityNet-QA": ["activitynet_qa", "m3it_activitynet_qa"],
    "iVQA": ["ivqa", "m3it_ivqa"],
    "MSRVTT-QA": ["msrvtt_qa", "m3it_msrvtt_qa"],
    "MSVD-QA": ["msvd_qa", "m3it_msvd_qa"],
    "DVQA": ["dvqa", "cauldron_dvqa"],
    "OCRVQA": ["ocrvqa"],
    "ST-VQA": ["st_vqa", "m3it_st_vqa", "cauldron_st_vqa"],
    "ViQuAE": ["viquae", "m3it_viquae"],
    "VQAv2-train": ["vqav2"],
    "Visual Dialog": ["visual_dialog", "m3it_visual_dialog"],
    "GQA-train": ["gqa"],
    "FLAN-1M": ["flan_1m"],
}
"""The 1.8M blend of section A.3, and the entries that are each set or stand in its place."""

TABLE_7 = PAPER | {
    "The Cauldron (subset)": ["cauldron_iconqa"],
    "LLaVAR": ["llavar_finetune", "llavar_pretrain"],
    "ShareGPT4V-100K": ["sharegpt4v_100k"],
    "STEM-QA": ["stem_qa"],
    "SynthDoG-en": ["synthdog_en"],
    "TextOCR-GPT4V": ["textocr_gpt4v"],
    "ArxivQA": ["arxivqa"],
    "WIT": ["wit_base", "wit_vila_538k"],
    "ScienceQA-train": ["scienceqa_train"],
    "SHERLOCK": ["sherlock", "sherlock_vila_317k"],
    "Geo170K": ["geo170k"],
    "MMC-Instruction": ["mmc_instruction"],
    "LRV-Instruction": ["lrv_instruction"],
    "RefCOCO-train": ["refcoco"],
    "MathInstruct": ["math_instruct"],
    "Dolly": ["dolly"],
    "GSM8K-ScRel-SFT": ["gsm8k_screl_sft"],
}

BENCHMARKS = [
    *["eval_vqav2_val", "eval_vqav2_testdev", "eval_gqa_testdev", "eval_vizwiz_val"],
    *["eval_scienceqa_img_test", "eval_textvqa_val", "eval_pope", "eval_mme"],
    *["eval_mmbench_en_dev", "eval_seed_bench", "eval_mmmu_val", "eval_mathvista_testmini"],
    *["eval_llava_bench", "eval_mm_vet", "eval_docvqa_val", "eval_docvqa_test"],
    *["eval_chartqa_test", "eval_ai2d_test", "eval_infovqa_val"],
]
RECIPES = {"1_8m": ("1.8m", PAPER), "5_9m": ("5.9m", TABLE_7)}


FILES = {name: row.file for name, row in zip(sources(), listing.rows(), strict=True)}
MADE = [
    n for n, s in sources().items() if FILES[n] in ("sft", "evaluation") and s.tested_on[0] == "r"
]


def row_of(name: str) -> dict:
    """A row of the source in its publisher's columns."""
    source = sources()[name]
    if name in ROWS:
        return ROWS[name]
    good = GOOD[source.layout]
    return {source.columns.get(column, column): value for column, value in good.items()}


def write_source(folder: Path, name: str) -> None:
    source, row = sources()[name], row_of(name)
    file = folder / source.files.replace("**/", "").replace("*", "x")
    file.parent.mkdir(parents=True, exist_ok=True)
    if source.format == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    elif source.format == "jsonl":
        file.write_text(json.dumps(row) + "\n")
    else:
        arrays = {source.records: [row]} | JOINED.get(name, {} if source.records else {"": [row]})
        if source.join is not None and source.join.files != source.files:
            second = folder / source.join.files.replace("**/", "")
            second.write_text(json.dumps(JOINED[name][""]))
            arrays = {"": [row]}
        file.write_text(json.dumps(arrays.get("", arrays)))


def written(name: str) -> dict:
    return yaml.safe_load((ROOT / "recipes" / "sft_blend" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", sources())
def test_an_entry_names_a_layout_its_columns_and_its_prompt(name):
    source = sources()[name]
    layout = LAYOUTS[source.layout]
    assert set(source.columns) <= {*layout.needs, *layout.may_have}
    assert len(set(source.columns.values())) == len(source.columns)
    assert source.rules.form is None or source.rules.form in load_prompts()


@pytest.mark.parametrize("name", MADE)
def test_a_row_of_the_publisher_s_shape_becomes_an_annotation(name, tmp_path):
    source = sources()[name]
    write_source(tmp_path, name)
    (file,) = Folder(str(tmp_path)).files(source.files)
    (part,) = file.parts(source)
    (record,) = part.records(source)
    (found,) = LAYOUTS[source.layout].read(record)
    assert isinstance(found, Annotation), found
    assert found.exchanges[0].answer
    assert found.images or source.task in ("text", "math")


@pytest.mark.parametrize("name", sources())
def test_an_entry_has_a_licence_and_a_place(name):
    source = sources()[name]
    assert source.license.strip()
    assert source.hub or source.url
    assert source.non_commercial or "-nc" not in source.license
    assert source.substitute != name
    assert source.copies != name


@pytest.mark.parametrize("name", sources())
def test_the_splits_for_evaluation_are_those_of_status_evaluation(name):
    source = sources()[name]
    assert (source.split == "evaluation") == (source.status == "evaluation")


def test_sets_that_have_no_training_split_are_for_evaluation():
    for name in ("lmms-lab/DocVQA", "lmms-lab/ai2d"):
        found = [s for s in sources().values() if s.hub == name]
        assert found
        assert {s.split for s in found} == {"evaluation"}


def test_the_paper_s_benchmarks_are_in_the_catalogue():
    assert {sources()[name].status for name in BENCHMARKS} == {"evaluation"}


@pytest.mark.parametrize("set_name", TABLE_7)
def test_every_set_of_the_paper_s_lists_can_be_trained_on(set_name):
    for name in TABLE_7[set_name]:
        assert sources()[name].can_be_had
        assert sources()[name].split == "train"


@pytest.mark.parametrize("name", RECIPES)
def test_a_blend_s_recipe_has_every_set_of_its_list_and_no_other(name):
    config, sets = RECIPES[name]
    recipe = parse_recipe(BlendRecipe, f"sft_blend/{name}")
    assert recipe.config == config
    for set_name, entries in sets.items():
        assert set(entries) & set(recipe.sources), set_name
    known = {entry for entries in sets.values() for entry in entries}
    others = set(recipe.sources) - known
    assert {other.startswith("cauldron_") for other in others} <= {True}
    assert bool(others) == (config == "5.9m")


@pytest.mark.parametrize("name", RECIPES)
def test_what_stands_in_the_place_of_a_set_is_said_so(name):
    text = (ROOT / "recipes" / "sft_blend" / f"{name}.yaml").read_text()
    for line in text.splitlines():
        entry = line.strip().partition(":")[0]
        if entry.startswith("m3it_") or entry == "cauldron_dvqa":
            original = entry.partition("_")[2]
            assert f"# for {original}," in line
            assert original in sources()


def test_the_subset_of_the_cauldron_is_the_32_sets_of_the_authors_reader():
    found = [n for n in written("5_9m")["sources"] if n.startswith("cauldron_")]
    assert len(found) == 32 + 1  # and DVQA
    assert {"cauldron_ai2d", "cauldron_websight", "cauldron_datikz"}.isdisjoint(found)


@pytest.mark.parametrize("name", RECIPES)
def test_a_blend_is_compared_with_evaluation_sets_alone(name):
    for entry in written(name)["overlap"]["evaluation"]:
        assert sources()[entry].split == "evaluation"


def test_an_evaluation_set_cannot_be_trained_on():
    with pytest.raises(RecipeError, match=r"sources\.eval_ai2d_test: has no rows to train on"):
        parse_recipe(BlendRecipe, "sft_blend/1_8m", ["sources.eval_ai2d_test={}"])


def test_rows_of_the_listing_tell_what_the_catalogue_does():
    (row,) = listing.rows(["geo170k"])
    assert row.file == "sft"
    assert (row.title, row.task, row.records_published) == ("Geo170K, geometry", "math", 177457)
    assert row.where == "Luckyjhg/Geo170K@cc4bd7ce63154f0a1a18e0d34aa1a3915eefe1e6"
    assert (row.license, row.non_commercial, row.layout) == ("unknown", False, "turns")
    assert [r.id for r in listing.rows()] == list(sources())
    assert listing.rows(["dolly"])[0].columns["input"] == "context"


def test_a_source_that_is_unknown_is_named_with_the_nearest():
    with pytest.raises(BadInput, match=r"^geo170: not in the .*; did you mean 'geo170k'\?$"):
        listing.rows(["dolly", "geo170"])


def test_tables_are_by_file_and_cells_keep_their_bars():
    row = listing.ListedSource(
        id="a_b",
        file="x",
        title="A|B",
        task="vqa",
        license="mit",
        non_commercial=True,
        status="never_public",
        records_published=12345,
        layout=None,
        columns={"image": "a_*"},
        where=None,
        files="*.json",
        tested_on="not tested",
        note="not there.",
        substitute="c",
    )
    head, blank, _, _, line = listing.markdown([row]).splitlines()
    assert (head, blank) == ("## x", "")
    assert line == (
        r"| `a_b` | A\|B. **never public** Not there. Substitute: `c`. | vqa | mit, non-commercial"
        r" | 12,345 | `–` image=a\_\* | – | not tested |"
    )


def test_the_page_of_sources_is_made_of_the_catalogue():
    assert (ROOT / "docs" / "sources.md").read_text() == listing.page()
    assert listing.page().count("\n## ") == len({row.file for row in listing.rows()})


@pytest.mark.parametrize("status", ["gone", "never_public"])
def test_an_entry_that_cannot_be_had_says_why(status):
    given = {"title": "a", "task": "vqa", "license": "unknown", "status": status}
    with pytest.raises(ValueError, match="note: must say why it cannot be had"):
        Source.model_validate(given)
    assert not Source.model_validate(given | {"note": "b"}).can_be_had


def test_layouts_neither_evaluate_nor_unpickle():
    for file in (ROOT / "vila2data" / "blend" / "layouts").glob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        assert {"eval", "exec", "pickle"}.isdisjoint(names), file.name
