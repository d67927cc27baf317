"""Disturbs runs, and prints a table of what came of it; what was done to each, to stderr."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from benchmarks.corpora import make_corpus
from vila2data.commands import quiet_libraries

from .kinds import KINDS
from .processes import descendants, kill_all
from .servers import Server
from .trial import SAMPLES, SHARDS, Trial
from .verdict import Expected, built

_HEAD = """
### Runs that are disturbed

| what | trials | disturbed | disturbances | starts | right build, each sample once |
|---|---:|---:|---:|---:|---:|"""


def main(times: int, only: Sequence[str], seed: int) -> None:
    print(_HEAD, flush=True)
    quiet_libraries()
    with _trials(seed) as new_trial:
        quiet = new_trial()
        quiet.until_done()
        expected = Expected.of(built(quiet), quiet.corpus)
        for kind in only or KINDS:
            trials = [new_trial() for _ in range(times)]
            for trial in trials:
                KINDS[kind](trial)
                expected.check(trial.build or built(trial))
                told = "; ".join(trial.happened) or "nothing happened"
                print(f"{kind}, {trial.folder.name}: {told}", file=sys.stderr, flush=True)
                shutil.rmtree(trial.folder)
            disturbed = sum(bool(trial.happened) for trial in trials)
            disturbances = sum(len(trial.happened) for trial in trials)
            starts = sum(trial.starts for trial in trials)
            print(
                f"| {kind} | {times} | {disturbed} | {disturbances} | {starts} | {len(trials)} |",
                flush=True,
            )


@contextmanager
def _trials(seed: int) -> Iterator[Callable[[], Trial]]:
    """Makes trials with one corpus and two servers, each with random points of its own."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        corpus = make_corpus(Path(place) / "corpus", images=SAMPLES, shards=SHARDS)
        stack.callback(lambda: kill_all(descendants(os.getpid())))
        servers = [Server(), Server()]
        numbers = count()

        def new_trial() -> Trial:
            number = next(numbers)
            folder = Path(place) / str(number)
            folder.mkdir()
            return Trial(folder, corpus, servers, random.Random(seed * 1_000_003 + number))

        yield new_trial


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.times, given.only, given.seed)
