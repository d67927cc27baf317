"""The whole pipeline of blends: what its rows are, what they do not depend on, what it refuses."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from fsspec.implementations.dirfs import DirFileSystem
from making import make_picture, parquet_hashes
from PIL import Image, ImageDraw

from vila2data import registry
from vila2data.blend import places
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build
from vila2data.errors import BadInput, RecipeError, RunFailed
from vila2data.recipe import load_recipe

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def pair(question: str, answer: str, image: str = "a.jpg", number: int = 0) -> dict[str, Any]:
    return {"question": question, "label": answer, "imgname": image, "id": number}


def charts(root: Path, rows: Sequence[dict[str, Any]], images: Sequence[str] = ("a.jpg",)) -> Path:
    """Rows as ChartQA's own files have them, with their images."""
    folder = root / "chartqa_json"
    folder.mkdir(parents=True, exist_ok=True)
    told = [{"imgname": r["imgname"], "query": r["question"], "label": r["label"]} for r in rows]
    (folder / "train_human.json").write_text(json.dumps(told))
    for number, name in enumerate(images):
        (folder / name).write_bytes(make_picture(number))
    return folder


def recipe_of(root: Path, sources: dict[str, Any], **blocks: Any) -> Path:
    content = {
        "builder": "ocr-blend",
        "version": "1.0.0",
        "license": "other",
        "out": str(root / "builds"),
        "root": str(root),
        "sources": sources,
        **blocks,
    }
    file = root / "recipe.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def build(recipe: Path, *overrides: str) -> Path:
    loaded = load_recipe(recipe, overrides)
    return write_build(registry.load("builders", loaded.builder), loaded)


def rows_of(built: Path, config: str = "default") -> list[dict[str, Any]]:
    """Rows in their order, images as bytes or paths."""
    table = pa.concat_tables(map(pq.read_table, sorted(built.glob(f"data/{config}/*.parquet"))))
    return table.to_pylist()


def turns(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


def steps_of(built: Path) -> dict[str, tuple[int, int, dict[str, int]]]:
    funnel = read_manifest(built).funnel
    return {step.step: (step.read, step.written, dict(step.rejected)) for step in funnel}


def test_questions_about_an_image_are_one_conversation_with_one_form_sentence(
    tmp_path: Path,
) -> None:
    rows = [pair("How many?", "4"), pair("Which?", "B", "b.png"), pair("When?", "2016")]
    charts(tmp_path, [*rows, rows[0]], ("a.jpg", "b.png"))
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}))
    found = {row["id"]: row for row in rows_of(built)}
    assert {name: turns(row) for name, row in found.items()} == {
        "chartqa_json/a.jpg": [f"<image>\nHow many?\n{SHORT}", "4", "When?", "2016"],
        "chartqa_json/b.png": [f"<image>\nWhich?\n{SHORT}", "B"],
    }
    first = found["chartqa_json/a.jpg"]
    assert [m["role"] for m in first["messages"]] == ["user", "assistant"] * 2
    assert first["images"] == [{"bytes": make_picture(0), "path": "a.jpg"}]
    assert (first["source"], first["task"], first["origin"]) == ("chartqa_json", "chart", None)
    assert steps_of(built)["annotations"] == (4, 2, {"merged": 2})
    assert verify(built).problems == []
    eager = load_dataset(str(built), split="train")
    streamed = load_dataset(str(built), split="train", streaming=True)
    assert streamed.features == eager.features
    assert [row["messages"] for row in streamed] == eager["messages"][:]


