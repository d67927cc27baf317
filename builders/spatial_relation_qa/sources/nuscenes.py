"""nuScenes from the devkit's JSON tables."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from os import SEEK_END
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
from pydantic import Field

from vila2data.build.tables import streamed, work_connection
from vila2data.build.views import sql_text
from vila2data.cuboids import Floats
from vila2data.errors import BadInput

from ..scene import UNKNOWN, Cuboid, Scene, Unread, number, numbers
from ..source import SourceBlock, image_in
from .native import (
    UPRIGHT,
    Unusable,
    attempt,
    fingerprint_of,
    in_view,
    intrinsics_of,
    quaternion_rotation,
    whole_pixels,
)

_TABLES = {
    "sensor": ["token", "channel", "modality"],
    "calibrated_sensor": ["token", "sensor_token", "translation", "rotation", "camera_intrinsic"],
    "sample_data": [
        *["token", "sample_token", "ego_pose_token", "calibrated_sensor_token"],
        *["filename", "width", "height", "is_key_frame"],
    ],
    "ego_pose": ["token", "translation", "rotation"],
    "sample_annotation": [
        *["token", "sample_token", "instance_token", "visibility_token"],
        *["translation", "size", "rotation", "num_lidar_pts"],
    ],
    "instance": ["token", "category_token"],
    "category": ["token", "name"],
    "visibility": ["token", "level"],
}
"""The tables and what is read of each, all as text; arrays stay JSON."""

_KEPT = {"sample_data": "WHERE is_key_frame = 'true'", "sensor": "WHERE modality = 'camera'"}

_IMAGES = """
SELECT d.sample_token, d.token, d.filename, d.width, d.height,
       c.camera_intrinsic, c.translation AS camera_translation, c.rotation AS camera_rotation,
       e.translation AS ego_translation, e.rotation AS ego_rotation
FROM sample_data d
JOIN calibrated_sensor c ON c.token = d.calibrated_sensor_token
JOIN sensor s ON s.token = c.sensor_token
LEFT JOIN ego_pose e ON e.token = d.ego_pose_token
WHERE s.channel IN ({channels}) AND d.sample_token IS NOT NULL
ORDER BY d.sample_token, d.filename, d.token
"""
_BOXES = """
SELECT a.sample_token, a.translation, a.size, a.rotation, a.num_lidar_pts,
       k.name AS category, v.level
FROM sample_annotation a
LEFT JOIN instance i ON i.token = a.instance_token
LEFT JOIN category k ON k.token = i.category_token
LEFT JOIN visibility v ON v.token = a.visibility_token
WHERE a.sample_token IS NOT NULL
ORDER BY a.sample_token, a.token
"""
_ROWS_PER_BATCH = 2_000
_TAIL_BYTES = 64
_VISIBLE_OF_LEVEL = {"v0-40": 0.2, "v40-60": 0.5, "v60-80": 0.7, "v80-100": 0.9}

Row = Mapping[str, Any]


class NuScenes(SourceBlock):
    """nuScenes, or another data set in the tables of its devkit.

    An annotation holds the centre of its box and a quaternion [w, x, y, z] in the GLOBAL frame
    (metres, z up), and its size as [w, l, h]; the box has x forward along its length, y left along
    its width, z up. It reaches a camera through the pose of the vehicle at the time of the camera's
    own image (``sample_data.ego_pose_token``; the cameras of one sample differ by some 40 ms) and
    then through ``calibrated_sensor``.

    Only key frames are annotated, and only they are read. A box that lies behind a camera or beside
    its image is left out: it belongs to another camera's. Visibility is the middle of the
    annotation's level, 0.2, 0.5, 0.7 or 0.9; it tells what all cameras together see of the object.
    Points are those of the lidar: they lie on surfaces, as other sources' points do, while the few
    radar returns also come from beside and behind an object. The tables hold no 2D boxes.
    """

    layout: Literal["nuscenes"]
    version: str = Field(
        "v1.0-trainval", pattern=r"^[\w.-]*\w$", description="the folder of the tables in `path`"
    )
    cameras: Sequence[str] = Field(
        (
            *("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT"),
            *("CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT"),
        ),
        min_length=1,
        description="channels whose images are read",
    )

    def problems(self) -> list[str]:
        """Missing tables, and channels that are no camera's."""
        if not self.path.is_dir():
            return [f"path: {self.path}: no such folder"]
        files = [self._file(table) for table in _TABLES]
        missing = [f"version: {file}: no such file" for file in files if not file.is_file()]
        return missing or self._unknown_cameras()

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every key frame of the cameras, by sample and file name.

        Raises:
            BadInput: a table is missing or is no JSON array of records.
        """
        with work_connection(str(work)) as connection:
            for table, columns in _TABLES.items():
                _load(connection, self._file(table), columns, _KEPT.get(table, ""))
            channels = ", ".join(sql_text(camera) for camera in self.cameras)
            images = _rows(connection, _IMAGES.format(channels=channels))
            for rows, boxes in _by_sample(images, _rows(connection, _BOXES)):
                for row in rows:
                    yield attempt(row["token"] or "", row["filename"] or "", _scene, row, boxes)

    def image(self, name: str) -> bytes | None:
        """The bytes of an image file."""
        return image_in(self.path, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of the tables that are read."""
        return fingerprint_of(self.path, (self._file(table) for table in _TABLES))

    def _unknown_cameras(self) -> list[str]:
        with work_connection(None) as connection:
            try:
                _load(connection, self._file("sensor"), _TABLES["sensor"], _KEPT["sensor"])
            except BadInput as error:
                return [f"version: {error}"]
            rows = connection.execute("SELECT channel FROM sensor ORDER BY channel").fetchall()
        known = [str(channel) for (channel,) in rows]
        return [
            f"cameras: {camera!r} is no camera here; accepted: {', '.join(known)}"
            for camera in self.cameras
            if camera not in known
        ]

    def _file(self, table: str) -> Path:
        return self.path / self.version / f"{table}.json"


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The annotations of one sample in the global frame; our box axes and dimensions."""

    categories: Sequence[str | None]
    visibility: Sequence[float]
    points: Sequence[float]
    center: Floats  # (n, 3)
    dimensions: Floats  # (n, 3)
    rotation: Floats  # (n, 3, 3)


def _load(
    connection: duckdb.DuckDBPyConnection, file: Path, columns: Sequence[str], kept: str
) -> None:
    """Makes a table of what is needed of one file."""
    _refuse_cut(file)
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    read = f"read_json({sql_text(str(file))}, format = 'array', columns = {{{types}}})"
    try:
        connection.execute(f"CREATE TABLE {file.stem} AS SELECT * FROM {read} {kept}")
    except duckdb.Error as error:
        told = " ".join(str(error).split())
        raise BadInput(f"{file}: must be a JSON array of records: {told}") from error


def _refuse_cut(file: Path) -> None:
    """DuckDB takes a file that is empty, or ends after a comma, for a whole one."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, SEEK_END) - _TAIL_BYTES))
            tail = stream.read()
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from error
    if not tail.rstrip().endswith(b"]"):
        raise BadInput(f"{file}: must be a JSON array of records: it does not end with ]")


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[Row]:
    for batch in streamed(connection.cursor(), sql, _ROWS_PER_BATCH):
        yield from batch.to_pylist()


