"""Reference boxes, as a table of DuckDB that captions are joined with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vila2data.build.manifest import MANIFEST_FILE, REJECTS_SUFFIX, read_manifest
from vila2data.build.views import readable, sql_list, sql_name
from vila2data.corpus.names import key_of
from vila2data.errors import BadInput

from .coco import CocoBox, CocoCategory, CocoImage, coco_entries

if TYPE_CHECKING:
    import duckdb

_BATCH = 50_000
_SCENES = "scenes"

# How an image's name in the references may be that of a caption's sample, best first.
_WAYS = {
    "key": ("c.key", "by_key"),
    "file name": ("c.key", "by_stem"),
    "key as image id": ("c.key", "by_id"),
    "image id": ("c.id::VARCHAR", "by_id"),
}

_EMPTY_TABLES = """
CREATE OR REPLACE TEMP TABLE coco_images
    (id VARCHAR, by_key VARCHAR, by_stem VARCHAR, width DOUBLE, height DOUBLE);
CREATE OR REPLACE TEMP TABLE coco_boxes
    (image_id VARCHAR, category_id VARCHAR, is_crowd BOOL,
     x DOUBLE, y DOUBLE, width DOUBLE, height DOUBLE);
CREATE OR REPLACE TEMP TABLE coco_categories (id VARCHAR, name VARCHAR);
"""
_COCO_IMAGES = """
CREATE OR REPLACE TEMP TABLE reference_images AS
WITH images AS (SELECT * FROM coco_images QUALIFY count(*) OVER (PARTITION BY id) = 1),
cut AS (
    SELECT b.image_id, c.name AS category, b.is_crowd,
           greatest(b.x / i.width, 0.0) AS x1, greatest(b.y / i.height, 0.0) AS y1,
           least((b.x + b.width) / i.width, 1.0) AS x2,
           least((b.y + b.height) / i.height, 1.0) AS y2
    FROM coco_boxes b JOIN images i ON i.id = b.image_id
    JOIN (SELECT id, min(name) AS name FROM coco_categories GROUP BY id) c ON c.id = b.category_id),
boxes AS (
    SELECT image_id, list([x1, y1, x2, y2]) AS boxes, list(category) AS categories,
           list(is_crowd) AS crowds
    FROM cut WHERE x1 < x2 AND y1 < y2 GROUP BY image_id)
SELECT i.id AS by_id, i.by_key, i.by_stem, coalesce(b.boxes, []) AS boxes,
       coalesce(b.categories, []) AS categories, coalesce(b.crowds, []) AS crowds
FROM images i LEFT JOIN boxes b ON b.image_id = i.id
"""
_SCENE_IMAGES = """
CREATE OR REPLACE TEMP TABLE reference_images AS
WITH scenes AS (SELECT key, coalesce(objects, []) AS objects FROM read_parquet({files})),
usable AS (SELECT key, list_filter(objects, lambda o: o.category IS NOT NULL
    AND len(o.bbox) = 4 AND o.bbox[1] >= 0 AND o.bbox[2] >= 0 AND o.bbox[3] <= 1 AND o.bbox[4] <= 1
    AND o.bbox[1] < o.bbox[3] AND o.bbox[2] < o.bbox[4]) AS objects FROM scenes)
SELECT key AS by_key, NULL::VARCHAR AS by_stem, NULL::VARCHAR AS by_id,
       [o.bbox::DOUBLE[] FOR o IN objects] AS boxes, [o.category FOR o IN objects] AS categories,
       [false FOR o IN objects] AS crowds