def test_misnamed_images_are_used_and_missing_ones_reject_the_row(tmp_path: Path) -> None:
    folder = charts(tmp_path, [pair("Q?", "A", n) for n in ("a.jpg", "gone.jpg", "no.jpg")])
    (folder / "a.jpg").write_bytes(
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x00;"
    )
    (folder / "no.jpg").write_bytes(b"these are no pixels")
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}))
    assert [row["id"] for row in rows_of(built)] == ["chartqa_json/a.jpg"]
    rejects = {row["id"]: row["reject_reason"] for row in rows_of(built, "default-rejects")}
    assert rejects == {
        "chartqa_json/gone.jpg": "image_missing",
        "chartqa_json/no.jpg": "image_undecodable",
    }
    (told,) = read_manifest(built).stats["sources"]
    assert told["misnamed_images"] == 1


def test_names_of_images_cannot_leave_their_folder(tmp_path: Path) -> None:
    charts(tmp_path, [pair("Q?", "A"), pair("Q?", "A", "../secret.jpg")])
    (tmp_path / "secret.jpg").write_bytes(make_picture(1))
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}))
    (reject,) = rows_of(built, "default-rejects")
    assert (reject["reject_reason"], reject["detail"]) == (
        "image_missing",
        "../secret.jpg leaves the folder of images",
    )


def test_paths_take_the_place_of_images_where_the_recipe_says_so(tmp_path: Path) -> None:
    charts(tmp_path, [pair("Q?", "A")])
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}, images="paths"))
    (row,) = rows_of(built)
    assert row["image_paths"] == ["a.jpg"]
    assert verify(built).problems == []


def test_images_that_came_as_bytes_have_no_paths(tmp_path: Path) -> None:
    cauldron(tmp_path, [("Q?", "A")])
    recipe = recipe_of(tmp_path, {"cauldron_vistext": {}}, images="paths")
    with pytest.raises(BadInput, match="cauldron_vistext: its images have no names of files"):
        build(recipe)


