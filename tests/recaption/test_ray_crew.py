"""Workers on a Ray cluster of this machine: the rows of any other run, whoever dies."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from making import do, make_corpus, parquet_hashes, write_recipe

from vila2data.errors import BadInput
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests, with more cores than there are: workers need few."""
    paths = [str(Path(__file__).parents[1] / "plugin")]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    ray.init(
        "local", num_cpus=4, log_to_driver=False, include_dashboard=False, runtime_env=environment
    )
    yield
    ray.shutdown()


def on_ray(workers: int) -> dict[str, object]:
    return {"kind": "ray", "workers": workers}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    """What one process makes of a corpus of eight shards."""
    make_corpus(tmp_path / "corpus", 24, shards=8)
    file = write_recipe(tmp_path / "local.yaml", out=str(tmp_path / "local"))
    return parquet_hashes(do(file))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_actors_write_what_one_process_writes(
    tmp_path: Path, expected: dict[str, str], workers: int
) -> None:
    settings = {"run": str(tmp_path / "ray"), "executor": on_ray(workers)}
    assert parquet_hashes(do(write_recipe(tmp_path / "r.yaml", recaption=settings))) == expected


def test_shards_of_an_actor_that_is_killed_go_to_another(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    log = tmp_path / "log"
    engine = {"name": "fake", "delay_s": 0.1, "log": str(log)}
    settings = {"run": str(tmp_path / "ray"), "executor": on_ray(2), "engine": engine}
    file = write_recipe(tmp_path / "r.yaml", recaption=settings)
    killed: list[int] = []

    def kill_two() -> None:
        until_s = monotonic() + 60
        while len(killed) < 2 and monotonic() < until_s:
            lines = log.read_text().splitlines() if log.is_file() else []
            writers = {int(line.split()[0]) for line in lines} - {*killed, os.getpid()}
            if len(lines) > 4 * (len(killed) + 1) and writers:
                killed.append(writers.pop())
                os.kill(killed[-1], signal.SIGKILL)
            sleep(0.02)

    killer = Thread(target=kill_two)
    killer.start()
    build = do(file)
    killer.join()
    assert len(killed) == 2
    assert parquet_hashes(build) == expected
    asked = Counter(line.split()[1] for line in log.read_text().splitlines())
    assert max(asked.values()) > 1  # what the killed ones held was asked again


def test_an_engine_that_cannot_start_on_the_cluster_says_so(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4, shards=2)
    settings = {"engine": {"name": "fake", "break_on": "start"}, "executor": on_ray(2)}
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", recaption=settings))
    with pytest.raises(BadInput, match=r"engine\.break_on: the fake engine does not start"):
        run(recipe.recaption, recipe.corpus, seed=0)
