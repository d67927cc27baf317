"""Queries read as streams."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vila2data.build.tables import bound, streamed, work_connection


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