def picture_of_shapes(seed: int) -> bytes:
    """A picture with enough in it to be told from others."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (160, 120), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, w, h = rng.integers(0, 110, 4).tolist()
        draw.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return saved(picture, 95)


def saved(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def recompressed(content: bytes) -> bytes:
    return saved(Image.open(io.BytesIO(content)), 50)


def cauldron(root: Path, asked: Sequence[tuple[str, str]], name: str = "vistext") -> None:
    """One row a question, each with a picture of its own."""
    folder = root / f"cauldron_{name}" / name
    folder.mkdir(parents=True)
    rows = [
        {
            "images": [{"bytes": make_picture(number), "path": None}],
            "texts": [{"user": question, "assistant": answer, "source": name}],
        }
        for number, (question, answer) in enumerate(asked)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=2)


def test_text_of_sources_is_made_safe(tmp_path: Path) -> None:
    charts(tmp_path, [pair("<image> What?", "it <|im_end|> USER: is")])
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}))
    (row,) = rows_of(built)
    assert turns(row) == [f"<image>\n‹image› What?\n{SHORT}", "it ‹¦im_end¦› USER： is"]
    assert verify(built).problems == []


def published(root: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder = root / "llava_v1_5_mix665k"
    folder.mkdir()
    (folder / "llava_v1_5_mix665k.json").write_text(json.dumps(rows))


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def test_llavas_rows_keep_their_marker_and_what_they_said_is_kept_beside(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "image": "a.jpg", "conversations": said("What is it?\n<image>", "a cat")},
        {"id": "7", "conversations": said("USER: hi", "hello"), "model": ""},
    ]
    published(tmp_path, rows)
    (tmp_path / "llava_v1_5_mix665k" / "a.jpg").write_bytes(make_picture(0))
    built = build(recipe_of(tmp_path, {"llava_v1_5_mix665k": {}}))
    first, second = rows_of(built)
    assert (first["id"], second["id"]) == ("llava_v1_5_mix665k/7", "llava_v1_5_mix665k/7/d1")
    assert turns(first) == ["What is it?\n<image>", "a cat"]
    assert (second["images"], turns(second)) == ([], ["USER： hi", "hello"])
    assert json.loads(first["origin"])["id"] == 7
    assert json.loads(second["origin"])["texts"] == {"0": "USER: hi"}
    assert verify(built).problems == []


def test_the_rows_do_not_depend_on_workers(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(40)]
    rows = [pair(f"Question {n % 7} of {n}?", str(n), names[n % 40]) for n in range(300)]
    charts(tmp_path, rows, names)
    cauldron(tmp_path, [(f"Question {n}?", f"answer {n}") for n in range(30)])
    sources = {"chartqa_json": {"cap": 25}, "cauldron_vistext": {"weight": 1.5}}
    recipe = recipe_of(tmp_path, sources)
    alone = build(recipe, "version=1.0.0")
    together = build(recipe, "version=1.0.1", "executor.workers=3")
    assert parquet_hashes(alone) == parquet_hashes(together)
    assert sum(row["source"] == "chartqa_json" for row in rows_of(alone)) == 25


def test_a_build_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(8)]
    charts(tmp_path, [pair("Q?", str(n), name) for n, name in enumerate(names)], names)
    cauldron(tmp_path, [(f"Question {n}?", f"answer {n}") for n in range(8)])
    recipe = recipe_of(tmp_path, {"chartqa_json": {}, "cauldron_vistext": {}})
    script = (
        "import os, signal, sys\n"
        "from vila2data import registry\n"
        "from vila2data.blend import steps\n"
        "from vila2data.build.write import write_build\n"
        "from vila2data.recipe import load_recipe\n"
        "done = []\n"
        "def killing(function):\n"
        "    def call(task):\n"
        "        if len(done) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "        done.append(task)\n"
        "        return function(task)\n"
        "    return call\n"
        "steps.annotate, steps.converse = killing(steps.annotate), killing(steps.converse)\n"
        "recipe = load_recipe(sys.argv[1])\n"
        "write_build(registry.load('builders', recipe.builder), recipe)\n"
    )
    for tasks in ("1", "2"):
        command = [sys.executable, "-c", script, str(recipe), tasks]
        killed = subprocess.run(command, capture_output=True)
        assert killed.returncode == -9, killed.stderr
    work = tmp_path / "builds/ocr-blend/.1.0.0.partial/work/blend"
    kept = {file: file.stat().st_mtime_ns for file in work.glob("*/annotations-*.parquet")}
    assert len(kept) == 2
    seen: list[int] = []
    loaded = load_recipe(recipe)
    built = write_build(
        registry.load("builders", loaded.builder), loaded, on_rows=lambda n: seen.append(n)
    )
    assert seen[0] == 8  # conversations of the second source: all else was there
    assert parquet_hashes(built) == parquet_hashes(build(recipe, "version=2.0.0"))


def test_what_says_that_a_task_is_done_appears_after_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    replace = Path.replace

    def noting(path: Path, target: Path) -> Path:
        if "-00000" in target.name:
            seen.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", noting)
    cauldron(tmp_path, [("Q?", "A")])
    build(recipe_of(tmp_path, {"cauldron_vistext": {}}))
    assert set(seen[:2]) == {"images-00000.bin", "rejects-read-00000.parquet"}
    assert seen[2] == "annotations-00000.parquet"
    assert seen[3:5] == ["rejects-rows-00000.parquet", "rows-00000.parquet"]


def test_a_weight_repeats_or_draws_rows(tmp_path: Path) -> None:
    cauldron(tmp_path, [(f"Question {n}?", "yes") for n in range(200)])
    built = build(recipe_of(tmp_path, {"cauldron_vistext": {"weight": 2.25}}))
    names = [row["id"] for row in rows_of(built)]
    assert sum(not name.endswith(("/c1", "/c2")) for name in names) == 200
    assert sum(name.endswith("/c1") for name in names) == 200
    assert 30 <= sum(name.endswith("/c2") for name in names) <= 70
    fewer = build(recipe_of(tmp_path, {"cauldron_vistext": {"weight": 0.25}}), "version=2.0.0")
    drawn = {row["id"] for row in rows_of(fewer)}
    assert drawn == {name.removesuffix("/c2") for name in names if name.endswith("/c2")}
    step = next(s for s in read_manifest(fewer).funnel if s.step == "sampling")
    assert (step.read, step.written, step.not_sampled) == (200, len(drawn), 200 - len(drawn))


def test_a_column_that_is_missing_refuses_the_source(tmp_path: Path) -> None:
    folder = charts(tmp_path, [])
    renamed = [{"imgname": "a.jpg", "question": "Q?", "label": "A"}]
    (folder / "train_human.json").write_text(json.dumps(renamed))
    with pytest.raises(BadInput, match=r"train_human\.json: the column 'query' is missing"):
        build(recipe_of(tmp_path, {"chartqa_json": {}}))
    cauldron(tmp_path, [("Q?", "A")])
    file = tmp_path / "cauldron_vistext/vistext/train.parquet"
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["images", "text"]), file)
    with pytest.raises(
        BadInput, match=r"train\.parquet: the column 'texts' is missing; did you mean 'text'"
    ):
        build(recipe_of(tmp_path, {"cauldron_vistext": {}}))


def test_files_that_are_cut_are_refused_by_name(tmp_path: Path) -> None:
    folder = charts(tmp_path, [pair("Q?", "A") for _ in range(50)])
    file = folder / "train_human.json"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(BadInput, match=r"train_human\.json: is not readable as JSON: .*character"):
        build(recipe_of(tmp_path, {"chartqa_json": {}}))
    cauldron(tmp_path, [("Q?", "A")])
    file = tmp_path / "cauldron_vistext/vistext/train.parquet"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BadInput, match=r"train\.parquet: cannot be read: Parquet magic bytes"):
        build(recipe_of(tmp_path, {"cauldron_vistext": {}}))


def test_records_that_cannot_be_used_are_rejected_with_their_place(tmp_path: Path) -> None:
    folder = charts(tmp_path, [])
    odd: list[Any] = [
        {"imgname": "a.jpg", "query": "Q?", "label": "A"},
        {"imgname": "a.jpg", "query": "Q?", "label": None},
        {"imgname": "a.jpg", "query": ["Q?"], "label": {"a": 1}},
        {"imgname": "a.jpg", "query": "\ud800", "label": "A"},
        [1, 2],
    ]
    (folder / "train_human.json").write_text(json.dumps(odd))
    built = build(recipe_of(tmp_path, {"chartqa_json": {}}))
    rejects = [(r["id"], r["reject_reason"]) for r in rows_of(built, "default-rejects")]
    place = "chartqa_json/train_human.json"
    assert [name for name, _ in rejects] == [f"{place}:{n}" for n in range(1, 5)]
    assert [reason for _, reason in rejects][2:] == ["not_unicode", "record_unreadable"]
    read, written, reasons = steps_of(built)["records"]
    assert (read, written, sum(reasons.values())) == (5, 1, 4)


def test_sources_that_are_not_there_are_all_named_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to the Hub")

    monkeypatch.setattr(places.HfApi, "dataset_info", unreachable)
    charts(tmp_path, [pair("Q?", "A")])
    named = {"chartqa_json": {"wanted": 3}, "synthdog_en": {"wanted": 7}, "docvqa_json": {}}
    recipe = recipe_of(tmp_path, named)
    with pytest.raises(BadInput, match="sources are missing") as error:
        build(recipe)
    lines = str(error.value).splitlines()[1:]
    assert lines[0].strip().startswith("synthdog_en: naver-clova-ix/synthdog-en cannot be read")
    assert "give its folder as sources.docvqa_json.path" in lines[1]
    built = build(recipe, "missing=skip")
    table = {each["source"]: each for each in read_manifest(built).stats["sources"]}
    assert (table["chartqa_json"]["rows"], table["chartqa_json"]["off_by"]) == (1, -2)
    assert (table["synthdog_en"]["rows"], table["synthdog_en"]["off_by"]) == (0, -7)
    assert "no route to the Hub" in table["synthdog_en"]["note"]


def test_evaluation_sets_and_what_cannot_be_had_are_no_sources(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, {"eval_ai2d_test": {}, "chartqa_jsn": {}})
    with pytest.raises(RecipeError, match="chartqa_jsn; did you mean 'chartqa_json'"):
        load_recipe(recipe)
    recipe = recipe_of(tmp_path, {"eval_ai2d_test": {}})
    with pytest.raises(RecipeError, match=r"has no rows to train on: .* the test split alone"):
        load_recipe(recipe)


def test_the_hub_is_read_at_the_commit_that_the_branch_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cauldron(tmp_path / "here", [("Q?", "A")])
    below = tmp_path / "hub/datasets/HuggingFaceM4/the_cauldron@c0ffee/vistext"
    below.mkdir(parents=True)
    (tmp_path / "here/cauldron_vistext/vistext/train.parquet").rename(below / "train.parquet")

    class Info:
        sha = "c0ffee"

    hub = DirFileSystem(str(tmp_path / "hub"), fsspec.filesystem("file"))
    monkeypatch.setattr(places.HfApi, "dataset_info", lambda *_, **__: Info)
    monkeypatch.setattr("vila2data.blend.files._SYSTEMS", {"hf": hub})
    built = build(recipe_of(tmp_path, {"cauldron_vistext": {}}))
    assert [turns(row) for row in rows_of(built)] == [["<image>\nQ?", "A"]]
    (source,) = read_manifest(built).sources
    assert (source["hub"], source["commit"]) == ("HuggingFaceM4/the_cauldron", "c0ffee")


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    charts(tmp_path, [pair("Q?", "A", "gone.jpg")])
    with pytest.raises(RunFailed, match=r"no row is left: conversations: \{'image_missing': 1\}"):
        build(recipe_of(tmp_path, {"chartqa_json": {}}))


def test_other_configs_are_taken_over_from_the_base(tmp_path: Path) -> None:
    cauldron(tmp_path, [("Q?", "A")])
    charts(tmp_path, [pair("Q?", "A")])
    first = build(recipe_of(tmp_path, {"cauldron_vistext": {}}, config="1.8m"))
    second = recipe_of(
        tmp_path, {"chartqa_json": {}}, config="5.9m", base=str(first), version="1.1.0"
    )
    both = build(second)
    assert rows_of(both, "1.8m") == rows_of(first, "1.8m")
    assert [row["source"] for row in rows_of(both, "5.9m")] == ["chartqa_json"]
    assert verify(both).problems == []
    assert load_dataset(str(both), "1.8m", split="train").num_rows == 1
    (told,) = read_manifest(both).stats["sources"]
    assert told["source"] == "chartqa_json"
    other = recipe_of(tmp_path, {"chartqa_json": {}}, builder="sft-blend", base=str(first))
    with pytest.raises(BadInput, match=r"base: .* is ocr-blend, not sft-blend"):
        build(other)


def test_a_video_is_its_frames(tmp_path: Path) -> None:
    folder = tmp_path / "msvd_qa"
    (folder / "1").mkdir(parents=True)
    for number in range(20):
        (folder / "1" / f"{number}.jpg").write_bytes(make_picture(number))
    told = [{"video_id": n, "question": "who sings", "answer": "a man", "id": n} for n in (1, 2)]
    (folder / "train_qa.json").write_text(json.dumps(told))
    built = build(recipe_of(tmp_path, {"msvd_qa": {}}, builder="sft-blend"))
    (row,) = rows_of(built)
    numbers = [int(Path(image["path"]).stem) for image in row["images"]]
    assert len(numbers) == 8
    assert numbers == sorted(numbers)
    assert turns(row)[0].startswith("<image>\n" * 8 + "who sings")
    (reject,) = rows_of(built, "default-rejects")
    assert (reject["reject_reason"], reject["detail"][:2]) == ("image_missing", "2/")


def benchmark(root: Path, name: str, rows: Sequence[tuple[bytes, str, str]]) -> None:
    """An evaluation set in the layout of lmms-lab's repositories."""
    folder = root / name / "data"
    folder.mkdir(parents=True)
    told = [
        {"image": {"bytes": image, "path": None}, "question": question, "answers": [answer] * 10}
        for image, question, answer in rows
    ]
    pq.write_table(pa.Table.from_pylist(told), folder / "validation-00000-of-00001.parquet")


