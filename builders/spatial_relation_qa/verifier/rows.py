"""Stored conversations as the verifier reads them: any part of any column may be broken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vila2data.build.tables import streamed
from vila2data.build.views import sql_name
from vila2data.cuboids import Floats

from .geometry import Boxes

_COLUMNS = "id, source, width, height, intrinsics, objects, relations, messages, flip_safe"
_ROWS_AT_A_TIME = 2_000  # bounds memory: about 40,000 boxes


@dataclass(frozen=True, slots=True)
class Asked:
    """One entry of ``relations``, with every part there."""

    relation: str
    family: str
    anchor: int
    target: int
    candidates: list[int]
    gap: float
    template_id: str

    @property
    def name(self) -> str:
        """``family.relation``."""
        return f"{self.family}.{self.relation}"

    @property
    def form(self) -> str:
        """Of the answer, as the template's id tells it; "" where it does not."""
        parts = self.template_id.split(".")
        return parts[2] if len(parts) == 4 else ""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation.

    Attributes:
        first: the number of its first box among those of the batch.
        fx: focal length along the width, pixels.
        categories: one per box, as are ``bbox_norm``, ``centers`` and ``depths_m`` (nearest and
            farthest).
        classes: the numbers of the boxes of each category, ascending.
        asked: None where an entry lacks a part.
        messages: role and content; None where an entry lacks one.
    """

    id: str
    source: str
    width: int
    height: int
    fx: float
    first: int
    categories: list[str]
    classes: dict[str, list[int]]
    bbox_norm: list[list[float]]
    centers: list[list[float]]
    depths_m: list[list[float]]
    asked: list[Asked] | None
    messages: list[tuple[str, str]] | None
    flip_safe: bool | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows.

    Attributes:
        ids: of each row.
        boxes: of all rows, one row after the other.
        row_of: (n,), the row of each box.
        sound: (rows,), whether a row's id, source, size, camera and boxes are all there and finite.
        columns: the rows as they are stored.
        spans: first box of each row, and one more.
    """

    ids: list[str]
    boxes: Boxes
    row_of: NDArray[np.int64]
    sound: NDArray[np.bool_]
    columns: pa.RecordBatch
    spans: list[int]

    def rows(self) -> Iterator[Row]:
        """Those that are sound."""
        parts = ("source", "width", "height", "relations", "messages", "flip_safe")
        source, width, height, asked, messages, flip_safe = (
            self.columns.column(name).to_pylist() for name in parts
        )
        categories = _field(self.columns.column("objects"), "category").to_pylist()
        fx = self.boxes.intrinsics[:, 0, 0].tolist()
        bbox_norm, centers = self.boxes.bbox_norm.tolist(), self.boxes.center.tolist()
        depths_m = self.boxes.depths_m().tolist()
        for n in np.flatnonzero(self.sound).tolist():
            own = slice(self.spans[n], self.spans[n + 1])
            yield Row(
                id=self.ids[n],
                source=source[n],
                width=width[n],
                height=height[n],
                fx=fx[own.start],
                first=own.start,
                categories=categories[own],
                classes=_by_class(categories[own]),
                bbox_norm=bbox_norm[own],
                centers=centers[own],
                depths_m=depths_m[own],
                asked=_asked(asked[n]),
                messages=_messages(messages[n]),
                flip_safe=flip_safe[n],
            )


def batches(connection: duckdb.DuckDBPyConnection, config: str) -> Iterator[Batch]:
    """All rows of ``config`` in order, without their images."""
    query = f"SELECT {_COLUMNS} FROM {sql_name(config)}"
    for columns in streamed(connection, query, _ROWS_AT_A_TIME):
        if columns.num_rows:
            yield _batch(columns)


def _batch(columns: pa.RecordBatch) -> Batch:
    objects = columns.column("objects")
    spans = _spans(objects)
    row_of = np.repeat(np.arange(columns.num_rows), np.diff(spans))
    size = np.stack([_numbers(columns.column(name)) for name in ("width", "height")], axis=1)
    camera = _fixed(columns.column("intrinsics"), 9).reshape(-1, 3, 3)
    dimensions = _fixed(_field(objects, "dimensions"), 3)
    boxes = Boxes(
        _fixed(_field(objects, "bbox"), 4),
        _fixed(_field(objects, "center"), 3),
        dimensions[:, ::-1] / 2,  # [w, h, l] to the box's own x, y, z
        _fixed(_field(objects, "rotation"), 9).reshape(-1, 3, 3),
        camera[row_of],
        size[row_of],
    )
    lacking = ~boxes.finite() | ~_told(_field(objects, "category"))
    sound = (np.diff(spans) > 0) & np.isfinite(size).all(axis=1) & (size > 0).all(axis=1)
    sound &= _told(columns.column("id")) & _told(columns.column("source"))
    sound[row_of[lacking]] = False
    ids = [str(name) for name in columns.column("id").to_pylist()]
    return Batch(ids, boxes, row_of, sound, columns, spans.tolist())


def _spans(lists: pa.ListArray) -> NDArray[np.int64]:
    """Where the entries of each list begin among all, from 0, and one more; null is empty."""
    lengths: NDArray[np.int64] = _lengths(lists)
    return np.concatenate([[0], np.cumsum(lengths)])


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    """Of each list; 0 for null."""
    lengths = lists.value_lengths().fill_null(0)
    found: NDArray[np.int64] = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _field(lists: pa.ListArray, name: str) -> pa.Array:
    """One field of every entry of every list; null where the entry is."""
    entries = lists.flatten()
    return entries.flatten()[entries.type.get_field_index(name)]


def _fixed(lists: pa.ListArray, length: int) -> Floats:
    """Lists of ``length`` numbers, (n, length); NaN where a list or a number is not there."""
    lengths = _lengths(lists)
    begins = np.cumsum(lengths) - lengths
    whole = lengths == length
    found = np.full((len(lists), length), np.nan)
    found[whole] = _numbers(lists.flatten())[begins[whole, None] + np.arange(length)]
    return found


def _numbers(values: pa.Array) -> Floats:
    """NaN for null."""
    found: Floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _told(texts: pa.Array) -> NDArray[np.bool_]:
    """Which texts are there and not empty."""
    return np.array([bool(text) for text in texts.to_pylist()], dtype=bool)


def _by_class(categories: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, category in enumerate(categories):
        found.setdefault(category, []).append(number)
    return found


def _asked(entries: Sequence[Any] | None) -> list[Asked] | None:
    found = []
    for entry in entries or ():
        if entry is None or None in entry.values() or None in entry["candidates"]:
            return None
        found.append(Asked(**entry))
    return found


def _messages(entries: Sequence[Any] | None) -> list[tuple[str, str]] | None:
    found = []
    for entry in entries or ():
        if entry is None or None in entry.values():
            return None
        found.append((entry["role"], entry["content"]))
    return found
