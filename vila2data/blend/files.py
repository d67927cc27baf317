"""The files of a source, on this machine or on the Hub, and the records in them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.errors import BadInput
from vila2data.json_stream import records
from vila2data.shown import nearest

from .layouts import LAYOUTS, Layout, Record
from .source import Join, Source

_ROWS_PER_BATCH = 100  # of a parquet file, since each may hold an image
_BYTES_PER_TASK = 512 * 1024 * 1024
_LOOKED_AT = 100  # records of a file, before a column is said to be missing
_SYSTEMS: dict[str, Any] = {}
"""Filesystems in the place of fsspec's own."""


@dataclass(frozen=True)
class Folder:
    """Where the files of a source are.

    Attributes:
        root: a folder of this machine, or ``datasets/OWNER/NAME@COMMIT`` of the Hub.
        on_hub: which of the two.
    """

    root: str
    on_hub: bool = False

    @property
    def _system(self) -> Any:
        kind = "hf" if self.on_hub else "file"
        return _SYSTEMS.get(kind) or fsspec.filesystem(kind)

    def files(self, pattern: str) -> list["SourceFile"]:
        """Files that a glob below the folder matches, in order of name."""
        if not self.on_hub and Path(self.root).is_file():
            return [SourceFile(self, self.root, Path(self.root).stat().st_size)]
        found = self._system.glob(f"{self.root}/{pattern}", detail=True)
        sizes = {name: int(f["size"]) for name, f in found.items() if f["type"] == "file"}
        return [SourceFile(self, name, sizes[name]) for name in sorted(sizes)]

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One of its files, for reading.

        Raises:
            BadInput: it cannot be read.
        """
        try:
            with self._system.open(name, "rb") as file:
                yield file
        except (OSError, pa.ArrowInvalid) as error:
            raise BadInput(f"{name}: cannot be read: {str(error).partition(chr(10))[0]}") from error


@dataclass(frozen=True)
class SourceFile:
    """A file of a source; ``size`` in bytes."""

    folder: Folder
    name: str
    size: int

    def parts(self, source: Source) -> Iterator["Part"]:
        """The file in parts that can be read side by side: ranges of a parquet file's row groups.

        Raises:
            BadInput: it cannot be read, or lacks a column.
        """
        if source.format != "parquet":
            yield Part(self, 0, None, 0)
            return
        with self.folder.open(self.name) as file:
            metadata = pq.ParquetFile(file).metadata
            _refuse_missing(
                self.name, layout_of(source), source, metadata.schema.to_arrow_schema().names
            )
            begin, held, row = 0, 0, 0
            first = 0
            for group in range(metadata.num_row_groups):
                held += metadata.row_group(group).total_byte_size
                row += metadata.row_group(group).num_rows
                if held >= _BYTES_PER_TASK or group == metadata.num_row_groups - 1:
                    yield Part(self, begin, group + 1, first)
                    begin, held, first = group + 1, 0, row


@dataclass(frozen=True)
class Part:
    """A part of a file.

    Attributes:
        first_group, end_group: row groups of a parquet file; a file of another format is one part.
        first_record: the number in the file of the part's first record.
    """

    file: SourceFile
    first_group: int
    end_group: int | None
    first_record: int

    def records(self, source: Source) -> Iterator[Record | None]:
        """Records under the layout's names of columns; None for one that is no object.

        Raises:
            BadInput: the file is broken, or no record at its beginning has a needed column.
        """
        layout = layout_of(source)
        joined = _joined(self.file.folder, source.join) if source.join is not None else None
        with self.file.folder.open(self.file.name) as file:
            found = self._raw(file, source, layout)
            if joined is not None and source.join is not None:
                found = (_with(record, joined, source.join.key) for record in found)
            yield from _checked(self.file.name, found, source, layout)

    def _raw(self, file: BinaryIO, source: Source, layout: Layout) -> Iterator[Any]:
        if source.format == "json":
            return records(file, self.file.name, source.records)
        if source.format == "jsonl":
            return _lines(file)
        return self._rows(file, source, layout)

    def _rows(self, file: BinaryIO, source: Source, layout: Layout) -> Iterator[Any]:
        opened = pq.ParquetFile(file)
        wanted = {source.columns.get(c, c) for c in (*layout.needs, *layout.may_have)}
        columns = [name for name in opened.schema_arrow.names if name in wanted]
        groups = range(self.first_group, self.end_group or opened.num_row_groups)
        for group in groups:  # one at a time: the reader keeps all that it has read of several
            for batch in opened.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=columns):
                yield from batch.to_pylist()


def layout_of(source: Source) -> Layout:
    """The source's layout.

    Raises:
        BadInput: it is unknown.
    """
    layout = LAYOUTS.get(source.layout or "")
    if layout is None:
        raise BadInput(f"there is no layout '{source.layout}'; known: {', '.join(LAYOUTS)}")
    return layout


def _lines(file: BinaryIO) -> Iterator[Any]:
    for line in file:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _joined(folder: Folder, join: Join) -> dict[Any, Record]:
    """Records of the second file by what they are joined on."""
    found: dict[Any, Record] = {}
    column = join.other or join.key
    for each in folder.files(join.files):
        with folder.open(each.name) as file:
            for record in records(file, each.name, join.records):
                if isinstance(record, dict) and isinstance(record.get(column), str | int):
                    found[record[column]] = record
    if not found:
        raise BadInput(f"{folder.root}: no record of {join.files} has the column '{column}'")
    return found


def _with(record: Any, joined: Mapping[Any, Record], key: str) -> Any:
    if not isinstance(record, dict) or not isinstance(record.get(key), str | int):
        return record
    return {**joined.get(record[key], {}), **record}


def _checked(
    name: str, found: Iterator[Any], source: Source, layout: Layout
) -> Iterator[Record | None]:
    beginning = list(islice(found, _LOOKED_AT))
    known = {key for record in beginning if isinstance(record, dict) for key in record}
    if known:
        _refuse_missing(name, layout, source, sorted(known))
    names = {theirs: ours for ours, theirs in source.columns.items()}
    for record in chain(beginning, found):
        if not isinstance(record, dict):
            yield None
        else:
            yield _renamed(record, names) if names else record


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> Record:
    return {names.get(key, key): value for key, value in record.items()}


def _refuse_missing(name: str, layout: Layout, source: Source, known: Sequence[str]) -> None:
    for column in layout.needs:
        theirs = source.columns.get(column, column)
        if theirs not in known:
            raise BadInput(f"{name}: the column '{theirs}' is missing{nearest(theirs, known[:20])}")
