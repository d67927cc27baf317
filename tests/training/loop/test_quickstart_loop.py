"""`vila2data quickstart`: a real loop of tiny models from end to end, and the same loop killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from loop_making import draw_scenes, make_foundation, read_loop, write_loop
from typer.testing import CliRunner, Result

from vila2data.cli import app
from vila2data.conversation import find_special
from vila2data.training import quickstart
from vila2data.training.loop.plan import Planner
from vila2data.training.loop.recipe import setting

pytestmark = pytest.mark.slow

ROUNDS = {"max_rounds": 1, "specialist": False, "control": False}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose scenes are few and drawn, and whose models have random weights."""
    folder = tmp_path_factory.mktemp("recipes")
    return write_loop(folder, foundation=make_foundation(folder / "foundation"), loop=ROUNDS)


def predraw(file: Path, out: Path) -> Path:
    """Makes the scenes, so that a loop finds them made; returns the seed's folder."""
    planner = Planner(read_loop(file, setting("out", out)), 0)
    for stage in planner.base().stages[:2]:
        draw_scenes(stage.arguments)
    return planner.folder


def quickstarted(file: Path, out: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "_RECIPE", str(file))
        return CliRunner().invoke(app, ["quickstart", "--out", str(out)])


@pytest.fixture(scope="module")
def made(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a quickstart, and what it said."""
    out = tmp_path_factory.mktemp("made") / "q"
    predraw(file, out)
    done = quickstarted(file, out)
    assert done.exit_code == 0, (done.output, done.exception)
    return out, done.stdout


def rows_of(out: Path) -> Any:
    content = json.loads((out / "seed-0" / "results.json").read_text())
    return [{**row, "seconds": None} for row in content["rows"]]


def test_it_goes_from_scenes_to_a_build_that_loads(made: tuple[Path, str]) -> None:
    out, told = made
    build = out / "seed-0" / "builds" / "coyo-recap" / "1.1.0"
    rows = load_dataset(str(build), split="train")
    assert len(rows) == 16
    assert not any(find_special(m["content"]) for row in rows for m in row["messages"][1:])
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "results.md").is_file()
    shown = [line.split()[2] for line in told.splitlines() if line.startswith("$ vila2data ")]
    stages = ["train", "evaluate", "train", "train", "evaluate"]
    again = ["recaption", "build", "train", "train", "evaluate"]
    scenes = ["build", "build"]
    assert shown == ["loop", *scenes, *stages, *again, "verify", "stats", "report"]
    assert f"The build: {build}" in told
    assert f"{build}: ok (checked" in told


def test_it_shows_held_out_captions_before_and_after(made: tuple[Path, str]) -> None:
    _, told = made
    titles = [line for line in told.splitlines() if line.startswith("Held-out scene ")]
    assert titles == [f"Held-out scene test-0000{number}" for number in range(3)]
    first = told[told.index(titles[0]) : told.index(titles[1])]
    assert [w for w in ("alt-text", "VILA_0", "VILA_1", "VILA_2") if f"│ {w} " in first] == [
        "alt-text",
        "VILA_0",
        "VILA_1",
    ]
    assert "│ alt-text │ a " in first


def test_it_shows_objects_beside_those_of_the_blind(made: tuple[Path, str]) -> None:
    out, told = made
    table = told[told.index("Objects in captions of held-out scenes") :]
    recall = rows_of(out)[2]["figures"]["object_recall"]["value"]
    (row,) = [line for line in table.splitlines() if line.startswith("│ VILA_1 ")]
    assert len(row.split("│")) == 7
    assert row.split("│")[4].strip() == f"{recall:g}"


def test_the_rows_agree_with_the_build_and_the_models(made: tuple[Path, str]) -> None:
    seed = made[0] / "seed-0"
    base, first, later = rows_of(made[0])
    assert [row["round"] for row in (base, first, later)] == ["base", "VILA_0", "VILA_1"]
    manifest = json.loads((seed / "builds/coyo-recap/1.1.0/build.json").read_text())
    (length,) = [s for s in manifest["stats"]["captions"] if s["config"] == "round1"]
    assert later["words"]["captions"] == length["captions"]
    assert later["words"]["mean"] == pytest.approx(length["mean_words"] or 0, abs=0.005)
    assert later["words"]["deviation"] == pytest.approx(length["std_words"] or 0, abs=0.005)
    assert length["captioners"] in (None, "VILA_0")
    training = json.loads((seed / "runs/VILA_1/pretrain/model/training.json").read_text())
    sources = [(s["data_set"], s["config"], s.get("column")) for s in training["sources"]]
    assert sources == [("coyo-recap", "conversations", None), ("scenes", "train", "reference")]
    revisions = {row["revision"] for row in (base, first, later)}
    assert len(revisions) == 3
    assert training["initial"]["checkpoint"]["revision"] == base["revision"]


def test_a_second_call_makes_nothing_anew(file: Path, made: tuple[Path, str]) -> None:
    out, _ = made
    before = (out / "seed-0" / "stages.json").read_text()
    done = quickstarted(file, out)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "$ vila2data train" not in done.stdout
    assert (out / "seed-0" / "stages.json").read_text() == before


def killed_once_there_is(file: Path, out: Path, sign: Path) -> None:
    """Runs a loop until ``sign`` appears, and kills it in the middle of its work."""
    loop = subprocess.Popen(
        [sys.executable, "-m", "vila2data", "loop", str(file), "--set", setting("out", out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline_s = time.monotonic() + 100
    while not sign.exists():
        assert loop.poll() is None, loop.communicate()[1].decode()
        assert time.monotonic() < deadline_s, f"{sign} did not appear"
        time.sleep(0.005)
    loop.send_signal(signal.SIGKILL)
    loop.communicate()


def test_a_loop_that_is_killed_within_stages_ends_with_the_same_results(
    file: Path, made: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    seed = predraw(file, out)
    killed_once_there_is(file, out, seed / "runs" / "VILA_0" / "pretrain" / "checkpoint-2")
    killed_once_there_is(file, out, seed / "builds" / "coyo-recap" / ".1.1.0.partial")
    arguments = ["loop", str(file), "--set", setting("out", out)]
    deadline_s = time.monotonic() + 20
    done = CliRunner().invoke(app, arguments)
    while "another process is building" in str(done.exception) and time.monotonic() < deadline_s:
        time.sleep(0.1)  # the build's process ends a moment after the loop's
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert rows_of(out) == rows_of(made[0])
