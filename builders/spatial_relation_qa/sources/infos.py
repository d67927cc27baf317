"""mmdetection3d's info files, version 2, as JSON: KITTI, nuScenes, SUN RGB-D."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vila2data.corpus.images import Problem
from vila2data.corpus.names import printable
from vila2data.cuboids import Floats, yaw_rotation
from vila2data.errors import BadInput
from vila2data.files import file_sha256, inside
from vila2data.json_stream import members
from vila2data.recipe import RecipePath

from ..scene import UNKNOWN, Cuboid, Scene, Unread, number, numbers
from ..source import SourceBlock, image_in
from .native import (
    UPRIGHT,
    VISIBLE_OF_OCCLUDED,
    Unusable,
    attempt,
    image_size,
    intrinsics_of,
    whole_pixels,
)

_SCALE_TOLERANCE = 0.01

DataSet = Literal["kitti", "nuscenes", "sunrgbd"]
Json = Mapping[str, Any]


class Mmdet3d(SourceBlock):
    """An info file of mmdetection3d, version 2, as JSON; x right, y down, z forward in each camera.

    KITTI: ``bbox_3d`` is [x, y, z, l, h, w, turn about y], metres; x, y, z the centre of the LOWER
    face in rectified camera 0. A point reaches camera 2, whose images are read, by adding the
    inverse of K times the fourth column of ``cam2img``. Label -1 (DontCare) is no object.
    Occluded 0, 1, 2 become a visibility of 1.0, 0.75, 0.25; 3 means unknown.

    nuScenes: each camera's own ``cam_instances``, with the same numbers, but x, y, z is the CENTRE
    in that camera's frame. Label -1 (outside the ten classes) has no category.

    SUN RGB-D: [x, y, z, l, w, h, turn about z], x, y, z the CENTRE in the upright depth frame: x
    right, y forward, z up, origin in the camera; a turn of 0 lays the length along x. ``depth2img``
    is K R, with R from that frame to the camera's; both are found again as its RQ factors.
    """

    layout: Literal["mmdet3d"]
    images: RecipePath = Field(
        description="folder to which `img_path` is relative, or in which each camera has its folder"
    )
    dataset: DataSet | None = Field(None, description="null: as the file's metainfo has it")
    cameras: list[str] | None = Field(None, min_length=1, description="null: all that carry boxes")

    def problems(self) -> list[str]:
        """A file or folder that is not there."""
        found = [] if self.path.is_file() else [f"path: {self.path}: no such file"]
        return found + ([] if self.images.is_dir() else [f"images: {self.images}: no such folder"])

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """One per sample and camera, in the file's order.

        Raises:
            BadInput: the file is no such JSON, it does not say which data set it is of, or its
                boxes are not of the cameras that are asked for.
        """
        metainfo = self._metainfo()
        kind = _KINDS[self.dataset or self._told(metainfo)]
        if kind.cameras and not set(self.cameras or ()) <= set(kind.cameras):
            raise BadInput(
                f"{self.path}: its boxes are those of {kind.cameras[0]}: set `cameras` so"
            )
        names = _names(metainfo, kind)
        seen: set[str] = set()
        for position, sample in enumerate(self._samples()):
            for scene in self._of_sample(f"data_list[{position}]", _block(sample), kind, names):
                if scene.id in seen:
                    problem = Problem("sample_repeated", "an earlier sample has this id")
                    scene = Unread(scene.id, scene.image, problem)
                seen.add(scene.id)
                yield scene

    def image(self, name: str) -> bytes | None:
        """The bytes of the file ``name`` in the folder of images."""
        return image_in(self.images, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of the JSON file."""
        size = self.path.stat().st_size
        return {"files": 1, "bytes": size, "sha256": file_sha256(self.path)}

    def _metainfo(self) -> Json:
        return next((_block(v) for key, v in members(self.path) if key == "metainfo"), {})

    def _told(self, metainfo: Json) -> DataSet:
        told = metainfo.get("DATASET", metainfo.get("dataset"))
        plain = re.sub(r"[^a-z]", "", str(told).lower())
        for name in _KINDS:
            if plain == name:
                return name
        raise BadInput(
            f"{self.path}: metainfo names the data set {printable(repr(told), max_chars=80)}; "
            f"known: {', '.join(_KINDS)}; set `dataset` where it is one of them"
        )

    def _samples(self) -> Iterator[Any]:
        found = False
        for key, value in members(self.path):
            if key == "data_list" and isinstance(value, Iterator):
                found = True
                yield from value
        if not found:
            raise BadInput(
                f"{self.path}: has no array 'data_list'; the layout mmdet3d is an object with "
                "metainfo and data_list"
            )

    def _of_sample(
        self, place: str, sample: Json, kind: "_Kind", names: Mapping[float, str]
    ) -> Iterator[Scene | Unread]:
        views = _block(sample.get("images"))
        cameras = self.cameras or kind.cameras or list(views)
        if not cameras:
            yield Unread(place, "", Problem("sample_incomplete", "has no images"))
        for camera in cameras:
            view = _block(views.get(camera))
            path, token = _text(view.get("img_path")), _text(sample.get("token"))
            id = PurePosixPath(path).stem if kind.cameras else token and f"{token}-{_text(camera)}"
            if not id or not path:
                detail = f"no img_path of {camera}" if not path else "no token"
                yield Unread(f"{place}-{_text(camera)}", path, Problem("sample_incomplete", detail))
                continue
            listed = sample.get("instances")
            if not kind.cameras:
                listed = _block(sample.get("cam_instances")).get(camera)
            image = self._image_name(camera, path)
            yield attempt(id, image, self._scene, view, listed, kind, names)

    def _image_name(self, camera: str, path: str) -> str:
        below = f"{camera}/{path}"
        file, other = inside(self.images, path), inside(self.images, below)
        there = (file is None or not file.is_file()) and other is not None and other.is_file()
        return below if there else path

    def _scene(
        self,
        id: str,
        image: str,
        view: Json,
        listed: object,
        kind: "_Kind",
        names: Mapping[float, str],
    ) -> Scene:
        if not isinstance(listed, list):
            raise Unusable("annotations_missing", "has no list of instances")
        camera = kind.camera(view)
        objects = _cuboids([_block(entry) for entry in listed], camera, kind, names)
        if "width" in view or "height" in view:
            width, height = (whole_pixels(view.get(key), key) for key in ("width", "height"))
        else:
            width, height = image_size(self.images, image)
        return Scene(id, image, width, height, camera.intrinsics, objects)


