"""`vila2data train` as a user meets it."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from making import write_recipe
from train_recipes import make_data, rows_of, train, write_stage
from typer.testing import CliRunner, Result

from vila2data.cli import app
from vila2data.training.command import marked


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_data(tmp_path_factory.mktemp("data"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_stage_from_the_command_line(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    dry = run(file, "--dry-run", "--set", "optimisation.batch=4")
    assert dry.exit_code == 0, dry.output
    assert "learning_rate: 0.001" in dry.stdout  # the resolved recipe
    assert "micro_batch: 4" in dry.stdout
    assert re.search(r"│ steps +│ 6 ", dry.stdout)
    assert "vision 0 of 23,936; projector 2,112 of 2,112" in dry.stdout
    first = dry.stdout.splitlines()[-1]
    assert first.startswith("<s> USER :<image>×16 ASSISTANT :⟦")
    assert first.endswith("</s>⟧")
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]

    done = run(file)
    assert done.exit_code == 0, done.output
    losses = [row["loss"] for row in rows_of(tmp_path / "out")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert re.search(r"│ samples +│ +24 │", done.stdout)
    assert "Where the rows went" in done.stdout
    assert (
        f"next: caption with it: --set recaption.engine.model={tmp_path}/out/model" in done.stdout
    )

    again = run(file)
    assert again.exit_code == 0
    assert again.stdout == f"{tmp_path}/out/model: is finished, nothing is left to do\n"


def test_the_log_has_a_line_a_step(tmp_path: Path, build: Path) -> None:
    train(write_stage(tmp_path / "t.yaml", build))
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        assert row["step"] == number
        assert set(row) == {
            "step", "loss", "learning_rate", "grad_norm", "samples", "images", "tokens",
            "trained_tokens", "skipped", "seconds",
        }  # fmt: skip
        assert row["seconds"] > 0


def test_a_run_goes_on_and_says_where(tmp_path: Path, build: Path) -> None:
    file = write_stage(tmp_path / "t.yaml", build, checkpoints={"every_steps": 1})
    with pytest.raises(ZeroDivisionError):
        train(file, on_row=lambda row, steps: 1 // (3 - row["step"]))
    done = run(file)
    assert done.exit_code == 0, done.output
    assert re.search(r"│ goes on after step +│ 2 ", done.stdout)
    assert re.search(r"of these in earlier runs +│ +2 │", done.stdout)
    assert [row["step"] for row in rows_of(tmp_path / "out")] == [1, 2, 3]


def test_tensorboard_is_an_option(tmp_path: Path, build: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(write_stage(tmp_path / "t.yaml", build), "logging.tensorboard=true")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    told = [event.value for event in events.Scalars("train/loss")]
    losses = [row["loss"] for row in rows_of(tmp_path / "out")]
    assert told == pytest.approx(losses, rel=1e-6)
    assert "train/tokens" in events.Tags()["scalars"]


def test_images_may_be_read_by_other_processes(tmp_path: Path, build: Path) -> None:
    for name, workers in (("none", 0), ("one", 1)):
        (tmp_path / name).mkdir()
        train(write_stage(tmp_path / name / "t.yaml", build), f"hardware.workers={workers}")
    assert rows_of(tmp_path / "one" / "out") == rows_of(tmp_path / "none" / "out")


@pytest.mark.slow
def test_mistakes_exit_with_2_and_one_line(
    cli: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, build: Path
) -> None:
    file = write_stage(tmp_path / "t.yaml", build)
    done = cli("train", file, "--set", "trains=[]")
    assert done.returncode == 2
    assert "trains: freezes everything" in done.stderr
    assert "Traceback" not in done.stderr
    captions = write_recipe(tmp_path / "captions.yaml")
    done = cli("train", captions)
    assert done.returncode == 2
    assert "is a recipe for `vila2data build`: it has the key 'builder'" in done.stderr
    for command in ("build", "recaption"):
        done = cli(command, file)
        assert done.returncode == 2
        assert "is a recipe for `vila2data train`: it has the key 'feed'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_needs_no_torch(tmp_path: Path) -> None:
    import sys

    code = (
        "import sys, vila2data.cli\n"
        "sys.argv = ['vila2data', 'train', '--help']\n"
        "try: vila2data.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'duckdb', 'pyarrow'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "goes on where it stopped" in done.stdout


class _Words:
    """A tokenizer whose tokens are numbers."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def convert_tokens_to_ids(self, token: str) -> int:
        return 0


class _Processor:
    tokenizer = _Words()
    image_token = "<image>"


def test_trained_tokens_are_marked() -> None:
    ids, trained = [7, 0, 0, 0, 8, 9, 5, 5], [False] * 5 + [True] * 2 + [False]
    assert marked(ids, trained, _Processor()) == "7<image>×3 8⟦9 5⟧5"
