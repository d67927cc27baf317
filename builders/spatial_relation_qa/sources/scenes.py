"""Our own data set ``scenes`` as a source: a build for the boxes, a corpus for the images."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PrivateAttr

from vila2data.build.manifest import read_manifest
from vila2data.build.views import sql_text
from vila2data.corpus.index import CorpusIndex
from vila2data.corpus.read import list_shards
from vila2data.errors import BadInput, Vila2DataError
from vila2data.files import file_sha256
from vila2data.recipe import RecipePath
from vila2data.schema import SCENES

from ..scene import Cuboid, Scene, Unread, numbers
from ..source import SourceBlock
from .native import Unusable, attempt, whole_pixels

_ROWS = 1000
_COLUMNS = ("key", "image_sha256", "width", "height", "intrinsics", "objects")


class SceneBuild(SourceBlock):
    """A build of the data set ``scenes``.

    ``dimensions`` are [w, h, l], ``center`` the box's centre, ``rotation`` box to camera, row by
    row; metres, camera frame x right, y down, z forward: nothing is turned. ``bbox`` is xyxy in
    0-1 and becomes pixels. Visibility, truncation and points are not told.
    """

    layout: Literal["scenes"]
    corpus: RecipePath = Field(description="folder of the tars that hold the images")
    config: str = Field("train", description="config of the build")
    _hashes: dict[str, str] = PrivateAttr(default_factory=dict)

    def problems(self) -> list[str]:
        """A folder that is no build of ``scenes``, or no corpus."""
        found = []
        try:
            manifest = read_manifest(self.path)
        except Vila2DataError as error:
            found.append(f"path: {error}")
        else:
            if manifest.data_set != "scenes":
                found.append(f"path: {self.path}: is a build of {manifest.data_set}, not of scenes")
            elif self.config not in manifest.configs:
                known = ", ".join(manifest.configs)
                found.append(f"config: {self.path} has no config {self.config}; known: {known}")
        try:
            list_shards(self.corpus)
        except Vila2DataError as error:
            found.append(f"corpus: {error}")
        return found

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every row in the build's order.

        Raises:
            BadInput: the build cannot be read.
        """
        for file in self._files():
            for start, rows in _batches(file):
                # The hashes of what is being read are at hand; those of other rows are looked up.
                self._hashes.clear()
                self._hashes.update((row["key"], row["image_sha256"]) for row in rows)
                for position, row in enumerate(rows, start):
                    key = row["key"] or ""
                    yield attempt(key or f"{file.name}[{position}]", key, _scene, row)

    def image(self, name: str) -> bytes | None:
        """The corpus's image of a key, where its hash is the build's too."""
        expected = self._hashes.get(name) or self._hash(name)
        images = self._index.images(name)
        return next((image for image in images if sha256(image).hexdigest() == expected), None)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of the parquet files; their rows pin the images by hash."""
        files = self._files()
        hashes = "".join(file_sha256(file) for file in files)
        size = sum(file.stat().st_size for file in files)
        return {"files": len(files), "bytes": size, "sha256": sha256(hashes.encode()).hexdigest()}

    @cached_property
    def _index(self) -> CorpusIndex:
        return CorpusIndex(self.corpus)

    def _files(self) -> list[Path]:
        return [self.path / file.path for file in read_manifest(self.path).files_of(self.config)]

    def _hash(self, key: str) -> str | None:
        files = ", ".join(sql_text(str(file)) for file in self._files())
        query = f"SELECT image_sha256 FROM read_parquet([{files}]) WHERE key = $1"
        with duckdb.connect() as connection:
            found = connection.execute(query, [key]).fetchone()
        return found[0] if found else None


def _batches(file: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(number of the first, some rows)."""
    start = 0
    try:
        parquet = pq.ParquetFile(file)
        _check(file, parquet.schema_arrow)
        for batch in parquet.iter_batches(_ROWS, columns=list(_COLUMNS)):
            yield start, batch.to_pylist()
            start += batch.num_rows
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def _check(file: Path, schema: pa.Schema) -> None:
    found = {field.name: field.type for field in schema}
    for field in SCENES.arrow_schema:
        if field.name in _COLUMNS and found.get(field.name) != field.type:
            told = f"is {found[field.name]}" if field.name in found else "is missing"
            raise BadInput(f"{file}: column '{field.name}' {told}, expected {field.type}")


def _scene(id: str, image: str, row: Mapping[str, Any]) -> Scene:
    if not image:
        raise Unusable("key_missing", "the row has no key")
    if row["objects"] is None:
        raise Unusable("annotations_missing", "objects is null")
    width, height = (whole_pixels(row[name], name) for name in ("width", "height"))
    intrinsics = np.array(numbers(row["intrinsics"], 9)).reshape(3, 3)
    return Scene(
        id=id,
        image=image,
        width=width,
        height=height,
        intrinsics=intrinsics if np.isfinite(intrinsics).all() else None,
        objects=[_cuboid(told or {}, width, height) for told in row["objects"]],
    )


def _cuboid(told: Mapping[str, Any], width: int, height: int) -> Cuboid:
    box_px = np.array(numbers(told.get("bbox"), 4)) * [width, height, width, height]
    return Cuboid(
        category=told.get("category") or "",
        center=numbers(told.get("center"), 3),
        dimensions=numbers(told.get("dimensions"), 3),
        rotation=np.array(numbers(told.get("rotation"), 9)).reshape(3, 3),
        bbox_px=box_px.tolist() if np.isfinite(box_px).all() else None,
    )
