"""Drivers, workers and servers that are killed."""

import time

from .processes import descendants
from .trial import SHARDS, Trial


def kill_driver(trial: Trial, *, workers: int) -> None:
    for _ in range(2):
        trial.kill_command(trial.start(executor={"workers": workers}), "driver")
    trial.until_done(executor={"workers": workers})


def kill_worker(trial: Trial) -> None:
    process = trial.start(executor={"workers": 2})
    if trial.wait_inside(process, least=1):
        trial.kill_one(descendants(process.pid, "spawn_main"), "worker")
    said = trial.end_of(process)
    if trial.happened:
        assert process.returncode == 1, said
        assert "a worker process died" in said
    trial.until_done(executor={"workers": 2})


def kill_server(trial: Trial) -> None:
    """One of two, which comes back later: the run goes on without it."""
    process = trial.start()
    if trial.wait_inside(process, least=1):
        victim = trial.random.choice(trial.servers)
        victim.kill()
        if trial.finished() < SHARDS:
            trial.note("server killed")
        time.sleep(trial.random.uniform(0, 0.5))
        victim.start()
    said = trial.end_of(process)
    assert process.returncode == 0, said


def kill_all_servers(trial: Trial) -> None:
    """The run ends, and says so; with servers it goes on."""
    process = trial.start()
    if trial.wait_inside(process, least=1):
        for server in trial.servers:
            server.kill()
        said = trial.end_of(process)
        for server in trial.servers:
            server.start()
        if process.returncode != 0:
            assert process.returncode == 1, said
            assert "up?" in said
            trial.note("all servers killed")
    trial.end_of(process)
    trial.until_done()
