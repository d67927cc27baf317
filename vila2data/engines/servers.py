"""Which of several servers a request goes to, and which are left out for a while."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Condition, Event

FAILURES_IN_A_ROW = 3
"""So many, with no answer between them, and a server is left out."""

_MIN_WAIT_S, _MAX_WAIT_S = 0.01, 60.0
_LOOK_S = 0.5  # how often one who waits for a server sees what no other thread tells it


@dataclass(slots=True, eq=False)
class Server:
    """What is known of one server."""

    url: str
    in_flight: int = 0
    failures: int = 0  # in a row
    times_left_out: int = 0  # in a row: since it answered a request
    generation: int = 0  # of requests: one begins whenever the server is left out
    probe_at_s: float | None = None  # None: it is in
    is_probed: bool = False
    is_tried: bool = False  # by the one request that a server on trial gets

    @property
    def is_in(self) -> bool:
        """Whether it gets requests."""
        return self.probe_at_s is None

    @property
    def is_on_trial(self) -> bool:
        """Whether it is in again, and has answered no request since."""
        return self.is_in and self.times_left_out > 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's place on a server; it ends with ``answered`` or ``failed``."""

    server: Server
    generation: int


class Servers:
    """The rules, without clock, threads and network.

    A request goes to the server with the fewest in flight, so that a faster one gets more. A server
    that fails several times in a row is left out while another is in; so one is always in, and the
    last behaves as if it were alone. One that is left out is probed with growing waits; where it
    answers it is in again, on trial: with one request at a time until it has answered one.

    Args:
        urls: what the servers are known by.
        in_flight: most requests on one of them.
        first_wait_s: from leaving a server out to the first probe; doubles from time to time.
    """

    def __init__(self, urls: Sequence[str], *, in_flight: int, first_wait_s: float) -> None:
        self.all = tuple(Server(url) for url in urls)
        self._limit = in_flight
        self._first_wait_s = max(first_wait_s, _MIN_WAIT_S)

    def are_left(self, tried: Collection[str]) -> bool:
        """Whether a server is in that is none of ``tried``."""
        return any(server.is_in and server.url not in tried for server in self.all)

    def take(self, tried: Collection[str]) -> Lease | None:
        """A place on a server that is none of ``tried``, None where none is free."""
        free = [s for s in self.all if s.url not in tried and self._has_room(s)]
        if not free:
            return None
        chosen = min(free, key=lambda server: server.in_flight)
        chosen.in_flight += 1
        chosen.is_tried = chosen.is_on_trial
        return Lease(chosen, chosen.generation)

    def _has_room(self, server: Server) -> bool:
        if not server.is_in or server.in_flight >= self._limit:
            return False
        return not (server.is_on_trial and server.is_tried)

    def answered(self, lease: Lease) -> None:
        """The server said something that is no failure of its own."""
        lease.server.in_flight -= 1
        if lease.generation == lease.server.generation:
            lease.server.failures = lease.server.times_left_out = 0

    def failed(self, lease: Lease, now_s: float) -> None:
        """The server said nothing, or that it cannot."""
        server = lease.server
        server.in_flight -= 1
        if lease.generation != server.generation:
            return  # asked before it was left out: known already
        server.failures += 1
        if server.failures < FAILURES_IN_A_ROW and not server.is_on_trial:
            return
        others = [other for other in self.all if other is not server]
        if any(other.is_in for other in others):
            self._leave_out(server, now_s)
            return
        server.times_left_out = 0
        if server.failures == FAILURES_IN_A_ROW:
            for other in others:  # one that is back is needed now
                other.times_left_out, other.probe_at_s = 1, now_s

    def _leave_out(self, server: Server, now_s: float) -> None:
        doublings = min(server.times_left_out, 16)
        server.times_left_out += 1
        server.generation += 1
        server.is_tried = False
        server.probe_at_s = now_s + min(self._first_wait_s * 2**doublings, _MAX_WAIT_S)

    def due(self, now_s: float) -> Server | None:
        """A server for the caller to probe; nobody else is told of it until ``probed``."""
        for server in self.all:
            if server.probe_at_s is not None and server.probe_at_s <= now_s:
                if server.is_probed:
                    continue
                server.is_probed = True
                return server
        return None

    def probed(self, server: Server, answers: bool, now_s: float) -> None:
        """What came of a probe: the server is on trial, or waits for the next one."""
        server.is_probed = False
        if not answers:
            self._leave_out(server, now_s)
            return
        server.probe_at_s, server.failures = None, 0
        for other in self.all:
            if other.is_in and other.failures >= FAILURES_IN_A_ROW:
                self._leave_out(other, now_s)  # it was in because no other was


class ServerPool:
    """The rules for many threads; whoever wants a server probes those that are due.

    Args:
        servers: the rules.
        probe: whether the server of a URL answers; called without a lock, raises nothing.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        servers: Servers,
        probe: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._probe = probe
        self._clock = clock
        self._changed = Condition()

    def take(self, tried: Collection[str], stop: Event) -> Lease | None:
        """A place on a server that is none of ``tried``, waited for; None where no such server is
        in, or ``stop`` is set.
        """
        while not stop.is_set():
            with self._changed:
                due = self._servers.due(self._clock())
                if due is None:
                    if not self._servers.are_left(tried):
                        return None
                    lease = self._servers.take(tried)
                    if lease is not None:
                        return lease
                    self._changed.wait(_LOOK_S)
                    continue
            answers = self._probe(due.url)
            with self._changed:
                self._servers.probed(due, answers, self._clock())
                self._changed.notify_all()
        return None

    def answered(self, lease: Lease) -> None:
        """Gives a place back: the server said something that is no failure of its own."""
        with self._changed:
            self._servers.answered(lease)
            self._changed.notify_all()

    def failed(self, lease: Lease) -> None:
        """Gives a place back: the server said nothing, or that it cannot."""
        with self._changed:
            self._servers.failed(lease, self._clock())
            self._changed.notify_all()
