"""`vila2data evaluate` as a user meets it."""

import json

import pytest
import typer
from scene_rows import make_scenes
from typer.testing import CliRunner

from vila2data.errors import BadInput
from vila2data.training.evaluation import command as command_module
from vila2data.training.evaluation import lmms
from vila2data.training.evaluation.lmms import Score

app = typer.Typer()
app.command()(command_module.command)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("made"), 3)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_one_table_with_values_errors_and_blind_figures(made, tiny_llava, tmp_path):
    where = ["--scenes", made[0], "--corpus", made[1], "--max-tokens", 6, "--threads", 1]
    done = run(tiny_llava, *where, "--samples", 2, "--out", tmp_path / "e.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1] == f"{tiny_llava} on {made[0]}: 2 scenes"
    [words] = [line for line in done.stdout.splitlines() if line.startswith("│ words ")]
    assert [cell.strip() for cell in words.split("│")[1:-1]] == ["words", "6", "0", "–", "2"]
    [recall] = [line for line in done.stdout.splitlines() if line.startswith("│ object_recall")]
    cells = [cell.strip() for cell in recall.split("│")[1:-1]]
    assert cells[3] == "0"  # what another scene's captions would get
    assert "│ blind_" not in done.stdout

    again = run(tiny_llava, *where, "--samples", 2, "--out", tmp_path / "e.json", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "e.json").read_text())


def test_a_dry_run_says_what_would_be_done(made, tiny_llava):
    done = run(
        tiny_llava, "--scenes", made[0], "--corpus", made[1], "--benchmarks", "gqa", "--dry-run"
    )
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first == f"would caption and question 3 scenes of {made[0]}"
    assert second.endswith(
        f"-m lmms_eval --model llava_hf --model_args pretrained={tiny_llava} --tasks gqa "
        "--batch_size 1 --output_path FOLDER"
    )


def test_benchmarks_are_one_table_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(lmms, "run_benchmarks", lambda *a, **k: [Score("gqa", 62.4, 0.5)])
    done = run("some/model", "--benchmarks", "gqa", "--out", tmp_path / "e.json")
    assert done.exit_code == 0, done.output
    [row] = [line for line in done.stdout.splitlines() if line.startswith("│ GQA")]
    assert [cell.strip() for cell in row.split("│")[1:-2]] == ["GQA", "62.4", "0.5", "gqa"]
    expected = [{"benchmark": "gqa", "value": 62.4, "standard_error": 0.5}]
    assert json.loads((tmp_path / "e-benchmarks.json").read_text()) == expected
    told = run("some/model", "--benchmarks", "gqa", "--json")
    assert json.loads(told.stdout) == {"benchmarks": expected}


@pytest.mark.parametrize("given", [[], ["--scenes", "s"], ["--corpus", "c", "--benchmarks", "gqa"]])
def test_half_of_what_is_needed_is_refused(given):
    done = run("model", *given)
    assert isinstance(done.exception, BadInput)
    assert str(done.exception) == "give --scenes and --corpus, or --benchmarks, or all three"
