"""KITTI's object benchmark, and Waymo Open Dataset converted to its layout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field

from vila2data.cuboids import Floats, yaw_rotation

from ..scene import UNKNOWN, Cuboid, Scene, Unread
from ..source import SourceBlock, image_in
from .native import (
    UPRIGHT,
    VISIBLE_OF_OCCLUDED,
    FilePattern,
    Unusable,
    attempt,
    fingerprint_of,
    image_size,
    in_view,
    intrinsics_of,
    listed_ids,
    listing_problems,
    named,
    text_in,
    text_number,
)

_NUMBERS_PER_LABEL = 14
_NO_OBJECT = "DontCare"
_WAYMO_CAMERAS: Final = (0, 1, 2, 3, 4)


def _of_cameras(pattern: str) -> str:
    if "{camera}" not in pattern:
        raise ValueError("must hold {camera}, which stands for 0 to 4")
    return pattern


CameraFilePattern = Annotated[FilePattern, AfterValidator(_of_cameras)]
"""As ``FilePattern``, with a place for the camera's number."""


@dataclass(frozen=True, slots=True)
class _Label:
    """One line of a label file; ``bottom`` is the centre of the lower face."""

    category: str
    truncated: float
    occluded: float
    bbox_px: tuple[float, ...]
    height: float
    width: float
    length: float
    bottom: tuple[float, ...]
    yaw: float


@dataclass(frozen=True, slots=True)
class _WaymoFrame:
    """The boxes of all cameras in the vehicle's frame; ``bboxes_px`` are keyed by camera."""

    calibration: Mapping[str, Sequence[float]]
    categories: Sequence[str]
    bboxes_px: Sequence[Mapping[int, Sequence[float]]]
    center: Floats  # (n, 3)
    dimensions: Floats  # (n, 3)
    rotation: Floats  # (n, 3, 3)


class Kitti(SourceBlock):
    """KITTI's object benchmark.

    A line of a label file holds type, truncated, occluded, alpha, the 2D box as x1, y1, x2, y2,
    height, width, length, the centre of the LOWER face in the rectified frame of camera 0 (x right,
    y down, z forward, metres) and the turn about its y axis. The image is camera 2's, whose
    projection P2 is K [I | t]: so a point of camera 0 reaches camera 2 by adding t, the inverse of
    K times the fourth column of P2, and the middle of the box is half a height above the location.

    Occluded 0, 1, 2 become a visibility of 1.0, 0.75, 0.25; 3 means unknown. ``DontCare`` is no
    object. The image size comes from the image's header.
    """

    layout: Literal["kitti"]
    image_files: FilePattern = Field("image_2/{id}.png", description="the images, below `path`")
    calib_files: FilePattern = Field("calib/{id}.txt", description="projections")
    label_files: FilePattern = Field("label_2/{id}.txt", description="boxes; these tell the ids")

    def problems(self) -> list[str]:
        """A missing folder, or one without labels."""
        return listing_problems(self.path, "label_files", [self.label_files])

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every labelled image, by id."""
        for id in listed_ids(self.path, self.label_files):
            yield attempt(id, named(self.image_files, id), self._scene)

    def image(self, name: str) -> bytes | None:
        """The bytes of an image file."""
        return image_in(self.path, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of labels and calibrations."""
        return _fingerprint(self.path, [self.label_files, self.calib_files])

    def _scene(self, id: str, image: str) -> Scene:
        labels = text_in(self.path, named(self.label_files, id), "annotations")
        projection = _matrix(_calibration(self.path, named(self.calib_files, id)), "P2")
        intrinsics = intrinsics_of(projection[:, :3].flatten(), "P2")
        shift = np.linalg.solve(intrinsics, projection[:, 3])
        width, height = image_size(self.path, image)
        objects = [_kitti_cuboid(label, shift) for label in _labels(labels)]
        return Scene(id, image, width, height, intrinsics, objects)


