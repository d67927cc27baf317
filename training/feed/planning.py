"""Makes plans: reads every source, sorts the samples on disk, and writes them in order."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from vila2data.build.tables import streamed, work_connection
from vila2data.build.views import sql_text
from vila2data.files import file_sha256, raise_if_full_within, sync, write_text

from .assemble import items_of
from .plan import ITEMS_FILE, PLAN_VERSION, SAMPLES_FILE, Plan, load_plan
from .reading import Counted, Source, open_sources, read_sources, refuse
from .samples import SAMPLE, Sampler
from .spec import FeedSpec

_SAMPLES_PER_BATCH = 2048


def make_plan(
    spec: FeedSpec,
    processor: Any,
    folder: Path,
    *,
    seed: int,
    batch: int,
    epochs: int = 1,
    workers: int = 0,
    on_rows: Callable[[int], None] = lambda count: None,
) -> Plan:
    """Reads every source once, and writes the plan; the folder appears whole.

    Args:
        spec: the recipe's feed.
        processor: of the model.
        folder: of the plan; must not exist.
        seed: of every draw, together with the sample's key.
        batch: sequences in a global batch.
        epochs: how often the mixture is seen.
        workers: processes that read, each a file of a source at a time; none beside this one where
            0. The plan is the same.
        on_rows: told how many rows were read.

    Raises:
        BadInput: a source lacks what it needs; a sample is too long or its image is missing, and
            the policy is to refuse; nothing is left to train on.
        RunFailed: the disk is full.
    """
    sampler = Sampler(spec, processor)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        sources = open_sources(spec, partial, seed=seed, epochs=epochs)
        counts = read_sources(
            sources, sampler, partial, epochs=epochs, workers=workers, on_rows=on_rows
        )
        refuse(spec, sources, counts)
        totals = _write_samples(spec, partial, batch=batch)
        _write_summary(partial, sources, counts, totals)
        partial.replace(folder)
        sync(folder.parent)
    except (OSError, duckdb.Error) as error:
        raise_if_full_within(error, folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_plan(folder)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A sample as a record of the plan."""

    record: Mapping[str, Any]

    @property
    def length(self) -> int:
        return int(self.record["length"])

    @property
    def has_images(self) -> bool:
        return bool(self.record["image_tokens"])


@dataclass
class _Totals:
    items: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    images: int = 0

    def add(self, record: Mapping[str, Any]) -> None:
        runs = record["trained"]
        self.samples += 1
        self.tokens += record["length"]
        self.trained_tokens += sum(runs[1::2]) - sum(runs[::2])
        self.images += len(record["image_tokens"])


def _in_order(folder: Path) -> Iterator[_Planned]:
    """The samples of the first pass by their times, sorted on disk."""
    rows, copies = (sql_text(str(folder / f"{n}-*.parquet")) for n in ("samples", "copies"))
    columns = ", ".join(SAMPLE.names)
    with work_connection(str(folder)) as connection:
        joined = f"read_parquet({copies}) AS copies JOIN read_parquet({rows}) AS rows USING (row)"
        batches = streamed(
            connection, f"SELECT {columns} FROM {joined} ORDER BY time, row", _SAMPLES_PER_BATCH
        )
        for batch in batches:
            yield from map(_Planned, batch.to_pylist())


def _write_samples(spec: FeedSpec, folder: Path, *, batch: int) -> _Totals:
    totals = _Totals()
    items = items_of(
        _in_order(folder),
        batch=batch,
        context_tokens=spec.context_tokens,
        packing=spec.packing,
        single_modality=spec.single_modality,
    )
    waiting: list[Mapping[str, Any]] = []
    with (
        (folder / ITEMS_FILE).open("wb") as starts,
        pa.OSFile(str(folder / SAMPLES_FILE), "wb") as file,
        pa.ipc.new_stream(file, SAMPLE) as samples,
    ):
        for item in items:
            starts.write(np.int64(totals.samples).tobytes())
            totals.items += 1
            for sample in item:
                totals.add(sample.record)
                waiting.append(sample.record)
            if len(waiting) >= _SAMPLES_PER_BATCH:
                samples.write_batch(pa.RecordBatch.from_pylist(waiting, SAMPLE))
                waiting = []
        if waiting:
            samples.write_batch(pa.RecordBatch.from_pylist(waiting, SAMPLE))
        starts.write(np.int64(totals.samples).tobytes())
    return totals


def _write_summary(
    folder: Path, sources: Sequence[Source], counts: Sequence[Counted], totals: _Totals
) -> None:
    for left in folder.glob("*.parquet"):
        left.unlink()
    shutil.rmtree(folder / "spill", ignore_errors=True)
    hashes = [file_sha256(folder / name) for name in (SAMPLES_FILE, ITEMS_FILE)]
    each = list(zip(sources, counts, strict=True))
    content = {
        "plan_version": PLAN_VERSION,
        "fingerprint": sha256(" ".join(hashes).encode()).hexdigest(),
        **asdict(totals),
        "funnel": [asdict(counted.step(source.spec.name)) for source, counted in each],
        "sources": [{**source.rows.told(), "form": source.spec.form} for source in sources],
        "stores": [source.store_told() for source in sources],
    }
    write_text(folder / "plan.json", json.dumps(content, indent=2) + "\n")
    for name in (SAMPLES_FILE, ITEMS_FILE):
        sync(folder / name)
