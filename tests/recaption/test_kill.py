"""kill -9 at random points of `vila2data recaption` and `vila2data build`, then the same again."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from making import do, make_corpus, parquet_hashes, write_recipe

from vila2data.build.verify import verify
from vila2data.engines.replay import ReplayConfig

KILLS = 20
SAMPLES, SHARDS = 48, 6

# Imports once, then forks a child for every start, so that the kills fall into the work rather than
# into Python's own start. Says to its parent what each child's life was like.
DRIVER = """
import json, os, signal, sys, time
import vila2data.build.write, vila2data.commands, vila2data.cli, vila2data.console
import vila2data.builders.coyo_recap, datasets, duckdb, PIL.Image, PIL.JpegImagePlugin

def work(recipe):
    for command in ("recaption", "build"):
        sys.argv = ["vila2data", command, recipe]
        try:
            vila2data.cli.main()
        except SystemExit as ended:
            if ended.code:
                os._exit(ended.code)
    os._exit(0)

for line in sys.stdin:
    recipe, limit_s, log, run = json.loads(line)
    shards = os.path.join(run, "shards")
    finished = sorted(n for n in os.listdir(shards) if n[0] != ".") if os.path.isdir(shards) else []
    began_s = time.monotonic()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1)
        work(recipe)
    status = None
    while time.monotonic() - began_s < limit_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([child, code, finished, time.monotonic() - began_s]), flush=True)
"""


class Driver:
    """Starts the two commands again and again, and kills them."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(
        self, recipe: Path, run: Path, *, limit_s: float
    ) -> tuple[int, int, list[str], float]:
        """(process id, exit code, shards that were finished before, seconds) of one life."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = [str(recipe), limit_s, str(self.output), str(run)]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        child, code, finished, life_s = json.loads(self.process.stdout.readline())
        return child, code, finished, life_s

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def driver(tmp_path: Path) -> Any:
    made = Driver(tmp_path)
    yield made
    made.end()


def recipe_of(folder: Path, corpus: Path, log: Path) -> Path:
    engine = {"name": "fake", "cut_share": 0.5, "delay_s": 0.008, "log": str(log)}
    return write_recipe(folder / "r.yaml", corpus=str(corpus), recaption={"engine": engine})


@pytest.mark.slow
def test_kill_9_at_twenty_points_ends_with_the_same_build_and_repeats_no_shard(
    tmp_path: Path, driver: Driver
) -> None:
    corpus = make_corpus(tmp_path / "corpus", SAMPLES, shards=SHARDS)
    shard_of = {f"{n:05d}": f"{n // (SAMPLES // SHARDS):05d}.parquet" for n in range(SAMPLES)}
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    recipe = recipe_of(quiet, corpus, quiet / "log")
    _, code, _, whole_s = driver.start(recipe, quiet / "runs" / "round1", limit_s=100)
    assert code == 0, driver.output.read_text()
    expected = parquet_hashes(quiet / "builds" / "coyo-recap" / "1.0.0")
    points = random.Random(0)
    killed, runs, story = 0, 0, Counter[str]()
    while killed < KILLS:
        folder = tmp_path / f"run-{runs}"
        runs += 1
        folder.mkdir()
        recipe, run = recipe_of(folder, corpus, folder / "log"), folder / "runs" / "round1"
        build = folder / "builds" / "coyo-recap" / "1.0.0"
        code = -9
        while code == -9:
            limit_s = points.uniform(0, whole_s) if killed < KILLS else 100
            child, code, finished, _ = driver.start(recipe, run, limit_s=limit_s)
            killed += code == -9
            assert code in (0, -9), driver.output.read_text()
            asked = {key for pid, key, _ in calls(folder / "log") if pid == str(child)}
            assert not {shard_of[key] for key in asked} & set(finished)
            story[where(run)] += code == -9
            if build.exists():
                assert verify(build).problems == []
            if code == -9 and build.exists():
                break  # killed after the end
        assert parquet_hashes(build) == expected
        assert [p.name for p in build.parent.iterdir() if p.name != "1.0.0"] in (
            [],
            leftovers(build),
        )
    assert story["recaption"] >= 3, story
    assert story["build"] >= 3, story


def calls(log: Path) -> list[list[str]]:
    """(process, key, seed) of each request; the last line of a killed process may be cut."""
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.split() for line in lines if len(line.split()) == 3]


def where(run: Path) -> str:
    """The command that was killed, by what it left."""
    return "build" if len(list(run.glob("shards/*.parquet"))) == SHARDS else "recaption"


def leftovers(build: Path) -> list[str]:
    """What a process that was killed after the build's appearance may leave beside it."""
    return [p.name for p in build.parent.iterdir() if p.name.startswith(".1.0.0.")]


def test_a_half_written_build_cannot_be_taken_for_one(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4)
    build = do(write_recipe(tmp_path / "r.yaml"))
    (build / "build.json").unlink()  # written last
    assert ReplayConfig(build=build).problems() == [f"engine.build: {build}: no such build"]
