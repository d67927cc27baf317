"""A Ray cluster of several nodes on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

START_S = 120
# For a busy machine: Ray's own are a minute and less.
_PATIENT = {
    "RAY_agent_register_timeout_ms": f"{START_S}000",
    "RAY_raylet_start_wait_time_s": f"{START_S}",
    "RAY_worker_register_timeout_seconds": f"{START_S}",
}
_SMALL = {"object_store_memory": 100 << 20}


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """With a head that has no room for workers; its processes descend from this one.

    Ray must not have been imported before, or it goes by its own patience for a raylet.
    """
    with (
        TemporaryDirectory(prefix="ray-") as folder,  # where nobody else's cluster is found
        patch.dict(os.environ, _PATIENT, RAY_TMPDIR=folder),
    ):
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, wait=False, **_SMALL)
            yield cluster
        finally:
            cluster.shutdown()


def add_nodes(cluster: Any, count: int, *, cpus: int) -> None:
    """Adds nodes, and waits until they are up."""
    for _ in range(count):
        cluster.add_node(num_cpus=cpus, wait=False, **_SMALL)
    cluster.wait_for_nodes(timeout=START_S)