LONG_QUESTION = "What is the name of the third planet that is drawn to the left of the sun, near the red comet with the long tail?"


def leaking(root: Path, leakage: str, version: str) -> Path:
    return recipe_of(
        root,
        {"chartqa_json": {}},
        overlap={"evaluation": ["eval_textvqa_val"], "leakage": leakage},
        version=version,
    )


def test_leaks_fail_the_build_or_are_dropped_or_counted(tmp_path: Path) -> None:
    photos = [picture_of_shapes(number) for number in range(4)]
    rows = [pair("Q?", "A", f"{n}.jpg") for n in range(3)] + [
        pair(LONG_QUESTION, "the fourth planet, Mars", "3.jpg")
    ]
    folder = charts(tmp_path, rows, [])
    for number, photo in enumerate(photos):
        (folder / f"{number}.jpg").write_bytes(photo)
    tested = [(photos[0], "What?", "x"), (recompressed(photos[1]), "Which?", "y")]
    tested.append((picture_of_shapes(9), LONG_QUESTION, "the fourth planet, Mars"))
    benchmark(tmp_path, "eval_textvqa_val", tested)
    with pytest.raises(RunFailed, match="evaluation sets leak into the blend") as error:
        build(leaking(tmp_path, "fail", "1.0.0"))
    assert "chartqa_json repeats 1 of eval_textvqa_val (leak_near_image)" in str(error.value)
    dropped = build(leaking(tmp_path, "drop", "1.0.1"))
    assert [row["id"] for row in rows_of(dropped)] == ["chartqa_json/2.jpg"]
    rejects = {row["id"][-5:]: row["reject_reason"] for row in rows_of(dropped, "default-rejects")}
    assert rejects == {"0.jpg": "leak_image", "1.jpg": "leak_near_image", "3.jpg": "leak_text"}
    assert steps_of(dropped)["overlap"][:2] == (4, 1)
    warned = build(leaking(tmp_path, "warn", "1.0.2"))
    assert len(rows_of(warned)) == 4
    table = read_manifest(warned).stats["overlap"]
    assert [(row["by"], row["conversations"], row["then"]) for row in table] == [
        ("image", 1, "kept"),
        ("near_image", 1, "kept"),
        ("text", 1, "kept"),
    ]


