"""Wire frames of the boxes in space, as the row's camera sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vila2data.cuboids import EDGES, Floats, corners, project, segments_before_camera

from .lines import clipped, path_of
from .space import Camera, Space

_UNIT = corners(np.zeros((1, 3)), np.full((1, 3), 2.0), np.eye(3)[None])[0]  # (8, 3), -1 or 1
_NORMALS = np.concatenate([np.eye(3), -np.eye(3)])  # (6, 3), of the faces
_OF_FACE = (_UNIT[EDGES] @ _NORMALS.T > 0).all(axis=1).T  # (6, 12), edges of each face


@dataclass(frozen=True, slots=True)
class Wire:
    """One box as SVG paths.

    Attributes:
        number: place among the row's objects.
        near: the edges of the face that is turned to the camera most; the empty string where the
            camera stands in the box or sees none of them.
        rest: the other edges.
    """

    label: str
    number: int
    colour: int
    has_role: bool
    near: str
    rest: str


@dataclass(frozen=True, slots=True)
class WireFrames:
    """Wire frames in pixels of an image of that size; objects with a role come last, on top."""

    width_px: int
    height_px: int
    wires: list[Wire]


def wires_of(space: Space) -> WireFrames | None:
    """The wire frames of what the camera sees; None where the row has no camera."""
    camera = space.camera
    if camera is None:
        return None
    with np.errstate(invalid="ignore"):  # edges along the near plane
        segments = segments_before_camera(space.corners)  # (n, 12, 2, 3)
    pixels = project(segments, camera.intrinsics)
    near = _near_edges(space)
    wires = [_wire(space, n, pixels[n], near[n], camera) for n in range(len(space.numbers))]
    seen = [wire for wire in wires if wire.near or wire.rest]
    return WireFrames(camera.width_px, camera.height_px, seen[::-1])


def _wire(space: Space, n: int, pixels: Floats, near: NDArray[np.bool_], camera: Camera) -> Wire:
    size = (camera.width_px, camera.height_px)
    return Wire(
        label=space.labels[n],
        number=space.numbers[n],
        colour=space.colours[n],
        has_role=bool(space.has_role[n]),
        near=path_of(clipped(pixels[near], size)),
        rest=path_of(clipped(pixels[~near], size)),
    )


def _near_edges(space: Space) -> NDArray[np.bool_]:
    """Which edges belong to the face that is turned to the camera most, (n, 12)."""
    half = space.dimensions[:, None, ::-1] / 2
    outward = _NORMALS @ np.swapaxes(space.rotation, 1, 2)  # (n, 6, 3)
    middle = space.center[:, None] + (_NORMALS * half) @ np.swapaxes(space.rotation, 1, 2)
    away = np.linalg.norm(middle, axis=-1).clip(1e-9)
    turned = -(outward * middle).sum(axis=-1) / away  # (n, 6), cosine
    edges: NDArray[np.bool_] = _OF_FACE[turned.argmax(axis=1)] & (turned.max(axis=1) > 0)[:, None]
    return edges
