"""A cluster that grows while a run goes, as one with an autoscaler does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from making import do, make_corpus, parquet_hashes, write_recipe

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
START_S = 120


@pytest.fixture
def cluster(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """With a head that has no room for workers."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "plugin"))
    for name in ("agent_register_timeout_ms", "worker_register_timeout_seconds"):
        monkeypatch.setenv(f"RAY_{name}", f"{START_S}{'000' * name.endswith('ms')}")
    from ray.cluster_utils import Cluster

    begun = Cluster()
    begun.add_node(num_cpus=0, include_dashboard=False, object_store_memory=100 << 20)
    yield begun
    begun.shutdown()


def test_workers_begin_when_the_cluster_has_grown(tmp_path: Path, cluster: Any) -> None:
    make_corpus(tmp_path / "corpus", 24, shards=8)
    expected = parquet_hashes(do(write_recipe(tmp_path / "local.yaml", out=str(tmp_path / "a"))))
    log = tmp_path / "log"
    settings = {
        "run": str(tmp_path / "ray"),
        "engine": {"name": "fake", "delay_s": 0.5, "log": str(log)},
        "executor": {"kind": "ray", "workers": 3, "cpus_per_worker": 1},
    }
    file = write_recipe(tmp_path / "r.yaml", recaption=settings)
    command = subprocess.Popen(
        [sys.executable, "-m", "vila2data", "recaption", file],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stderr=subprocess.PIPE,
        text=True,
    )

    def writers() -> set[str]:
        lines = log.read_text().splitlines() if log.is_file() else []
        return {line.split()[0] for line in lines}

    with suppress(subprocess.TimeoutExpired):
        command.wait(10)
    assert command.poll() is None
    assert writers() == set()
    for nodes in (1, 2):  # the third worker never finds room
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
        until_s = monotonic() + START_S
        while len(writers()) < nodes and monotonic() < until_s and command.poll() is None:
            sleep(0.05)
        assert len(writers()) == nodes
    _, said = command.communicate(timeout=START_S)
    assert command.returncode == 0, said
    assert len(writers()) == 2
    assert parquet_hashes(do(file)) == expected