def _by_sample(images: Iterator[Row], boxes: Iterator[Row]) -> Iterator[tuple[list[Row], _Boxes]]:
    """The images of each sample with its boxes; both come ordered by sample."""
    groups = groupby(boxes, key=lambda row: row["sample_token"])
    sample, found = next(groups, (None, iter(())))
    for wanted, rows in groupby(images, key=lambda row: row["sample_token"]):
        while sample is not None and sample < wanted:
            sample, found = next(groups, (None, iter(())))
        yield list(rows), _boxes(list(found) if sample == wanted else [])


def _boxes(rows: Sequence[Row]) -> _Boxes:
    size = _arrays(rows, "size", 3)
    rotation = quaternion_rotation(_arrays(rows, "rotation", 4))
    return _Boxes(
        [row["category"] for row in rows],
        [_VISIBLE_OF_LEVEL.get(row["level"], UNKNOWN) for row in rows],
        [number(_parsed(row["num_lidar_pts"])) for row in rows],
        _arrays(rows, "translation", 3),
        size[:, [0, 2, 1]],
        rotation @ UPRIGHT,
    )


def _scene(id: str, image: str, row: Row, boxes: _Boxes) -> Scene:
    size = [whole_pixels(_parsed(row[side]), side) for side in ("width", "height")]
    intrinsics = intrinsics_of(_flat(_parsed(row["camera_intrinsic"])), "camera_intrinsic")
    center, rotation = boxes.center, boxes.rotation
    for frame in ("ego", "camera"):
        shift = _arrays([row], f"{frame}_translation", 3)
        turn = quaternion_rotation(_arrays([row], f"{frame}_rotation", 4))[0]
        if not (np.isfinite(shift).all() and np.isfinite(turn).all()):
            raise Unusable("camera_unreadable", f"the pose of the {frame} is missing or no pose")
        center, rotation = (center - shift) @ turn, turn.T @ rotation
    seen = in_view(center, boxes.dimensions, rotation, intrinsics=intrinsics, size=size)
    objects = [
        Cuboid(
            _known(boxes.categories[n]),
            center[n].tolist(),
            boxes.dimensions[n].tolist(),
            rotation[n],
            visibility=boxes.visibility[n],
            points=boxes.points[n],
        )
        for n in np.flatnonzero(seen).tolist()
    ]
    return Scene(id, image, size[0], size[1], intrinsics, objects)


def _known(category: str | None) -> str:
    if not category:
        raise Unusable("category_unknown", "an annotation's instance leads to no category")
    return category


def _parsed(text: str | None) -> Any:
    """The value of a column; None where it is none or no JSON."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None


def _arrays(rows: Sequence[Row], column: str, count: int) -> Floats:
    """A column of arrays, (n, count); NaN where there is no number."""
    values = np.array([numbers(_parsed(row[column]), count) for row in rows]).reshape(-1, count)
    return np.where(np.isfinite(values), values, UNKNOWN)


def _flat(matrix: object) -> list[object]:
    rows = matrix if isinstance(matrix, list) else []
    return [value for row in rows if isinstance(row, list) for value in row]
