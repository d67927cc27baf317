import random
from collections import Counter
from collections.abc import Callable
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.engines.servers import FAILURES_IN_A_ROW, Lease, ServerPool, Servers


def fail(servers: Servers, url: str, times: int, now_s: float) -> None:
    others = [server.url for server in servers.all if server.url != url]
    leases = [servers.take(others) for _ in range(times)]
    for lease in leases:
        assert lease is not None
        servers.failed(lease, now_s)


def test_the_server_with_the_fewest_in_flight_is_next() -> None:
    servers = Servers(["a", "b", "c"], in_flight=2, first_wait_s=1.0)
    leases = [servers.take(()) for _ in range(6)]
    assert [lease.server.url for lease in leases if lease] == ["a", "b", "c", "a", "b", "c"]
    assert servers.take(()) is None
    assert leases[1] is not None
    servers.answered(leases[1])
    again = servers.take(())
    assert again is not None
    assert again.server.url == "b"


def test_a_server_is_left_out_after_failures_in_a_row_and_not_before() -> None:
    servers = Servers(["a", "b"], in_flight=8, first_wait_s=1.0)
    fail(servers, "a", FAILURES_IN_A_ROW - 1, 0.0)
    answered = servers.take(["b"])
    assert answered is not None
    servers.answered(answered)
    fail(servers, "a", FAILURES_IN_A_ROW - 1, 0.0)
    assert servers.are_left(["b"])
    fail(servers, "a", 1, 0.0)
    assert not servers.are_left(["b"])
    assert servers.due(0.99) is None


def test_waits_for_a_probe_double_and_one_caller_alone_is_told() -> None:
    servers = Servers(["a", "b"], in_flight=8, first_wait_s=1.0)
    fail(servers, "a", FAILURES_IN_A_ROW, 0.0)
    now_s = 0.0
    waits_s = []
    for _ in range(8):
        before_s = now_s
        while (due := servers.due(now_s)) is None:
            now_s += 0.5
        assert servers.due(now_s) is None
        waits_s.append(now_s - before_s)
        servers.probed(due, False, now_s)
    assert waits_s == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_server_that_is_back_gets_one_request_until_it_answers_it() -> None:
    servers = Servers(["a", "b"], in_flight=8, first_wait_s=1.0)
    fail(servers, "a", FAILURES_IN_A_ROW, 0.0)
    due = servers.due(1.0)
    assert due is not None
    servers.probed(due, True, 1.0)
    trial = servers.take(["b"])
    assert trial is not None
    assert servers.take(["b"]) is None
    servers.failed(trial, 2.0)  # one failure is enough now, and the wait goes on growing
    assert servers.due(3.9) is None
    due = servers.due(4.0)
    assert due is not None
    servers.probed(due, True, 4.0)
    trial = servers.take(["b"])
    assert trial is not None
    servers.answered(trial)
    assert all(servers.take(["b"]) for _ in range(8))


def test_requests_from_before_a_server_was_left_out_tell_nothing_new_of_it() -> None:
    servers = Servers(["a", "b"], in_flight=8, first_wait_s=1.0)
    slow = servers.take(["b"])
    assert slow is not None
    fail(servers, "a", FAILURES_IN_A_ROW, 0.0)
    due = servers.due(1.0)
    assert due is not None
    servers.probed(due, True, 1.0)
    servers.failed(slow, 1.0)
    assert servers.are_left(["b"])


def test_the_last_server_stays_in_and_has_the_others_probed_at_once() -> None:
    servers = Servers(["a", "b"], in_flight=8, first_wait_s=50.0)
    fail(servers, "a", FAILURES_IN_A_ROW, 0.0)
    fail(servers, "b", FAILURES_IN_A_ROW, 1.0)
    assert servers.are_left(["a"])
    due = servers.due(1.0)
    assert due is not None
    servers.probed(due, True, 1.0)
    assert not servers.are_left(["a"])


