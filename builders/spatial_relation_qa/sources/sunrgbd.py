"""SUN RGB-D as VoteNet and mmdetection3d extract it: text files of boxes and cameras."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from vila2data.cuboids import Floats

from ..scene import Cuboid, Scene, Unread
from ..source import SourceBlock, image_in
from .native import (
    UPRIGHT,
    FilePattern,
    Unusable,
    attempt,
    fingerprint_of,
    image_size,
    intrinsics_of,
    listed_ids,
    listing_problems,
    named,
    text_in,
    text_number,
)

_WORDS_PER_LABEL = 13
_DEPTH_TO_CAMERA = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""Of the tilted depth frame: x right, y forward, z up to x right, y down, z forward."""


class SunRgbd(SourceBlock):
    """SUN RGB-D.

    A line of a label file holds the class, the 2D box as x, y, w, h in pixels, the centre, HALF of
    width, length and height, and the direction (cos, sin) of the length in the plane of the floor,
    all in the upright depth frame: x right, y forward, z up, metres, origin in the camera. A
    calibration file holds the tilt Rtilt (camera's depth frame to upright) and then K, nine numbers
    each in COLUMN order. A point of the upright frame reaches the camera by Rtilt transposed and
    then (x, y, z) to (x, -z, y).

    The image size comes from the image's header. Visibility, truncation and points are not told.
    """

    layout: Literal["sunrgbd"]
    image_files: FilePattern = Field("image/{id}.jpg", description="the images, below `path`")
    calib_files: FilePattern = Field("calib/{id}.txt", description="tilt and intrinsics")
    label_files: FilePattern = Field("label/{id}.txt", description="boxes; these tell the ids")

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
        kinds = (self.label_files, self.calib_files)
        files = [self.path / named(k, id) for k in kinds for id in listed_ids(self.path, k)]
        return fingerprint_of(self.path, files)

    def _scene(self, id: str, image: str) -> Scene:
        labels = text_in(self.path, named(self.label_files, id), "annotations")
        tilt, intrinsics = _camera(self.path, named(self.calib_files, id))
        width, height = image_size(self.path, image)
        lines = (line.split() for line in labels.splitlines())
        objects = [_cuboid(words, _DEPTH_TO_CAMERA @ tilt.T) for words in lines if words]
        return Scene(id, image, width, height, intrinsics, objects)


def _camera(folder: Path, name: str) -> tuple[Floats, Floats]:
    """Tilt and intrinsics, (3, 3) each."""
    words = text_in(folder, name, "camera").split()
    if len(words) != 18:
        raise Unusable("camera_unreadable", f"{name} holds {len(words)} numbers, not 18")
    values = np.array([text_number(word) for word in words]).reshape(2, 3, 3)
    tilt, intrinsics = values.swapaxes(1, 2)  # (2, 3, 3), from columns
    if not np.allclose(tilt @ tilt.T, np.eye(3), atol=1e-2):
        raise Unusable("camera_unreadable", f"{name}: the first nine numbers are no rotation")
    return tilt, intrinsics_of(intrinsics.flatten(), name)


def _cuboid(words: list[str], upright_to_camera: Floats) -> Cuboid:
    """One line; what it lacks is NaN."""
    filled = [*words, *[""] * _WORDS_PER_LABEL][1:_WORDS_PER_LABEL]
    x, y, w, h, *box = (text_number(word) for word in filled)
    half_width, half_length, half_height, cos, sin = box[3:]
    norm = np.hypot(cos, sin) or np.nan
    cos, sin = cos / norm, sin / norm
    turned = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return Cuboid(
        words[0],
        (upright_to_camera @ box[:3]).tolist(),
        [2 * half_width, 2 * half_height, 2 * half_length],
        upright_to_camera @ turned @ UPRIGHT,
        bbox_px=[x, y, x + w, y + h],
    )
