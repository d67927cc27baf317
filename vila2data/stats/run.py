"""Runs the ``.sql`` files over builds. Light to import."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2data.build.manifest import read_manifest
from vila2data.build.views import connect, readable
from vila2data.errors import BadInput

if TYPE_CHECKING:
    import duckdb

TABLES = {"length": "Caption length", "quality": "Quality signals", "gate": "Rejected"}
GROUNDING_TABLES = {"grounding": "Boxes in captions", "references": "Boxes against references"}
"""Only of builds whose captions hold boxes, and where references are given."""

_SHARE = "_share"

_GROUNDING_CONFIGS = """
SELECT DISTINCT config FROM captions WHERE task = 'grounding' ORDER BY config
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Columns and rows of a query."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        """One object per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def statements(name: str) -> str:
    """The text of a shipped ``.sql`` file: ``length``, ``quality`` or ``gate``."""
    return (files(__package__) / "sql" / f"{name}.sql").read_text(encoding="utf-8")


def run_sql(connection: "duckdb.DuckDBPyConnection", sql: str) -> Result:
    """Runs one query.

    Raises:
        BadInput: it is not valid, or does not fit the build.
    """
    import duckdb

    try:
        cursor = connection.execute(sql)
        columns = [column[0] for column in cursor.description or []]
        return Result(columns, cursor.fetchall())
    except duckdb.Error as error:
        raise BadInput(f"query: {error}") from error


def _silent() -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def statistics(
    build: Path,
    *,
    boxes: str = "auto",
    references: Path | None = None,
    progress: Callable[[], AbstractContextManager[Callable[[int], None]]] = _silent,
) -> dict[str, Result]:
    """The tables of one build by name: ``TABLES``, and of ``GROUNDING_TABLES`` those that apply.

    Args:
        build: folder.
        boxes: how boxes in the captions of task ``grounding`` are written: a convention of
            ``vila2data.boxes``, or ``auto``.
        references: COCO's instances, or a build of ``scenes``, that these boxes are compared with.
        progress: opened where captions are read for boxes, and told how many were read.

    Raises:
        BadInput: the build holds no captions, ``boxes`` is unknown, or ``references`` cannot be
            used.
    """
    manifest = read_manifest(build)
    with connect(build) as connection:
        if not run_sql(
            connection, "SELECT 1 FROM duckdb_views() WHERE view_name = 'captions'"
        ).rows:
            raise BadInput(f"{build}: {manifest.data_set} holds no captions to count")
        tables = {name: run_sql(connection, statements(name)) for name in TABLES}
        configs = run_sql(connection, _GROUNDING_CONFIGS).rows
        if not configs:
            return tables

        from .grounding import grounding_tables

        with readable(build), progress() as done:
            found = grounding_tables(
                connection,
                [config for (config,) in configs],
                boxes=boxes,
                references=references,
                on_captions=done,
            )
        return tables | {name: _result(rows) for name, rows in found.items()}


def _result(rows: list[dict[str, Any]]) -> Result:
    return Result(list(rows[0]), [tuple(row.values()) for row in rows])


def by_config(tables: Mapping[str, Mapping[str, Result]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and a row per build and config: its lengths, then the figures of its boxes, where a
    build has them.

    Args:
        tables: what ``statistics`` gave, by build.
    """
    columns = ["build"]
    rows = []
    for build, found in tables.items():
        boxes = [row for name in GROUNDING_TABLES if name in found for row in found[name].dicts()]
        for row in found["length"].dicts():
            of_config = {"build": build, **row}
            for more in boxes:
                of_config |= more if more["config"] == row["config"] else {}
            columns += [name for name in of_config if name not in columns]
            rows.append(of_config)
    return columns, [[row.get(name) for name in columns] for row in rows]


def upright(title: str, result: Result) -> Iterator[tuple[str, Result]]:
    """Title and table of each row, its figures one below the other and its shares beside them.

    What is text in the row stands in the title.
    """
    for row in result.dicts():
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in texts.items())
        figures = [
            (name.removesuffix(_SHARE).replace("_", " "), *_count_and_share(row, name))
            for name in row
            if name not in texts and not (name.endswith(_SHARE) and name[: -len(_SHARE)] in row)
        ]
        yield f"{title}: {about}", Result(["", "count", "share"], figures)


def _count_and_share(row: dict[str, Any], name: str) -> tuple[Any, Any]:
    value = row[name]
    if name.endswith((_SHARE, "precision", "recall")):
        return None, value
    return value, row.get(name + _SHARE)