@dataclass(frozen=True, slots=True)
class _Camera:
    """How a point of the boxes' frame comes into the image."""

    intrinsics: Floats  # (3, 3)
    turn: Floats  # (3, 3), boxes' frame to camera
    shift: Floats  # (3,), added after the turn


@dataclass(frozen=True, slots=True)
class _Boxes:
    """In the boxes' frame; (n, 3) centres, (n, 3) [w, h, l] and (n, 3, 3) from box to frame."""

    center: Floats
    dimensions: Floats
    rotation: Floats


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs between the data sets.

    Attributes:
        classes: by label, where the file does not tell.
        cameras: whose images are annotated; empty where each has a list of its own.
        camera: of an image's block; raises ``Unusable``.
        boxes: of (n, 7) ``bbox_3d``.
        no_object: the label of what is none.
    """

    classes: Sequence[str]
    cameras: Sequence[str]
    camera: Callable[[Json], _Camera]
    boxes: Callable[[Floats], _Boxes]
    no_object: float | None = None


def _block(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""


def _names(metainfo: Json, kind: _Kind) -> dict[float, str]:
    """Names of the classes by label."""
    told = _block(metainfo.get("categories"))
    labels = {number(label): printable(name) for name, label in told.items()}
    return labels or {float(label): name for label, name in enumerate(kind.classes)}


def _cuboids(
    listed: Sequence[Json], camera: _Camera, kind: _Kind, names: Mapping[float, str]
) -> list[Cuboid]:
    labels = [number(entry.get("bbox_label_3d", entry.get("bbox_label"))) for entry in listed]
    kept = [place for place, label in enumerate(labels) if label != kind.no_object]
    told = np.array([numbers(listed[i].get("bbox_3d"), 7) for i in kept]).reshape(-1, 7)
    with np.errstate(all="ignore"):
        boxes = kind.boxes(told)
        centers = (boxes.center @ camera.turn.T + camera.shift).tolist()
        rotations = camera.turn @ boxes.rotation
    placed = zip(kept, centers, boxes.dimensions.tolist(), rotations, strict=True)
    return [_cuboid(listed[i], names.get(labels[i], ""), *box) for i, *box in placed]


def _cuboid(
    entry: Json, category: str, center: list[float], dimensions: list[float], rotation: Floats
) -> Cuboid:
    box = numbers(entry.get("bbox"), 4)
    return Cuboid(
        category,
        center,
        dimensions,
        rotation,
        bbox_px=box if np.isfinite(box).all() else None,
        visibility=VISIBLE_OF_OCCLUDED.get(number(entry.get("occluded")), UNKNOWN),
        truncation=_known(entry.get("truncated")),
        points=_known(entry.get("num_lidar_pts")),
        vouched=entry.get("bbox_3d_isvalid") in (None, True),
    )


def _known(value: object) -> float:
    known = number(value)
    return UNKNOWN if known == -1 else known


def _pinhole(view: Json) -> Floats:
    """The left 3 x 3 of ``cam2img``, which may be 3 x 3, 3 x 4 or 4 x 4."""
    rows = view.get("cam2img")
    rows = rows[:3] if isinstance(rows, list) else []
    return intrinsics_of([value for row in rows for value in _listed(row)[:3]], "cam2img")


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _nuscenes_camera(view: Json) -> _Camera:
    return _Camera(_pinhole(view), np.eye(3), np.zeros(3))


def _kitti_camera(view: Json) -> _Camera:
    intrinsics = _pinhole(view)
    offset = [numbers(row, 4)[3] for row in view["cam2img"][:3]]
    if not np.isfinite(offset).all():
        raise Unusable("camera_unreadable", "cam2img has no fourth column")
    return _Camera(intrinsics, np.eye(3), np.linalg.solve(intrinsics, offset))


def _sunrgbd_camera(view: Json) -> _Camera:
    rows = _listed(view.get("depth2img"))
    matrix = np.array([numbers(row, 3) for row in rows]).reshape(-1, 3)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise Unusable("camera_unreadable", "depth2img is no 3 x 3 matrix")
    scale = np.linalg.norm(matrix[2])
    if abs(scale - 1) > _SCALE_TOLERANCE:
        detail = f"the last row of depth2img has length {scale:.4g}; a camera's has 1"
        raise Unusable("calibration_broken", detail)
    intrinsics, turn = _rq(matrix / scale)
    if not (intrinsics.diagonal() > 0).all() or np.linalg.det(turn) < 0:
        raise Unusable("calibration_broken", "depth2img mirrors space, or flattens it")
    return _Camera(intrinsics, turn, np.zeros(3))


def _rq(matrix: Floats) -> tuple[Floats, Floats]:
    """Factors of a (3, 3) matrix: upper triangular with a diagonal that is not negative, and
    orthogonal.
    """
    q, r = np.linalg.qr(matrix[::-1].T)
    upper, orthogonal = r.T[::-1, ::-1], q.T[::-1]
    signs = np.where(upper.diagonal() < 0, -1.0, 1.0)
    return np.triu(upper * signs), orthogonal * signs[:, None]


def _camera_boxes(told: Floats) -> _Boxes:
    return _Boxes(told[:, :3], told[:, [5, 4, 3]], yaw_rotation(told[:, 6]))


def _kitti_boxes(told: Floats) -> _Boxes:
    half_height = told[:, 4:5] / 2
    return _camera_boxes(np.concatenate([told[:, :1], told[:, 1:2] - half_height, told[:, 2:]], 1))


def _sunrgbd_boxes(told: Floats) -> _Boxes:
    turned = np.zeros((len(told), 3, 3))
    cos, sin = np.cos(told[:, 6]), np.sin(told[:, 6])
    turned[:, 0, 0], turned[:, 0, 1] = cos, -sin
    turned[:, 1, 0], turned[:, 1, 1] = sin, cos
    turned[:, 2, 2] = 1.0
    return _Boxes(told[:, :3], told[:, [4, 5, 3]], turned @ UPRIGHT)


_KITTI = ("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc")
_NUSCENES = (
    *("car", "truck", "trailer", "bus", "construction_vehicle"),
    *("bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier"),
)
_SUNRGBD = (
    *("bed", "table", "sofa", "chair", "toilet"),
    *("desk", "dresser", "night_stand", "bookshelf", "bathtub"),
)
_KINDS: Mapping[DataSet, _Kind] = {
    "kitti": _Kind(_KITTI, ("CAM2",), _kitti_camera, _kitti_boxes, no_object=-1),
    "nuscenes": _Kind(_NUSCENES, (), _nuscenes_camera, _camera_boxes),
    "sunrgbd": _Kind(_SUNRGBD, ("CAM0",), _sunrgbd_camera, _sunrgbd_boxes),
}
