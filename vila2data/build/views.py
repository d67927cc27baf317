"""DuckDB views of a build. Light to import: no query needs more than duckdb."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .manifest import REJECTS_SUFFIX, Manifest, read_manifest

if TYPE_CHECKING:
    import duckdb

_CAPTION_DATA_SETS = ("coyo-recap",)


def sql_text(value: str) -> str:
    """``value`` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def sql_list(values: Iterable[str]) -> str:
    """``values`` as an SQL list of strings."""
    return "[" + ", ".join(sql_text(value) for value in values) + "]"


def view_statements(build: Path, manifest: Manifest | None = None) -> list[str]:
    """Statements that create a view per config, and for captions two more.

    ``captions`` holds every caption config that passed the gate, ``rejects`` every one that did
    not, both with a column ``config``.

    Args:
        build: folder; named in the statements as given here, so relative paths stay relative.
        manifest: read from ``build`` where None.
    """
    manifest = manifest or read_manifest(build)
    statements = []
    for config in manifest.configs:
        files = sql_list((build / file.path).as_posix() for file in manifest.files_of(config))
        statements.append(
            f"CREATE OR REPLACE VIEW {sql_name(config)} AS SELECT * FROM read_parquet({files});"
        )
    if manifest.data_set in _CAPTION_DATA_SETS:
        kept = [
            c for c in manifest.configs if c != "conversations" and not c.endswith(REJECTS_SUFFIX)
        ]
        rejected = [c for c in manifest.configs if c.endswith(REJECTS_SUFFIX)]
        statements += [_union("captions", kept), _union("rejects", rejected)]
    return statements


def _union(view: str, configs: list[str]) -> str:
    parts = (f"SELECT {sql_text(c)} AS config, * FROM {sql_name(c)}" for c in configs)
    return f"CREATE OR REPLACE VIEW {view} AS {' UNION ALL '.join(parts)};"


def connect(*builds: Path) -> "duckdb.DuckDBPyConnection":
    """A connection with the views of one build, or of several, each in a schema ``b1``, ``b2``, …
    of its own.
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    for number, build in enumerate(builds, start=1):
        if len(builds) > 1:
            connection.execute(f"CREATE SCHEMA b{number}; USE b{number};")
        for statement in view_statements(build):
            connection.execute(statement)
    return connection
