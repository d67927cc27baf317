"""Makes rows in the layout of GRIT, hostile or plausible, and writes them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from grit_bulk import Form, grit_schema, write_grit
from grit_hostile import Item, Row, good_row, hostile_rows
from grit_reference import number

__all__ = ["good_row", "grit_schema", "hostile_rows", "write_grit", "write_jsonl", "write_parts"]


def write_parts(folder: Path, rows: Sequence[Row], parts: int = 1, form: Form = "double") -> Path:
    """Writes ``rows`` in order of the parts' names; ``parts`` 11 has ``coyo_10`` before ``coyo_2``.

    Args:
        folder: made where it is not there.
        rows: with GRIT's columns.
        parts: number of files; those left without a row are written too.
        form: how the items' numbers are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // parts)
    for place, name in enumerate(sorted(f"coyo_{n}_snappy.parquet" for n in range(parts))):
        some = [_formed(row, form) for row in rows[place * size : (place + 1) * size]]
        pq.write_table(pa.Table.from_pylist(some, grit_schema(form)), folder / name)
    return folder


def write_jsonl(file: Path, rows: Sequence[Row]) -> Path:
    """Writes ``rows`` as JSON lines; what JSON cannot say is text in items, and null elsewhere."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            plain = {name: _sayable(value, None) for name, value in row.items()}
            items = {name: _sayable_items(row[name]) for name in ("noun_chunks", "ref_exps")}
            lines.write(json.dumps(plain | items, ensure_ascii=False, allow_nan=False) + "\n")
    return file


def _formed(row: Row, form: Form) -> Row:
    return row | {name: _formed_items(row[name], form) for name in ("noun_chunks", "ref_exps")}


def _formed_items(items: list[Item | None] | None, form: Form) -> Any:
    if items is None:
        return None
    if form == "json":
        return json.dumps(_sayable_items(items), allow_nan=False)
    if form == "string":
        return [item and [None if v is None else str(v) for v in item] for item in items]
    return [item and [number(v) for v in item] for item in items]


def _sayable_items(items: list[Item | None] | None) -> Any:
    return items and [item and [_sayable(v, str(v)) for v in item] for item in items]


def _sayable(value: Any, otherwise: str | None) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else otherwise
