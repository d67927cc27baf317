"""Reads the rows of a config, many at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from vila2data.build.tables import streamed
from vila2data.build.views import sql_name

from .measures import Measures
from .special import special

_ROWS_AT_A_TIME = 5_000  # bounds memory

_IS_BAD = {  # by column, of an item `i`; null counts as bad
    "images": "coalesce(NOT ("
    "hex(i.bytes[1:3]) = 'FFD8FF'"  # JPEG
    " OR hex(i.bytes[1:8]) = '89504E470D0A1A0A'"  # PNG
    " OR hex(i.bytes[1:6]) IN ('474946383761', '474946383961')"  # GIF
    " OR hex(i.bytes[1:2]) = '424D'"  # BMP
    " OR (hex(i.bytes[1:4]) = '52494646' AND hex(i.bytes[9:12]) = '57454250')"  # WebP
    "), true)",
    "image_paths": "coalesce(trim(i) = '' OR i LIKE '/%' OR list_contains("
    "string_split(replace(i, '\\', '/'), '/'), '..'), true)",
}


class Row(NamedTuple):
    """A row's conversation.

    Attributes:
        turns: role and content of each; None where a part of it is null.
        images: how many.
    """

    id: str
    source: str
    turns: Sequence[tuple[str, str]] | None
    images: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows; ``with_bad_images`` holds the ids of those with an image that is none."""

    columns: pa.RecordBatch
    with_bad_images: Sequence[object]

    def with_special(self) -> list[object]:
        """The ids of rows with a special token or a role label in a text."""
        messages = self.columns.column("messages")
        places = list(special(messages.values.field("content")))
        rows = np.searchsorted(messages.offsets.to_numpy(), places, side="right") - 1
        found: list[object] = self.columns.column("id").take(pa.array(np.unique(rows))).to_pylist()
        return found

    def rows(self) -> Iterator[Row]:
        """Those whose columns are not null."""
        messages = self.columns.column("messages")
        turns = messages.values
        is_null = turns.is_null().to_numpy(zero_copy_only=False)
        texts = [turns.field(name) for name in ("role", "content")]
        for text in texts:
            is_null |= text.is_null().to_numpy(zero_copy_only=False)
        nulls_before = np.append(0, np.cumsum(is_null)).tolist()
        said = list(zip(*(text.to_pylist() for text in texts), strict=True))
        rows = zip(
            *(self.columns.column(name).to_pylist() for name in ("id", "source", "images")),
            messages.is_valid().to_pylist(),
            pairwise(messages.offsets.to_pylist()),
            strict=True,
        )
        for row_id, source, images, is_there, (start, end) in rows:
            if row_id is None or source is None or images is None or not is_there:
                continue  # told by the rule of null columns
            is_whole = nulls_before[start] == nulls_before[end]
            yield Row(row_id, source, said[start:end] if is_whole else None, images)


def columns_of(connection: duckdb.DuckDBPyConnection, config: str) -> list[str]:
    """The names of a config's columns."""
    return list(connection.sql(f"SELECT * FROM {sql_name(config)} LIMIT 0").columns)


def batches(connection: duckdb.DuckDBPyConnection, measures: Measures) -> Iterator[Batch]:
    """All rows, without the bytes of their images."""
    images = "image_paths" if measures.are_paths else "images"
    query = (
        f"SELECT id, source, messages, len({images}) AS images, "
        f"len(list_filter({images}, lambda i: {_IS_BAD[images]})) > 0 AS is_bad "
        f"FROM {sql_name(measures.config)}"
    )
    for columns in streamed(connection, query, _ROWS_AT_A_TIME):
        is_bad = columns.column("is_bad")
        yield Batch(columns, columns.column("id").filter(is_bad).to_pylist())
