"""Scenes between cleaning and asking, as they will stand in the build, and their Arrow form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.work import write_shard
from vila2data.counts import Steps
from vila2data.cuboids import Floats
from vila2data.schema import SPATIAL_RELATION_QA

from .batch import Batch, Bools, Ints
from .cleaning import Cleaned

_OBJECT_FIELDS = {
    field.name: field.type
    for field in SPATIAL_RELATION_QA.arrow_schema.field("objects").type.value_type
}


@dataclass(frozen=True, slots=True)
class StoredScenes:
    """``s`` scenes with ``n`` boxes; numbers as precise as they are stored, so that what is asked
    follows from what is stored.

    Attributes:
        ids, images: of the scenes.
        sizes_px: (s, 2).
        intrinsics: (s, 9) float32.
        starts: (s + 1,).
        category: (n,), as it is said.
        bbox: (n, 4), center, dimensions: (n, 3), rotation: (n, 9); float32.
        clear, askable: (n,), see ``semantics.Geometry``.
    """

    ids: list[str]
    images: list[str]
    sizes_px: Ints
    intrinsics: Floats
    starts: Ints
    category: list[str]
    bbox: Floats
    center: Floats
    dimensions: Floats
    rotation: Floats
    clear: Bools
    askable: Bools

    def class_starts(self) -> Ints:
        """(k + 1,), where the boxes of each class of each scene begin; they stand together."""
        if not self.category:
            return np.zeros(1, np.int64)
        names = np.array(self.category)
        begins = np.append(True, names[1:] != names[:-1])
        begins[self.starts[:-1]] = True  # no scene is empty
        return np.append(np.flatnonzero(begins), len(names))

    def objects(self) -> pa.ListArray:
        """The column ``objects``."""
        columns = [
            pa.array(self.category, pa.string()),
            *(_fixed(getattr(self, name)) for name in list(_OBJECT_FIELDS)[1:]),
        ]
        structs = pa.StructArray.from_arrays(columns, list(_OBJECT_FIELDS))
        return pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), structs)

    def identity(self) -> dict[str, pa.Array]:
        """The columns that a scene has before anything is asked."""
        return {
            "id": pa.array(self.ids, pa.string()),
            "image_path": pa.array(self.images, pa.string()),
            "width": pa.array(self.sizes_px[:, 0], pa.int32()),
            "height": pa.array(self.sizes_px[:, 1], pa.int32()),
            "intrinsics": _fixed(self.intrinsics),
            "objects": self.objects(),
        }

    def write(self, path: Path, steps: Steps) -> None:
        """Writes them, with the counts of what became of their source."""
        offsets = pa.array(self.starts, pa.int32())
        flags = {
            name: pa.ListArray.from_arrays(offsets, pa.array(getattr(self, name)))
            for name in ("clear", "askable")
        }
        write_shard(pa.table({**self.identity(), **flags}), path, steps)

    @classmethod
    def read(cls, path: Path) -> "StoredScenes":
        """What ``write`` wrote."""
        table = pq.read_table(path).combine_chunks()
        objects = _chunk(table, "objects")
        fields = objects.flatten()
        shapes = {"bbox": 4, "center": 3, "dimensions": 3, "rotation": 9}
        return cls(
            ids=table["id"].to_pylist(),
            images=table["image_path"].to_pylist(),
            sizes_px=np.stack([table[n].to_numpy() for n in ("width", "height")], axis=1),
            intrinsics=_flat(_chunk(table, "intrinsics"), 9),
            starts=objects.offsets.to_numpy().astype(np.int64),
            category=fields.field("category").to_pylist(),
            clear=_chunk(table, "clear").flatten().to_numpy(zero_copy_only=False),
            askable=_chunk(table, "askable").flatten().to_numpy(zero_copy_only=False),
            **{name: _flat(fields.field(name), width) for name, width in shapes.items()},
        )


def _fixed(values: Floats) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _flat(array: pa.Array, width: int) -> Floats:
    values: Floats = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def _chunk(table: pa.Table, name: str) -> Any:
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def stored(batch: Batch, cleaned: Cleaned, prefix: str) -> StoredScenes:
    """What is kept of a batch: used scenes with at least one box, boxes in an order of their own.

    The order follows from what the boxes are, so that it does not depend on the source's, and is
    the same in a mirror image.
    """
    kept = np.array([reason is None for reason in cleaned.left_out], np.bool_)
    kept &= np.array([p is None for p in cleaned.scene_problems], np.bool_)[batch.scene_of]
    counts = np.bincount(batch.scene_of[kept], minlength=len(batch.ids))
    scenes = np.flatnonzero(counts)
    order = _order(batch, cleaned, np.flatnonzero(kept))
    scene_of = batch.scene_of[order]
    names = [str(cleaned.names[place]) for place in order]
    size = np.tile(batch.sizes_px, 2)[scene_of]
    return StoredScenes(
        ids=[f"{prefix}/{batch.ids[scene]}" for scene in scenes],
        images=[batch.images[scene] for scene in scenes],
        sizes_px=batch.sizes_px[scenes],
        intrinsics=batch.intrinsics[scenes].reshape(-1, 9).astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(counts[scenes])]),
        category=names,
        bbox=(cleaned.bbox_px[order] / size).astype(np.float32),
        center=batch.center[order].astype(np.float32),
        dimensions=batch.dimensions[order].astype(np.float32),
        rotation=batch.rotation[order].reshape(-1, 9).astype(np.float32),
        clear=np.array([cleaned.unclear[place] is None for place in order], np.bool_),
        askable=~cleaned.uncertain[order] & ~_contained(names, scene_of.tolist()),
    )


def _order(batch: Batch, cleaned: Cleaned, places: Ints) -> Ints:
    x, y, z = batch.center[places].astype(np.float32).T
    w, h, length = batch.dimensions[places].astype(np.float32).T
    names = np.array([cleaned.names[place] for place in places], np.str_)
    return places[np.lexsort((x, length, h, w, y, np.abs(x), z, names, batch.scene_of[places]))]


def _contained(names: Sequence[str], scene_of: Sequence[int]) -> Bools:
    """Whether a scene also has a class whose name ends with this one: a coffee table is a table."""
    told = {pair for pair in zip(scene_of, names, strict=True) if " " in pair[1]}
    contained = set()
    for scene, name in told:
        words = name.split()
        contained |= {(scene, " ".join(words[n:])) for n in range(1, len(words))}
    return np.array([pair in contained for pair in zip(scene_of, names, strict=True)], np.bool_)
