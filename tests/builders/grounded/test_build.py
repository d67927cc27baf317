"""The whole builder: what it refuses, what its rows do not depend on, and the real rows."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from grit_making import hostile_rows, write_grit, write_jsonl, write_parts
from making import make_corpus, parquet_hashes

from vila2data import registry
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build
from vila2data.conversation import find_special
from vila2data.errors import BadInput, RecipeError, RunFailed
from vila2data.recipe import load_recipe

CAPTION = "a cat on the red mat"
CUSTOMERS = "a wire hanger with a paper cover that reads we heart our customers"
CAT = [0.0, 5.0, 0.1, 0.1, 0.5, 0.5, 0.9]
MAT = [9.0, 20.0, 0.2, 0.4, 0.9, 0.8, 0.8]


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    whole = {
        "key": f"{number:09d}",
        "clip_similarity_vitb32": 0.3,
        "clip_similarity_vitl14": 0.25,
        "id": 10**12 + number,
        "url": f"https://example.org/{number}",
        "caption": CAPTION,
        "width": 640,
        "height": 480,
        "noun_chunks": [CAT, MAT],
        "ref_exps": [[0.0, 20.0, *CAT[2:]], MAT],
    }
    return whole | changes


def recipe_of(root: Path, path: Path, **blocks: Any) -> Path:
    content = {
        "builder": "grounded-narration",
        "version": "1.0.0",
        "license": "ms-pl",
        "out": str(root / "builds"),
        "path": str(path),
        **blocks,
    }
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def build(recipe: Path, *overrides: str) -> Path:
    loaded = load_recipe(recipe, overrides)
    return write_build(registry.load("builders", loaded.builder), loaded)


def build_of(root: Path, rows: Sequence[dict[str, Any]], /, **blocks: Any) -> Path:
    return build(recipe_of(root, write_parts(root / "parts", rows), **blocks))


def rows_of(built: Path, *configs: str) -> list[dict[str, Any]]:
    files = [f for c in configs or ("short", "long") for f in (built / "data" / c).iterdir()]
    return [each for file in sorted(files) for each in pq.read_table(file).to_pylist()]


def reasons_of(built: Path) -> dict[str, int]:
    steps = {step.step: dict(step.rejected) for step in read_manifest(built).funnel}
    return steps["rows"] | steps["kept rows"]


def test_a_row_is_narrated_with_the_referring_expression_that_costs_no_box(tmp_path: Path) -> None:
    built = build_of(tmp_path, [row()])
    (found,) = load_dataset(str(built), "short", split="train", streaming=True)
    # "a cat on the red mat" would swallow the mat
    assert found["grounded_caption"] == (
        "a cat [0.100,0.100,0.500,0.500] on the red mat [0.200,0.400,0.900,0.800]"
    )
    assert [p["text"] for p in found["phrases"]] == ["a cat", "the red mat"]
    question, answer = found["messages"]
    assert question["content"].startswith("<image>\n")
    assert answer == {"role": "assistant", "content": found["grounded_caption"]}
    assert verify(built).problems == []


def test_the_large_box_goes_and_the_expression_takes_its_place(tmp_path: Path) -> None:
    large = [*MAT[:2], 0.0, 0.0, 1.0, 0.9, 0.8]
    rows = [row(noun_chunks=[CAT, large], ref_exps=[[0, 20, *CAT[2:]], large])]
    built = build_of(tmp_path, rows)
    (found,) = rows_of(built)
    assert found["grounded_caption"] == f"{CAPTION} [0.100,0.100,0.500,0.500]"
    assert read_manifest(built).funnel[0].rejected == {"large_box": 1}


@pytest.mark.parametrize(
    ("changes", "blocks", "reason"),
    [
        ({"caption": None}, {}, "no_caption"),
        ({"caption": " \t"}, {}, "no_caption"),
        ({"caption": "x" * 5001}, {}, "caption_too_long"),
        (
            {"clip_similarity_vitl14": 0.2},
            {"rows": {"min_clip_similarity_vitl14": 0.25}},
            "low_clip_similarity",
        ),
        ({"noun_chunks": None}, {}, "no_boxes"),
        ({"noun_chunks": [[*CAT[:4], 0.05, 0.5, 0.9]]}, {}, "no_box_left"),
        (
            {"noun_chunks": [CAT, [5.0, 3.0, *MAT[2:]]]},
            {"boxes": {"malformed": "drop_image"}},
            "malformed",
        ),
        (
            {"noun_chunks": [CAT, [*MAT[:2], 0, 0, 1, 1, 1]]},
            {"boxes": {"large": "drop_image"}},
            "large_box",
        ),
        ({"width": None}, {"questions": {"boxes": "pixels"}}, "size_unknown"),
        ({"caption": "a cat [0.100,0.200,0.300,0.400] mat"}, {}, "box_text_in_caption"),
        (
            {"noun_chunks": [[*CAT[:2], x / 10, 0.1, x / 10 + 0.1, 0.5, 1] for x in range(4)]},
            {},
            "crowded",
        ),
    ],
)
def test_each_reason_is_counted_and_its_row_can_be_looked_at(
    changes: dict[str, Any], blocks: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    built = build_of(tmp_path, [row(0), row(1, **changes)], **blocks)
    assert reasons_of(built) == {reason: 1}
    (rejected,) = rows_of(built, "pool-rejects")
    assert (rejected["key"], rejected["reject_reason"]) == ("000000001", reason)
    assert rejected["detail"] == ("4 × cat" if reason == "crowded" else None)
    assert verify(built).problems == []


def test_two_small_cats_and_a_cat_are_of_one_category(tmp_path: Path) -> None:
    caption = "two small cats, Cats; a cat's and THE CAT"
    spans = [(0, 14), (16, 20), (22, 29), (34, 41)]
    chunks = [[*span, n / 10, 0.1, n / 10 + 0.1, 0.4, 1] for n, span in enumerate(spans)]
    built = build_of(tmp_path, [row(0), row(1, caption=caption, noun_chunks=chunks)])
    assert [r["detail"] for r in rows_of(built, "pool-rejects")] == ["4 × cat"]


def test_of_equal_captions_with_one_id_the_first_stays(tmp_path: Path) -> None:
    rows = [row(n, id=7 if n != 2 else None, url=str(n)) for n in range(4)]
    rows.append(row(4, id=7, caption=CAPTION + " !"))
    rejected = row(5, id=9, noun_chunks=[])
    built = build_of(tmp_path, [rejected, *rows, row(6, id=9)])
    assert [r["url"] for r in rows_of(built)] == ["0", "2", row(4)["url"], row(6)["url"]]
    assert reasons_of(built) == {"duplicate": 2, "no_boxes": 1}


@pytest.fixture(scope="module")
def grit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grit(
        tmp_path_factory.mktemp("grit"), rows=3000, parts=3, seed=1, row_group_rows=400
    )


def test_the_same_bytes_in_any_number_of_workers_and_tasks(
    tmp_path: Path, grit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for rows_per_task, workers in ((10**6, 1), (500, 1), (10**6, 2)):
        monkeypatch.setattr(
            "vila2data.builders.grounded_narration.parts._ROWS_PER_TASK", rows_per_task
        )
        root = tmp_path / str(len(hashes))
        root.mkdir()
        built = build(
            recipe_of(root, grit, executor={"workers": workers}, rejects_per_reason=10**6)
        )
        hashes.append(parquet_hashes(built))
    assert hashes[0] == hashes[1] == hashes[2]
    short, long = (read_manifest(built).rows_of(config) for config in ("short", "long"))
    assert 0 < long <= 0.218 * (short + long)


@pytest.mark.parametrize("form", ["string", "json"])
def test_numbers_as_text_give_the_same_rows(form: Any, tmp_path: Path) -> None:
    rows = hostile_rows(200, 3)
    built = []
    for name in ("double", form):
        parts = write_parts(tmp_path / name / "parts", rows, 2, name)
        built.append(build(recipe_of(tmp_path / name, parts)))
    assert repr(rows_of(built[0])) == repr(rows_of(built[1]))  # NaN is not equal to itself


def test_whole_numbers_and_arrays_of_seven_give_the_same_rows(tmp_path: Path) -> None:
    rows = [row(n, noun_chunks=[[0, 5, 0, 0, 1, 0, 1], [9, 20, 0, 0, 1, 1, 1]]) for n in range(2)]
    wide = {"boxes": {"max_area": 1.0}}
    expected = rows_of(build_of(tmp_path, rows, **wide))
    assert [p["text"] for p in expected[0]["phrases"]] == ["the red mat"]
    kinds = (pa.list_(pa.list_(pa.int32())), pa.list_(pa.list_(pa.float32(), 7)))
    for number, kind in enumerate(kinds):
        root = tmp_path / str(number)
        (root / "parts").mkdir(parents=True)
        table = pq.read_table(next((tmp_path / "parts").iterdir()))
        for name in ("noun_chunks", "ref_exps"):
            place = table.schema.get_field_index(name)
            values = pa.array([[[int(n) for n in i] for i in r[name]] for r in rows], kind)
            table = table.set_column(place, name, values)
        pq.write_table(table, root / "parts" / "a.parquet")
        assert rows_of(build(recipe_of(root, root / "parts", **wide))) == expected


def test_columns_that_are_not_needed_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    columns = {name: [row()[name]] for name in ("caption", "noun_chunks")}
    pq.write_table(pa.table(columns), tmp_path / "parts" / "bare.parquet")
    (found,) = rows_of(build(recipe_of(tmp_path, tmp_path / "parts")))
    assert (found["key"], found["id"], found["url"]) == ("bare-0", None, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"noun_chunk": "noun_chunks"}, r"b\.parquet: has no column 'noun_chunks'; 'noun_chunk'"),
        ({"text": "caption"}, r"b\.parquet: has no column 'caption'; it has key, .*text"),
        ({"noun_chunks": "width"}, r"b\.parquet: column 'noun_chunks' is BIGINT; expected lists"),
        ({"caption": "id"}, r"b\.parquet: column 'caption' is BIGINT; expected text"),
    ],
)
def test_a_part_with_other_columns_is_refused_by_file_and_column(
    columns: dict[str, str], message: str, tmp_path: Path
) -> None:
    folder = write_parts(tmp_path / "parts", [row()])
    table = pq.read_table(next(folder.iterdir()))
    new, old = next(iter(columns.items()))
    kept = table.drop_columns([name for name in (new, old) if name in table.column_names])
    pq.write_table(kept.append_column(new, table[old]), folder / "b.parquet")
    with pytest.raises(BadInput, match=message):
        build(recipe_of(tmp_path, folder))


def test_parts_that_are_cut_or_damaged_are_refused_by_name(tmp_path: Path, grit: Path) -> None:
    whole = sorted(grit.iterdir())[0].read_bytes()
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"cut\.parquet: is no whole parquet file: .*magic bytes"):
        build(recipe_of(tmp_path, folder))
    (folder / "cut.parquet").unlink()
    middle = len(whole) // 2
    (folder / "hole.parquet").write_bytes(whole[:middle] + bytes(3000) + whole[middle + 3000 :])
    with pytest.raises(BadInput, match=r"hole\.parquet: cannot be read: "):
        build(recipe_of(tmp_path, folder))
    (folder / "hole.parquet").unlink()
    lines = write_jsonl(folder / "cut.jsonl", [row(0), row(1)])
    lines.write_text(lines.read_text()[:-40])
    with pytest.raises(BadInput, match=r"cut\.jsonl: cannot be read: .*Malformed JSON"):
        build(recipe_of(tmp_path, folder))


def test_an_empty_part_is_none_and_empty_parts_alone_are_told(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts", [row()], parts=2)
    (folder / "z.jsonl").touch()
    assert len(rows_of(build(recipe_of(tmp_path, folder)))) == 1
    nothing = write_parts(tmp_path / "nothing", [], parts=2)
    with pytest.raises(RunFailed, match="nothing: its 2 parts hold no row"):
        build(recipe_of(tmp_path, nothing), "version=1.0.1")
    (tmp_path / "bare").mkdir()
    with pytest.raises(BadInput, match=r"bare: holds no \.parquet, \.jsonl, \.ndjson file"):
        build(recipe_of(tmp_path, tmp_path / "bare"), "version=1.0.1")


def test_where_nothing_is_kept_the_reasons_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"no row is kept: rows: \{'no_boxes': 1\}"):
        build_of(tmp_path, [row(noun_chunks=[])])


def test_a_recipe_says_all_that_is_wrong_with_it(tmp_path: Path) -> None:
    file = recipe_of(
        tmp_path,
        tmp_path / "nowhere",
        boxes={"max_area": 2},
        questions={"boxes": "vilo", "narration": {"simple": 1}},
        images={"corpus": "x", "missing": "drop"},
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    for part in ("boxes.max_area", "must be one of norm3", "simple: unknown", "images.missing"):
        assert part in str(caught.value)
    with pytest.raises(RecipeError, match=r"path: .*nowhere does not exist"):
        load_recipe(recipe_of(tmp_path, tmp_path / "nowhere"))


def test_a_build_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path, grit: Path) -> None:
    recipe = recipe_of(tmp_path, grit)
    script = (
        "import os, signal, sys\n"
        "from vila2data import registry\n"
        "from vila2data.build.write import write_build\n"
        "from vila2data.builders.grounded_narration import shards, steps\n"
        "from vila2data.recipe import load_recipe\n"
        "done, run = [], steps.run\n"
        "def killing(task):\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(task)\n"
        "    return run(task)\n"
        "steps.run = killing\n"
        "recipe = load_recipe(sys.argv[1])\n"
        "write_build(registry.load('builders', recipe.builder), recipe)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(recipe)], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    work = tmp_path / "builds/grounded-narration/.1.0.0.partial/work/grounded"
    before = {file: file.stat().st_mtime_ns for file in work.glob("done-*")}
    assert len(before) == 2
    seen: list[int] = []
    loaded = load_recipe(recipe)
    built = write_build(
        registry.load("builders", loaded.builder), loaded, on_rows=lambda n: seen.append(n)
    )
    assert seen[0] == 1000  # the third part alone was read
    other = tmp_path / "other"
    other.mkdir()
    assert parquet_hashes(built) == parquet_hashes(build(recipe_of(other, grit)))


def test_images_are_found_by_id_and_what_has_none_is_counted_and_kept(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 4)
    sizes = {0: (24, 20), 1: (31, 31), 2: (500, 100)}  # as make_picture draws them, but the last
    rows = [row(n, width=w, height=h) for n, (w, h) in sizes.items()] + [row(9)]
    built = build_of(tmp_path, rows, images={"corpus": str(corpus)})
    found = {r["id"] - 10**12: r for r in rows_of(built)}
    told = {number: r["image_status"] for number, r in found.items()}
    assert told == {0: "ok", 1: "ok", 2: "size_differs", 9: "missing"}
    assert (found[0]["key"], found[9]["key"]) == ("00000", "000000009")
    assert found[9]["image_sha256"] is None
    assert len(found[0]["image_sha256"]) == 64
    assert read_manifest(built).stats["images"] == [
        {"image_status": "missing", "rows": 1},
        {"image_status": "ok", "rows": 2},
        {"image_status": "size_differs", "rows": 1},
    ]
    assert verify(built).problems == []
    rules = {"corpus": str(corpus), "missing": "reject", "size_differs": "reject"}
    strict = build_of(tmp_path, rows, images=rules, version="1.0.1")
    assert reasons_of(strict) == {"image_missing": 1, "image_size_differs": 1}
    assert verify(strict).problems == []


def test_phrases_and_boxes_are_asked_for_on_request(tmp_path: Path) -> None:
    questions = {"refer": 1, "describe": 1, "boxes": "kosmos2"}
    built = build_of(tmp_path, [row(n) for n in range(20)], questions=questions)
    found = rows_of(built)
    texts = {"a cat", "the red mat"}
    asked = set()
    for each in found:
        assert each["question_ids"][1:] == ["format-locate-region", "format-describe-region"]
        contents = [message["content"] for message in each["messages"]]
        phrase = contents[2].rpartition(": ")[2]
        assert {phrase, contents[5]} == texts
        assert contents[3] in contents[1]
        assert f"{contents[5]}</phrase>{contents[4].rpartition(': ')[2]}" in contents[1]
        asked.add(phrase)
    assert asked == texts  # which is asked for is drawn
    assert len({each["question_ids"][0] for each in found}) == 4
    assert verify(built).problems == []


def test_a_cut_wakes_no_role_label(tmp_path: Path) -> None:
    caption = "the catUSER: <image> hi"
    chunk = [0.0, 7.0, *CAT[2:]]
    built = build_of(tmp_path, [row(caption=caption, noun_chunks=[chunk], ref_exps=[])])
    (found,) = rows_of(built)
    assert found["grounded_caption"] == "the cat [0.100,0.100,0.500,0.500]USER： ‹image› hi"
    assert find_special(found["grounded_caption"]) is None


@pytest.mark.shared
def test_the_real_rows_build_and_verify(tmp_path: Path, shared_data: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for file in (
        shared_data / "grit/grit_rows.jsonl",
        shared_data / "grit/derived/grit_like_from_coco.jsonl",
    ):
        (folder / file.name).write_bytes(file.read_bytes())
    built = build(recipe_of(tmp_path, folder))
    assert verify(built).problems == []
    assert reasons_of(built) == {"crowded": 12, "no_box_left": 2}
    real = [r for r in rows_of(built) if r["id"] == 1795296605919]
    assert [r["grounded_caption"] for r in real] == [f"{CUSTOMERS} [0.020,0.311,0.962,0.960]"]
    assert json.loads((built / "build.json").read_text())["funnel"][0]["read"] == 147
