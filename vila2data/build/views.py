"""DuckDB views of a build. Light to import: no query needs more than duckdb."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vila2data.errors import BuildError

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
        statements.append(_union("captions", kept, like=kept[0]))
        statements.append(_union("rejects", rejected, like=kept[0]))
    return statements


def _union(view: str, configs: list[str], *, like: str) -> str:
    """A view of ``configs``, each row with its config; without any, an empty one like ``like``."""
    parts = [f"SELECT {sql_text(c)} AS config, * FROM {sql_name(c)}" for c in configs]
    nothing = f"SELECT '' AS config, *, '' AS reject_reason FROM {sql_name(like)} WHERE false"
    return f"CREATE OR REPLACE VIEW {view} AS {' UNION ALL '.join(parts) or nothing};"


@contextmanager
def readable(build: Path) -> Iterator[None]:
    """Turns DuckDB's errors into one line that names the build.

    Raises:
        BuildError: a file of the build is missing, damaged or of another form.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(
            f"{build}: cannot be read ({reason}); `vila2data verify {build}` says what is wrong"
        ) from error


def connect(build: Path, manifest: Manifest | None = None) -> "duckdb.DuckDBPyConnection":
    """A connection with the views of a build.

    Raises:
        BuildError: the folder is no build, or one of its files cannot be read.
    """
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    with readable(build):
        for statement in view_statements(build, manifest):
            connection.execute(statement)
    return connection
