"""Seeds side by side: each in a process of its own, so that none waits for another's stages."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from signal import SIGINT

from vila2data.errors import RunFailed, Vila2DataError
from vila2data.executor import end_with_parent

from .calls import Call, call_here
from .ledger import Ledger, opened
from .plan import Planner
from .recipe import LoopRecipe
from .rows import Row, write_rows
from .stages import Stage
from .walk import NotDone, walk

LOG_FILE = "log.txt"


def run_seed(recipe: LoopRecipe, seed: int, *, call: Call = call_here) -> list[Row]:
    """Runs the stages of a seed that are not done, and writes its results after every round.

    Raises:
        RunRefused: the seed's folder belongs to other settings, or another process works there.
        RunFailed: VILA_0 does not look at its images.
        Vila2DataError: a stage failed.
    """
    planner = Planner(recipe, seed)
    with opened(planner) as ledger:

        def do(stage: Stage) -> float:
            ledger.run(stage, call)
            return ledger.seconds(stage) or 0.0

        return _written(planner, walk(planner, do))


def reread_seed(recipe: LoopRecipe, seed: int) -> list[Row]:
    """Writes the results of a seed anew, as far as it has come; runs nothing."""
    planner = Planner(recipe, seed)
    ledger = Ledger(planner.folder)

    def do(stage: Stage) -> float:
        seconds = ledger.seconds(stage)
        if seconds is None:
            raise NotDone
        return seconds

    return _written(planner, walk(planner, do, gated=False))


def _written(planner: Planner, walked: Iterable[Row]) -> list[Row]:
    rows: list[Row] = []
    for row in walked:
        rows.append(row)
        write_rows(planner.folder, planner.seed, rows)
    return rows


def run_seeds(recipe: LoopRecipe, seeds: Sequence[int]) -> None:
    """Runs several seeds, ``at_once`` of them at a time; one that fails does not stop the others.

    Raises:
        RunFailed: some failed; the message tells why, each.
    """
    if len(seeds) == 1:
        run_seed(recipe, seeds[0])
        return
    # Spawned: a forked process would inherit locks of threads that it does not have.
    context = get_context("spawn")
    others = set(active_children())
    failed: list[str] = []
    with ProcessPoolExecutor(
        min(recipe.at_once, len(seeds)), context, end_with_parent, max_tasks_per_child=1
    ) as pool:
        try:
            futures = {seed: pool.submit(_run_logged, recipe, seed) for seed in seeds}
            failed = [told for s, f in futures.items() if (told := _failure(s, f)) is not None]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(active_children()) - others:
                os.kill(worker.pid or 0, SIGINT)
            raise
    if failed:
        raise RunFailed("; ".join(failed))


def _failure(seed: int, future: "Future[None]") -> str | None:
    """Waits for a seed; why it failed, None where it did not."""
    try:
        future.result()
    except BrokenProcessPool:
        return (
            f"seed {seed}: a process was killed, by the system where memory ran out; what is "
            "finished stays: run the same command again, with a smaller at_once if need be"
        )
    except Vila2DataError as error:
        return f"seed {seed}: {str(error).removeprefix(f'seed {seed}: ')}"
    return None


def _run_logged(recipe: LoopRecipe, seed: int) -> None:
    """As ``run_seed``, in a process of its own: what the stages show goes to a file of the seed,
    theirs and of the processes that they start; which command runs is also said here.
    """
    folder = recipe.out / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(1), "w", buffering=1)

    def call(arguments: Sequence[str]) -> None:
        terminal.write(f"seed {seed}: vila2data {arguments[0]} {_about(arguments)}\n")
        call_here(arguments)

    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    run_seed(recipe, seed, call=call)
    terminal.write(f"seed {seed}: done\n")


def _about(arguments: Sequence[str]) -> str:
    """The part of a command that tells it from the others: what it is about, where it writes."""
    places = [a for a in arguments if a.startswith(("out=", "recaption.run=", "version="))]
    return " ".join([arguments[1], *places])
