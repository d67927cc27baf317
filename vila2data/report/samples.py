"""Which samples a page shows, and their rows; memory grows with the samples shown alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vila2data.build.views import readable, sql_name
from vila2data.errors import BadInput

from .source import Source

_COPIES = 4
"""Rows of a config that may share a key: a draw reads this many times more rows, so that copies of
a key, which the rejects may hold, leave enough keys.
"""
_SHOWN_UNKNOWN = 5


def choose_keys(
    sources: Sequence[Source], *, samples: int, keys: Sequence[str], seed: int
) -> list[list[str]]:
    """The keys that each build shows.

    A key's place is a hash of seed and key alone, and keys that more builds hold come first: builds
    of one corpus show the same samples, whatever the order and number of their rows.

    Args:
        sources: the builds.
        samples: keys to draw for each build; of no effect where ``keys`` names some.
        keys: to be shown where they exist, in this order.
        seed: of the draw.

    Raises:
        BadInput: no build holds one of ``keys``.
    """
    if keys:
        wanted = list(dict.fromkeys(keys))
        held = [_held(source, wanted) for source in sources]
        _refuse_unknown(wanted, set().union(*held), sources)
        return [[key for key in wanted if key in found] for found in held]
    drawn: dict[str, str] = {}
    for source in sources:
        drawn |= _draw(source, samples, seed)
    held = [_held(source, list(drawn)) for source in sources]
    holders = Counter(key for found in held for key in found)
    ranked = sorted(drawn, key=lambda key: (-holders[key], drawn[key], key))
    return [[key for key in ranked if key in found][:samples] for found in held]


def _refuse_unknown(wanted: list[str], known: set[str], sources: Sequence[Source]) -> None:
    unknown = [key for key in wanted if key not in known]
    if unknown:
        named = ", ".join(f"'{key}'" for key in unknown[:_SHOWN_UNKNOWN])
        more = f" and {len(unknown) - _SHOWN_UNKNOWN} more" if unknown[_SHOWN_UNKNOWN:] else ""
        builds = ", ".join(str(source.path) for source in sources)
        raise BadInput(
            f"keys: no sample has the key {named}{more} in {builds}; "
            "leave --keys out to draw samples, or list keys with `vila2data query`"
        )


def _draw(source: Source, samples: int, seed: int) -> dict[str, str]:
    """Keys with the lowest places. DuckDB keeps no more than these rows at a time."""
    found: dict[str, str] = {}
    if samples < 1:
        return found
    for config, column in _keyed(source):
        rows = source.rows(
            f"SELECT key, md5(? || ':' || key) AS place FROM "
            f"(SELECT CAST({column} AS VARCHAR) AS key FROM {sql_name(config)}) "
            "WHERE key IS NOT NULL ORDER BY place, key LIMIT ?",
            (str(seed), samples * _COPIES),
        )
        found.update(rows)
    lowest = sorted(found, key=lambda key: (found[key], key))[:samples]
    return {key: found[key] for key in lowest}


def _held(source: Source, keys: Sequence[str]) -> set[str]:
    """Those of ``keys`` that a config of the build holds."""
    found: set[str] = set()
    for config, column in _keyed(source):
        rows = source.rows(
            f"SELECT DISTINCT CAST({column} AS VARCHAR) FROM {sql_name(config)} "
            f"WHERE CAST({column} AS VARCHAR) IN (SELECT unnest(?::VARCHAR[]))",
            (list(keys),),
        )
        found.update(row[0] for row in rows)
    return found


def _keyed(source: Source) -> Iterator[tuple[str, str]]:
    """Each config that names its samples, with the quoted column."""
    for config in source.columns:
        column = source.key_of(config)
        if column is not None:
            yield config, sql_name(column)


def rows_of(
    source: Source, config: str, keys: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and columns of each row of ``config`` with one of ``keys``, in the order of the file.

    Rows come one at a time, since each may hold images.
    """
    column = source.key_of(config)
    if column is None or not keys:
        return
    with readable(source.path):
        # Its own cursor: another query of the connection would end this one.
        cursor = source.connection.cursor().execute(
            f"SELECT CAST({sql_name(column)} AS VARCHAR), * FROM {sql_name(config)} "
            f"WHERE CAST({sql_name(column)} AS VARCHAR) IN (SELECT unnest(?::VARCHAR[]))",
            [list(keys)],
        )
        while row := cursor.fetchone():
            yield row[0], dict(zip(source.columns[config], row[1:], strict=True))
