"""Checks a corpus: what can be used, and what is wrong with the rest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.storage import Place

from .images import SUFFIX_OF_FORMAT, ImageRefused, decode
from .read import ReadLimits, Sample, list_shards, read_shard

WARNINGS = frozenset(
    {
        "duplicate_image",
        "metadata_too_long",
        "metadata_unreadable",
        "suffix_differs",
        "text_control_characters",
        "text_missing",
        "text_not_utf8",
        "text_too_long",
    }
)
"""Findings that leave a sample usable; all others fail the check."""

_ROWS = 10_000
_SCHEMA = pa.schema(
    {
        "position": pa.int64(),
        "shard": pa.string(),
        "key": pa.string(),
        "image_sha256": pa.string(),
        "kind": pa.string(),
        "detail": pa.string(),
        "text_kind": pa.string(),
        "text_detail": pa.string(),
        "metadata_kind": pa.string(),
        "metadata_detail": pa.string(),
        "suffix_detail": pa.string(),
    }
)
_FINDINGS = """
CREATE TEMP VIEW findings AS
SELECT kind, shard, key, detail, position FROM samples WHERE kind IS NOT NULL
UNION ALL
SELECT text_kind, shard, key, text_detail, position FROM samples WHERE text_kind IS NOT NULL
UNION ALL
SELECT metadata_kind, shard, key, metadata_detail, position FROM samples
WHERE metadata_kind IS NOT NULL
UNION ALL
SELECT 'suffix_differs', shard, key, suffix_detail, position FROM samples
WHERE suffix_detail IS NOT NULL
UNION ALL
SELECT 'duplicate_key', shard, key, 'first in ' || first_shard, position FROM (
    SELECT *, first_value(shard) OVER w AS first_shard, row_number() OVER w AS copy
    FROM samples WINDOW w AS (PARTITION BY key ORDER BY position)
) WHERE copy > 1
UNION ALL
SELECT 'duplicate_image', shard, key, 'as ' || first_key, position FROM (
    SELECT *, first_value(key) OVER w AS first_key, row_number() OVER w AS copy
    FROM samples WHERE image_sha256 IS NOT NULL
    WINDOW w AS (PARTITION BY image_sha256 ORDER BY position)
) WHERE copy > 1
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one sample."""

    kind: str
    shard: str
    key: str
    detail: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Counts of a corpus; ``findings`` lists at most a limit of each kind, ``counts`` counts them
    all.
    """

    shards: int
    samples: int
    usable: int
    counts: dict[str, int]
    findings: list[Finding]

    @property
    def failed(self) -> bool:
        """Whether a sample cannot be used, or a key stands twice."""
        return any(kind not in WARNINGS for kind in self.counts)


def check(
    corpus: Place,
    *,
    decode_images: bool = True,
    limit: int = 20,
    limits: ReadLimits | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
) -> CheckReport:
    """Reads the whole corpus, in memory that does not grow with it.

    Args:
        decode_images: also finds images whose pixels are damaged; several times slower.
        limit: findings listed of each kind.
        limits: as the reader's.
        on_sample: told of samples that are done.

    Raises:
        CorpusError: ``corpus`` is none.
    """
    shards = list_shards(corpus)
    with TemporaryDirectory() as folder, duckdb.connect() as connection:
        rows = Path(folder) / "samples.parquet"
        with pq.ParquetWriter(rows, _SCHEMA) as writer:
            for batch in _batches(shards, limits or ReadLimits(), decode_images, on_sample):
                writer.write_table(pa.Table.from_pylist(batch, _SCHEMA))
        connection.execute("SET enable_progress_bar = false")
        connection.from_parquet(str(rows)).create_view("samples")
        connection.execute(_FINDINGS)
        counted = connection.execute(
            "SELECT count(*), count(*) FILTER (kind IS NULL) FROM samples"
        ).fetchall()[0]
        counts = dict(
            connection.execute(
                "SELECT kind, count(*) FROM findings GROUP BY kind ORDER BY kind"
            ).fetchall()
        )
        listed = connection.execute(
            "SELECT kind, shard, key, detail FROM findings "
            "QUALIFY row_number() OVER (PARTITION BY kind ORDER BY position) <= ? "
            "ORDER BY kind, position",
            [limit],
        ).fetchall()
    findings = [Finding(*row) for row in listed]
    return CheckReport(len(shards), counted[0], counted[1], counts, findings)


def _batches(
    shards: Sequence[Place],
    limits: ReadLimits,
    decode_images: bool,
    on_sample: Callable[[int], None],
) -> Iterator[list[dict[str, object]]]:
    batch: list[dict[str, object]] = []
    position = 0
    for shard in shards:
        for sample in read_shard(shard, limits=limits):
            batch.append({"position": position, **_row(sample, limits, decode_images)})
            position += 1
            on_sample(1)
            if len(batch) == _ROWS:
                yield batch
                batch = []
    yield batch


def _row(sample: Sample, limits: ReadLimits, decode_images: bool) -> dict[str, object]:
    problem, text_problem = sample.problem, sample.text_problem
    metadata_problem = sample.metadata_problem
    if problem and text_problem and problem.reason == text_problem.reason:
        text_problem = None  # one finding for a sample whose members all have the same trouble
    if problem is None and decode_images:
        try:
            decode(sample.image, limits.image)
        except ImageRefused as refused:
            problem = refused.problem
    return {
        "shard": sample.shard,
        "key": sample.key,
        "image_sha256": sample.image_sha256,
        "kind": problem.reason if problem else None,
        "detail": problem.detail if problem else None,
        "text_kind": text_problem.reason if text_problem else None,
        "text_detail": text_problem.detail if text_problem else None,
        "metadata_kind": metadata_problem.reason if metadata_problem else None,
        "metadata_detail": metadata_problem.detail if metadata_problem else None,
        "suffix_detail": _suffix_differs(sample),
    }


def _suffix_differs(sample: Sample) -> str | None:
    """What the image is, where its name says otherwise; readers go by content, so this is only a
    warning.
    """
    if sample.header is None:
        return None
    told = "jpg" if sample.suffix == "jpeg" else sample.suffix
    is_really = SUFFIX_OF_FORMAT.get(sample.header.format, sample.header.format.lower())
    return None if told == is_really else f"is {is_really}, named {sample.suffix}"
