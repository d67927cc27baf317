import json
import signal
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from scene_builds import Rows, build_scenes, rows_in, scenes_recipe

from vila2data.build.manifest import FunnelStep, read_manifest
from vila2data.build.verify import verify
from vila2data.builders.scenes import drawing, steps
from vila2data.builders.scenes.recipe import ScenesRecipe
from vila2data.corpus.read import list_shards, read_shard
from vila2data.errors import RunRefused
from vila2data.recipe import find_recipe, load_recipe

pytest.importorskip("open3d")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a build of 12 + 3 scenes, and its corpus."""
    folder = tmp_path_factory.mktemp("scenes")
    build_scenes(folder)
    return folder


@pytest.fixture(scope="module")
def build(root: Path) -> Path:
    return root / "builds" / "scenes" / "1.0.0"


@pytest.fixture(scope="module")
def rows(build: Path) -> Rows:
    return rows_in(build)


def files_of(root: Path) -> dict[str, bytes]:
    """Tables and tars by path; what else there is names folders and versions."""
    paths = [*root.rglob("*.parquet"), *root.rglob("*.tar")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_a_build_has_both_splits_and_is_sound(build: Path, rows: Rows) -> None:
    assert {config: len(found) for config, found in rows.items()} == {"train": 12, "test": 3}
    assert [row["key"] for row in rows["test"]] == [f"test-{n:07d}" for n in range(3)]
    found = verify(build)
    assert found.problems == []
    assert found.checked["row rules"] == 1
    assert load_dataset(str(build), "test", split="train")["reference"][0] is not None


def test_the_manifest_counts_and_names_the_corpora(build: Path) -> None:
    manifest = read_manifest(build)
    assert (manifest.schema_version, manifest.license) == (5, "cc0-1.0")
    assert [step.step for step in manifest.funnel] == ["train scenes", "test scenes"]
    assert [step.written for step in manifest.funnel] == [12, 3]
    assert all(step.balanced for step in manifest.funnel)
    assert [s["corpus"] for s in manifest.sources] == ["corpus/train", "corpus/test"]
    told = {told["config"]: told for told in manifest.stats["scenes"]}
    assert (told["train"]["scenes"], told["test"]["references"]) == (12, 3)
    yes = next(row for row in manifest.stats["answers"] if row["answer"] == "yes")
    assert (yes["test"], yes["test_share"]) == (3, 0.5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_corpus_holds_image_and_alt_text_of_every_row(root: Path, rows: Rows, split: str) -> None:
    samples = [s for tar in list_shards(root / "corpus" / split) for s in read_shard(tar)]
    assert [s.key for s in samples] == [row["key"] for row in rows[split]]
    for sample, row in zip(samples, rows[split], strict=True):
        assert sample.image is not None
        assert sha256(sample.image).hexdigest() == row["image_sha256"]
        assert sample.text == row["alt_text"]


def test_rows_are_what_is_drawn(root: Path, rows: Rows) -> None:
    drawn = drawing.draw_scene(scenes_recipe(root), "train", 5)
    assert rows["train"][5] == drawn.row


def killed_while_drawing(root: Path, number: int) -> int:
    """Builds in another process, which is killed at a scene; returns its status."""
    recipe = root / "recipe.yaml"
    root.mkdir()
    recipe.write_text(yaml.safe_dump(scenes_recipe(root).model_dump(mode="json")))
    code = (
        "import os, sys; from pathlib import Path\n"
        "from vila2data.build.write import write_build\n"
        "from vila2data.builders.scenes import builder, steps\n"
        "from vila2data.recipe import load_recipe\n"
        "steps._SCENES_PER_TASK = 4; draw = steps.draw_scene\n"
        "def drawn(recipe, split, number):\n"
        f"    if number == {number}: os.kill(os.getpid(), 9)\n"
        "    return draw(recipe, split, number)\n"
        "steps.draw_scene = drawn\n"
        f"places = ['corpus={root}/corpus', 'out={root}/builds']\n"
        f"write_build(builder.Scenes, load_recipe({str(recipe)!r}, places))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode


def test_a_killed_build_goes_on_and_is_the_same_by_any_number_of_workers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    assert killed_while_drawing(again, 9) == -signal.SIGKILL
    work = again / "builds" / "scenes" / ".1.0.0.partial" / "work" / "scenes"
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*.parquet")}
    assert sorted(path.name for path in finished) == [f"train-{n:07d}.parquet" for n in (0, 4)]
    kept = []
    pack = steps.pack

    def note(*arguments: Any, **options: Any) -> Any:
        kept.append({path: path.stat().st_mtime_ns for path in finished})
        return pack(*arguments, **options)

    monkeypatch.setattr(steps, "pack", note)
    monkeypatch.setattr(steps, "_SCENES_PER_TASK", 4)
    build_scenes(again, executor={"workers": 2})
    assert kept[0] == finished
    assert files_of(again) == files_of(root)


def test_a_build_that_stops_while_it_packs_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = steps.pack

    def stopped(items: Any, corpus: Path, **options: Any) -> Any:
        if corpus.name == "test":
            raise KeyboardInterrupt
        return pack(items, corpus, **options)

    monkeypatch.setattr(steps, "pack", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_scenes(tmp_path)
    monkeypatch.setattr(steps, "pack", pack)
    monkeypatch.setattr(steps, "draw_scene", None)  # nothing is drawn twice
    build_scenes(tmp_path)
    assert files_of(tmp_path) == files_of(root)


def test_another_build_of_the_same_images_shares_their_corpus(root: Path) -> None:
    before = files_of(root / "corpus")
    other = build_scenes(root, version="1.1.0", questions={"share": 1.0})
    assert files_of(root / "corpus") == before
    assert verify(other).problems == []


def make(recipe: ScenesRecipe, work: Path) -> steps.Made:
    return steps.make(recipe, work, lambda _: None)


def test_a_corpus_of_other_scenes_is_refused_before_any_is_drawn(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "draw_scene", None)
    said = (
        r"corpus was begun with other settings: image_side_px: 32 in the run, 24 now; "
        r"seed: 0 in the run, 1 now. Use another corpus, or remove this one"
    )
    with pytest.raises(RunRefused, match=said):
        make(scenes_recipe(root, seed=1, image_side_px=24), tmp_path / "work")


def test_a_corpus_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "train").mkdir(parents=True)
    (tmp_path / "corpus" / "train" / "00000.tar").write_bytes(b"theirs")
    with pytest.raises(RunRefused, match=r"corpus: holds images that are no scenes\. Use"):
        make(scenes_recipe(tmp_path), tmp_path / "work")
    assert (tmp_path / "corpus" / "train" / "00000.tar").read_bytes() == b"theirs"


def test_a_corpus_that_was_drawn_differently_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = drawing.draw_scene

    def drawn(recipe: ScenesRecipe, split: str, number: int) -> drawing.Drawn:
        found = draw(recipe, split, number)
        found.row["alt_text"] += "!"
        return found

    monkeypatch.setattr(steps, "draw_scene", drawn)
    with pytest.raises(RunRefused, match="train: holds scenes of the same keys that were drawn"):
        make(scenes_recipe(root), tmp_path / "work")


def test_attempts_that_were_drawn_anew_are_counted_by_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = drawing.draw_scene

    def drawn(recipe: ScenesRecipe, split: str, number: int) -> drawing.Drawn:
        refused = {"object_hidden": number, "no_room": 1} if number else {}
        return replace(draw(recipe, split, number), refused=refused)

    monkeypatch.setattr(steps, "draw_scene", drawn)
    made = make(scenes_recipe(tmp_path, train=3, test=0), tmp_path / "work")
    assert made.funnel == [
        FunnelStep("train scenes", 8, 3, {"no_room": 2, "object_hidden": 3}),
    ]


def test_settings_may_change_while_the_corpus_holds_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "draw_scene", None)
    for seed in (0, 1):
        with pytest.raises(TypeError, match="NoneType"):
            make(scenes_recipe(tmp_path, seed=seed), tmp_path / "work")
    told = json.loads((tmp_path / "corpus" / "run.json").read_text())
    assert told["shaping"]["seed"] == 1


def test_a_build_may_have_no_test_scenes_and_located_texts(tmp_path: Path) -> None:
    texts = {"reference": {"share": 1.0, "style": "located"}, "questions": {"share": 0.0}}
    build = build_scenes(tmp_path, train=3, test=0, **texts)
    assert read_manifest(build).configs == ["train"]
    assert verify(build).problems == []
    assert not (tmp_path / "corpus" / "test").exists()
    references = pq.read_table(build / "data" / "train")["reference"].to_pylist()
    assert all(text.endswith("].") for text in references)


def test_the_shipped_recipe_documents_every_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(find_recipe("nano/scenes").read_text())
    assert set(content) == set(ScenesRecipe.model_fields)
    for name in ("objects", "reference", "questions", "executor"):
        assert set(content[name]) == set(
            type(getattr(load_recipe("nano/scenes"), name)).model_fields
        )
    assert load_recipe("nano/scenes").problems() == []
    assert list(tmp_path.iterdir()) == []
