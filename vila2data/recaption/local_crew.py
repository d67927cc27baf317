"""Workers as processes of this machine."""

from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from signal import SIG_IGN, SIGINT, signal
from threading import Lock
from typing import Self

from vila2data.errors import RunFailed
from vila2data.executor import end_with_parent
from vila2data.storage import Place

from .crew import Event, Lost, serve
from .spec import RecaptionSpec

_GOODBYE_S = 30.0  # for an engine to close


class LocalCrew:
    """Processes of this machine. One that dies ends the run: memory was short, as a rule."""

    def __init__(self, spec: RecaptionSpec, seed: int, workers: int) -> None:
        # Spawned, not forked: a forked process inherits locks of threads that it does not have.
        context = get_context("spawn")
        self._processes: list[BaseProcess] = []
        self._links: list[Connection] = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve_by_pipe, args=(theirs, spec, seed))
            process.start()
            theirs.close()  # so that its end is heard
            self._processes.append(process)
            self._links.append(ours)

    def next_event(self) -> tuple[int, Event]:
        """Waits for one of any worker."""
        ready = connection.wait(self._links)[0]
        worker = self._links.index(ready)  # type: ignore[arg-type]
        try:
            event: Event = self._links[worker].recv()
        except (EOFError, OSError):
            event = Lost("a worker process died")
        return worker, event

    def give(self, worker: int, shard: Place | None) -> None:
        """Answers ``Wants``; a worker that is gone meanwhile is found to be so by its next
        event.
        """
        with suppress(OSError):
            self._links[worker].send(shard)

    def replace(self, worker: int) -> None:
        """Raises.

        Raises:
            RunFailed: always.
        """
        raise RunFailed(
            "a worker process died (killed, or out of memory); finished shards are kept: "
            "run the same command again, with fewer workers if memory was short"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker, process in enumerate(self._processes):
            if kind is None:
                self.give(worker, None)  # all are idle
                process.join(_GOODBYE_S)
            process.kill()
            process.join()
            self._links[worker].close()


class _Pipe:
    """A link through a pipe."""

    def __init__(self, pipe: "Connection[Event, Place | None]") -> None:
        self._pipe = pipe
        self._sending = Lock()

    def send(self, event: Event) -> None:
        """Tells the driver; from any thread."""
        with self._sending:
            self._pipe.send(event)

    def receive(self) -> Place | None:
        """The answer to ``Wants``."""
        return self._pipe.recv()


def _serve_by_pipe(pipe: "Connection[Event, Place | None]", spec: RecaptionSpec, seed: int) -> None:
    signal(SIGINT, SIG_IGN)  # the parent hears it too, and ends its workers
    end_with_parent()
    serve(_Pipe(pipe), spec, seed)
