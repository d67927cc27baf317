"""What the tasks of a builder leave in its work folder: files that only the build reads, with the
counts of what became of their rows.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.counts import Counts, Steps, added
from vila2data.files import appearing
from vila2data.runfolder import fingerprint_of, read_shaping, write_shaping

from .manifest import FunnelStep

_COUNTS = b"vila2data.counts"


def bind(work: Path, shaping: Mapping[str, Any]) -> None:
    """Makes the folder, without what an earlier, killed build left there that was shaped by
    something else.
    """
    begun = read_shaping(work) if work.is_dir() else None
    if begun is not None and fingerprint_of(begun) != fingerprint_of(shaping):
        shutil.rmtree(work)
    if begun is None or not work.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        write_shaping(work, shaping)


def write_shard(table: pa.Table, path: Path, steps: Steps | None = None) -> None:
    """Writes a file that appears whole: quickly rather than small."""
    with appearing(path) as temporary, shard_writer(temporary, table.schema) as writer:
        writer.write_table(table)
        note_counts(writer, steps or {})


def shard_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of such a file, table by table; end with ``note_counts``."""
    return pq.ParquetWriter(
        path,
        schema.remove_metadata(),
        compression="lz4",
        use_dictionary=False,
        write_statistics=False,
    )


def note_counts(writer: pq.ParquetWriter, steps: Steps) -> None:
    """Puts the counts of each step into the file."""
    told = {n: [c.read, c.written, dict(c.rejected), c.not_sampled] for n, c in steps.items()}
    writer.add_key_value_metadata({_COUNTS: json.dumps(told).encode()})


def steps_in(paths: Iterable[Path]) -> dict[str, Counts]:
    """The counts of each step, over all files."""
    told = (json.loads(pq.read_metadata(path).metadata[_COUNTS]) for path in paths)
    return added({name: Counts(*values) for name, values in steps.items()} for steps in told)


def row_count(paths: Iterable[Path]) -> int:
    """Rows in parquet files."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def funnel_step(name: str, counts: Counts) -> FunnelStep:
    """The counts as a manifest tells them."""
    return FunnelStep(name, counts.read, counts.written, counts.rejected, counts.not_sampled)