class World:
    """Servers that die and come back, and requests that are moved between them as the engine moves
    them; checks each step against what it has seen itself.
    """

    def __init__(self, servers: int, requests: int, in_flight: int, *, immortal: bool) -> None:
        self.urls = [f"server-{n}" for n in range(servers)]
        self.mortal = self.urls[1:] if immortal else self.urls
        self.servers = Servers(self.urls, in_flight=in_flight, first_wait_s=1.0)
        self.limit = in_flight
        self.now_s = 0.0
        self.up = set(self.urls)
        self.waiting = set(range(requests))
        self.tried: dict[int, set[str]] = {number: set() for number in self.waiting}
        self.asked: dict[int, Lease] = {}
        self.lost: set[int] = set()  # asked of a server that died
        self.answered = Counter[int]()
        self.spent = 0
        self.failures = Counter[str]()  # of each server in a row, since it answered anything

    def steps(self) -> list[Callable[[random.Random], None]]:
        often = [self.ask, self.ask, self.end, self.end]
        return [*often, self.die, self.revive, self.pass_time]

    def die(self, draw: random.Random) -> None:
        url = draw.choice(self.mortal)
        self.up.discard(url)
        self.lost |= {n for n, lease in self.asked.items() if lease.server.url == url}

    def revive(self, draw: random.Random) -> None:
        self.up.add(draw.choice(self.urls))

    def pass_time(self, draw: random.Random) -> None:
        self.now_s += draw.choice([0.1, 1.0, 10.0, 100.0])

    def ask(self, draw: random.Random) -> None:
        while due := self.servers.due(self.now_s):
            if due.url in self.up:
                self.failures[due.url] = 0
            self.servers.probed(due, due.url in self.up, self.now_s)
        if not self.waiting:
            return
        number = draw.choice(sorted(self.waiting))
        if not self.servers.are_left(self.tried[number]):
            self.spent += 1
            self.tried[number].clear()
            return
        lease = self.servers.take(self.tried[number])
        if lease is not None:
            self.check(lease, number)
            self.waiting.remove(number)
            self.asked[number] = lease
            if lease.server.url not in self.up:
                self.lost.add(number)

    def check(self, lease: Lease, number: int) -> None:
        url = lease.server.url
        assert url not in self.tried[number]
        on_it = sum(other.server is lease.server for other in self.asked.values())
        assert on_it + 1 == lease.server.in_flight <= self.limit
        known_dead = self.failures[url] >= FAILURES_IN_A_ROW
        assert not known_dead or not any(s.is_in for s in self.servers.all if s.url != url)

    def end(self, draw: random.Random) -> None:
        if not self.asked:
            return
        number = draw.choice(sorted(self.asked))
        lease = self.asked.pop(number)
        url, is_new = lease.server.url, lease.generation == lease.server.generation
        if number in self.lost:
            self.lost.remove(number)
            self.failures[url] += is_new
            self.servers.failed(lease, self.now_s)
            self.tried[number].add(url)
            self.waiting.add(number)
        else:
            self.failures[url] *= not is_new
            self.servers.answered(lease)
            self.answered[number] += 1
        assert any(server.is_in for server in self.servers.all)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_whatever_dies_and_comes_back_every_request_is_answered_once(
    servers: int, in_flight: int, immortal: bool, draw: random.Random
) -> None:
    immortal = immortal and servers > 1
    world = World(servers, 12, in_flight, immortal=immortal)
    for _ in range(120):
        draw.choice(world.steps())(draw)
    assert not (immortal and world.spent)
    world.up.update(world.urls)
    for _ in range(300):
        for step in (world.pass_time, world.ask, world.end):
            step(draw)
    assert world.answered == dict.fromkeys(range(12), 1)
    assert [server.in_flight for server in world.servers.all] == [0] * servers


def test_one_who_waits_is_woken_by_the_place_that_another_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vila2data.engines.servers._LOOK_S", 60.0)
    looks = Event()

    def clock() -> float:
        looks.set()  # with the lock, which waiting alone gives away
        return 0.0

    pool = ServerPool(Servers(["a"], in_flight=1, first_wait_s=1.0), lambda _: True, clock)
    held = pool.take((), Event())
    assert held is not None
    looks.clear()
    got: list[Lease | None] = []
    waiting = Thread(target=lambda: got.append(pool.take((), Event())), daemon=True)
    waiting.start()
    assert looks.wait(20)
    pool.answered(held)
    waiting.join(20)
    assert [lease and lease.server.url for lease in got] == ["a"]


def test_who_waits_ends_with_the_run() -> None:
    pool = ServerPool(Servers(["a"], in_flight=1, first_wait_s=1.0), lambda _: True)
    stop = Event()
    assert pool.take((), stop) is not None
    waiting = Thread(target=pool.take, args=((), stop))
    waiting.start()
    stop.set()
    waiting.join(20)
    assert not waiting.is_alive()


def test_the_pool_probes_what_is_due_and_takes_it_in_where_it_answers() -> None:
    now_s, up, probed = [0.0], {"b"}, list[str]()

    def probe(url: str) -> bool:
        probed.append(url)
        return url in up

    pool = ServerPool(
        Servers(["a", "b"], in_flight=8, first_wait_s=1.0), probe, clock=lambda: now_s[0]
    )
    for _ in range(FAILURES_IN_A_ROW):
        lease = pool.take(["b"], Event())
        assert lease is not None
        pool.failed(lease)
    assert pool.take(["b"], Event()) is None
    assert probed == []
    now_s[0] = 1.0
    assert pool.take(["b"], Event()) is None
    up.add("a")
    now_s[0] = 3.0
    assert pool.take(["b"], Event()) is not None
    assert probed == ["a", "a"]
