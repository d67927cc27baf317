"""Several processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_recipes import make_data, rows_of, train, weights_of, write_stage

from vila2data.errors import BadInput, RunRefused
from vila2data.recipe import parse_recipe
from vila2data.training.hardware import deepspeed_config, fsdp_config, set_up
from vila2data.training.processes import Processes
from vila2data.training.recipe import TrainRecipe

PLUGIN = Path(__file__).parent.parent / "plugin"
RECORDING = PLUGIN / "recording_train.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SEVERAL = Processes(0, 2, "cuda")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_data(tmp_path_factory.mktemp("data"))


def launch(launcher: list[str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def stage_file(folder: Path, build: Path, **blocks: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return write_stage(
        folder / "t.yaml",
        build,
        hardware={"micro_batch": 2},
        checkpoints={"every_steps": 1},
        **blocks,
    )


@pytest.mark.slow
def test_two_processes_train_as_one_also_when_they_are_killed_and_go_on(
    tmp_path: Path, build: Path
) -> None:
    alone = stage_file(tmp_path / "alone", build)
    train(alone)
    file, notes = stage_file(tmp_path / "two", build), tmp_path / "notes"
    killed = launch(TORCHRUN, RECORDING, file, notes, 2)
    assert killed.returncode != 0
    two = tmp_path / "two" / "out"
    assert {p.name for p in two.glob("checkpoint-*")} >= {"checkpoint-1"}
    assert not (two / "model").exists()
    ended = launch(TORCHRUN, RECORDING, file, notes)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("goes on after step") == 1  # the first process alone speaks
    assert ended.stdout.count("last loss") == 1
    for mine, theirs in zip(rows_of(two), rows_of(tmp_path / "alone" / "out"), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=1e-4)
        for count in ("samples", "images", "tokens", "trained_tokens", "skipped"):
            assert mine[count] == theirs[count]
    weights = weights_of(two / "model")
    for name, weight in weights_of(tmp_path / "alone" / "out" / "model").items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    taken: dict[int, dict[int, list[int]]] = {}
    for rank in (0, 1):
        for line in notes.with_suffix(f".{rank}").read_text().splitlines():
            row = json.loads(line)
            taken.setdefault(row["step"], {})[rank] = row["taken"]
    assert sorted(taken) == [0, 1, 2]
    for step, by_rank in taken.items():
        assert len(by_rank[0]) == len(by_rank[1]) == 4
        assert sorted(by_rank[0] + by_rank[1]) == list(range(step * 8, step * 8 + 8))


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one_and_is_saved_as_one(
    tmp_path: Path, build: Path
) -> None:
    train(stage_file(tmp_path / "alone", build))
    file = stage_file(tmp_path / "two", build)
    done = launch(TORCHRUN, PLUGIN / "sharded_train.py", file)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, two = tmp_path / "alone" / "out", tmp_path / "two" / "out"
    assert (two / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()
    for mine, theirs in zip(rows_of(two), rows_of(alone), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    whole, weights = weights_of(alone / "model"), weights_of(two / "model")
    assert set(weights) == set(whole)
    for name, weight in whole.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    assert (two / "model" / "config.json").read_text() == (
        alone / "model" / "config.json"
    ).read_text()


@pytest.mark.slow
def test_a_mistake_is_told_once_and_nothing_is_left(tmp_path: Path, build: Path) -> None:
    file = stage_file(tmp_path / "wrong", build, trains=["projector"])
    done = launch(TORCHRUN, "-m", "vila2data", "train", file, "--set", "hardware.micro_batch=8")
    assert done.returncode != 0
    told = "hardware.micro_batch: 8 × 2 processes do not divide optimisation.batch 8"
    assert done.stderr.count(told) == 1
    assert "BadInput" not in done.stderr  # a traceback of ours; torchrun has one of its own
    assert "typer" not in done.stderr
    assert not (tmp_path / "wrong" / "out").exists()


def recipe_of(tmp_path: Path, build: Path, *overrides: str) -> TrainRecipe:
    return parse_recipe(TrainRecipe, stage_file(tmp_path / "r", build), overrides)


@pytest.mark.parametrize(
    ("processes", "sharding", "strategy", "note"),
    [
        (Processes(0, 1, "cpu"), "deepspeed-stage3", "none", "deepspeed stage3 not used: no GPU"),
        (Processes(0, 2, "cpu"), "fsdp", "ddp", "fsdp not used: no GPU"),
        (Processes(0, 1, "cuda"), "deepspeed-stage2", "none", "deepspeed stage2 not used: one process"),
        (Processes(0, 1, "cuda"), "fsdp", "none", "fsdp not used: one process"),
        (SEVERAL, "deepspeed-stage2", "deepspeed stage2", ""),
        (SEVERAL, "fsdp", "fsdp", ""),
        (SEVERAL, "null", "ddp", ""),
    ],
)  # fmt: skip
def test_sharding_is_used_where_it_can_be_and_else_said(
    tmp_path: Path, build: Path, processes: Processes, sharding: str, strategy: str, note: str
) -> None:
    setup = set_up(recipe_of(tmp_path, build, f"hardware.sharding={sharding}"), processes)
    assert (setup.strategy, setup.note) == (strategy, note)
    assert setup.precision == ("bfloat16" if processes.device == "cuda" else "float32")


def test_the_batch_is_that_of_all_processes(tmp_path: Path, build: Path) -> None:
    recipe = recipe_of(tmp_path, build)
    for count, accumulation in ((1, 4), (2, 2), (4, 1)):
        assert set_up(recipe, Processes(0, count, "cpu")).accumulation == accumulation
    with pytest.raises(BadInput, match=r"2 × 3 processes do not divide .*; none fits"):
        set_up(recipe, Processes(0, 3, "cpu"))
    with pytest.raises(BadInput, match=r"2 × 8 processes do not divide .*; fitting: 1"):
        set_up(recipe, Processes(0, 8, "cpu"))


def test_a_launcher_that_shards_in_its_own_way_is_refused(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match=r"say it in hardware\.sharding instead"):
        train(stage_file(tmp_path / "r", build))


def test_a_checkpoint_of_another_strategy_is_refused(tmp_path: Path, build: Path) -> None:
    file = stage_file(tmp_path / "r", build)
    with pytest.raises(ZeroDivisionError):
        train(file, on_row=lambda row, steps: 1 // (2 - row["step"]))
    manifest = tmp_path / "r" / "out" / "checkpoint-1" / "training.json"
    content = json.loads(manifest.read_text())
    content["setup"]["strategy"] = "deepspeed stage3"
    manifest.write_text(json.dumps(content))
    with pytest.raises(RunRefused, match="was written with strategy 'deepspeed stage3'"):
        train(file)


def test_layers_are_sharded_where_the_model_can_be_split(build: Path) -> None:
    from tiny_models import tiny_spec

    from vila2data.training.architectures.assemble import load

    model, _ = load(tiny_spec(build.parents[2] / "tiny", "llava"))
    layers = fsdp_config(model)["transformer_layer_cls_to_wrap"]
    assert "LlamaDecoderLayer" in layers
    assert "CLIPEncoderLayer" in layers


@pytest.mark.parametrize("stage", [2, 3])
def test_the_deepspeed_config_takes_the_trainers_values(tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=True,
        report_to="none",
    )
    config = HfTrainerDeepSpeedConfig(deepspeed_config(stage))
    config.trainer_config_process(arguments)
    assert config.mismatches == []
    assert config.config["train_micro_batch_size_per_gpu"] == 4
    assert config.config["gradient_accumulation_steps"] == 2
    assert config.config["train_batch_size"] == 8
    assert config.config["gradient_clipping"] == 1.0
    assert config.config["bf16"]["enabled"] is True
    assert config.is_zero3() == (stage == 3)


def test_deepspeed_that_is_not_installed_is_told(tmp_path: Path, build: Path) -> None:
    from importlib.util import find_spec

    from vila2data.errors import MissingExtra
    from vila2data.training.hardware import sharding_arguments

    if find_spec("deepspeed") is not None:
        pytest.skip("it is")
    recipe = recipe_of(tmp_path, build, "hardware.sharding=deepspeed-stage2")
    with pytest.raises(MissingExtra, match=r"pip install 'vila2data\[deepspeed\]'"):
        sharding_arguments(recipe, set_up(recipe, SEVERAL), None)
