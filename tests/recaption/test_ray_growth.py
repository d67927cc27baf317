"""A cluster that grows while a run goes, as one with an autoscaler does."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
from making import do, make_corpus, parquet_hashes, write_recipe
from ray_nodes import START_S, add_nodes, ray_cluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_workers_begin_when_the_cluster_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "plugin"))
    make_corpus(tmp_path / "corpus", 24, shards=8)
    expected = parquet_hashes(do(write_recipe(tmp_path / "local.yaml", out=str(tmp_path / "a"))))
    log = tmp_path / "log"
    settings = {
        "run": str(tmp_path / "ray"),
        "engine": {"name": "fake", "delay_s": 0.5, "log": str(log)},
        "executor": {"kind": "ray", "workers": 3, "cpus_per_worker": 1},
    }
    file = write_recipe(tmp_path / "r.yaml", recaption=settings)

    def writers() -> set[str]:
        lines = log.read_text().splitlines() if log.is_file() else []
        return {line.split()[0] for line in lines}

    with (
        ray_cluster() as cluster,
        subprocess.Popen(
            [sys.executable, "-m", "vila2data", "recaption", file],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stderr=subprocess.PIPE,
            text=True,
        ) as command,
    ):
        try:
            with suppress(subprocess.TimeoutExpired):
                command.wait(10)
            assert command.poll() is None
            assert writers() == set()
            for nodes in (1, 2):  # the third worker never finds room
                add_nodes(cluster, 1, cpus=1)
                until_s = monotonic() + START_S
                while len(writers()) < nodes and monotonic() < until_s and command.poll() is None:
                    sleep(0.05)
                assert len(writers()) == nodes
            _, said = command.communicate(timeout=START_S)
        finally:
            command.kill()
    assert command.returncode == 0, said
    assert len(writers()) == 2
    assert parquet_hashes(do(file)) == expected
