"""What must hold between the rows of a whole table, as SQL."""

from collections import Counter
from collections.abc import Mapping

import duckdb

from vila2data.build.manifest import REJECTS_SUFFIX
from vila2data.build.views import sql_list, sql_name, sql_text

from .found import Found
from .measures import Measure, Measures

_SHOWN = 3
_OF_CONVERSATIONS = ("image\\_%", "too\\_long", "copy\\_of\\_source", "leak\\_%")
_SUFFIXES = "((?:/s[0-9]+)?(?:/r[0-9]+)?(?:/c[0-9]+)?)(/d[0-9]+)?$"

_COPIES = """
WITH ids AS (SELECT id FROM {config} WHERE source = {source} AND id IS NOT NULL),
read AS (
    SELECT id, regexp_extract(id, '^(.+?)(?:/c([1-9][0-9]{{0,8}}))?((?:/d[0-9]+)?)$',
                              ['base', 'k', 'd'], 's') AS part FROM ids
),
parts AS (
    SELECT id, part.base AS base, coalesce(try_cast(part.k AS BIGINT), 0) AS k, part.d AS d
    FROM read
),
beside AS (
    SELECT id, k, base || CASE WHEN k > 1 THEN '/c' || (k - 1) ELSE '' END || d AS before,
           base || '/c' || (k + 1) || d AS after FROM parts
)
SELECT id, k >= {most} AS is_over, k > 0 AND before NOT IN (FROM ids) AS is_gap
FROM beside
WHERE (k >= {most} OR (k > 0 AND before NOT IN (FROM ids))
       OR (k < {least} - 1 AND after NOT IN (FROM ids)))
  AND id || '/c1' NOT IN (FROM ids)
"""
"""An id that has a first copy is none, however its name ends."""


def source_problems(
    connection: duckdb.DuckDBPyConnection, measures: Measures, found: Found
) -> dict[str, int]:
    """Notes rows whose source, task or licence is not what recipe and catalogue say.

    Returns:
        The number of rows of each source.
    """
    groups = connection.execute(
        f"SELECT source, task, license, count(*), min(id) FROM {sql_name(measures.config)} "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    counts: Counter[str] = Counter()
    for name, task, license_id, count, row_id in groups:
        counts[str(name)] += count
        measure = measures.of.get(name)
        for rule in _group_problems(measure, task, license_id, measures.is_commercial):
            found.add(rule, [row_id], count)
    return dict(counts)


def _group_problems(
    measure: Measure | None, task: object, license_id: object, is_commercial: bool
) -> list[str]:
    if measure is None:
        return ["source is none of the recipe"]
    source = measure.source
    if source is None:
        return ["source is not in the catalogue"]
    broken = {
        "task is not the catalogue's": task != source.task,
        "license is not the catalogue's": license_id != source.license,
        "source is an evaluation set": "evaluation" in (source.status, source.split),
        "source is non-commercial": is_commercial and source.non_commercial,
    }
    return [rule for rule, is_broken in broken.items() if is_broken]


def table_problems(connection: duckdb.DuckDBPyConnection, measures: Measures, found: Found) -> None:
    """Notes rows that break a rule of ids, nulls or merged rows."""
    config = sql_name(measures.config)
    _add_broken(connection, _queries(measures, config), found)
    for name, measure in measures.of.items():
        least, most = measure.copies
        if most > 1:
            query = _COPIES.format(config=config, source=sql_text(name), least=least, most=most)
            for row_id, is_over, is_gap in connection.execute(query).fetchall():
                found.add(_copy_rule(is_over, is_gap), [row_id])


def _add_broken(
    connection: duckdb.DuckDBPyConnection, queries: Mapping[str, str], found: Found
) -> None:
    """Notes the rows that each query selects, all in one pass of DuckDB's."""
    rules = list(queries)
    parts = [
        f"SELECT {number} AS rule, id FROM ({query}) AS broken(id)"
        for number, query in enumerate(queries.values())
    ]
    rows = connection.execute(
        f"SELECT rule, count(*), list(id ORDER BY id)[:{_SHOWN}] "
        f"FROM ({' UNION ALL '.join(parts)}) GROUP BY rule"
    ).fetchall()
    for number, count, ids in rows:
        found.add(rules[number], ids, count)


def _copy_rule(is_over: bool, is_gap: bool) -> str:
    if is_over:
        return "a row has more copies than its weight"
    return f"a row has {'a gap among its copies' if is_gap else 'fewer copies than its weight'}"


def _queries(measures: Measures, config: str) -> dict[str, str]:
    images = "image_paths" if measures.are_paths else "images"
    merged = sql_list(name for name, measure in measures.of.items() if measure.rules.merge)
    columns = ("id", "source", "task", "license", images, "messages")
    is_null = " OR ".join(f"{column} IS NULL" for column in columns)
    plain = "regexp_replace(id, '/d[0-9]+$', '')"
    found = {
        "a column is null": f"SELECT id FROM {config} WHERE {is_null}",
        "an id stands twice": f"SELECT id FROM {config} GROUP BY id HAVING count(*) > 1",
        "an id is not its source and a name": (
            f"SELECT id FROM {config} WHERE NOT coalesce(starts_with(id, source || '/') "
            "AND length(id) > length(source) + 1, false)"
        ),
        "a conversation of a merged source stands twice": (
            f"SELECT id FROM {config} WHERE source IN {merged} AND {plain} <> id "
            f"AND {plain} IN (SELECT id FROM {config})"
        ),
    }
    if measures.are_paths:
        base = f"regexp_replace(id, '{_SUFFIXES}', '\\2')"
        found["rows of the same image are not merged"] = (
            f"SELECT min(id) FROM {config} WHERE source IN {merged} AND len(image_paths) > 0 "
            f"GROUP BY source, image_paths HAVING count(DISTINCT {base}) > 1"
        )
    return found


def reject_problems(connection: duckdb.DuckDBPyConnection, measures: Measures) -> list[str]:
    """What is wrong with what was not used."""
    kept, config = measures.config, measures.config + REJECTS_SUFFIX
    merged = sql_list(name for name, measure in measures.of.items() if measure.rules.merge)
    is_conversation = " OR ".join(
        f"reject_reason LIKE {sql_text(reason)} ESCAPE '\\'" for reason in _OF_CONVERSATIONS
    )
    rejects = f"SELECT id FROM {sql_name(config)} WHERE"
    queries = {
        "a reject has no reason": f"{rejects} trim(coalesce(reject_reason, '')) = ''",
        "a reject's source is none of the recipe": (
            f"{rejects} NOT coalesce(source IN {sql_list(measures.of)}, false)"
        ),
        # Two records may have one name, but not two conversations of a merged source.
        "a reject is a row all the same": (
            f"{rejects} source IN {merged} AND ({is_conversation}) "
            f"AND id IN (SELECT id FROM {sql_name(kept)})"
        ),
    }
    found = Found(config)
    _add_broken(connection, queries, found)
    return found.lines()
