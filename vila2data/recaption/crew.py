"""Workers that each have an engine, and are handed shards as their engines ask for more.

Workers read the corpus and send what they wrote; the driver alone writes to the ledger.
"""

import pickle
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol, Self

import pyarrow as pa

from vila2data import registry
from vila2data.counts import Counts
from vila2data.engines import Captioner
from vila2data.errors import RunFailed
from vila2data.storage import Place

from .observe import Account, Figures
from .shard import caption_shards
from .spec import RecaptionSpec

MAX_LOSSES = 3
"""Workers that may be lost with one shard in hand; with more, it is taken to be the cause."""


_TELL_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Wants:
    """A worker could take another shard.

    Attributes:
        is_idle: nothing is in flight: it may be left waiting. Otherwise its engine holds requests
            back until it knows whether more come, and must be answered at once.
    """

    is_idle: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What happened since the worker told last."""

    figures: Figures


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that is whole."""

    shard: Place
    table: pa.Table
    counts: Counts


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker gave up, and so must the run."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone without a word: killed, or its machine went down."""

    detail: str


Event = Wants | Told | Written | Failed | Lost


class Link(Protocol):
    """What a worker knows of its driver."""

    def send(self, event: Event) -> None:
        """Tells the driver; from any thread."""
        ...

    def receive(self) -> Place | None:
        """The answer to ``Wants``; None: there is none, and an idle worker ends."""
        ...


class Crew(Protocol):
    """What a driver knows of its workers, which are numbers."""

    def next_event(self) -> tuple[int, Event]:
        """Waits for one of any worker."""
        ...

    def give(self, worker: int, shard: Place | None) -> None:
        """Answers ``Wants``."""
        ...

    def replace(self, worker: int) -> None:
        """Puts a new worker in the place of one that is lost.

        Raises:
            RunFailed: that cannot be done here.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends all workers: those of a run that failed whatever they do."""
        ...


def hand_out(
    shards: Iterator[Place],
    crew: Crew,
    *,
    write: Callable[[Place, pa.Table, Counts], None],
    on_figures: Callable[[Figures], None],
) -> None:
    """Has a crew caption all shards, each as often as it takes until its captions arrive.

    Args:
        shards: drawn when a worker wants one.
        crew: its workers say ``Wants`` when they are up.
        write: stores a shard.
        on_figures: told what the workers tell. A lost worker's answers are in it, and those of the
            one that does its shards again.

    Raises:
        RunFailed: workers were lost with the same shard in hand, again and again, or could not be
            replaced; or what a worker failed with.
    """
    back: deque[Place] = deque()  # of workers that were lost
    held: defaultdict[int, list[Place]] = defaultdict(list)
    idle: set[int] = set()
    losses: Counter[Place] = Counter()
    is_drawn = False
    while not is_drawn or back or any(held.values()):
        worker, event = crew.next_event()
        match event:
            case Wants():
                shard = back.popleft() if back else next(shards, None)
                is_drawn = is_drawn or shard is None
                if shard is not None:
                    held[worker].append(shard)
                if shard is not None or not event.is_idle:
                    crew.give(worker, shard)
                else:
                    idle.add(worker)
            case Told():
                on_figures(event.figures)
            case Written():
                write(event.shard, event.table, event.counts)
                held[worker].remove(event.shard)
            case Failed():
                raise event.error
            case Lost():
                lost = held.pop(worker, [])
                losses.update(lost)
                _refuse_poison(losses, event)
                idle.discard(worker)
                crew.replace(worker)
                back.extend(lost)
                while back and idle:
                    waiting = idle.pop()
                    held[waiting].append(back[0])
                    crew.give(waiting, back.popleft())


def _refuse_poison(losses: Mapping[Place, int], last: Lost) -> None:
    for shard, count in losses.items():
        if count > MAX_LOSSES:
            raise RunFailed(
                f"{shard}: {count} workers were lost while they worked on it, the last one: "
                f"{last.detail}. Finished shards are kept"
            )


def serve(link: Link, spec: RecaptionSpec, seed: int) -> None:
    """What a worker does until it is told to end; its engine starts with its first shard."""
    try:
        _serve(link, spec, seed)
    except BaseException as error:  # noqa: BLE001 - raised again in the driver
        link.send(
            Failed(error if _travels(error) else RunFailed(f"{type(error).__name__}: {error}"))
        )


def _travels(error: BaseException) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - whatever another package's class does there
        return False


def _serve(link: Link, spec: RecaptionSpec, seed: int) -> None:
    def wanted(*, is_idle: bool) -> Place | None:
        link.send(Wants(is_idle))
        return link.receive()

    engine: Captioner | None = None
    try:
        while first := wanted(is_idle=True):
            engine = engine or start_engine(spec)
            more: Iterator[Place] = iter(partial(wanted, is_idle=False), None)
            account = _Telling(link)
            stream = caption_shards(chain([first], more), spec, engine, seed=seed, account=account)
            for written in stream:
                account.tell()
                link.send(Written(*written))
            account.tell()
    finally:
        if engine is not None:
            engine.close()


class _Telling(Account):
    """A worker's account, which goes to the driver piece by piece."""

    def __init__(self, link: Link) -> None:
        super().__init__(self._tell_now_and_then)
        self._link = link
        self._told_s = self.elapsed_s

    def _tell_now_and_then(self, _: int) -> None:
        if self.elapsed_s - self._told_s > _TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Sends what happened since the last call."""
        self._told_s = self.elapsed_s
        self._link.send(Told(self.take()))


def start_engine(spec: RecaptionSpec) -> Captioner:
    """The engine that the recipe names, ready to write."""
    engine: Captioner = registry.load("engines", spec.engine.name)(spec.engine)
    return engine
