"""The parts of the source: files with GRIT's columns, checked before any work and read as tasks."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.views import sql_name, sql_text
from vila2data.errors import BadInput
from vila2data.files import appearing
from vila2data.runfolder import fingerprint_of

_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (".parquet", *_LINES)
_ROWS_PER_TASK = 250_000

_NEEDED = ("caption", "noun_chunks")
_ITEMS = ("noun_chunks", "ref_exps")
_KINDS = {
    "key": "VARCHAR",
    "id": "BIGINT",
    "url": "VARCHAR",
    "caption": "VARCHAR",
    "width": "INTEGER",
    "height": "INTEGER",
    "clip_similarity_vitb32": "DOUBLE",
    "clip_similarity_vitl14": "DOUBLE",
    "image_phash": "VARCHAR",
    "noun_chunks": "DOUBLE[][]",
    "ref_exps": "DOUBLE[][]",
}
"""Each column as it is read; what cannot be read so is null."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the source.

    Attributes:
        path: as given; its name places it among the parts.
        file: the parquet file that is read: the same, or what JSON lines were turned into.
        row_groups: rows of each.
        columns: SQL type of each column.
    """

    path: Path
    file: Path
    row_groups: Sequence[int]
    columns: Mapping[str, str]

    @property
    def rows(self) -> int:
        """Of the file."""
        return sum(self.row_groups)

    def source_sql(self, first: int = 0, end: int | None = None) -> str:
        """A query for rows ``first`` to ``end`` (exclusive) with every known column, and ``place``,
        the row's number in the file.
        """
        columns = ", ".join(self._column(name, kind) for name, kind in _KINDS.items())
        end = self.rows if end is None else end
        return (
            f"SELECT file_row_number AS place, {columns} FROM read_parquet("
            f"{sql_text(self.file.as_posix())}, file_row_number = true) "
            f"WHERE file_row_number >= {first} AND file_row_number < {end}"
        )

    def _column(self, name: str, kind: str) -> str:
        found = self.columns.get(name)
        if found == kind:
            return sql_name(name)
        value = "NULL" if found is None else sql_name(name)
        return f"TRY_CAST({value} AS {kind}) AS {sql_name(name)}"

    def ranges(self) -> Iterator[tuple[int, int]]:
        """First row and end of each task: whole row groups, since part of one costs as much."""
        first = end = 0
        for rows in self.row_groups:
            end += rows
            if end - first >= _ROWS_PER_TASK:
                yield first, end
                first = end
        if end > first:
            yield first, end


def find_parts(path: Path, work: Path) -> list[Part]:
    """The parts in ``path``, in order of name, each known to be readable so far as its header says.

    Args:
        path: a file, or a folder of files.
        work: where JSON lines are turned into parquet.

    Raises:
        BadInput: there is none, or one cannot be used; the message names file and column.
    """
    files = [path] if path.is_file() else sorted(path.iterdir())
    wanted = [f for f in files if f.suffix in _SUFFIXES and not f.name.startswith(".")]
    if not wanted:
        raise BadInput(f"{path}: holds no {', '.join(_SUFFIXES)} file")
    return [_part(file, work) for file in wanted]


def _part(path: Path, work: Path) -> Part:
    if path.suffix in _LINES and not path.stat().st_size:
        return Part(path, path, (), {})  # has no columns to check
    file = _as_parquet(path, work) if path.suffix in _LINES else path
    try:
        metadata = pq.read_metadata(file)
        groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path}: is no whole parquet file: {_line(error)}") from error
    with duckdb.connect() as connection, readable(path):
        described = connection.execute(
            f"DESCRIBE SELECT * FROM read_parquet({sql_text(file.as_posix())})"
        ).fetchall()
    columns = {str(name): str(kind) for name, kind, *_ in described}
    _check(path, columns)
    return Part(path, file, groups, columns)


def _check(path: Path, columns: Mapping[str, str]) -> None:
    for name in _NEEDED:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            told = f"'{near[0]}' must be called so" if near else f"it has {', '.join(columns)}"
            raise BadInput(f"{path}: has no column '{name}'; {told}")
    for name in _ITEMS:
        kind = columns.get(name, "VARCHAR")
        if kind not in ("VARCHAR", "JSON") and not _is_nested_list(kind):
            raise BadInput(
                f"{path}: column '{name}' is {kind}; expected lists of [start, end, x1, y1, x2, "
                "y2, score], or such lists as JSON text"
            )
    if columns["caption"] != "VARCHAR":
        raise BadInput(f"{path}: column 'caption' is {columns['caption']}; expected text")


def _is_nested_list(kind: str) -> bool:
    return kind.count("[") == 2 and kind.endswith("]") and "(" not in kind.partition("[")[0]


def _as_parquet(path: Path, work: Path) -> Path:
    """JSON lines as a parquet file of the work folder, every value as text."""
    status = path.stat()
    file = work / f"{path.name}-{status.st_size}-{status.st_mtime_ns}.parquet"
    if file.is_file():
        return file
    work.mkdir(parents=True, exist_ok=True)
    text = sql_text(path.as_posix())
    with duckdb.connect() as connection, readable(path), appearing(file) as temporary:
        connection.execute("SET enable_progress_bar = false")
        described = connection.execute(
            f"DESCRIBE SELECT * FROM read_json({text}, format = 'newline_delimited')"
        ).fetchall()
        columns = ", ".join(f"{sql_name(str(name))}: 'VARCHAR'" for name, *_ in described)
        connection.execute(
            f"COPY (SELECT * FROM read_json({text}, format = 'newline_delimited', "
            f"columns = {{{columns}}})) TO {sql_text(temporary.as_posix())} (FORMAT parquet)"
        )
    return file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns DuckDB's errors about a part into one line that names it.

    Raises:
        BadInput: the part cannot be read.
    """
    try:
        yield
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.ConversionException) as error:
        raise BadInput(f"{path}: cannot be read: {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()


def told(parts: Sequence[Part]) -> dict[str, Any]:
    """What a manifest says of the source."""
    sizes = [(part.path.name, part.path.stat().st_size, part.rows) for part in parts]
    return {
        "source": "GRIT",
        "parts": len(parts),
        "rows": sum(part.rows for part in parts),
        "bytes": sum(size for _, size, _ in sizes),
        "fingerprint": fingerprint_of({"parts": sizes}),
    }
