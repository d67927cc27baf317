"""Several processes on one run: parts of it, and the claims that keep them apart."""

import functools
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from making import do, make_corpus, parquet_hashes, write_recipe

from vila2data.corpus.read import list_shards
from vila2data.errors import BadInput, RunRefused
from vila2data.recaption.claims import claims_of
from vila2data.recaption.ledger import Ledger
from vila2data.recaption.run import Part, plan, run
from vila2data.recipe import load_recipe

FAKE = {"name": "fake", "cut_share": 0.5}


def test_parts_hold_every_shard_once() -> None:
    shards = [Path(f"{n}.tar") for n in range(11)]
    for count in (1, 2, 3, 8, 20):
        parts = [Part(index, count).of(shards) for index in range(count)]
        assert sorted(functools.reduce(operator.iadd, parts, [])) == sorted(shards)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_part_that_there_is_not_is_refused(index: int, count: int) -> None:
    with pytest.raises(BadInput, match=f"shard index {index} of {count}"):
        Part(index, count)


def test_commands_with_parts_give_the_build_of_one_command(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    make_corpus(tmp_path / "corpus", 20, shards=5)
    expected = parquet_hashes(do(write_recipe(tmp_path / "whole.yaml", out=str(tmp_path / "a"))))
    settings = {"run": str(tmp_path / "parts")}
    file = write_recipe(tmp_path / "parts.yaml", out=str(tmp_path / "b"), recaption=settings)
    begun = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "vila2data",
                "recaption",
                file,
                "--shard-index",
                str(index),
                "--num-shards",
                "3",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in (2, 0, 1)
    ]
    for process in begun:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    done = cli("recaption", file, "--shard-index", 1, "--num-shards", 3)
    assert "5 of the run's 5 shards are finished" in done.stderr + done.stdout
    assert cli("build", file).returncode == 0
    assert parquet_hashes(tmp_path / "b" / "coyo-recap" / "1.0.0") == expected
    assert not list((tmp_path / "parts" / "shards").glob(".*"))


def test_two_commands_with_one_part_and_two_without_are_kept_apart(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4, shards=2)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"))
    ledger = Ledger.create(recipe.recaption.run, plan_shaping(recipe))
    for part, told in ((Part(1, 2), "part 1-of-2 of this run"), (Part(), "works on this run")):
        with ledger.locked(part.name), pytest.raises(RunRefused, match=told):
            run(recipe.recaption, recipe.corpus, seed=0, part=part)


def plan_shaping(recipe: Any) -> dict[str, Any]:
    from vila2data.recaption.run import shaping_of

    return shaping_of(recipe.recaption, seed=0)


def test_a_shard_that_another_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"))
    shards = list_shards(recipe.corpus)
    ledger = Ledger.create(recipe.recaption.run, plan_shaping(recipe))
    with ledger.locked("another"):
        claimed = claims_of(ledger, None).of(shards[1:2])
        assert list(claimed) == shards[1:2]
        part = Part(0, 1)
        with pytest.raises(RunRefused, match="1 of 3 shards are not finished"):
            run(recipe.recaption, recipe.corpus, seed=0, part=part)
        assert [path.stem for path in plan(recipe.recaption, recipe.corpus, seed=0).todo] == [
            "00001"
        ]


def test_a_claim_goes_with_its_process(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    log = tmp_path / "log"
    slow = {**FAKE, "delay_s": 5.0, "log": str(log)}
    file = write_recipe(tmp_path / "r.yaml", recaption={"engine": slow})
    first = subprocess.Popen(
        [sys.executable, "-m", "vila2data", "recaption", file, "--num-shards", "2"]
    )
    until_s = time.monotonic() + 60
    while not (log.is_file() and log.read_text()):
        assert time.monotonic() < until_s
        assert first.poll() is None
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    recipe = load_recipe(file, ["recaption.engine.delay_s=0"])
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 6


def test_claims_that_killed_processes_left_on_finished_shards_are_removed(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    recipe: Any = load_recipe(write_recipe(tmp_path / "r.yaml"))
    run(recipe.recaption, recipe.corpus, seed=0)
    dead, living = (recipe.recaption.run / "shards" / f".0000{n}.lock" for n in (0, 2))
    dead.touch()
    with FileLock(living):
        run(recipe.recaption, recipe.corpus, seed=0)
        assert not dead.exists()
        assert living.exists()
