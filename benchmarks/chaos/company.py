"""Several commands on one run at a time."""

from .trial import SHARDS, Trial


def two_drivers(trial: Trial) -> None:
    """The second one is refused while the first one works, which then goes on to its end."""
    first = trial.start()
    if trial.wait_inside(first, least=1):
        for server in trial.servers:  # so that the first one is still there when the second comes
            server.pause()
        try:
            second = trial.start()
            said = trial.end_of(second)
            met = first.poll() is None and trial.finished() < SHARDS
        finally:
            for server in trial.servers:
                server.resume()
        if met:
            assert second.returncode == 2, said
            assert "another process works on this run" in said
            trial.note("second driver refused")
    said = trial.end_of(first)
    assert first.returncode == 0, said
    trial.until_done()


def parts(trial: Trial) -> None:
    """Three commands with a part each, one more with a part of another cut; two are killed."""
    given = [("0", "3"), ("1", "3"), ("2", "3"), ("1", "2")]
    processes = [
        trial.start("--shard-index", index, "--num-shards", count) for index, count in given
    ]
    for victim in trial.random.sample(processes, 2):
        trial.kill_command(victim, "command with a part")
    for process in processes:
        trial.end_of(process)
    trial.until_done()
