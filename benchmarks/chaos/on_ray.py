"""A Ray cluster of several nodes on this machine, and what is killed of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.plugin.ray_nodes import add_nodes, ray_cluster

from .processes import descendants
from .trial import Trial

_ON_RAY: dict[str, object] = {"kind": "ray", "workers": 2}
_ACTOR = "ray::_Actor"


@contextmanager
def _cluster(nodes: int) -> Iterator[Any]:
    with ray_cluster() as cluster:
        add_nodes(cluster, nodes, cpus=2)
        yield cluster


def _reached(cluster: Any) -> dict[str, str]:
    return {"RAY_ADDRESS": cluster.address}


def _raylet(node: Any) -> int:
    process_id: int = node.all_processes["raylet"][0].process.pid
    return process_id


def _actors(node: Any) -> list[psutil.Process]:
    return descendants(_raylet(node), _ACTOR)


def kill_actor(trial: Trial) -> None:
    with _cluster(1) as cluster:
        process = trial.start(executor=_ON_RAY, environment=_reached(cluster))
        if trial.wait_inside(process, least=1):
            actors = [actor for node in cluster.worker_nodes for actor in _actors(node)]
            trial.kill_one(actors, "actor")
        said = trial.end_of(process)
        assert process.returncode == 0, said


def kill_node(trial: Trial, *, whole: bool) -> None:
    """A node that actors work on: its raylet, without which it is lost, or all at once."""
    with _cluster(2) as cluster:
        process = trial.start(executor=_ON_RAY, environment=_reached(cluster))
        if trial.wait_inside(process, least=1):
            busy = [_raylet(node) for node in cluster.worker_nodes if _actors(node)]
            if busy:
                raylet = trial.random.choice(busy)
                others = descendants(raylet) if whole else []
                what = "node with actors" if whole else "raylet with actors"
                trial.kill_together([psutil.Process(raylet), *others], what)
        said = trial.end_of(process)
        assert process.returncode == 0, said


def mixture(trial: Trial) -> None:
    """One run by a driver, parts and workers in turn, each killed; then Ray ends it."""
    for options, executor in (
        ((), {"workers": 1}),
        (("--shard-index", "1", "--num-shards", "2"), {"workers": 1}),
        ((), {"workers": 2}),
    ):
        trial.kill_command(trial.start(*options, executor=executor), "command")
    with _cluster(1) as cluster:
        trial.until_done(executor=_ON_RAY, environment=_reached(cluster))
