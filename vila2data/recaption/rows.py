"""Rows of a run's ledger: what a caption table holds, and why a row was rejected."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa
from datasets import Features, Value

from vila2data.corpus.read import Sample
from vila2data.counts import Counts
from vila2data.engines import Author
from vila2data.schema import REJECT
from vila2data.stats.signals import Signals, signals_of

from .ledger import storable

LEDGER = Features({**REJECT, "reject_detail": Value("string"), "attempts": Value("int32")})
_SCHEMA: pa.Schema = LEDGER.arrow_schema.remove_metadata()
_SIGNALS = tuple(field.name for field in fields(Signals))
_EMPTY = signals_of("")


@dataclass(slots=True)
class Row:
    """One sample on its way to the ledger; the fields are its columns."""

    key: str
    id: int | None
    url: str | None
    image_sha256: str | None
    width: int | None
    height: int | None
    original: str
    task: str
    round: int
    template_id: str | None = None
    caption: str = ""
    captioner: str | None = None
    captioner_revision: str | None = None
    engine: str | None = None
    prompt_id: str | None = None
    seed: int | None = None
    finish_reason: str | None = None
    num_tokens: int | None = None
    signals: Signals = _EMPTY
    reject_reason: str | None = None
    reject_detail: str | None = None
    attempts: int = 0

    @classmethod
    def of(cls, sample: Sample, *, task: str, round: int) -> "Row":
        """The row of a sample, without a caption yet."""
        header = sample.header
        return cls(
            key=storable(sample.key),
            id=sample.id,
            url=storable(sample.url) if sample.url is not None else None,
            image_sha256=sample.image_sha256,
            width=header.width if header else None,
            height=header.height if header else None,
            original=sample.text,
            task=task,
            round=round,
        )

    @property
    def captioner_round(self) -> int | None:
        """Round of the model that wrote, None for the original texts."""
        return self.round - 1 if self.round else None

    def reject(self, reason: str, detail: str = "") -> None:
        """Marks the row as rejected."""
        self.reject_reason, self.reject_detail = reason, detail

    def signed_by(self, author: Author) -> None:
        """Names who wrote the caption."""
        self.captioner, self.captioner_revision = author.captioner, author.captioner_revision
        self.engine = author.engine


def table_of(rows: Iterable[Row]) -> pa.Table:
    """The rows as a table of the ledger's columns."""
    rows = list(rows)
    columns = {
        name: [getattr(row.signals, name) for row in rows]
        if name in _SIGNALS
        else [getattr(row, name) for row in rows]
        for name in _SCHEMA.names
    }
    return pa.table(columns, schema=_SCHEMA)


def counts_of(rows: Iterable[Row], *, read: int, not_sampled: int = 0) -> Counts:
    """Counts of a finished shard, ``read`` as the reader of the shard counted."""
    reasons = Counter(row.reject_reason for row in rows)
    written = reasons.pop(None, 0)
    rejected = {str(reason): count for reason, count in sorted(reasons.items(), key=str)}
    return Counts(read, written, rejected, not_sampled)
