"""The images that rows are joined with: an index of a corpus as parquet, and SQL over it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.views import sql_list
from vila2data.corpus.images import ImageLimits, ImageRefused, decode
from vila2data.corpus.phash import PHASH_EXTRA, phash
from vila2data.corpus.read import Sample, list_shards, read_shard
from vila2data.executor import ExecutorSpec, run_tasks
from vila2data.files import appearing
from vila2data.optional import require

from .recipe import ImageRules

JoinColumn = Literal["id", "url"]

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("id", pa.int64()),
        ("url", pa.string()),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),  # px, upright
        pa.field("height", pa.int32(), nullable=False),
        ("phash", pa.uint64()),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
    ]
)
_UNUSABLE = b"vila2data.unusable"
_ROWS_PER_GROUP = 4096
_LIMITS = ImageLimits()
_PHASH_DIGITS = "[0-9a-fA-F]{16}"


@dataclass(frozen=True, slots=True)
class IndexTask:
    """A shard of the corpus, and the file that its index becomes."""

    shard: Path
    number: int
    with_phash: bool
    out: Path


def index_images(
    corpus: Path,
    folder: Path,
    *,
    with_phash: bool,
    executor: ExecutorSpec,
    on_rows: Callable[[int], None],
) -> list[Path]:
    """Writes a parquet file for each shard of a corpus, a row for each image that can be used.

    The columns are ``key``, ``id``, ``url``, ``image_sha256``, ``width``, ``height``, ``phash``,
    ``shard`` and ``place``. Sizes are those of the upright image as the corpus stores it, which is
    what boxes are drawn on: img2dataset may have made it smaller, or cropped it. Where pictures are
    hashed they are decoded, so that those with damaged pixels are found to be unusable.

    Args:
        corpus: folder of tars.
        folder: a file that is there already is not made again, so it must belong to this corpus
            and to this ``with_phash``.
        with_phash: whether pictures are decoded and hashed.
        executor: who does the work.
        on_rows: called with the number of samples of each shard that was read.

    Raises:
        CorpusError: ``corpus`` is none.
        MissingExtra: hashes are wanted and ImageHash is not installed.
        RunFailed: the disk is full, or a worker was killed.
    """
    if with_phash:
        require("imagehash", extra=PHASH_EXTRA)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        IndexTask(shard, number, with_phash, folder / f"images-{number:05d}.parquet")
        for number, shard in enumerate(list_shards(corpus))
    ]
    waiting = [task for task in tasks if not task.out.is_file()]
    for read in run_tasks(index_shard, waiting, executor):
        on_rows(read)
    return [task.out for task in tasks]


def index_shard(task: IndexTask) -> int:
    """Writes the index of one shard; returns how many samples were read."""
    unusable: Counter[str] = Counter()
    written = 0
    with appearing(task.out) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        rows = _rows(task, unusable)
        while some := list(islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(some, _SCHEMA))
            written += len(some)
        writer.add_key_value_metadata({_UNUSABLE: json.dumps(dict(sorted(unusable.items())))})
    return written + unusable.total()


def _rows(task: IndexTask, unusable: Counter[str]) -> Iterator[dict[str, Any]]:
    """A row of each usable sample; the reasons of the others are counted in ``unusable``."""
    for sample in read_shard(task.shard):
        try:
            yield _row(sample, task)
        except ImageRefused as refused:
            unusable[refused.problem.reason] += 1


def _row(sample: Sample, task: IndexTask) -> dict[str, Any]:
    if sample.problem is not None:
        raise ImageRefused(sample.problem)
    assert sample.header is not None
    return {
        "key": sample.key,
        "id": sample.id,
        "url": sample.url,
        "image_sha256": sample.image_sha256,
        "width": sample.header.width,
        "height": sample.header.height,
        "phash": phash(decode(sample.image, _LIMITS)) if task.with_phash else None,
        "shard": task.number,
        "place": sample.index,
    }


def unusable_counts(files: Sequence[Path]) -> dict[str, int]:
    """How many samples of the corpus are in no index, by reason."""
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(json.loads(pq.read_metadata(file).metadata[_UNUSABLE]))
    return dict(sorted(counts.items()))


def join_column(files: Sequence[Path]) -> JoinColumn:
    """What rows find their image by: ``id`` where any image has one, else ``url``."""
    position = _SCHEMA.get_field_index("id")
    for file in files:
        metadata = pq.read_metadata(file)
        groups = (metadata.row_group(n) for n in range(metadata.num_row_groups))
        if any(group.column(position).statistics.has_min_max for group in groups):
            return "id"
    return "url"


def first_image_sql(files: Sequence[Path], by: JoinColumn) -> str:
    """A query of one image for each id, or each URL: the first in the corpus that has it."""
    return (
        f"SELECT * FROM read_parquet({sql_list(file.as_posix() for file in files)}) "
        f"WHERE {by} IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY shard, place) = 1"
    )


def status_sql(rules: ImageRules, *, with_phash: bool) -> str:
    """An expression that gives the ``image_status`` of a row: ``missing``, ``size_differs``,
    ``phash_differs`` or ``ok``.

    What a row does not tell, or tells in another form, is not compared: a side that is null or
    below 1, a hash that is not 16 hexadecimal digits.

    Args:
        rules: what may differ by how much.
        with_phash: whether hashes are compared, and rows have the column ``image_phash``.

    Returns:
        SQL over a row ``r`` and an image ``i``, whose columns are null where there is none.
    """
    conditions = {"missing": "i.key IS NULL", "size_differs": _size_differs(rules)}
    if with_phash:
        conditions["phash_differs"] = _phash_differs(rules)
    cases = " ".join(f"WHEN {sql} THEN '{status}'" for status, sql in conditions.items())
    return f"CASE {cases} ELSE 'ok' END"


def _size_differs(rules: ImageRules) -> str:
    ratio = "(i.width::DOUBLE / i.height) / (r.width::DOUBLE / r.height)"
    compared = "r.width >= 1 AND r.height >= 1"
    return f"({compared} AND abs({ratio} - 1) > {rules.max_aspect_difference!r}::DOUBLE)"


def _phash_differs(rules: ImageRules) -> str:
    compared = f"regexp_full_match(r.image_phash, '{_PHASH_DIGITS}')"
    # TRY_CAST, since DuckDB may evaluate it of rows that do not match
    bits = "bit_count(xor(i.phash, TRY_CAST('0x' || r.image_phash AS UBIGINT)))"
    return f"({compared} AND {bits} > {rules.max_phash_distance})"
