"""How long a model worked."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock


class BusyClock:
    """Adds up the seconds in which at least one piece of work is under way, in any thread.

    Pieces that run side by side count once, so that the sum never outruns the clock.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._under_way = 0
        self._began_s = 0.0
        self._ended_s = 0.0  # sum of the stretches that are over

    @contextmanager
    def working(self) -> Iterator[None]:
        """A piece of work."""
        with self._lock:
            if not self._under_way:
                self._began_s = self._clock()
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if not self._under_way:
                    self._ended_s += self._clock() - self._began_s

    @property
    def seconds(self) -> float:
        """The sum so far, with the stretch that is not over."""
        with self._lock:
            running_s = self._clock() - self._began_s if self._under_way else 0.0
            return self._ended_s + running_s
