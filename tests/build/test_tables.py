"""Queries read as streams."""

from itertools import chain
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.build.tables import bound, key_ranges, streamed, work_connection


def damaged(path: Path, group: int) -> Path:
    """A parquet file of ten row groups, of which one cannot be unpacked."""
    numbers = np.random.default_rng(0).integers(0, 1 << 60, 100_000)
    pq.write_table(pa.table({"number": numbers}), path, row_group_size=10_000)
    column = pq.ParquetFile(path).metadata.row_group(group).column(0)
    start, size = column.dictionary_page_offset, column.total_compressed_size
    raw = bytearray(path.read_bytes())
    raw[start + 64 : start + size] = bytes(size - 64)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("group", [0, 9])
def test_damage_is_the_same_error_at_the_first_batch_and_after(tmp_path: Path, group: int) -> None:
    query = f"FROM read_parquet('{damaged(tmp_path / 'part.parquet', group)}')"
    with work_connection(str(tmp_path)) as connection:
        connection.execute("SET threads = 1")
        # What DuckDB keeps ready between two batches: little, so that some are given before it fails.
        connection.execute("SET streaming_buffer_size = '10KB'")
        batches = streamed(connection, query, 1000)
        if group:
            assert next(batches).num_rows
        with pytest.raises(duckdb.InvalidInputException, match=r"part\.parquet.*Snappy"):
            list(batches)


def test_a_query_that_outgrows_its_memory_goes_to_the_folder(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        bound(connection, tmp_path)
        limit, folder = connection.execute(
            "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchall()[0]
    assert (limit, folder) == ("3.7 GiB", str(tmp_path / "spill"))  # 4 GB


@given(
    keys=st.lists(
        st.none() | st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"))
    ),
    rows=st.integers(1, 30),
)
def test_each_row_is_in_one_of_the_ranges_which_ascend(keys: list[str | None], rows: int) -> None:
    with duckdb.connect() as connection:
        connection.register("told", pa.table({"key": pa.array(keys, pa.string())}))
        ranges = key_ranges(connection, "FROM told", rows)
        ordered = "SELECT key FROM told WHERE {} ORDER BY key NULLS FIRST"
        parts = [connection.execute(ordered.format(w)).fetchall() for w in ranges]
        assert (
            list(chain.from_iterable(parts))
            == connection.execute(ordered.format("true")).fetchall()
        )
    assert len(ranges) <= max(1, -(-len(keys) // rows))


def test_ranges_are_about_as_large_as_asked() -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE told AS SELECT hash(i)::VARCHAR AS key FROM range(100_000) t(i)"
        )
        sizes = [
            connection.execute(f"SELECT count(*) FROM told WHERE {within}").fetchall()[0][0]
            for within in key_ranges(connection, "FROM told", 10_000)
        ]
    assert len(sizes) == 10
    assert max(sizes) < 13_000  # 1,000 keys a range: a standard deviation is some 300