class WaymoKitti(SourceBlock):
    """Waymo Open Dataset as the converter of mmdetection3d (before its 1.4) writes it.

    A line of a label file is as KITTI's, but whatever the camera of the file, the centre of the
    lower face stands in the frame of the FRONT camera with KITTI's axes; the turn is that of the
    vehicle's heading about the VEHICLE's z axis, -heading - pi/2. So each box goes back to the
    vehicle (x forward, y left, z up) by the inverse of ``Tr_velo_to_cam_0``, is raised by half its
    height there, and comes to camera k by ``Tr_velo_to_cam_k``, which ends in x right, y down, z
    forward. ``P0`` to ``P4`` hold the intrinsics; the lens distortion was dropped by the converter.

    An object stands in the label file of one camera though several see it, or, with a 2D box of
    zeros, in the front camera's though none does. So every image gets the boxes of all five files
    that reach into it; those from its own file have a 2D box, the others have none. A camera
    without objects has no label file. The converter appends, so that a second run of it doubles
    every line: the same box counts once. Its zeros for truncated and occluded mean nothing and are
    unknown here. The image size comes from the image's header.
    """

    layout: Literal["waymo_kitti"]
    image_files: CameraFilePattern = Field(
        "image_{camera}/{id}.png", description="the images, below `path`"
    )
    calib_files: FilePattern = Field("calib/{id}.txt", description="projections")
    label_files: CameraFilePattern = Field(
        "label_{camera}/{id}.txt", description="boxes; these tell the ids"
    )
    cameras: Sequence[Literal[0, 1, 2, 3, 4]] = Field(
        _WAYMO_CAMERAS,
        min_length=1,
        description="front, front left, front right, side left, side right",
    )

    def problems(self) -> list[str]:
        """A missing folder, or one without labels."""
        return listing_problems(self.path, "label_files", self._label_patterns())

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """One scene for each camera of a frame that has a label of any camera, by frame."""
        patterns = self._label_patterns()
        for id in sorted({id for p in patterns for id in listed_ids(self.path, p)}):
            names = [(f"{id}_{c}", _of_camera(self.image_files, c, id), c) for c in self.cameras]
            try:
                frame = self._frame(id)
            except Unusable as error:
                yield from (Unread(key, image, error.problem) for key, image, _ in names)
                continue
            for key, image, camera in names:
                yield attempt(key, image, _waymo_scene, self.path, camera, frame)

    def image(self, name: str) -> bytes | None:
        """The bytes of an image file."""
        return image_in(self.path, name)

    def fingerprint(self) -> Mapping[str, Any]:
        """Of labels and calibrations."""
        return _fingerprint(self.path, [*self._label_patterns(), self.calib_files])

    def _label_patterns(self) -> list[str]:
        return [self.label_files.replace("{camera}", str(camera)) for camera in _WAYMO_CAMERAS]

    def _frame(self, id: str) -> _WaymoFrame:
        calibration = _calibration(self.path, named(self.calib_files, id))
        boxes: dict[_Label, dict[int, Sequence[float]]] = {}
        for camera, pattern in enumerate(self._label_patterns()):
            if (self.path / named(pattern, id)).is_file():
                text = text_in(self.path, named(pattern, id), "annotations")
                for label in _labels(text):
                    own = boxes.setdefault(replace(label, bbox_px=()), {})
                    if any(label.bbox_px):
                        own[camera] = label.bbox_px
        center, dimensions, rotation = _in_vehicle(
            list(boxes), _rigid(calibration, "Tr_velo_to_cam_0")
        )
        return _WaymoFrame(
            calibration,
            [b.category for b in boxes],
            list(boxes.values()),
            center,
            dimensions,
            rotation,
        )


def _of_camera(pattern: str, camera: int, id: str) -> str:
    return named(pattern.replace("{camera}", str(camera)), id)


def _fingerprint(folder: Path, patterns: Sequence[str]) -> dict[str, Any]:
    return fingerprint_of(
        folder, (folder / named(p, id) for p in patterns for id in listed_ids(folder, p))
    )


