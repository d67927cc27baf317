"""Streams of rows through DuckDB, in memory that does not grow with them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from .views import sql_text

ROWS_PER_RANGE = 1_000_000
"""For ``key_ranges``: rows with some long texts each that a query has room for."""

_MEMORY_LIMIT = "4GB"
_KEYS_PER_RANGE = 1_000  # drawn to find where ranges end: their sizes differ by some per cent
_ERRORS = {
    "Conversion Error": duckdb.ConversionException,
    "Invalid Input Error": duckdb.InvalidInputException,
    "IO Error": duckdb.IOException,
    "Out of Memory Error": duckdb.OutOfMemoryException,
}


@contextmanager
def work_connection(folder: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose sorts and joins go to ``folder`` where memory is short."""
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    bound(connection, folder)
    try:
        yield connection
    finally:
        connection.close()


def bound(connection: duckdb.DuckDBPyConnection, folder: str | Path | None) -> None:
    """Has a connection's sorts and joins go to ``folder`` where they outgrow a fixed memory, which
    else grows with the rows up to most of the machine's.
    """
    connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
    if folder is not None:
        spill = Path(folder) / "spill"
        connection.execute(f"SET temp_directory = {sql_text(str(spill))}")


def streamed(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: int
) -> Iterator[pa.RecordBatch]:
    """The result of a query in batches of about ``rows``, not all at once.

    Raises:
        duckdb.Error: of the same kind whether DuckDB meets it before the first batch or after.
    """
    reader: Any = connection.sql(sql).to_arrow_reader(rows)
    try:
        yield from reader
    except OSError as error:  # how Arrow passes on what DuckDB meets between two batches
        kind = _ERRORS.get(str(error).partition(":")[0], duckdb.Error)
        raise kind(str(error)) from error


def key_ranges(connection: duckdb.DuckDBPyConnection, keys: str, rows: int) -> list[str]:
    """Conditions on ``key``, of which each row meets one, for ranges of about ``rows`` in ascending
    order.

    A query over one range after the other needs no more memory for more rows, where one over all
    would: aggregates of texts do not go to the disk.

    Args:
        keys: query whose column ``key`` is what the ranges part.
        rows: that a range should have; where there are not more, there is one range, of all.
    """
    (count,) = connection.execute(f"SELECT count(*) FROM ({keys})").fetchall()[0]
    parts = -(-count // rows)
    if parts < 2:
        return ["true"]
    drawn = f"SELECT key FROM ({keys}) USING SAMPLE reservoir({parts * _KEYS_PER_RANGE} ROWS)"
    ordered = f"SELECT key FROM ({drawn}) WHERE key IS NOT NULL ORDER BY key"
    found = [key for (key,) in connection.execute(ordered).fetchall()]
    if not found:
        return ["true"]
    bounds = [sql_text(found[len(found) * part // parts]) for part in range(1, parts)]
    between = [f"key >= {low} AND key < {high}" for low, high in pairwise(bounds)]
    return [f"(key < {bounds[0]} OR key IS NULL)", *between, f"key >= {bounds[-1]}"]


def rebatched(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ``rows``, the last one shorter.

    How a query's result is cut into batches depends on threads; files must not.
    """
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= rows:
            table = pa.Table.from_batches(waiting)
            whole = count - count % rows
            for start in range(0, whole, rows):
                yield table.slice(start, rows).combine_chunks()
            waiting = table.slice(whole).to_batches()
            count -= whole
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks()
