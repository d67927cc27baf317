"""What the readers of native files share: damage with a reason, names by pattern, rotations."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from glob import escape
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Annotated, Any, TypeVarTuple

import numpy as np
from pydantic import AfterValidator

from vila2data.corpus.images import ImageHeader, ImageLimits, ImageRefused, Problem, read_header
from vila2data.cuboids import Floats, corners, projected_boxes
from vila2data.files import file_sha256, inside

from ..scene import UNKNOWN, Scene, Unread, number, numbers

UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Turns our box axes (length, height down, width) into those of sources whose boxes have x forward
along the length, y left along the width, z up. To be multiplied from the right: ``R @ UPRIGHT``.
"""

VISIBLE_OF_OCCLUDED = {0.0: 1.0, 1.0: 0.75, 2.0: 0.25}
"""Visible share for KITTI's words: fully visible; partly occluded, so between half and all of it is
seen; largely occluded, so less than half. The last two are the middles. 3 means unknown.
"""

Rest = TypeVarTuple("Rest")
_HASHED_BYTES = 64 << 20
_HEADER_BYTES = 1 << 16

MAX_PIXELS = 1 << 20
"""Along a side; more is no image."""


class Unusable(Exception):
    """A scene cannot be read; carries the problem."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.problem = Problem(reason, detail)


def attempt(
    id: str, image: str, read: Callable[[str, str, *Rest], Scene], *rest: *Rest
) -> Scene | Unread:
    """What ``read(id, image, *rest)`` gives, or why it cannot."""
    try:
        return read(id, image, *rest)
    except Unusable as error:
        return Unread(id, image, error.problem)


def _of_ids(pattern: str) -> str:
    if "{id}" not in pattern:
        raise ValueError("must hold {id}, which stands for what differs from file to file")
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
        raise ValueError("must be relative to the source's path and stay inside it")
    return pattern


FilePattern = Annotated[str, AfterValidator(_of_ids)]
"""How the files of one kind are named below the source's path, such as ``label_2/{id}.txt``."""


def named(pattern: str, id: str) -> str:
    """The file name of one id.

    Example:
        >>> named("{id}/{id}.txt", "07")
        '07/07.txt'
    """
    return pattern.replace("{id}", id)


def listed_ids(folder: Path, pattern: str) -> list[str]:
    """The ids of the files that are there, sorted."""
    first, *others = (re.escape(part) for part in pattern.split("{id}"))
    like = re.compile(first + "(?P<id>[^/]+)" + "(?P=id)".join(others))
    found = folder.glob("*".join(escape(part) for part in pattern.split("{id}")))
    matches = (like.fullmatch(file.relative_to(folder).as_posix()) for file in found)
    return sorted(match["id"] for match in matches if match)


def listing_problems(folder: Path, key: str, patterns: Sequence[str]) -> list[str]:
    """What keeps the files of ``patterns`` from being listed, for ``Source.problems``."""
    if not folder.is_dir():
        return [f"path: {folder}: no such folder"]
    if any(listed_ids(folder, pattern) for pattern in patterns):
        return []
    return [f"{key}: {folder} holds no file like {' or '.join(patterns)}"]


def text_in(folder: Path, name: str, what: str) -> str:
    """The text of the file ``name`` in ``folder``.

    Raises:
        Unusable: with reason ``<what>_missing`` or ``<what>_unreadable``.
    """
    file = inside(folder, name)
    if file is None:
        raise Unusable(f"{what}_missing", f"{name} is no file in the folder")
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unusable(f"{what}_missing", f"{name} is not there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{what}_unreadable", f"{name}: {type(error).__name__}") from error


def json_in(folder: Path, name: str, what: str) -> Any:
    """The content of the JSON file ``name`` in ``folder``.

    Raises:
        Unusable: with reason ``<what>_missing`` or ``<what>_unreadable``.
    """
    try:
        return json.loads(text_in(folder, name, what))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{what}_unreadable", f"{name} is not JSON: {error}") from error


def text_number(word: str) -> float:
    """The number that a word of a text file writes; NaN where it writes none."""
    try:
        value = float(word)
    except ValueError:
        return UNKNOWN
    return value if math.isfinite(value) else UNKNOWN


