"""Requests that wait for a network, side by side."""

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Thread

from .protocol import Request, Result

Answer = Callable[[Request, Event], Result]
"""Answers a request; where the event is set, nobody waits for the answer any more."""


def in_flight(answer: Answer, requests: Iterable[Request], limit: int) -> Iterator[Result]:
    """Results of ``answer`` as they come, with at most ``limit`` requests drawn and not answered.

    The threads are daemons, not those of an executor, which the interpreter joins when it ends: a
    server that stalls must not hold up a process that failed or was interrupted.

    Raises:
        BaseException: what ``answer`` raised first.
    """
    asked: SimpleQueue[Request | None] = SimpleQueue()
    told: SimpleQueue[Result | BaseException] = SimpleQueue()
    stop = Event()
    threads: list[Thread] = []
    waiting = 0
    try:
        for request in requests:
            if waiting == limit:
                yield _taken(told)
                waiting -= 1
            asked.put(request)
            waiting += 1
            if len(threads) < waiting:
                threads.append(Thread(target=_work, args=(answer, asked, told, stop), daemon=True))
                threads[-1].start()
        for _ in range(waiting):
            yield _taken(told)
    finally:
        stop.set()
        for _ in threads:
            asked.put(None)


def _work(
    answer: Answer,
    asked: "SimpleQueue[Request | None]",
    told: "SimpleQueue[Result | BaseException]",
    stop: Event,
) -> None:
    while (request := asked.get()) is not None and not stop.is_set():
        try:
            told.put(answer(request, stop))
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            told.put(error)


def _taken(told: "SimpleQueue[Result | BaseException]") -> Result:
    result = told.get()
    if isinstance(result, BaseException):
        raise result
    return result