FROM usable
"""


@dataclass(frozen=True, slots=True)
class References:
    """What was read; the images are the table ``reference_images``.

    Attributes:
        categories: the names of all categories, also of those that no image shows.
        unusable: boxes, and images with theirs, that could not be used.
    """

    categories: list[str]
    unusable: int


def load_references(connection: "duckdb.DuckDBPyConnection", path: Path) -> References:
    """Reads COCO's ``instances.json``, or a build of data set ``scenes``, into
    ``reference_images``.

    Raises:
        BadInput: ``path`` is neither.
    """
    if path.is_dir() or path.name == MANIFEST_FILE:
        return _load_scenes(connection, path if path.is_dir() else path.parent)
    return _load_coco(connection, path)


def _load_scenes(connection: "duckdb.DuckDBPyConnection", build: Path) -> References:
    manifest = read_manifest(build)
    if manifest.data_set != _SCENES:
        raise BadInput(
            f"{build}: is a build of {manifest.data_set}; references are a build of {_SCENES} or "
            "COCO's instances.json"
        )
    kept = [file for file in manifest.files if not file.config.endswith(REJECTS_SUFFIX)]
    files = sql_list((build / file.path).as_posix() for file in kept)
    with readable(build):
        connection.execute(_SCENE_IMAGES.format(files=files))
        named, all_boxes, used = _rows(
            connection,
            f"""SELECT (SELECT list(DISTINCT name) FROM
                        (SELECT unnest(categories) AS name FROM reference_images)),
                       (SELECT sum(len(objects)) FROM read_parquet({files})),
                       (SELECT sum(len(boxes)) FROM reference_images)""",
        )[0]
    return References(sorted(named or []), (all_boxes or 0) - (used or 0))


def _load_coco(connection: "duckdb.DuckDBPyConnection", file: Path) -> References:
    connection.execute(_EMPTY_TABLES)
    unusable = 0
    waiting: dict[str, list[Sequence[Any]]] = {
        "coco_images": [],
        "coco_boxes": [],
        "coco_categories": [],
    }
    for entry in coco_entries(file):
        if entry is None:
            unusable += 1
            continue
        table, row = _coco_row(entry)
        waiting[table].append(row)
        if len(waiting[table]) >= _BATCH:
            _insert(connection, table, waiting[table])
    for table, rows in waiting.items():
        _insert(connection, table, rows)
    connection.execute(_COCO_IMAGES)
    (lost,) = _rows(
        connection,
        """SELECT (SELECT count(*) FROM coco_boxes)
                - (SELECT coalesce(sum(len(boxes)), 0) FROM reference_images)
                + (SELECT count(*) FROM coco_images) - (SELECT count(*) FROM reference_images)""",
    )[0]
    names = [name for (name,) in _rows(connection, "SELECT DISTINCT name FROM coco_categories")]
    return References(sorted(names), unusable + lost)


def _coco_row(entry: CocoImage | CocoBox | CocoCategory) -> tuple[str, Sequence[Any]]:
    if isinstance(entry, CocoBox):
        of = (entry.image_id, entry.category_id, entry.is_crowd)
        return "coco_boxes", (*of, *entry.xywh_px)
    if isinstance(entry, CocoCategory):
        return "coco_categories", entry
    stem = PurePosixPath(entry.file_name.replace("\\", "/")).name
    names = (entry.id, key_of(entry.file_name), key_of(stem))
    return "coco_images", (*names, entry.width, entry.height)


def _insert(connection: "duckdb.DuckDBPyConnection", table: str, rows: list[Sequence[Any]]) -> None:
    """Moves rows into a table."""
    if not rows:
        return
    import pyarrow as pa

    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    batch = pa.table(columns, names=[f"c{n}" for n in range(len(columns))])
    connection.register("batch", batch)
    connection.execute(f"INSERT INTO {table} SELECT * FROM batch")
    connection.unregister("batch")
    rows.clear()


@dataclass(frozen=True, slots=True)
class Join:
    """How the captions of a config and the references name the same images.

    Attributes:
        way: in words.
        on: condition of SQL, captions ``c``, references ``r``.
        images: the table of references, names that stand twice left out.
        without_references: captions.
        without_captions: images of the references.
        ambiguous: images whose name stands twice, or that have none.
    """

    way: str
    on: str
    images: str
    without_references: int
    without_captions: int
    ambiguous: int


def captions_of(config: str) -> str:
    """The captions of a config that were written for task ``grounding``, in SQL."""
    return f"(SELECT * FROM {sql_name(config)} WHERE task = 'grounding')"


def join_of(connection: "duckdb.DuckDBPyConnection", config: str) -> Join:
    """The way by which most captions of a config find their image in ``reference_images``."""
    joins: list[Join] = []
    for way in _WAYS:
        joins.append(_join(connection, config, way))
        if not joins[-1].without_references:
            break
    return min(joins, key=lambda join: join.without_references)


def _join(connection: "duckdb.DuckDBPyConnection", config: str, way: str) -> Join:
    caption, reference = _WAYS[way]
    images = (
        f"(SELECT * FROM reference_images WHERE {reference} IS NOT NULL "
        f"QUALIFY count(*) OVER (PARTITION BY {reference}) = 1)"
    )
    on = f"r.{reference} = {caption}"
    captions = captions_of(config)
    counts = _rows(
        connection,
        f"""SELECT (SELECT count(*) FROM {captions} c ANTI JOIN {images} r ON {on}),
                   (SELECT count(*) FROM {images} r ANTI JOIN {captions} c ON {on}),
                   (SELECT count(*) FROM reference_images) - (SELECT count(*) FROM {images})""",
    )[0]
    return Join(way, on, images, *counts)


def _rows(connection: "duckdb.DuckDBPyConnection", sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()