def test_copies_of_a_direct_source_give_way_to_it(tmp_path: Path) -> None:
    photos = [picture_of_shapes(number) for number in range(3)]
    direct = tmp_path / "chartqa" / "data"
    direct.mkdir(parents=True)
    rows = [
        {"image": {"bytes": photo, "path": None}, "query": f"Question {n}?", "label": ["A"]}
        for n, photo in enumerate(photos[:2])
    ]
    pq.write_table(pa.Table.from_pylist(rows), direct / "train-00000-of-00001.parquet")
    copy = tmp_path / "cauldron_chartqa" / "chartqa"
    copy.mkdir(parents=True)
    again = [
        {
            "images": [{"bytes": photo, "path": None}],
            "texts": [{"user": question, "assistant": "A", "source": "chartqa"}],
        }
        for photo, question in (
            (photos[0], "Another question?"),
            (recompressed(photos[1]), "Question 1?"),
            (photos[2], "Question 2?"),
        )
    ]
    pq.write_table(pa.Table.from_pylist(again), copy / "train.parquet")
    sources = {"cauldron_chartqa": {}, "chartqa": {}}
    built = build(recipe_of(tmp_path, sources))
    kept = [(row["source"], turns(row)[0].split("\n")[1]) for row in rows_of(built)]
    assert sorted(kept) == [
        ("cauldron_chartqa", "Question 2?"),
        ("chartqa", "Question 0?"),
        ("chartqa", "Question 1?"),
    ]
    reasons = [row["reject_reason"] for row in rows_of(built, "default-rejects")]
    assert reasons == ["copy_of_source"] * 2
    everything = build(recipe_of(tmp_path, sources, overlap={"copies": "keep"}, version="1.0.1"))
    assert len(rows_of(everything)) == 5


