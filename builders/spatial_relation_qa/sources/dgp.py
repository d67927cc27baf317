"""Data sets in the format of the Dataset Governance Policy (DGP), such as DDAD."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vila2data.cuboids import Floats

from ..scene import UNKNOWN, Cuboid, Scene, Unread, number
from ..source import SourceBlock, image_in
from .native import (
    UPRIGHT,
    VISIBLE_OF_OCCLUDED,
    Unusable,
    attempt,
    fingerprint_of,
    intrinsics_of,
    json_in,
    quaternion_rotation,
    whole_pixels,
)

_BOX_2D, _BOX_3D = "0", "1"
"""Keys of ``annotations`` and ``ontologies``: the format's numbers of the kinds."""

_DATASET_FILES = "scene_dataset"
"""So start the names of files that list scenes and are none."""

_PINHOLE = frozenset({"fx", "fy", "cx", "cy", "skew", "fov"})

Json = dict[str, Any]


class Dgp(SourceBlock):
    """Scene folders of the Dataset Governance Policy.

    ``path`` is a folder with a scene file, or holds such folders at any depth. The scene file lists
    data; those that are images name their annotation files by kind: 1 the 3D boxes, 0 the 2D boxes.
    A 3D box has its pose in the frame of its own CAMERA (x right, y down, z forward, metres; the
    centre and a quaternion) and width, length, height; before it is turned, x runs forward along
    its length, y left along its width, z up. A 2D box is x, y, w, h in pixels and belongs to the 3D
    box of the same ``instance_id``. An image of which no 3D boxes are named was not annotated and
    is unread.

    Occlusion is KITTI's (1, 2 become a visibility of 0.75, 0.25; 3 is unknown), and truncation a
    share. Zero is what a number reads as that nobody set: files mark even boxes without one lidar
    point as fully visible. So a zero of either is unknown here.
    """

    layout: Literal["dgp"]
    scene_files: str = Field(
        "scene*.json", pattern=r"^[^/]+$", description="how a folder's scene file is named"
    )

    def problems(self) -> list[str]:
        """A missing folder, or one without a scene."""
        if not self.path.is_dir():
            return [f"path: {self.path}: no such folder"]
        if next(self._folders(self.path), None) is None:
            return [f"scene_files: {self.path} holds no folder with a file {self.scene_files}"]
        return []

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every image of every scene, by folder, in the scene file's order."""
        for folder, files in self._folders(self.path):
            prefix = folder.relative_to(self.path).as_posix()
            prefix = "" if prefix == "." else f"{prefix}/"
            try:
                scene, images = _read_scene(folder, files)
            except Unusable as error:
                yield Unread(f"{prefix}{files[0]}", "", error.problem)
                continue
            for datum in images:
                name = f"{prefix}{_entry(datum, 'datum', 'image').get('filename', '')}"
                id = name.rpartition(".")[0] or name
                yield attempt(id, name, _scene, folder, scene, datum)

    def image(self, name: str) -> bytes | None:
        """The bytes of an image file."""
        return image_in(self.path, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of every JSON file in the folders of scenes."""
        folders = (folder for folder, _ in self._folders(self.path))
        return fingerprint_of(self.path, (file for f in folders for file in f.rglob("*.json")))

    def _folders(self, folder: Path) -> Iterator[tuple[Path, list[str]]]:
        """Folders with the names of their scene files, sorted; none below such a folder."""
        files = sorted(file.name for file in folder.glob(self.scene_files) if file.is_file())
        files = [name for name in files if not name.startswith(_DATASET_FILES)]
        if files:
            yield folder, files
            return
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():  # a link may lead in a circle
                yield from self._folders(child)


def _read_scene(folder: Path, files: list[str]) -> tuple[Json, list[Json]]:
    """The scene, and its data that are images."""
    if len(files) > 1:
        raise Unusable("scene_ambiguous", f"{' and '.join(files)}: `scene_files` must name one")
    scene = json_in(folder, files[0], "annotations")
    data = _records(scene, "data")
    if not data:
        raise Unusable("annotations_unreadable", f"{files[0]} has no list 'data'")
    return scene, [datum for datum in data if _entry(datum, "datum", "image")]


def _scene(id: str, name: str, folder: Path, scene: Json, datum: Json) -> Scene:
    image = _entry(datum, "datum", "image")
    files = _entry(image, "annotations")
    if _BOX_3D not in files:
        raise Unusable("annotations_missing", "the scene names no 3D boxes of the image")
    boxes = _annotations(folder, files[_BOX_3D])
    flat = _annotations(folder, files[_BOX_2D]) if _BOX_2D in files else []
    boxes_px = {_instance(a): _entry(a, "box") for a in flat}
    classes = _classes(folder, scene)
    size = [whole_pixels(image.get(side), side) for side in ("width", "height")]
    objects = [_cuboid(box, classes, boxes_px.get(_instance(box))) for box in boxes]
    return Scene(id, name, size[0], size[1], _intrinsics(folder, scene, datum), objects)


def _instance(annotation: Json) -> object:
    """What a 2D and a 3D box of one object share; equal to nothing else where there is none."""
    found = annotation.get("instance_id")
    return str(found) if found is not None else object()


def _annotations(folder: Path, name: object) -> list[Json]:
    content = json_in(folder, str(name), "annotations")
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise Unusable("annotations_unreadable", f"{name} has no list 'annotations'")
    return _records(content, "annotations")


def _classes(folder: Path, scene: Json) -> dict[float, str]:
    """Names of the 3D boxes' classes by their number."""
    key = _entry(scene, "ontologies").get(_BOX_3D)
    items = _records(_keyed_json(folder, "ontology", key, "ontology"), "items")
    return {number(item.get("id")): str(item.get("name", "")) for item in items}


def _intrinsics(folder: Path, scene: Json, datum: Json) -> Floats:
    samples = _records(scene, "samples")
    own = (s for s in samples if datum.get("key") in _items(s, "datum_keys"))
    key = next(own, {}).get("calibration_key")
    calibration = _keyed_json(folder, "calibration", key, "camera")
    camera = str(_entry(datum, "id").get("name"))
    names = map(str, _items(calibration, "names"))
    lens = dict(zip(names, _records(calibration, "intrinsics"), strict=False)).get(camera)
    if lens is None:
        raise Unusable("camera_missing", f"the calibration has no camera {camera}")
    bent = sorted(key for key, value in lens.items() if key not in _PINHOLE and value)
    if bent:
        raise Unusable("camera_distorted", f"{camera}: {', '.join(bent)}: no pinhole camera")
    fx, fy, cx, cy = (lens.get(key) for key in ("fx", "fy", "cx", "cy"))
    return intrinsics_of([fx, lens.get("skew", 0), cx, 0, fy, cy, 0, 0, 1], camera)


def _cuboid(annotation: Json, classes: dict[float, str], box_px: Json | None) -> Cuboid:
    box = _entry(annotation, "box")
    turn, place = _entry(box, "pose", "rotation"), _entry(box, "pose", "translation")
    quaternion = _numbers(turn, "qw", "qx", "qy", "qz")
    category = classes.get(number(annotation.get("class_id")))
    if not category:
        raise Unusable(
            "category_unknown", f"the ontology has no name for {annotation.get('class_id')!r}"
        )
    occlusion = number(box.get("occlusion"))
    x, y, w, h = _numbers(box_px or {}, "x", "y", "w", "h")
    truncation = number(box.get("truncation"))
    return Cuboid(
        category,
        _numbers(place, "x", "y", "z"),
        _numbers(box, "width", "height", "length"),
        quaternion_rotation(np.array([quaternion]))[0] @ UPRIGHT,
        bbox_px=None if box_px is None else [x, y, x + w, y + h],
        visibility=VISIBLE_OF_OCCLUDED.get(occlusion, UNKNOWN) if occlusion else UNKNOWN,
        truncation=truncation if 0 < truncation <= 1 else UNKNOWN,
        points=number(annotation.get("num_points")),
    )


def _keyed_json(folder: Path, kind: str, key: object, what: str) -> Json:
    """``<kind>/<key>.json``, or ``<kind>.json`` where the folder has one file for all."""
    own, shared = f"{kind}/{key}.json", f"{kind}.json"
    try:
        content = json_in(folder, own, what)
    except Unusable as error:
        if error.problem.reason != f"{what}_missing":
            raise
        content = json_in(folder, shared, what)
    return content if isinstance(content, dict) else {}


def _entry(value: object, *path: str) -> Json:
    """The mapping at ``path``; an empty one where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _items(value: object, key: str) -> list[Any]:
    """The list under ``key``; an empty one where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _records(value: object, key: str) -> list[Json]:
    """The list under ``key`` with all that is no mapping as an empty one."""
    return [item if isinstance(item, dict) else {} for item in _items(value, key)]


def _numbers(record: Json, *keys: str) -> list[float]:
    return [number(record.get(key)) for key in keys]
