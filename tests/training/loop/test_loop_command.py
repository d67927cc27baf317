"""`vila2data loop` as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from loop_making import (
    Pretended,
    read_loop,
    settings_of,
    write_loop,
)
from scene_rows import drawn_rows, write_corpus
from typer.testing import CliRunner, Result

from vila2data.cli import app
from vila2data.errors import RunFailed
from vila2data.runfolder import locked
from vila2data.training.loop.calls import call_here
from vila2data.training.loop.seeds import run_seed


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["loop", *map(str, arguments)])


def test_a_dry_run_shows_every_command_and_writes_nothing(tmp_path: Path) -> None:
    file = write_loop(tmp_path, seeds=[3, 4], loop={"max_rounds": 1})
    done = run(file, "--dry-run")
    assert done.exit_code == 0, done.output
    commands = [line for line in done.stdout.splitlines() if line.startswith("$ vila2data ")]
    assert len(commands) == 27
    assert commands[0].startswith(f"$ vila2data build {tmp_path}/scenes.yaml --set seed=3 ")
    assert "at most 1 rounds" in done.stdout
    assert "the same for seeds 4" in done.stdout
    assert not (tmp_path / "out").exists()
    one = run(file, "--dry-run", "--seed", "4")
    assert "--set seed=4 " in one.stdout
    assert "the same for seeds" not in one.stdout


def test_a_seed_that_is_none_of_the_recipe_s_is_refused(tmp_path: Path) -> None:
    done = run(write_loop(tmp_path, seeds=[3, 4]), "--seed", "5")
    assert done.exit_code == 1
    assert str(done.exception) == "--seed 5: is none of the recipe's seeds; they are 3, 4"


def test_results_alone_run_nothing(tmp_path: Path) -> None:
    file = write_loop(tmp_path, loop={"max_rounds": 1, "specialist": False, "control": False})
    recipe = read_loop(file)
    assert run(file, "--results").stdout == ""
    run_seed(recipe, 0, call=Pretended(scores={"VILA_1": 0.75}))
    (tmp_path / "out" / "seed-0" / "results.json").unlink()
    done = run(file, "--results")
    assert done.exit_code == 0, done.output
    assert "$ vila2data" not in done.stdout
    assert "75.0 (2.0)" in done.stdout
    assert (tmp_path / "out" / "results.md").is_file()


def test_a_mistake_in_a_stage_is_told_before_anything_is_written(tmp_path: Path) -> None:
    file = write_loop(tmp_path)
    done = run(file, "--set", "stages.specialist.set={optimisation.lr: 1}")
    assert "optimisation.lr: is no key here; known: learning_rate, batch" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_command_that_ends_with_a_status_fails_the_loop(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"^`vila2data corpus check \S+/c` ended with status 1$"):
        call_here(["corpus", "check", str(write_corpus_with_a_broken_image(tmp_path / "c"))])


def write_corpus_with_a_broken_image(folder: Path) -> Path:
    rows = drawn_rows(1)
    return write_corpus(folder, rows, {rows[0]["key"]: b"no image"})


@pytest.mark.slow
def test_seeds_side_by_side_that_fail_are_all_told(tmp_path: Path) -> None:
    """Another process works on one; another makes the scenes of the other."""
    file = write_loop(tmp_path, seeds=[0, 1], at_once=2, loop={"max_rounds": 1})
    builds = tmp_path / "out" / "seed-1" / "builds" / "scenes"
    builds.mkdir(parents=True)
    (tmp_path / "out" / "seed-0" / "kept").mkdir(parents=True)
    with locked(tmp_path / "out" / "seed-0"), FileLock(builds / ".1.0.0.lock"):
        done = subprocess.run(
            [sys.executable, "-m", "vila2data", "loop", str(file)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert "error: seed 0: " in done.stderr
    assert "seed-0: another process works on this run; seed 1: " in done.stderr
    assert "seed-1/builds/scenes/1.0.0: another process is building" in done.stderr
    assert done.stderr.count("\n") == 1
    assert f"seed 1: vila2data build {tmp_path}/scenes.yaml out=" in done.stdout
    log = (tmp_path / "out" / "seed-1" / "log.txt").read_text()
    assert f"$ vila2data build {tmp_path}/scenes.yaml --set seed=1 " in log


def test_settings_are_read_back_from_commands() -> None:
    arguments = ["build", "r", "--set", "a.b=1", "--set", "a.b=2", "--set", "c='1.0'"]
    assert settings_of(arguments) == {"a.b": 2, "c": "1.0"}
