"""The Omni3D layout: one JSON of images, categories and annotations, often gigabytes of it."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from vila2data.build.tables import rebatched, streamed, work_connection
from vila2data.build.views import sql_text
from vila2data.corpus.images import Problem
from vila2data.corpus.names import printable
from vila2data.cuboids import Floats
from vila2data.errors import BadInput
from vila2data.files import file_sha256
from vila2data.json_stream import members
from vila2data.recipe import RecipePath

from ..scene import UNKNOWN, Cuboid, Scene, Unread, number
from ..source import SourceBlock, image_in
from .native import MAX_PIXELS

_HELD_ROWS = 512
"""Decoded rows held at once: few enough to stay in the processor's cache."""
_ROWS = 16_384
_SORT_MEMORY = "256MB"
_NUMBERS = 24
_RECORD = pa.schema(
    {
        "image": pa.string(),  # null where an annotation names none
        "is_annotation": pa.bool_(),
        "position": pa.int64(),
        "text": pa.string(),  # file_path, or category_name
        "category_id": pa.string(),
        "numbers": pa.binary(8 * _NUMBERS),  # sorts move one value, not two dozen
    }
)
"""One per image and per annotation: sorted by image, each image stands before its annotations."""
_SORTED = "SELECT * FROM {} ORDER BY length(image), image, is_annotation, position"
"""Ids are compared as text: by length first, 10 follows 9."""
_Flat = tuple[str | None, str | None, str | None, list[Any]]
"""Id of the image, text, id of the category, values."""


class _Record(NamedTuple):
    image: str | None
    is_annotation: bool
    position: int
    text: str | None
    category_id: str | None
    values: Floats  # (_NUMBERS,)


class Omni3D(SourceBlock):
    """Omni3D's JSON, as all six of its sets have it.

    ``dimensions`` are [w, h, l], ``center_cam`` the box's centre, ``R_cam`` box to camera; metres,
    camera frame x right, y down, z forward. That is the frame of this package: nothing is turned.
    -1 stands for unknown.
    """

    layout: Literal["omni3d"]
    images: RecipePath = Field(description="folder to which each `file_path` is relative")
    flagged: bool = Field(
        False, description="accept images whose sky direction Omni3D doubts (`src_flagged`)"
    )

    def problems(self) -> list[str]:
        """A file or folder that is not there."""
        found = [] if self.path.is_file() else [f"path: {self.path}: no such file"]
        return found + ([] if self.images.is_dir() else [f"images: {self.images}: no such folder"])

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every image in order of its id, each once; then what names no image.

        Raises:
            BadInput: the file is no such JSON.
        """
        file = work / "records.parquet"
        names = self._records_to(file)
        query = _SORTED.format(f"read_parquet({sql_text(str(file))})")
        with work_connection(str(work)) as connection:
            connection.execute(f"SET memory_limit = '{_SORT_MEMORY}'")
            batches = streamed(connection, query, _ROWS)
            records = chain.from_iterable(map(_records_of, batches))
            for image, group in groupby(records, attrgetter("image")):
                if image is None:
                    yield from _without_id(group)
                else:
                    yield from self._of_image(image, list(group), names)

    def image(self, name: str) -> bytes | None:
        """The bytes of the file ``name`` in the folder of images."""
        return image_in(self.images, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of the JSON file."""
        size = self.path.stat().st_size
        return {"files": 1, "bytes": size, "sha256": file_sha256(self.path)}

    def _records_to(self, file: Path) -> dict[str, str]:
        """Writes a record per image and annotation; returns the categories' names by id."""
        names: dict[str, str] = {}
        missing = list(_LISTED)
        with pq.ParquetWriter(file, _RECORD, compression="lz4") as writer:
            for key, value in members(self.path):
                listed = isinstance(value, Iterator)
                if listed and key in missing:
                    missing.remove(key)
                    for table in rebatched(_record_batches(key, value), _ROWS):
                        writer.write_table(table)
                elif listed and key == "categories":
                    names.update(_category(row) for row in value if isinstance(row, dict))
        if missing:
            raise BadInput(
                f"{self.path}: has no array '{missing[0]}'; the layout omni3d is an object "
                "with images, categories and annotations"
            )
        return names

    def _of_image(
        self, image: str, records: list[_Record], names: Mapping[str, str]
    ) -> Iterator[Scene | Unread]:
        images = [record for record in records if not record.is_annotation]
        annotations = records[len(images) :]
        if not images:
            detail = f"annotations that name it: {len(annotations)}"
            yield Unread(image, "", Problem("image_not_listed", detail))
        elif len(images) == 1:
            yield self._scene(image, images[0], annotations, names)
        else:
            detail = f"{len(images)} images have this id"
            yield from (_unread(image, record, "image_id_repeated", detail) for record in images)

    def _scene(
        self, image: str, record: _Record, annotations: list[_Record], names: Mapping[str, str]
    ) -> Scene | Unread:
        path, values = record.text, record.values
        width, height, flagged = values[:3].tolist()
        if flagged and not self.flagged:
            return _unread(image, record, "scene_flagged", "src_flagged is true")
        if not path:
            return _unread(image, record, "image_path_missing", "file_path is no text")
        if not all(1 <= pixels < MAX_PIXELS and pixels.is_integer() for pixels in (width, height)):
            return _unread(image, record, "image_size_missing", f"{width} x {height}")
        intrinsics = values[3:12].reshape(3, 3)
        return Scene(
            id=image,
            image=path,
            width=int(width),
            height=int(height),
            intrinsics=intrinsics if np.isfinite(intrinsics).all() else None,
            objects=[_cuboid(annotation, names) for annotation in annotations],
        )