def whole_pixels(value: object, what: str) -> int:
    """A width or height.

    Raises:
        Unusable: with reason ``image_size_missing`` where it is no whole number above 0, or absurd.
    """
    pixels = number(value)
    if not (0 < pixels < MAX_PIXELS and pixels.is_integer()):
        raise Unusable("image_size_missing", f"{what} is {value!r}, not a whole number above 0")
    return int(pixels)


def _header(file: Path | None) -> ImageHeader:
    if file is None:
        raise FileNotFoundError
    limits = ImageLimits()
    with file.open("rb") as stream:
        data = stream.read(_HEADER_BYTES)
        try:
            return read_header(data, limits)
        except ImageRefused:  # the header may be longer
            return read_header(data + stream.read(limits.max_bytes), limits)


def image_size(folder: Path, name: str) -> tuple[int, int]:
    """Width and height of the image file ``name``, from its header.

    Raises:
        Unusable: with reason ``image_missing``, ``image_unreadable``, ``image_turned`` or that of
            ``read_header``.
    """
    file = inside(folder, name)
    try:
        header = _header(file)
    except FileNotFoundError:
        raise Unusable("image_missing", f"{name} is not there") from None
    except OSError as error:
        raise Unusable("image_unreadable", f"{name}: {type(error).__name__}") from error
    except ImageRefused as error:
        raise Unusable(error.problem.reason, f"{name}: {error.problem.detail}") from error
    if not header.upright:
        raise Unusable("image_turned", f"{name} is shown turned; its camera is that of the pixels")
    return header.width, header.height


def intrinsics_of(values: object, what: str) -> Floats:
    """A pinhole camera's matrix, (3, 3), from its nine numbers row by row.

    Raises:
        Unusable: with reason ``camera_unreadable``.
    """
    matrix = np.array(numbers(values, 9)).reshape(3, 3)
    pinhole = np.isfinite(matrix).all() and np.array_equal(matrix[2], [0, 0, 1])
    if not pinhole or matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[1, 0] != 0:
        raise Unusable("camera_unreadable", f"{what} is not the matrix of a pinhole camera")
    return matrix


def quaternion_rotation(quaternions: Floats) -> Floats:
    """Rotations (n, 3, 3) of quaternions (n, 4) as [w, x, y, z], of any length but 0."""
    with np.errstate(all="ignore"):
        unit = quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)
    w, axis = unit[:, 0], unit[:, 1:]
    cross = np.zeros((len(unit), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = axis, -axis
    rotation: Floats = np.eye(3) + 2 * (w[:, None, None] * cross + cross @ cross)
    return rotation


def in_view(
    center: Floats, dimensions: Floats, rotation: Floats, *, intrinsics: Floats, size: Sequence[int]
) -> Any:
    """Which boxes have a part in the image, (n,) bool; so do those that a NaN leaves in doubt.

    Args:
        center: (n, 3), camera frame.
        dimensions: (n, 3) as [w, h, l].
        rotation: (n, 3, 3), box to camera.
        intrinsics: (3, 3), pixels.
        size: width and height, pixels.
    """
    points = corners(center, dimensions, rotation)
    with np.errstate(all="ignore"):
        boxes = projected_boxes(points, np.broadcast_to(intrinsics, (len(points), 3, 3)))
        inside_image = (boxes[:, :2] < np.asarray(size)).all(axis=1) & (boxes[:, 2:] > 0).all(
            axis=1
        )
    return inside_image | ~np.isfinite(points).all(axis=(1, 2))


def fingerprint_of(root: Path, files: Iterable[Path]) -> dict[str, Any]:
    """``files``, ``bytes`` and ``sha256`` of annotation files: their names below ``root``, their
    sizes, and the content of those under 64 MB.
    """
    digest, count, total = sha256(), 0, 0
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        size = file.stat().st_size
        content = file_sha256(file) if size < _HASHED_BYTES else "-"
        digest.update(f"{name}\0{size}\0{content}\n".encode("utf-8", "surrogateescape"))
        count, total = count + 1, total + size
    return {"files": count, "bytes": total, "sha256": digest.hexdigest()}
