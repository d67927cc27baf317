"""A run over a corpus on this machine: plan, work, account."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from typing import Any

from vila2data import registry
from vila2data.corpus.read import ReadLimits, list_shards
from vila2data.counts import Counts
from vila2data.engines import Captioner
from vila2data.errors import RunFailed
from vila2data.executor import end_with_parent

from .ledger import Ledger
from .observe import Account, Figures, OnSample, ignore
from .runlog import LOG_FILE, logged
from .shard import caption_shards, scan_shard
from .spec import RecaptionSpec

LEDGER_VERSION = 1
"""Counts changes to how a row is made; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    ledger: Path
    fingerprint: str
    shards: list[Path]
    finished: dict[Path, Counts]

    @property
    def todo(self) -> list[Path]:
        """Shards that are not finished, in order."""
        return [shard for shard in self.shards if shard not in self.finished]


def shaping_of(spec: RecaptionSpec, *, seed: int) -> dict[str, Any]:
    """What the ledger of a run is bound to."""
    return {"ledger_version": LEDGER_VERSION, **spec.shaping(seed=seed)}


def plan(spec: RecaptionSpec, corpus: Path, *, seed: int) -> Plan:
    """Reads what is finished; changes nothing.

    Raises:
        CorpusError: ``corpus`` is none, or a finished shard changed.
        RunRefused: the run folder belongs to other settings.
    """
    shards = list_shards(corpus)
    shaping = shaping_of(spec, seed=seed)
    ledger = Ledger(spec.run, shaping)
    if (spec.run / "run.json").is_file():
        ledger = Ledger.create(spec.run, shaping)
    return _plan(ledger, shards)


def _plan(ledger: Ledger, shards: list[Path]) -> Plan:
    counts = {shard: ledger.counts(shard) for shard in shards}
    finished = {shard: found for shard, found in counts.items() if found is not None}
    return Plan(ledger.folder, ledger.fingerprint, shards, finished)


def run(
    spec: RecaptionSpec,
    corpus: Path,
    *,
    seed: int,
    on_sample: OnSample = ignore,
    engine: Captioner | None = None,
    account: Account | None = None,
) -> Counts:
    """Captions every shard that is not finished, and returns the counts of all.

    Args:
        spec: the recipe's block; ``workers`` processes each start an engine of their own where it
            is above 1.
        seed: of the data set.
        on_sample: told of samples that are done.
        engine: used in place of the recipe's, in this process.
        account: filled while the run goes; with several processes, shard by shard. The run's folder
            holds a log of it.

    Raises:
        CorpusError: ``corpus`` is none, or a finished shard changed.
        RunRefused: other settings, or another process works on the run.
        RunFailed: a worker died, the engine gave up, or the disk is full; finished shards stay.
    """
    shards = list_shards(corpus)
    ledger = Ledger.create(spec.run, shaping_of(spec, seed=seed))
    with ledger.locked():
        todo = _plan(ledger, shards).todo
        if not todo:  # do not load a model
            return ledger.total(shards)
        account = account or Account()
        account.on_sample = on_sample
        with logged(account, ledger.folder / LOG_FILE, config=spec.config):
            if engine is not None or spec.workers == 1:
                _caption_here(ledger, todo, spec, seed, account, engine)
            else:
                work = partial(_caption_in_worker, ledger, spec, seed)
                _in_processes(todo, work, workers=spec.workers, on_shard=account.add)
        return ledger.total(shards)


def scan(corpus: Path, folder: Path, *, limits: ReadLimits, on_sample: OnSample = ignore) -> Counts:
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


def start_engine(spec: RecaptionSpec) -> Captioner:
    """The engine that the recipe names, ready to write."""
    engine: Captioner = registry.load("engines", spec.engine.name)(spec.engine)
    return engine


def _caption_here(
    ledger: Ledger,
    todo: list[Path],
    spec: RecaptionSpec,
    seed: int,
    account: Account,
    engine: Captioner | None,
) -> None:
    started = engine or start_engine(spec)
    try:
        for written in caption_shards(todo, spec, started, seed=seed, account=account):
            ledger.write(*written)
    finally:
        if engine is None:
            started.close()


def _in_processes(
    todo: list[Path],
    work: Callable[[Path], Figures],
    *,
    workers: int,
    on_shard: Callable[[Figures], None],
) -> None:
    # Spawned, not forked: a forked process inherits locks of threads that it does not have.
    workers = min(workers, len(todo))
    context = get_context("spawn")
    others = set(active_children())
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker) as pool:
        futures = [pool.submit(work, shard) for shard in todo]
        try:
            for future in as_completed(futures):
                on_shard(future.result())
        except BrokenProcessPool as error:
            raise RunFailed(
                "a worker process died (killed, or out of memory); finished shards are kept: "
                "run the same command again, with fewer workers if memory was short"
            ) from error
        except KeyboardInterrupt:
            for worker in set(active_children()) - others:
                worker.kill()  # now, not after its shard
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_worker() -> None:
    signal(SIGINT, SIG_IGN)  # the parent hears it too, and ends its workers
    end_with_parent()


_started: list[Captioner] = []


def _engine_of_worker(spec: RecaptionSpec) -> Captioner:
    """The worker's engine, started with its first shard: an initializer's error would be lost."""
    if not _started:
        _started.append(start_engine(spec))
    return _started[0]


def _caption_in_worker(ledger: Ledger, spec: RecaptionSpec, seed: int, shard: Path) -> Figures:
    account = Account()
    engine = _engine_of_worker(spec)
    for written in caption_shards([shard], spec, engine, seed=seed, account=account):
        ledger.write(*written)
    return account.figures()
