"""Runs the ``.sql`` files over builds. Light to import."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2data.build.manifest import read_manifest
from vila2data.build.views import connect
from vila2data.errors import BadInput

if TYPE_CHECKING:
    import duckdb

TABLES = {"length": "Caption length", "quality": "Quality signals", "gate": "Rejected"}


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


def statistics(build: Path) -> dict[str, Result]:
    """The tables of one build by name.

    Raises:
        BadInput: the build holds no captions.
    """
    manifest = read_manifest(build)
    with connect(build) as connection:
        if not run_sql(
            connection, "SELECT 1 FROM duckdb_views() WHERE view_name = 'captions'"
        ).rows:
            raise BadInput(f"{build}: {manifest.data_set} holds no captions to count")
        return {name: run_sql(connection, statements(name)) for name in TABLES}
