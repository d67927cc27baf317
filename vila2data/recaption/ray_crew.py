"""Workers on a Ray cluster: an actor each, wherever the cluster has room for its engine."""

from contextlib import ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

from vila2data.executor import on_cluster
from vila2data.storage import Place

from .crew import Event, Lost, serve
from .spec import RecaptionSpec

_CALLS_AT_A_TIME = 2  # one waits for events, one gives
_LAST_WORDS = 200  # characters of what Ray says of a lost actor


class _Actor:
    """A worker; it is its own link."""

    def __init__(self, spec: RecaptionSpec, seed: int) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._given: SimpleQueue[Place | None] = SimpleQueue()
        self.send, self.receive = self._events.put, self._given.get
        Thread(target=serve, args=(self, spec, seed), daemon=True).start()

    def next_event(self) -> Event:
        return self._events.get()

    def give(self, shard: Place | None) -> None:
        self._given.put(shard)


class RayCrew:
    """Actors. Those that the cluster has no room for yet begin when it has grown; one that is lost
    with its process or its machine is replaced.
    """

    def __init__(self, spec: RecaptionSpec, seed: int, workers: int) -> None:
        executor = spec.executor
        self._stack = ExitStack()
        self._ray: Any = self._stack.enter_context(on_cluster())
        wanted = {"num_cpus": executor.cpus_per_worker, "num_gpus": executor.gpus_per_worker}
        remote = self._ray.remote(_Actor)
        self._made = remote.options(max_concurrency=_CALLS_AT_A_TIME, max_restarts=0, **wanted)
        self._given = (spec, seed)
        self._actors: list[Any] = [None] * workers
        self._waiting: dict[Any, int] = {}  # by reference to the next event
        for worker in range(workers):
            self.replace(worker)

    def next_event(self) -> tuple[int, Event]:
        """Waits for one of any worker."""
        (ready, *_), _ = self._ray.wait(list(self._waiting), num_returns=1)
        worker = self._waiting.pop(ready)
        try:
            event: Event = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            told = " ".join(str(error).split())[:_LAST_WORDS]
            return worker, Lost(f"{type(error).__name__}: {told}")
        self._listen(worker)
        return worker, event

    def give(self, worker: int, shard: Place | None) -> None:
        """Answers ``Wants``; a worker that is gone meanwhile is found to be so by its next
        event.
        """
        self._actors[worker].give.remote(shard)

    def replace(self, worker: int) -> None:
        """Puts a new worker in the place of one that is lost."""
        self._actors[worker] = self._made.remote(*self._given)
        self._listen(worker)

    def _listen(self, worker: int) -> None:
        self._waiting[self._actors[worker].next_event.remote()] = worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._stack.close()
