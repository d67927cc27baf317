"""Handing shards out to workers that come and go."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from random import Random
from typing import Any, Self

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.counts import Counts
from vila2data.errors import BadInput, RunFailed
from vila2data.recaption.crew import (
    MAX_LOSSES,
    Event,
    Failed,
    Lost,
    Told,
    Wants,
    Written,
    hand_out,
    serve,
)
from vila2data.recaption.observe import Figures

TABLE = pa.table({"key": ["a"]})


def life(random: Random) -> Generator[Event, Path | None, None]:
    """What a worker says, and is given in answer to what it wants."""
    while (first := (yield Wants(is_idle=True))) is not None:
        held, more_may_come = [first], True
        while held:
            if more_may_come and len(held) < 3 and random.random() < 0.6:
                more = yield Wants(is_idle=False)
                more_may_come = more is not None
                held += [more] if more else []
            else:
                yield Told(Figures(kept=1))
                yield Written(held.pop(random.randrange(len(held))), TABLE, Counts())


class Pretended:
    """Workers of one thread, in a random order; some are lost, at a random point."""

    def __init__(self, random: Random, workers: int, *, losses: int) -> None:
        self.random, self.losses = random, losses
        self.workers = [life(random) for _ in range(workers)]
        self.ready: dict[int, Event] = {n: next(w) for n, w in enumerate(self.workers)}
        self.wanting: set[int] = set()

    def next_event(self) -> tuple[int, Event]:
        if self.losses and self.random.random() < 0.2:
            self.losses -= 1
            lost = self.random.randrange(len(self.workers))
            self.ready.pop(lost, None)
            self.wanting.discard(lost)
            return lost, Lost("killed")
        assert self.ready, "every worker waits for the driver, and the driver for them"
        worker = self.random.choice(sorted(self.ready))
        event = self.ready.pop(worker)
        if isinstance(event, Wants):
            self.wanting.add(worker)
        else:
            self.ready[worker] = next(self.workers[worker])
        return worker, event

    def give(self, worker: int, shard: Path | None) -> None:
        self.wanting.remove(worker)
        self.ready[worker] = self.workers[worker].send(shard)

    def replace(self, worker: int) -> None:
        self.workers[worker] = life(self.random)
        self.ready[worker] = next(self.workers[worker])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@given(st.randoms(use_true_random=False), st.integers(0, 12), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_every_shard_is_written_once_whoever_is_lost(
    random: Random, count: int, workers: int, losses: int
) -> None:
    shards = [Path(f"{number:05d}.tar") for number in range(count)]
    written: Counter[Path] = Counter()
    told: list[Figures] = []
    hand_out(
        iter(shards),
        Pretended(random, workers, losses=losses),
        write=lambda shard, table, counts: written.update([shard]),
        on_figures=told.append,
    )
    assert written == Counter(shards)
    assert sum(figures.kept for figures in told) >= count


class OneAfterTheOther:
    """Gives the events that it was made with."""

    def __init__(self, *events: Event) -> None:
        self.events, self.given, self.replaced = list(events), list[Path | None](), 0

    def next_event(self) -> tuple[int, Event]:
        return 0, self.events.pop(0)

    def give(self, worker: int, shard: Path | None) -> None:
        self.given.append(shard)

    def replace(self, worker: int) -> None:
        self.replaced += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def handed(crew: Any, *shards: str) -> None:
    hand_out(iter(map(Path, shards)), crew, write=lambda *_: None, on_figures=lambda _: None)


def test_a_shard_that_every_worker_dies_of_ends_the_run_by_its_name() -> None:
    deaths = [Wants(is_idle=True), Lost("out of memory")] * (MAX_LOSSES + 1)
    crew = OneAfterTheOther(*deaths)
    with pytest.raises(RunFailed, match=r"bad.tar: 4 workers were lost .*: out of memory"):
        handed(crew, "bad.tar", "good.tar")
    assert crew.given == [Path("bad.tar")] * (MAX_LOSSES + 1)
    assert crew.replaced == MAX_LOSSES


def test_what_a_worker_fails_with_is_raised() -> None:
    with pytest.raises(BadInput, match="no such model"):
        handed(OneAfterTheOther(Failed(BadInput("no such model"))), "a.tar")


class Recorded:
    """A link that answers nothing."""

    def __init__(self) -> None:
        self.sent: list[Event] = []

    def send(self, event: Event) -> None:
        self.sent.append(event)

    def receive(self) -> Path | None:
        raise self.error

    error: BaseException


class TwoArguments(Exception):
    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (BadInput("no"), BadInput, "no"),
        (TwoArguments("a", "b"), RunFailed, "TwoArguments: a: b"),  # cannot be sent
    ],
)
def test_a_worker_tells_what_it_failed_with(error: Any, kind: type, told: str) -> None:
    link = Recorded()
    link.error = error
    serve(link, None, 0)  # type: ignore[arg-type]
    failed = link.sent[-1]
    assert isinstance(failed, Failed)
    assert type(failed.error) is kind
    assert str(failed.error) == told
