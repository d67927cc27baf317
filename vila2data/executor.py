"""Where tasks run: here, in processes of this machine, or on a Ray cluster. The results are the
same, and come in the order of the tasks.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import connection
from threading import Thread
from typing import Any, Literal, TypeVar

from pydantic import Field

from .errors import RunFailed
from .optional import require
from .recipe import Block

Task = TypeVar("Task")
Result = TypeVar("Result")

_KILLED = (
    "a worker process was killed, by the system where memory ran out; what is finished stays: run "
    "the same command again, with fewer workers if need be"
)
_AHEAD = 2  # tasks handed out to a worker at a time, so that none waits and few are held


class ExecutorSpec(Block):
    """Who does the work; none of it shapes the result."""

    kind: Literal["local", "ray"] = Field(
        "local", description="ray: the cluster of RAY_ADDRESS, or one on this machine"
    )
    workers: int = Field(1, ge=1, description="processes, or Ray tasks at a time")

    def problems(self) -> list[str]:
        """What the choice lacks."""
        if self.kind == "ray" and find_spec("ray") is None:
            return ["kind: ray is not installed; pip install 'vila2data[ray]'"]
        return []


def run_tasks(
    function: Callable[[Task], Result], tasks: Iterable[Task], spec: ExecutorSpec
) -> Iterator[Result]:
    """``function`` of each task, in the order of the tasks.

    No more tasks are drawn than the workers need, so that they may be large and many.

    Args:
        function: of a module, so that another process can find it.
        tasks: drawn in this process.
        spec: who does the work.

    Raises:
        RunFailed: a worker was killed.
    """
    if spec.kind == "ray":
        return _on_ray(function, tasks, spec.workers)
    if spec.workers == 1:
        return map(function, tasks)
    return _in_processes(function, tasks, spec.workers)


def _in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    # Not forked: threads of Arrow and DuckDB may hold locks at the moment of a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, end_with_parent) as pool:
        try:
            yield from _in_order(
                tasks, lambda task: pool.submit(function, task), lambda f: f.result(), workers
            )
        except BrokenProcessPool as error:
            raise RunFailed(_KILLED) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Ends this process with its parent: one that lived on would work beside a new run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _on_ray(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    with on_cluster() as ray:
        try:
            remote = ray.remote(function)
            yield from _in_order(tasks, remote.remote, ray.get, workers)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise RunFailed(_KILLED) from error  # Ray has tried again itself


@contextmanager
def on_cluster() -> Iterator[Any]:
    """``ray``, connected: to the cluster of ``RAY_ADDRESS``, or to one on this machine that ends
    with the block. A connection that is there stays.

    Raises:
        MissingExtra: Ray is not installed.
    """
    ray: Any = require("ray", extra="ray")
    ours = not ray.is_initialized()
    if ours:
        # Without an address Ray joins whatever cluster it finds on the machine, and dies with it.
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address, log_to_driver=False, include_dashboard=False)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _in_order(
    tasks: Iterable[Task],
    submit: Callable[[Task], Any],
    result: Callable[[Any], Result],
    workers: int,
) -> Iterator[Result]:
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= _AHEAD * workers:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())
