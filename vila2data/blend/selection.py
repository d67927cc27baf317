"""Which rows a blend holds, how often, and what they are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.tables import streamed, work_connection
from vila2data.build.views import sql_list
from vila2data.build.work import shard_writer
from vila2data.counts import Counts, Steps, tally
from vila2data.files import appearing
from vila2data.schema import INSTRUCT_REJECT

OVERLAP = "overlap"
SAMPLING = "sampling"
ROWS = "rows"

_ROWS_PER_BATCH = 50_000


@dataclass(frozen=True)
class Share:
    """How much of a source is taken.

    Attributes:
        name: of the source.
        shards: numbers of its shards of rows, in order.
    """

    name: str
    shards: range
    weight: float
    cap: int | None


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Attributes:
        fates: parquet file of ``shard``, ``row`` and ``id`` of every row of the blend, in order.
        steps: counts of what was not chosen.
        tokens: by source.
    """

    fates: Path
    steps: Steps
    tokens: Mapping[str, int]


def select(
    shards: Sequence[Path], shares: Sequence[Share], dropped: pa.Table, work: Path
) -> Selected:
    """Chooses among the rows.

    Args:
        shards: files of rows, of all sources.
        shares: of each source.
        dropped: ``shard``, ``conversation`` and ``reason`` of those that overlap.
        work: folder for what does not fit into memory, and for the result.
    """
    fates = work / "fates.parquet"
    with work_connection(str(work)) as connection:
        _load(connection, shards, shares, dropped)
        for name, sql in _TABLES:
            connection.execute(f"CREATE TEMP TABLE {name} AS {sql}")
        with (
            appearing(fates) as temporary,
            shard_writer(temporary, _FATES) as writer,
        ):
            for batch in streamed(connection, _CHOSEN, _ROWS_PER_BATCH):
                writer.write_batch(batch.cast(_FATES))
        _write_rejects(connection, work / "rejects-selection.parquet")
        return Selected(fates, _steps(connection), _tokens(connection))


_FATES = pa.schema({"shard": pa.int32(), "row": pa.int64(), "id": pa.string()})

_TABLES = (
    (
        "conversations",
        """
        SELECT shard, conversation, any_value(source) AS source, any_value(name) AS name,
               any_value(cap_draw) AS cap_draw, count(*) AS rows, any_value(d.reason) AS reason,
               any_value(floor(weight) + (weight_draw < weight - floor(weight))::INT)::BIGINT
                   AS copies
        FROM rows LEFT JOIN dropped AS d USING (shard, conversation) JOIN shares USING (source)
        GROUP BY shard, conversation
        """,
    ),
    (
        "chosen",
        """
        SELECT shard, conversation, copies
        FROM (
            SELECT *, sum(rows * copies) OVER (
                PARTITION BY source ORDER BY cap_draw, name, shard, conversation
                ROWS UNBOUNDED PRECEDING) AS reached
            FROM conversations WHERE reason IS NULL)
        JOIN shares USING (source)
        WHERE copies > 0 AND (cap IS NULL OR reached <= cap)
        """,
    ),
    (
        "numbered",
        """
        SELECT shard, row, source, copy, tokens, base,
               row_number() OVER (PARTITION BY base ORDER BY shard, row, copy) - 1 AS taken
        FROM (
            SELECT shard, row, source, tokens, unnest(range(copies)) AS copy,
                   source || '/' || name || suffix || if(copy = 0, '', '/c' || copy) AS base
            FROM rows JOIN chosen USING (shard, conversation))
        """,
    ),
    (
        "named",
        """
        SELECT *, row_number() OVER (PARTITION BY id ORDER BY taken, shard, row, copy) > 1 AS again
        FROM (SELECT *, base || if(taken = 0, '', '/d' || taken) AS id FROM numbered)
        """,
    ),
)
_CHOSEN = "SELECT shard, row, id FROM named WHERE NOT again ORDER BY shard, row, copy"


def _load(
    connection: duckdb.DuckDBPyConnection,
    shards: Sequence[Path],
    shares: Sequence[Share],
    dropped: pa.Table,
) -> None:
    numbers = {number: share.name for share in shares for number in share.shards}
    connection.register("dropped", dropped)
    connection.register(
        "shares",
        pa.table(
            {
                "source": pa.array([s.name for s in shares], pa.string()),
                "weight": pa.array([s.weight for s in shares], pa.float64()),
                "cap": pa.array([s.cap for s in shares], pa.int64()),
            }
        ),
    )
    connection.register(
        "files",
        pa.table(
            {
                "filename": pa.array([shards[n].as_posix() for n in numbers], pa.string()),
                "shard": pa.array(list(numbers), pa.int32()),
                "source": pa.array(list(numbers.values()), pa.string()),
            }
        ),
    )
    files = sql_list(shards[number].as_posix() for number in numbers)
    connection.execute(
        "CREATE TEMP TABLE rows AS SELECT shard, file_row_number AS row, source, conversation, "
        "name, suffix, tokens, cap_draw, weight_draw "
        f"FROM read_parquet({files}, filename = true, file_row_number = true) "
        "JOIN files USING (filename)"
    )


def _write_rejects(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    rows = connection.sql(
        """
        SELECT source || '/' || name AS id, source, c.reason AS reject_reason, d.detail AS detail
        FROM conversations AS c JOIN dropped AS d USING (shard, conversation)
        UNION ALL SELECT id, source, 'id_taken', 'another row has it' FROM named WHERE again
        ORDER BY id
        """
    ).to_arrow_table()
    with appearing(path) as temporary:
        pq.write_table(rows.cast(INSTRUCT_REJECT.arrow_schema), temporary)


def _steps(connection: duckdb.DuckDBPyConnection) -> Steps:
    """Of conversations that overlap, of those that are taken, and of rows."""
    everything, clean = _row(
        connection, "SELECT count(*), count(*) FILTER (reason IS NULL) FROM conversations"
    )
    (taken,) = _row(connection, "SELECT count(*) FROM chosen")
    named, again = _row(connection, "SELECT count(*), count(*) FILTER (again) FROM named")
    reasons = connection.execute(
        "SELECT reason, count(*) FROM conversations WHERE reason IS NOT NULL GROUP BY reason"
    ).fetchall()
    return {
        OVERLAP: Counts(everything, clean, tally(dict(reasons))),
        SAMPLING: Counts(clean, taken, not_sampled=clean - taken),
        ROWS: Counts(named, named - again, {"id_taken": again} if again else {}),
    }


def _tokens(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return dict(
        connection.execute(
            "SELECT source, sum(tokens)::BIGINT FROM named WHERE NOT again GROUP BY source"
        ).fetchall()
    )


def _row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    found: list[tuple[int, ...]] = connection.execute(sql).fetchall()
    return found[0]