def test_only_the_groups_that_a_file_lists_are_taken(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg"]
    charts(tmp_path, [pair("Q?", "A", name) for name in names], names)
    (tmp_path / "listed.txt").write_text("c.jpg\na.jpg\n")
    source = {"groups": str(tmp_path / "listed.txt")}
    built = build(recipe_of(tmp_path, {"chartqa_json": source}))
    assert [row["id"] for row in rows_of(built)] == ["chartqa_json/a.jpg", "chartqa_json/c.jpg"]
    (reject,) = rows_of(built, "default-rejects")
    assert (reject["reject_reason"], reject["detail"]) == ("not_listed", "b.jpg")
    (tmp_path / "listed.txt").unlink()
    with pytest.raises(RecipeError, match=r"sources\.chartqa_json\.groups: there is no file"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_recipe_can_define_sources_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(make_picture(0))
    (folder / "rows.jsonl").write_text(json.dumps({"photo": "a.jpg", "q": "What?", "answer": "x"}))
    mine = {
        "title": "Mine",
        "task": "vqa",
        "license": "cc0-1.0",
        "status": "manual",
        "files": "*.jsonl",
        "format": "jsonl",
        "layout": "question_answer",
        "columns": {"image": "photo", "question": "q"},
    }
    built = build(recipe_of(tmp_path, {"mine": {}}, define={"mine": mine}))
    (row,) = rows_of(built)
    assert (row["id"], row["task"], row["license"]) == ("mine/rows-0", "vqa", "cc0-1.0")
    assert turns(row) == ["<image>\nWhat?", "x"]
    assert verify(built).problems == []
    for name, change, fault in (
        ("chartqa_json", {}, "chartqa_json: is in the catalogue already"),
        ("Mine!", {}, "Mine!: must be small letters, digits and underscores"),
        ("mine", {"layout": "question_answr"}, "did you mean 'question_answer'"),
    ):
        recipe = recipe_of(tmp_path, {"mine": {}}, define={name: mine | change})
        with pytest.raises(RecipeError, match=fault):
            load_recipe(recipe)


def test_an_evaluation_set_that_was_not_found_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to the Hub")

    monkeypatch.setattr(places.HfApi, "dataset_info", unreachable)
    charts(tmp_path, [pair("Q?", "A")])
    built = build(leaking(tmp_path, "drop", "1.0.0"), "missing=skip")
    (row,) = read_manifest(built).stats["overlap"]
    assert (row["repeats"], row["then"]) == ("eval_textvqa_val", "not compared: was not found")
    assert "not compared: was not found" in (built / "README.md").read_text()


def test_what_a_killed_build_left_is_not_used_where_a_list_of_groups_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charts(tmp_path, [pair("Q?", "A", name) for name in ("a.jpg", "b.jpg")], ["a.jpg", "b.jpg"])
    listed = tmp_path / "listed.txt"
    recipe = recipe_of(tmp_path, {"chartqa_json": {"groups": str(listed)}})
    listed.write_text("a.jpg\n")
    with monkeypatch.context() as patched:
        patched.setattr("vila2data.blend.steps.select", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(recipe)
    listed.write_text("b.jpg\n")
    assert [row["id"] for row in rows_of(build(recipe))] == ["chartqa_json/b.jpg"]
