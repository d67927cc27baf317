"""What must hold in every ``grounded-narration`` build.

Written from the semantics that docs/grounding.md tells and from the stored columns alone: it shares
no code with what filtered and wrote the rows, so that one mistake is not made twice. All rows are
judged many at a time; those whose text that cannot call right are read one by one.

What the rows do not show is not checked: boxes that were left out, and with them most of what makes
a row crowded (see ``crowds``), and that every reject deserved its reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from vila2data.build.manifest import Manifest
from vila2data.build.tables import streamed
from vila2data.build.views import sql_list, sql_name

from ..recipe import Density
from .crowds import is_crowded, may_be_crowded
from .further import Turns
from .phrases import Ints, Phrases, faults, span_faults, true
from .rules import Rules, Settings, broken, is_harmless, is_one_turn, row_rules
from .turns import grounding_problems, turn_problems
from .written import cut, grounded, texts_differ, written

SHORT, LONG = "short", "long"

_KEPT = (SHORT, LONG)
_REJECTS = "pool-rejects"
_ROWS_AT_A_TIME = 20_000  # bounds memory
_SHOWN = 3

_DUPLICATES = """
WITH twice AS (
    SELECT hash(id, caption) AS pair FROM kept WHERE id IS NOT NULL
    GROUP BY pair HAVING count(*) > 1
)
SELECT key FROM kept WHERE hash(id, caption) IN (SELECT pair FROM twice)
QUALIFY count(*) OVER (PARTITION BY id, caption) > 1
"""


class _Found:
    """Broken rules of one config, each with the number of rows and the first of their keys."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, list[str]]] = {}

    def add(self, rule: str, keys: Iterable[object]) -> None:
        told = sorted(map(str, keys))
        count, first = self._rows.get(rule, (0, []))
        if told:
            self._rows[rule] = count + len(told), sorted([*first, *told[:_SHOWN]])[:_SHOWN]

    def lines(self, config: str) -> list[str]:
        return [
            f"{config}: {rule}: {count} rows, such as {', '.join(keys)}"
            for rule, (count, keys) in sorted(self._rows.items())
        ]


def problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Broken rules of a build, each once, with the number of rows and some of their keys.

    Args:
        connection: has a view per config.
        manifest: of the build; its recipe, and the threshold of long rows that its sources tell
            (``{"long_from": {"phrases": 3, "words": 12}}``), are what the rows are measured by.
    """
    missing = [name for name in (*_KEPT, _REJECTS) if name not in manifest.configs]
    if missing:
        return [f"{name}: the config is missing" for name in missing]
    try:
        settings = Settings.of(manifest.recipe)
        long_from = _long_from(manifest.sources)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return [f"recipe or sources: {place}: {first['msg']}; no row could be checked"]
    found = _reject_problems(connection, settings) + _duplicates(connection)
    found += _threshold_problems(connection, settings, long_from)
    for config in _KEPT:
        found += _row_problems(connection, config, settings, long_from)
    return found


def _long_from(sources: list[Mapping[str, Any]]) -> Density | None:
    told = [source["long_from"] for source in sources if source.get("long_from") is not None]
    return Density.model_validate(told[-1]) if told else None


def _row_problems(
    connection: duckdb.DuckDBPyConnection,
    config: str,
    settings: Settings,
    long_from: Density | None,
) -> list[str]:
    found = _Found()
    rules = row_rules(settings)
    for columns in _batches(connection, config, settings, rules):
        keys = columns.column("key")
        bits = columns.column("broken").to_numpy()
        for bit, rule in enumerate(rules):
            found.add(rule, keys.filter(pa.array(bits >> bit & 1 == 1)).to_pylist())
        for rule, rows in (
            *_batch_problems(columns, settings),
            *_split_problems(columns, config, long_from),
        ):
            found.add(rule, keys.take(pa.array(np.unique(rows))).to_pylist())
    return found.lines(config)


def _batches(
    connection: duckdb.DuckDBPyConnection, config: str, settings: Settings, rules: Rules
) -> Iterator[pa.RecordBatch]:
    """All rows; messages only where they are not one plain turn."""
    query = (
        f"SELECT key, caption, phrases, grounded_caption, question_ids, width, height, "
        f"CASE WHEN NOT {is_one_turn(settings.questions)} THEN messages END AS messages, "
        f"{is_one_turn(settings.questions)} AS is_one_turn, "
        f"{is_harmless('caption')} AS is_harmless, {broken(rules)} AS broken "
        f"FROM {sql_name(config)}"
    )
    for columns in streamed(connection, query, _ROWS_AT_A_TIME):
        if columns.num_rows:
            yield columns


def _batch_problems(columns: pa.RecordBatch, settings: Settings) -> Iterator[tuple[str, Ints]]:
    """Each broken rule of phrases, boxes and texts, with the numbers of the rows."""
    phrases = Phrases.of(columns)
    unread = np.zeros(columns.num_rows, dtype=bool)
    for rule, rows in span_faults(phrases):
        yield rule, rows
        unread[rows] = True
    if settings.in_pixels:
        size_px = (columns.column(name).fill_null(0).to_numpy() for name in ("width", "height"))
        unread |= np.minimum(*size_px) < 1
    left = np.flatnonzero(~unread)  # of the others nothing more can be said
    if len(left) < columns.num_rows:
        columns = columns.take(pa.array(left))
        phrases = Phrases.of(columns)
    for rule, rows in _readable_problems(columns, phrases, settings):
        yield rule, left[rows]


def _split_problems(
    columns: pa.RecordBatch, config: str, long_from: Density | None
) -> Iterator[tuple[str, Ints]]:
    if long_from is None:
        return
    count = pc.list_value_length(columns.column("phrases")).fill_null(0).to_numpy()
    is_long = count > long_from.phrases
    equal = np.flatnonzero(count == long_from.phrases)
    captions = columns.column("caption").take(pa.array(equal)).to_pylist()
    is_long[equal] = [len((caption or "").split()) >= long_from.words for caption in captions]
    if config == LONG:
        yield "a row is below the threshold of long rows", np.flatnonzero(~is_long)
    else:
        yield "a row is at or above the threshold of long rows", np.flatnonzero(is_long)


def _readable_problems(
    columns: pa.RecordBatch, phrases: Phrases, settings: Settings
) -> Iterator[tuple[str, Ints]]:
    yield from faults(phrases, settings.boxes)
    pieces = cut(phrases)
    yield "a phrase's text is not what its span says", texts_differ(phrases, pieces)
    suspects = may_be_crowded(phrases, settings.rows, settings.phrases)
    listed = columns.column("phrases").take(pa.array(suspects)).to_pylist()
    crowded = [is_crowded(row, settings.rows, settings.phrases) for row in listed]
    yield "a category has more instances than max_instances", suspects[crowded]
    boxes = _written(columns, phrases, settings)
    expected = grounded(phrases, pieces, boxes, settings.questions.convention)
    plain = true(pc.equal(expected, columns.column("grounded_caption")))
    plain &= true(columns.column("is_harmless"))
    is_told = true(columns.column("is_one_turn"))
    longer = np.flatnonzero(plain & ~is_told)
    is_told[longer] = Turns(settings.questions).exact(columns, phrases, boxes, longer)
    unclear = np.flatnonzero(~(plain & is_told))
    for number, row in zip(unclear, columns.take(pa.array(unclear)).to_pylist(), strict=True):
        at = np.array([number])
        if not plain[number]:
            yield from ((rule, at) for rule in grounding_problems(row, settings.questions))
        if not is_told[number]:
            yield from ((rule, at) for rule in turn_problems(row, settings.questions))


def _written(columns: pa.RecordBatch, phrases: Phrases, settings: Settings) -> pa.StringArray:
    """The text of the boxes of each phrase."""
    size_px = [columns.column(name).fill_null(0).to_numpy() for name in ("width", "height")]
    return written(phrases, settings.questions.convention, np.column_stack(size_px))


def _duplicates(connection: duckdb.DuckDBPyConnection) -> list[str]:
    kept = " UNION ALL ".join(f"SELECT key, id, caption FROM {sql_name(name)}" for name in _KEPT)
    rows = connection.execute(_DUPLICATES.replace("kept", f"({kept})")).fetchall()
    found = _Found()
    found.add("an id and caption stand twice", (key for (key,) in rows))
    return found.lines(" and ".join(_KEPT))


def _threshold_problems(
    connection: duckdb.DuckDBPyConnection, settings: Settings, long_from: Density | None
) -> list[str]:
    if long_from is None:
        return ["sources: long_from, the threshold of long rows, is missing"]
    if settings.split.long_from is not None:
        same = settings.split.long_from == long_from
        return [] if same else ["sources: long_from is not the recipe's split.long_from"]
    short, long = (
        connection.execute(f"SELECT count(*) FROM {sql_name(name)}").fetchall()[0][0]
        for name in _KEPT
    )
    if long <= settings.split.long_share * (short + long) * (1 + 1e-9):
        return []
    return [f"{LONG}: holds {long} of {short + long} rows, more than split.long_share"]


def _reject_problems(connection: duckdb.DuckDBPyConnection, settings: Settings) -> list[str]:
    known = sql_list(settings.reasons)
    unknown = f'SELECT key FROM "{_REJECTS}" WHERE NOT coalesce(reject_reason IN {known}, false)'
    found = _Found()
    rows = connection.execute(unknown).fetchall()
    found.add("a reason is none that the recipe gives", (key for (key,) in rows))
    many = connection.execute(
        f'SELECT reject_reason, count(*) FROM "{_REJECTS}" GROUP BY ALL '
        f"HAVING count(*) > {settings.rejects_per_reason} ORDER BY ALL"
    ).fetchall()
    return found.lines(_REJECTS) + [
        f"{_REJECTS}: {reason}: {count} rows, more than rejects_per_reason"
        for reason, count in many
    ]
