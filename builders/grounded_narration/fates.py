"""What becomes of narrated rows when they are seen together: images, duplicates, the split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from pyarrow.dataset import dataset

from vila2data.build.views import sql_list, sql_text
from vila2data.counts import Counts, tally
from vila2data.files import appearing

from .images import first_image_sql, join_column, status_sql
from .recipe import Density, GroundedNarrationRecipe, ImageRules

DUPLICATE = "duplicate"
IMAGE_REASONS = {
    "missing": "image_missing",
    "size_differs": "image_size_differs",
    "phash_differs": "image_phash_differs",
}
"""Reason by ``image_status``."""

_KEPT = """
CREATE OR REPLACE TEMP VIEW kept AS
SELECT file, row, id, url, caption, width, height, image_phash, num_phrases, num_words
FROM narrated
"""
_MATCHED = """
CREATE OR REPLACE TEMP TABLE matched AS
SELECT r.file, r.row, i.key, i.image_sha256, {status} AS image_status
FROM kept AS r LEFT JOIN ({images}) AS i ON r.{by} = i.{by}
"""
# Few captions stand twice: the first step leaves little for the second to sort.
_TWICE = """
CREATE OR REPLACE TEMP TABLE twice AS
WITH candidates AS (
    SELECT file, row, id, hash(caption) AS told, caption
    FROM kept ANTI JOIN refused USING (file, row) WHERE id IS NOT NULL),
repeated AS (SELECT id, told FROM candidates GROUP BY id, told HAVING count(*) > 1)
SELECT file, row FROM candidates SEMI JOIN repeated USING (id, told)
QUALIFY row_number() OVER (PARTITION BY id, caption ORDER BY file, row) > 1
"""
_HISTOGRAM = """
SELECT num_phrases, num_words, count(*) AS rows
FROM kept ANTI JOIN (SELECT file, row FROM fates WHERE reject_reason IS NOT NULL) USING (file, row)
GROUP BY ALL ORDER BY ALL DESC
"""


@dataclass(frozen=True, slots=True)
class Fates:
    """A file of rows (``file``, ``row``) in order, with ``reject_reason``, ``key``,
    ``image_sha256`` and ``image_status``. A row that is not there is kept as it is.

    Attributes:
        counts: of all narrated rows.
    """

    path: Path
    counts: Counts


def decide(
    connection: duckdb.DuckDBPyConnection,
    rows: Sequence[Path],
    images: Sequence[Path],
    recipe: GroundedNarrationRecipe,
    out: Path,
) -> Fates:
    """Finds images and duplicates of all narrated rows.

    Args:
        connection: gets the view ``fates``.
        rows: files of narrated rows.
        images: index of the corpus, where there is one.
        out: the file that is written.
    """
    connection.register("narrated", dataset(rows, format="ipc"))
    connection.execute(_KEPT)
    if recipe.images is not None:
        _match(connection, images, recipe.images)
    else:
        connection.execute("CREATE TEMP VIEW refused AS SELECT 0 AS file, 0 AS row WHERE false")
    connection.execute(_TWICE)
    with appearing(out) as temporary:
        connection.execute(
            f"COPY ({_fates_sql(with_images=recipe.images is not None)}) "
            f"TO {sql_text(temporary.as_posix())} (FORMAT parquet)"
        )
    text = sql_text(out.as_posix())
    connection.execute(f"CREATE OR REPLACE TEMP VIEW fates AS FROM read_parquet({text})")
    return Fates(out, _counts(connection))


def _match(
    connection: duckdb.DuckDBPyConnection, images: Sequence[Path], rules: ImageRules
) -> None:
    by = join_column(images)
    with_phash = _has(connection, "SELECT 1 FROM kept WHERE image_phash IS NOT NULL LIMIT 1")
    status = status_sql(rules, with_phash=with_phash)
    connection.execute(_MATCHED.format(status=status, images=first_image_sql(images, by), by=by))
    rejecting = sql_list(s for s in IMAGE_REASONS if getattr(rules, s) == "reject")
    connection.execute(
        "CREATE TEMP VIEW refused AS SELECT file, row FROM matched "
        f"WHERE list_contains({rejecting}::VARCHAR[], image_status)"
    )


def _has(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    return connection.execute(sql).fetchone() is not None


def _fates_sql(*, with_images: bool) -> str:
    if not with_images:
        return (
            f"SELECT file, row, '{DUPLICATE}' AS reject_reason, NULL::VARCHAR AS key, "
            "NULL::VARCHAR AS image_sha256, NULL::VARCHAR AS image_status "
            "FROM twice ORDER BY file, row"
        )
    return (
        "SELECT m.file, m.row, CASE WHEN r.row IS NOT NULL THEN 'image_' || image_status "
        f"WHEN t.row IS NOT NULL THEN '{DUPLICATE}' END AS reject_reason, "
        "key, image_sha256, image_status FROM matched AS m "
        "LEFT JOIN refused AS r USING (file, row) LEFT JOIN twice AS t USING (file, row) "
        "ORDER BY m.file, m.row"
    )


def _counts(connection: duckdb.DuckDBPyConnection) -> Counts:
    read = connection.execute("SELECT count(*) FROM kept").fetchall()[0][0]
    rejected = tally(
        dict(
            connection.execute(
                "SELECT reject_reason, count(*) FROM fates "
                "WHERE reject_reason IS NOT NULL GROUP BY ALL"
            ).fetchall()
        )
    )
    return Counts(read, read - sum(rejected.values()), rejected)


def threshold(connection: duckdb.DuckDBPyConnection, long_share: float) -> Density:
    """The lowest density at which no more than ``long_share`` of the kept rows are long.

    Args:
        connection: as ``decide`` leaves it.
    """
    histogram = connection.execute(_HISTOGRAM).fetchall()
    total = sum(rows for _, _, rows in histogram)
    if not histogram:
        return Density(phrases=0)
    phrases, words, _ = histogram[0]
    found = Density(phrases=phrases, words=words + 1)  # nothing is so dense
    reached = 0
    for phrases, words, rows in histogram:
        reached += rows
        if reached > long_share * total:
            break
        found = Density(phrases=phrases, words=words)
    return found