def _unread(scene_id: str, record: _Record, reason: str, detail: str) -> Unread:
    return Unread(scene_id, record.text or "", Problem(reason, detail))


def _without_id(records: Iterator[_Record]) -> Iterator[Unread]:
    annotations = 0
    for record in records:
        if record.is_annotation:
            annotations += 1
        else:
            detail = "is no object, or its id is neither a whole number nor text"
            yield _unread(f"images[{record.position}]", record, "image_without_id", detail)
    if annotations:
        detail = f"annotations that name no image: {annotations}"
        yield Unread("annotations", "", Problem("image_not_listed", detail))


def _cuboid(record: _Record, names: Mapping[str, str]) -> Cuboid:
    told = record.values.tolist()
    return Cuboid(
        category=record.text or names.get(record.category_id or "", ""),
        center=told[:3],
        dimensions=told[3:6],
        rotation=record.values[6:15].reshape(3, 3),
        bbox_px=told[15:19] if told[15] == told[15] else None,
        points=told[19],
        visibility=told[20],
        truncation=told[21],
        depth_error=told[22],
        vouched=told[23] == 1,
    )


def _category(row: dict[str, Any]) -> tuple[str, str]:
    return _id(row.get("id")) or "", _text(row.get("name")) or ""


def _id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value)


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _image(row: dict[str, Any]) -> _Flat:
    flagged = float(row.get("src_flagged") not in (None, False))
    values = [row.get("width"), row.get("height"), flagged]
    values += _matrix(row.get("K"))
    return _id(row.get("id")), _text(row.get("file_path")), None, values


def _annotation(row: dict[str, Any]) -> _Flat:
    get = row.get
    usable = get("valid3D") in (None, True) and get("behind_camera") in (None, False)
    values = [
        *_vector(get("center_cam"), 3),
        *_vector(get("dimensions"), 3),
        *_matrix(get("R_cam")),
        *_vector(get("bbox2D_tight"), 4),
        *_vector(get("bbox2D_trunc"), 4),
        *_vector(get("bbox2D_proj"), 4),
        *(get("lidar_pts"), get("segmentation_pts")),
        *(get("visibility"), get("truncation"), get("depth_error"), float(usable)),
    ]
    return _id(get("image_id")), _text(get("category_name")), _id(get("category_id")), values


def _vector(value: Any, count: int) -> list[Any]:
    return value if type(value) is list and len(value) == count else [None] * count


def _matrix(value: Any) -> list[Any]:
    """The 9 values of 3 x 3, row by row."""
    first, second, third = _vector(value, 3)
    return [*_vector(first, 3), *_vector(second, 3), *_vector(third, 3)]


def _image_numbers(told: Floats) -> Floats:
    return np.pad(told, ((0, 0), (0, _NUMBERS - told.shape[1])))


def _annotation_numbers(told: Floats) -> Floats:
    """Of (n, 33) as ``_annotation`` tells them: what is unknown as NaN, one box, one count."""
    boxes, points = told[:, 15:27].reshape(-1, 3, 4), told[:, 27:29]
    rest = np.where(told[:, 29:] == -1, UNKNOWN, told[:, 29:])
    box_known = np.isfinite(boxes).all(axis=2) & ~(boxes == -1).all(axis=2)
    points_known = np.isfinite(points) & (points != -1)
    chosen = [_first(boxes, box_known), _first(points[..., None], points_known)]
    return np.concatenate([told[:, :15], *chosen, rest], axis=1)


def _first(options: Floats, known: NDArray[np.bool_]) -> Floats:
    """Of (n, options, size) the first that is known, (n, size); NaN where none is."""
    first = options[np.arange(len(options)), known.argmax(axis=1)]
    return np.where(np.any(known, axis=1, keepdims=True), first, UNKNOWN)


def _floats(values: list[Any]) -> Floats:
    """``number`` of each, in the usual case many at a time."""
    if set(map(type, values)) <= {float, int}:
        with suppress(OverflowError):
            return np.array(values, dtype=np.float64)
    return np.array([number(value) for value in values], dtype=np.float64)


def _record_batches(key: str, elements: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    """What is no object counts as an empty one."""
    flat, refined = _LISTED[key]
    rows = (flat(row if isinstance(row, dict) else {}) for row in elements)
    start = 0
    while some := list(islice(rows, _HELD_ROWS)):
        ids, texts, category_ids, values = zip(*some, strict=True)
        told = _floats(list(chain.from_iterable(values))).reshape(len(some), -1)
        packed = pa.py_buffer(refined(told).tobytes())
        positions = range(start, start + len(some))
        columns = [ids, [key == "annotations"] * len(some), positions, texts, category_ids]
        typed = [pa.array(c, f.type) for c, f in zip(columns, _RECORD, strict=False)]
        kind = _RECORD.field("numbers").type
        typed.append(pa.Array.from_buffers(kind, len(some), [None, packed]))
        yield pa.record_batch(typed, schema=_RECORD)
        start += len(some)


_LISTED = {"images": (_image, _image_numbers), "annotations": (_annotation, _annotation_numbers)}


def _records_of(batch: pa.RecordBatch) -> Iterator[_Record]:
    *columns, packed = (batch.column(field.name) for field in _RECORD)
    values = np.frombuffer(b"".join(packed.to_pylist())).reshape(-1, _NUMBERS)
    rows = zip(*(column.to_pylist() for column in columns), values, strict=True)
    return map(_Record._make, rows)
