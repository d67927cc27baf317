"""Storages that fail, commands that are killed: the run ends right, and holds each row once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_storage import FAULTS, FaultyStorage
from making import do, parquet_hashes, write_recipe
from storing import put_corpus, recipe_at, rows_of

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.errors import BadInput, RunFailed, RunRefused
from vila2data.recaption.run import Part, run
from vila2data.recipe import load_recipe
from vila2data.storage import RemotePath
from vila2data.storage.attempts import TRIES_VARIABLE, persistently

FAKE = {"name": "fake", "cut_share": 0.5}


@pytest.fixture
def corpus(tmp_path: Path, storage: FaultyStorage) -> RemotePath:
    return put_corpus(storage.url("corpus"), tmp_path / "corpus", 12, shards=4)


def expected_of(tmp_path: Path) -> dict[str, str]:
    return parquet_hashes(do(write_recipe(tmp_path / "local.yaml", recaption={"engine": FAKE})))


def built(recipe: Any) -> dict[str, str]:
    return parquet_hashes(write_build(CoyoRecap, recipe))


@pytest.mark.parametrize("fault", FAULTS)
def test_requests_that_fail_now_and_then_change_nothing(
    tmp_path: Path, storage: FaultyStorage, corpus: RemotePath, fault: str
) -> None:
    recipe: Any = load_recipe(recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run")))
    storage.fail(fault, share=0.25)
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 12
    found = built(recipe)
    assert len(storage.faults()) > 3
    storage.heal()
    assert found == expected_of(tmp_path)
    assert sorted(row["key"] for row in rows_of(recipe.recaption.run)) == [
        f"{number:05d}" for number in range(12)
    ]


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_a_storage_that_takes_no_shard_ends_the_run_and_leaves_nothing_half(
    tmp_path: Path, storage: FaultyStorage, corpus: RemotePath, fault: str
) -> None:
    recipe: Any = load_recipe(recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run")))
    storage.fail(fault, method="PUT", key="shards/0000[123]")
    with pytest.raises(RunFailed, match=r"nothing finished is lost: run the same command again"):
        run(recipe.recaption, recipe.corpus, seed=0)
    assert storage.keys("run/shards/") == ["run/shards/00000.parquet"]
    storage.heal()
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 12
    assert built(recipe) == expected_of(tmp_path)


def test_a_storage_that_stays_down_ends_the_command_in_one_line(
    tmp_path: Path, storage: FaultyStorage, corpus: RemotePath, cli: Callable[..., Any]
) -> None:
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run"))
    storage.is_down = True
    ended = cli("recaption", file, env=os.environ | {TRIES_VARIABLE: "2"})
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {corpus}: the storage failed 2 times, at last with: ")
    assert line.endswith("nothing finished is lost: run the same command again when it answers")


def start(file: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "vila2data", "recaption", str(file), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(found: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until_s = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until_s
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_kill_9_then_the_same_recipe_goes_on_and_repeats_no_finished_shard(
    tmp_path: Path, storage: FaultyStorage, corpus: RemotePath
) -> None:
    slow = {**FAKE, "delay_s": 0.8, "log": str(tmp_path / "log")}
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run"), engine=slow)
    quick: Any = load_recipe(file, ["recaption.engine.delay_s=0"])
    first = start(file)
    wait_for(lambda: bool(storage.keys("run/shards/")), first)
    with pytest.raises(RunRefused, match="s3://bucket/run: another process works on this run"):
        run(quick.recaption, quick.corpus, seed=0)
    assert first.poll() is None, first.communicate()
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = storage.keys("run/shards/")
    assert 0 < len(finished) < 4
    (tmp_path / "log").write_text("")
    assert run(quick.recaption, quick.corpus, seed=0).read == 12
    asked = {line.split()[1] for line in (tmp_path / "log").read_text().splitlines()}
    assert asked
    assert not {f"run/shards/{int(key) // 3:05d}.parquet" for key in asked} & set(finished)
    assert built(quick) == expected_of(tmp_path)
    assert storage.keys("run/claims/") == []


def test_parts_share_a_run_and_take_over_the_claims_of_a_killed_one(
    tmp_path: Path, storage: FaultyStorage, corpus: RemotePath
) -> None:
    slow = {**FAKE, "delay_s": 5.0, "log": str(tmp_path / "log")}
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run"), engine=slow)
    first = start(file, "--shard-index", "0", "--num-shards", "2")
    wait_for((tmp_path / "log").is_file, first)
    held = storage.keys("run/claims/")
    assert held
    quick: Any = load_recipe(file, ["recaption.engine.delay_s=0"])
    # A run in other parts leaves alone what a living one claims, and does what a dead one claimed.
    with pytest.raises(RunRefused, match="of 4 shards are not finished"):
        run(quick.recaption, quick.corpus, seed=0)
    assert storage.keys("run/claims/") == held
    first.kill()
    first.wait()
    counts = [run(quick.recaption, quick.corpus, seed=0, part=Part(n, 3)).read for n in range(3)]
    assert sum(counts) == 12
    assert built(quick) == expected_of(tmp_path)


def test_credentials_that_are_refused_are_bad_input_at_once() -> None:
    asked: list[int] = []

    def refuse() -> None:
        asked.append(1)
        raise PermissionError("Access Denied")

    with pytest.raises(BadInput, match=r"s3://b/run: the storage refuses: Access Denied; its cred"):
        persistently("s3://b/run", refuse)
    assert asked == [1]


def test_tries_have_pauses_between_them_that_grow() -> None:
    pauses: list[float] = []

    def fail() -> None:
        raise TimeoutError("slow")

    with pytest.raises(RunFailed, match="s3://b: the storage failed 9 times, at last with: slow"):
        persistently("s3://b", fail, tries=9, sleep=pauses.append)
    assert len(pauses) == 8
    assert pauses[0] <= 1
    assert 15 <= pauses[-1] <= 30


def test_tries_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRIES_VARIABLE, "many")
    with pytest.raises(BadInput, match=f"{TRIES_VARIABLE}: must be a number above 0, not 'many'"):
        persistently("s3://b", int)
