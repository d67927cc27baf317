"""A run that was stopped goes on as if it had not been."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_recipes import make_data, rows_of, train, weights_of, write_stage

from vila2data.errors import RunRefused

KILLS = 12
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(stage_file(folder, build))
    return folder / "out"


def stage_file(folder: Path, build: Path, **blocks: Any) -> Path:
    """24 samples, 4 in a step; a checkpoint after every other step."""
    rules = {"batch": 4, "warmup_ratio": 0.2}
    checkpoints = {"every_steps": 2, "keep": 2}
    return write_stage(
        folder / "t.yaml", build, optimisation=rules, checkpoints=checkpoints, **blocks
    )


class Stopped(Exception):
    pass


def stop_after(step: int) -> Any:
    def on_row(row: Any, steps: int) -> None:
        if row["step"] == step:
            raise Stopped

    return on_row


def assert_same(out: Path, whole: Path) -> None:
    assert rows_of(out) == rows_of(whole)
    for name in ("model.safetensors", "training.json", "config.json"):
        assert (out / "model" / name).read_bytes() == (whole / "model" / name).read_bytes(), name


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_stopped_run_goes_on_with_the_same_losses_to_the_same_weights(
    tmp_path: Path, build: Path, whole: Path, step: int
) -> None:
    file = stage_file(tmp_path, build)
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(step))
    seen: list[int] = []
    train(file, on_row=lambda row, steps: seen.append(row["step"]))
    begun = (step - 1) // 2 * 2  # the row of a step comes before its checkpoint
    assert seen == list(range(begun + 1, STEPS + 1))
    assert_same(tmp_path / "out", whole)
    assert sorted(p.name for p in (tmp_path / "out").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-6",
    ]


def test_a_row_of_several_steps_is_the_same_after_a_stop(tmp_path: Path, build: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    logging = {"every_steps": 4}
    train(stage_file(tmp_path / "whole", build, logging=logging))
    file = stage_file(tmp_path / "stopped", build, logging=logging)
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(4))
    train(file)
    rows = rows_of(tmp_path / "stopped" / "out")
    assert rows == rows_of(tmp_path / "whole" / "out")
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert sum(row["samples"] for row in rows) == 24


def test_a_half_written_checkpoint_is_never_taken_for_one(
    tmp_path: Path, build: Path, whole: Path
) -> None:
    file = stage_file(tmp_path, build)
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(4))
    out = tmp_path / "out"
    half = out / ".unfinished" / "checkpoint-4"
    shutil.copytree(out / "checkpoint-2", half)
    (half / "model.safetensors").write_bytes(b"cut")
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "los')
    train(file)
    assert_same(out, whole)
    assert not (out / ".unfinished").exists()


def test_another_micro_batch_goes_on_within_rounding(
    tmp_path: Path, build: Path, whole: Path
) -> None:
    file = stage_file(tmp_path, build)
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(3))
    train(file, "hardware.micro_batch=2", "checkpoints.keep=1")
    ended = weights_of(tmp_path / "out" / "model")
    for name, weight in weights_of(whole / "model").items():
        torch.testing.assert_close(ended[name], weight, rtol=1e-5, atol=1e-5)
    assert [row["samples"] for row in rows_of(tmp_path / "out")] == [4] * STEPS


def test_a_changed_recipe_or_model_is_refused_with_each_difference(
    tmp_path: Path, build: Path
) -> None:
    (tmp_path / "first").mkdir()
    train(write_stage(tmp_path / "first" / "t.yaml", build))
    model = tmp_path / "first" / "out" / "model"
    file = stage_file(tmp_path, build, model={"checkpoint": str(model)})
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(3))
    with pytest.raises(RunRefused) as told:
        train(file, "trains=[projector]", "seed=3", "feed.sources.0.cap=9")
    assert "feed.sources.0.cap: None in the run, 9 now" in str(told.value)
    assert "seed: 0 in the run, 3 now" in str(told.value)
    assert "trains: ['projector', 'language'] in the run, ['projector'] now" in str(told.value)
    assert str(told.value).endswith("Set them back, or give another `out`")
    text = (model / "generation_config.json").read_text()
    (model / "generation_config.json").write_text(text + "\n")
    with pytest.raises(RunRefused, match=r"initial\.checkpoint\.revision: sha256:.* in the run"):
        train(file)


def test_a_plan_that_was_exchanged_is_refused(tmp_path: Path, build: Path) -> None:
    file = stage_file(tmp_path, build)
    with pytest.raises(Stopped):
        train(file, on_row=stop_after(1))
    plan = tmp_path / "out" / "plan" / "plan.json"
    content = json.loads(plan.read_text())
    plan.write_text(json.dumps({**content, "fingerprint": "0"}))
    with pytest.raises(RunRefused, match="is not the plan that the run was begun with"):
        train(file)


# Imports once, then forks a child for every life, so that the kills fall into the work.
DRIVER = """
import json, os, sys, time, signal
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import vila2data.cli, vila2data.training.command, vila2data.training.run, vila2data.training.trainer
import transformers.models.llava.modeling_llava, transformers.models.clip.modeling_clip
import transformers.models.llama.modeling_llama, transformers.models.llava.processing_llava, datasets
for line in sys.stdin:
    recipe, limit_s, log = json.loads(line)
    began_s = time.monotonic()
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(output, 1); os.dup2(output, 2)
        sys.argv = ["vila2data", "train", recipe]
        try:
            vila2data.cli.main()
        except SystemExit as ended:
            os._exit(ended.code or 0)
        os._exit(0)
    while time.monotonic() - began_s < limit_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began_s]), flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_random_points_ends_with_the_same_losses_and_weights(
    tmp_path: Path, build: Path
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    output = tmp_path / "output"

    def life(file: Path, limit_s: float) -> tuple[int, float]:
        driver.stdin.write(json.dumps([str(file), limit_s, str(output)]) + "\n")
        driver.stdin.flush()
        code, life_s = json.loads(driver.stdout.readline())
        return code, life_s

    try:
        (tmp_path / "whole").mkdir()
        often = {"every_steps": 1, "keep": 2}
        whole = write_stage(
            tmp_path / "whole" / "t.yaml", build, optimisation={"batch": 4}, checkpoints=often
        )
        code, whole_s = life(whole, 100)
        assert code == 0, output.read_text()
        points, killed, runs, begun, in_writes = random.Random(0), 0, 0, set(), 0

        def is_enough() -> bool:
            """A busy machine may spend all kills on one side of the first checkpoint."""
            return killed >= KILLS and (len(begun) > 1 or killed >= 10 * KILLS)

        while not is_enough():
            folder = tmp_path / f"run-{runs}"
            runs += 1
            folder.mkdir()
            file = write_stage(
                folder / "t.yaml", build, optimisation={"batch": 4}, checkpoints=often
            )
            code, lives = -signal.SIGKILL, 0
            while code:
                limit_s = 100 if is_enough() else points.uniform(0.2, 1.0) * whole_s
                code, life_s = life(file, limit_s)
                lives += 1
                if not code and lives == 1:  # the first one may have been slowed down
                    whole_s = min(whole_s, life_s)
                assert code in (0, -signal.SIGKILL), output.read_text()
                killed += code != 0
                if code:
                    begun.add(len(list((folder / "out").glob("checkpoint-*"))))
                    in_writes += any((folder / "out").glob(".unfinished/checkpoint-*"))
            assert_same(folder / "out", tmp_path / "whole" / "out")
        assert len(begun) > 1, begun  # before and after the first checkpoint
        assert in_writes > 0
    finally:
        driver.kill()
        driver.communicate()