def _calibration(folder: Path, name: str) -> dict[str, list[float]]:
    """The numbers of each line by the word before its colon."""
    lines = (line.partition(":") for line in text_in(folder, name, "camera").splitlines())
    return {key.strip(): [text_number(word) for word in rest.split()] for key, _, rest in lines}


def _matrix(calibration: Mapping[str, Sequence[float]], key: str) -> Floats:
    """Twelve numbers as (3, 4)."""
    values = np.array(calibration.get(key, ()))
    if len(values) != 12 or not np.isfinite(values).all():
        raise Unusable("camera_unreadable", f"{key} must hold 12 numbers")
    return values.reshape(3, 4)


def _rigid(calibration: Mapping[str, Sequence[float]], key: str) -> Floats:
    """A rotation and a shift as (4, 4)."""
    transform = np.vstack([_matrix(calibration, key), [0.0, 0.0, 0.0, 1.0]])
    turn = transform[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-2):
        raise Unusable("camera_unreadable", f"{key} is no rotation and shift")
    return transform


def _labels(text: str) -> Iterator[_Label]:
    """The objects of a label file; what a line lacks is NaN."""
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] == _NO_OBJECT:
            continue
        filled = [*words[1:], *[""] * _NUMBERS_PER_LABEL][:_NUMBERS_PER_LABEL]
        n = [text_number(word) for word in filled]
        yield _Label(words[0], n[0], n[1], tuple(n[3:7]), n[7], n[8], n[9], tuple(n[10:13]), n[13])


def _kitti_cuboid(label: _Label, shift: Floats) -> Cuboid:
    x, y, z = np.array(label.bottom) + shift
    return Cuboid(
        label.category,
        [x, y - label.height / 2, z],
        [label.width, label.height, label.length],
        yaw_rotation(np.array(label.yaw)),
        bbox_px=label.bbox_px,
        visibility=VISIBLE_OF_OCCLUDED.get(label.occluded, UNKNOWN),
        truncation=label.truncated if 0 <= label.truncated <= 1 else UNKNOWN,
    )


def _waymo_scene(id: str, image: str, folder: Path, camera: int, frame: _WaymoFrame) -> Scene:
    size = image_size(folder, image)
    projection = _matrix(frame.calibration, f"P{camera}")
    intrinsics = intrinsics_of(projection[:, :3].flatten(), f"P{camera}")
    transform = _rigid(frame.calibration, f"Tr_velo_to_cam_{camera}")
    turn, shift = transform[:3, :3], transform[:3, 3]
    center, rotation = frame.center @ turn.T + shift, turn @ frame.rotation
    seen = in_view(center, frame.dimensions, rotation, intrinsics=intrinsics, size=size)
    objects = [
        Cuboid(
            frame.categories[n],
            center[n].tolist(),
            frame.dimensions[n].tolist(),
            rotation[n],
            bbox_px=frame.bboxes_px[n].get(camera),
        )
        for n in range(len(center))
        if seen[n] or camera in frame.bboxes_px[n]
    ]
    return Scene(id, image, *size, intrinsics, objects)


def _in_vehicle(
    labels: Sequence[_Label], vehicle_to_front: Floats
) -> tuple[Floats, Floats, Floats]:
    """Centres, dimensions and rotations of Waymo's boxes in the vehicle's frame."""
    dimensions = np.array([[b.width, b.height, b.length] for b in labels]).reshape(-1, 3)
    bottom = np.array([b.bottom for b in labels]).reshape(-1, 3)
    front_to_vehicle = np.linalg.inv(vehicle_to_front)
    center = bottom @ front_to_vehicle[:3, :3].T + front_to_vehicle[:3, 3]
    center[:, 2] += dimensions[:, 1] / 2
    heading = -np.array([b.yaw for b in labels]) - np.pi / 2
    rotation = np.zeros((len(labels), 3, 3))
    rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(heading)
    rotation[:, 1, 0], rotation[:, 0, 1] = np.sin(heading), -np.sin(heading)
    rotation[:, 2, 2] = 1.0
    return center, dimensions, rotation @ UPRIGHT
