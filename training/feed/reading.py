"""The first pass over the sources: rows become samples, in any order, and the times at which they
come. Each file of a source is a part, read by itself, in this process or in others.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.manifest import FunnelStep
from vila2data.build.tables import work_connection
from vila2data.corpus.read import list_shards
from vila2data.errors import BadInput

from .images import CorpusStore, ImageStore, RowStore
from .order import Draws, shard_groups
from .rows import Rows, open_rows
from .samples import SAMPLE, Sampler
from .spec import FeedSpec, SourceSpec

_ROWS_PER_BATCH = 512
_ROWS_PER_GROUP = 8192
_ROWS_OF_A_PART = 1 << 40

PART = SAMPLE.append(pa.field("row", pa.int64()))
COPY = pa.schema({"row": pa.int64(), "time": pa.float64()})

ItemType = TypeVar("ItemType")


@dataclass(frozen=True)
class Source:
    """A source that was opened, with its draws; can be sent to other processes."""

    number: int
    spec: SourceSpec
    rows: Rows
    draws: Draws
    highest_share: float

    def store(self) -> ImageStore:
        """Its images."""
        if self.rows.location == self.spec.corpus:
            return CorpusStore(self.rows.location)
        return RowStore(self.rows.location, str(self.rows.told()["config"]), self.spec.split)

    def store_told(self) -> dict[str, str]:
        """What a plan remembers, to open the images again."""
        path = str(self.rows.location.absolute())
        if self.rows.location == self.spec.corpus:
            return {"kind": "corpus", "path": path}
        config = str(self.rows.told()["config"])
        return {"kind": "rows", "path": path, "config": config, "split": self.spec.split}


@dataclass
class Counted:
    """What became of rows; ``first`` is the first key of each reason."""

    read: int = 0
    written: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def reject(self, key: str, reason: str) -> None:
        """Counts a row that is no sample."""
        self.rejected[reason] += 1
        self.first.setdefault(reason, key)

    def __iadd__(self, other: "Counted") -> "Counted":
        self.read += other.read
        self.written += other.written
        self.rejected += other.rejected
        self.first = {**other.first, **self.first}
        return self

    def step(self, name: str) -> FunnelStep:
        """As a manifest tells it."""
        not_sampled = self.read - self.written - self.rejected.total()
        rejected = dict(sorted(self.rejected.items()))
        return FunnelStep(name, self.read, self.written, rejected, not_sampled)


def open_sources(spec: FeedSpec, folder: Path, *, seed: int, epochs: int) -> list[Source]:
    """Every source of a feed, before any row is read.

    Args:
        spec: the recipe's feed.
        folder: for what does not fit into memory.
        seed: of the draws.
        epochs: how often the mixture is seen.

    Raises:
        BadInput: a source lacks what it needs.
    """
    sources = []
    for number, (source, rows) in enumerate([(s, open_rows(s)) for s in spec.sources]):
        draws = Draws(seed, rows.identity, source.weight)
        if rows.location == source.corpus:
            shards = len(list_shards(rows.location))
            at_once = spec.shards_at_once
            groups = shard_groups(seed, rows.identity, shards, at_once=at_once, epochs=epochs)
            draws = Draws(seed, rows.identity, source.weight, *groups)
        highest = _highest_share(source, rows, draws, folder)
        sources.append(Source(number, source, rows, draws, highest))
    return sources


def _highest_share(source: SourceSpec, rows: Rows, draws: Draws, folder: Path) -> float:
    """Rows up to this share are taken: a fraction, or less where the cap is reached first."""
    fraction = math.nextafter(source.fraction, 0)  # shares are below 1
    if source.cap is None:
        return fraction
    shares = (draws.share(key) for part in range(rows.parts) for key in rows.row_keys(part))
    batches = (pa.record_batch([pa.array(chunk)], ["share"]) for chunk in _chunks(shares))
    reader = pa.RecordBatchReader.from_batches(pa.schema({"share": pa.float64()}), batches)
    with work_connection(str(folder)) as connection:
        connection.register("shares", reader)
        found = connection.execute(
            "SELECT max(share) FROM (SELECT share FROM shares ORDER BY share LIMIT ?)",
            [source.cap],
        ).fetchone()
    return min(fraction, found[0] if found and found[0] is not None else fraction)


def read_sources(
    sources: Sequence[Source],
    sampler: Sampler,
    folder: Path,
    *,
    epochs: int,
    workers: int,
    on_rows: Callable[[int], None],
) -> list[Counted]:
    """Writes ``samples-*.parquet`` and ``copies-*.parquet``; what became of each source's rows.

    Args:
        sources: opened.
        sampler: makes samples of rows.
        folder: of the files.
        epochs: how often the mixture is seen.
        workers: processes; in this one where 0.
        on_rows: told how many rows were read.
    """
    parts = [(source, part) for source in sources for part in range(source.rows.parts)]
    counts = [Counted() for _ in sources]
    if workers == 0:
        for number, (source, part) in enumerate(parts):
            work = _Part(source, part, number, folder, epochs)
            counts[source.number] += work.read(sampler, on_rows)
        return counts
    works = [_Part(source, part, n, folder, epochs) for n, (source, part) in enumerate(parts)]
    # Spawned: a forked process would inherit locks of threads that it does not have.
    with ProcessPoolExecutor(
        min(workers, len(works)), get_context("spawn"), _begin_worker, (sampler,)
    ) as pool:
        for work, counted in zip(works, pool.map(_read_in_worker, works), strict=True):
            counts[work.source.number] += counted
            on_rows(counted.read)
    return counts


_worker_sampler: list[Sampler] = []


def _begin_worker(sampler: Sampler) -> None:
    _worker_sampler.append(sampler)


def _read_in_worker(part: "_Part") -> Counted:
    return part.read(_worker_sampler[0], lambda count: None)


@dataclass(frozen=True)
class _Part:
    """One file of a source; ``number`` counts the parts of all sources."""

    source: Source
    part: int
    number: int
    folder: Path
    epochs: int

    def read(self, sampler: Sampler, on_rows: Callable[[int], None]) -> Counted:
        counted = Counted()
        store = self.source.store()
        written = self._written(sampler, store, counted, on_rows)
        name = f"{self.number:06d}.parquet"
        with (
            pq.ParquetWriter(self.folder / f"samples-{name}", PART) as samples,
            pq.ParquetWriter(self.folder / f"copies-{name}", COPY) as copies,
        ):
            while group := list(islice(written, _ROWS_PER_GROUP)):
                samples.write_table(pa.Table.from_pylist([sample for sample, _ in group], PART))
                times = [(s["row"], time) for s, when in group for time in when]
                columns = dict(zip(COPY.names, map(list, zip(*times, strict=True)), strict=True))
                copies.write_table(pa.table(columns, COPY))
        return counted

    def _written(
        self,
        sampler: Sampler,
        store: ImageStore,
        counted: Counted,
        on_rows: Callable[[int], None],
    ) -> Iterator[tuple[Mapping[str, Any], list[float]]]:
        """Each sample that is seen at all, and when."""
        source, draws = self.source, self.source.draws
        for chunk in _chunks(source.rows.rows(self.part)):
            counted.read += len(chunk)
            taken = [row for row in chunk if draws.share(row.key) <= source.highest_share]
            for row, sample in sampler.samples(source.number, source.spec.form, taken, store):
                if isinstance(sample, str):
                    counted.reject(row.key, sample)
                elif when := list(draws.times(row, self.epochs)):
                    number = self.number * _ROWS_OF_A_PART + counted.written
                    counted.written += 1
                    yield {**sample, "row": number}, when
            on_rows(len(chunk))


def refuse(spec: FeedSpec, sources: Sequence[Source], counts: Sequence[Counted]) -> None:
    """Refuses what the policies say.

    Raises:
        BadInput: samples are too long or lack their image; or none is left.
    """
    too_long = (
        f"longer than feed.context_tokens = {spec.context_tokens}: raise it, or set "
        "feed.too_long: skip"
    )
    for source, counted in zip(sources, counts, strict=True):
        held = source.spec.corpus or source.spec.build
        missing = (
            f"without their image in {held}: is it the corpus of this build? Or set "
            "feed.missing_image: skip"
        )
        policies = (
            ("too_long", spec.too_long, too_long),
            ("image_missing", spec.missing_image, missing),
        )
        for reason, policy, remedy in policies:
            if policy == "refuse" and (count := counted.rejected[reason]):
                told = f"{count} rows, '{counted.first[reason]}' the first, are {remedy}"
                raise BadInput(f"{source.spec.name}: {told}")
    if not any(counted.written for counted in counts):
        pairs = zip(sources, counts, strict=True)
        told = "; ".join(f"{source.spec.name}: {_told(counted)}" for source, counted in pairs)
        raise BadInput(f"feed: no row is left to train on ({told})")


def _told(counted: Counted) -> str:
    reasons = [f"{count} {reason}" for reason, count in sorted(counted.rejected.items())]
    return f"{counted.read} rows" + (f", of which {', '.join(reasons)}" if reasons else "")


def _chunks(items: Iterable[ItemType]) -> Iterator[list[ItemType]]:
    waiting = iter(items)
    while chunk := list(islice(waiting, _ROWS_PER_BATCH)):
        yield chunk
