"""A run over a corpus: plan, work, account."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vila2data.corpus.read import ReadLimits, list_shards
from vila2data.counts import Counts
from vila2data.engines import Captioner
from vila2data.errors import BadInput
from vila2data.storage import Place

from .claims import Claims, claims_of
from .crew import Crew, hand_out, start_engine
from .ledger import Ledger
from .local_crew import LocalCrew
from .observe import Account, OnSample, ignore
from .runlog import LOG_FILE, logged
from .shard import caption_shards, scan_shard
from .spec import RecaptionSpec

LEDGER_VERSION = 1
"""Counts changes to how a row is made; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Part:
    """Every ``count``-th shard from ``index`` on: what one of several commands works on.

    Attributes:
        index: 0 to ``count`` - 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise BadInput(
                f"shard index {self.index} of {self.count}: must be 0 to the number of parts less 1"
            )

    def of(self, shards: Sequence[Place]) -> list[Place]:
        """Those of the part."""
        return list(shards[self.index :: self.count])

    @property
    def name(self) -> str:
        """Of the part's lock; empty where it is the whole run."""
        return "" if self.count == 1 else f"{self.index}-of-{self.count}"


WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    ledger: Place
    fingerprint: str
    shards: list[Place]
    finished: dict[Place, Counts]

    @property
    def todo(self) -> list[Place]:
        """Shards that are not finished, in order."""
        return [shard for shard in self.shards if shard not in self.finished]


def shaping_of(spec: RecaptionSpec, *, seed: int) -> dict[str, Any]:
    """What the ledger of a run is bound to."""
    return {"ledger_version": LEDGER_VERSION, **spec.shaping(seed=seed)}


def plan(spec: RecaptionSpec, corpus: Place, *, seed: int, part: Part = WHOLE) -> Plan:
    """Reads what is finished of a part; changes nothing.

    Raises:
        CorpusError: ``corpus`` is none, or a finished shard changed.
        RunRefused: the run folder belongs to other settings.
    """
    shards = list_shards(corpus)
    shaping = shaping_of(spec, seed=seed)
    ledger = Ledger(spec.run, shaping)
    if (spec.run / "run.json").is_file():
        ledger = Ledger.create(spec.run, shaping)
    return _plan(ledger, part.of(shards))


def _plan(ledger: Ledger, shards: list[Place]) -> Plan:
    return Plan(ledger.folder, ledger.fingerprint, shards, ledger.finished(shards))


def run(
    spec: RecaptionSpec,
    corpus: Place,
    *,
    seed: int,
    on_sample: OnSample = ignore,
    engine: Captioner | None = None,
    part: Part = WHOLE,
    account: Account | None = None,
) -> Counts:
    """Captions every shard of the part that is not finished, but for those that another process
    works on, and returns the counts of the finished ones.

    Args:
        spec: the recipe's block; each of the executor's workers starts an engine of its own, but
            for one local worker, which is this process.
        seed: of the data set.
        on_sample: told of samples that are done.
        engine: used in place of the recipe's, in this process.
        part: the shards to work on. Several parts of a run may be worked on at a time.
        account: filled while the run goes. The run's folder holds a log of it.

    Raises:
        CorpusError: ``corpus`` is none, or a finished shard changed.
        RunRefused: other settings, or another process works on the run, or on this part of it; or
            of a whole run, shards are left that a process with a part works on.
        RunFailed: a worker died, the engine gave up, or the disk is full; finished shards stay.
    """
    shards = list_shards(corpus)
    ledger = Ledger.create(spec.run, shaping_of(spec, seed=seed))
    with ledger.locked(part.name) as lease:
        begun = _plan(ledger, part.of(shards))
        claims = claims_of(ledger, lease)
        claims.sweep(begun.finished)
        if begun.todo:  # else do not load a model
            account = account or Account()
            account.on_sample = on_sample
            with logged(account, ledger.folder / LOG_FILE, config=spec.config):
                _caption(claims, begun.todo, spec, seed, account, engine)
        if part == WHOLE:
            return ledger.total(shards)
        return sum(_plan(ledger, part.of(shards)).finished.values(), Counts())


def scan(
    corpus: Place, folder: Place, *, limits: ReadLimits, on_sample: OnSample = ignore
) -> Counts:
    """Writes a ledger of the corpus's original texts into ``folder``; goes on where an earlier call
    stopped.

    Raises:
        CorpusError: ``corpus`` is none, or a finished shard changed.
        RunRefused: the folder's ledger has other limits.
        RunFailed: the disk is full.
    """
    shards = list_shards(corpus)
    shaping = {
        "ledger_version": LEDGER_VERSION,
        "scan": "original",
        "max_image_bytes": limits.image.max_bytes,
        "max_image_pixels": limits.image.max_pixels,
        "max_text_bytes": limits.max_text_bytes,
    }
    ledger = Ledger.create(folder, shaping)
    with ledger.locked():
        for shard in _plan(ledger, shards).todo:
            ledger.write(shard, *scan_shard(shard, limits, on_sample))
        return ledger.total(shards)


def _caption(
    claims: Claims,
    todo: list[Place],
    spec: RecaptionSpec,
    seed: int,
    account: Account,
    engine: Captioner | None,
) -> None:
    shards = claims.of(todo)
    if engine is None and (spec.executor.kind == "ray" or spec.executor.workers > 1):
        with _crew(spec, seed, min(spec.executor.workers, len(todo))) as crew:
            hand_out(shards, crew, write=claims.finish, on_figures=account.add)
        return
    started = engine or start_engine(spec)
    try:
        for written in caption_shards(shards, spec, started, seed=seed, account=account):
            claims.finish(*written)
    finally:
        if engine is None:
            started.close()


def _crew(spec: RecaptionSpec, seed: int, workers: int) -> Crew:
    if spec.executor.kind == "local":
        return LocalCrew(spec, seed, workers)
    from .ray_crew import RayCrew

    return RayCrew(spec, seed, workers)
