"""Pictures of samples as data URLs, and the boxes that are drawn over them."""

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from vila2data.corpus.images import ImageLimits, ImageRefused, decode
from vila2data.corpus.index import CorpusIndex
from vila2data.errors import CorpusError
from vila2data.files import inside

_SIDE_PX = 480
_LARGE_SIDE_PX = 720  # where wire frames are drawn over the picture
_JPEG_QUALITY = 80
_MAX_PICTURES = 4
_MAX_BOXES = 100
_IMAGE_COLUMNS = ("image", "images", "image_path", "image_paths")
_LABEL_CHARS = 60

PALETTE = (
    *("#2f8fff", "#ff8a1f", "#27c26c", "#ff4f6d"),
    *("#b57bff", "#e6c200", "#19c7d4", "#ff7ad1"),
)
"""Colours of labels, in order of their first appearance in a row."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that stands in the page itself; its size is that of the embedded copy."""

    url: str
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class NoPicture:
    """Why there is no picture, and what to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class Box:
    """A box in parts of the picture.

    Attributes:
        colour: goes with the label.
        number: place among the row's objects, where its relations refer to them.
        has_role: whether a relation names it, or the row has none.
    """

    label: str
    colour: int
    left_norm: float
    top_norm: float
    width_norm: float
    height_norm: float
    number: int | None = None
    has_role: bool = True


def picture_of(content: bytes, limits: ImageLimits, side_px: int = _SIDE_PX) -> Picture | NoPicture:
    """The image, made small, as a data URL."""
    try:
        image = decode(content, limits)
    except ImageRefused as refused:
        return NoPicture(f"The image cannot be shown: {refused.problem.reason}.")
    image.thumbnail((side_px, side_px))
    return embedded(image)


def embedded(image: Image) -> Picture:
    """The image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(url, image.width, image.height)


class PictureFinder:
    """Finds the pictures of a sample: in its row, else in the corpus."""

    def __init__(self, build: Path, corpus: Path | None) -> None:
        """Opens the corpus, where there is one.

        Raises:
            CorpusError: ``corpus`` is none.
        """
        self._folders = [build, corpus] if corpus else [build]
        self._index = CorpusIndex(corpus) if corpus else None
        self._limits = ImageLimits()

    def in_row(self, row: Mapping[str, Any]) -> list[Picture | NoPicture] | None:
        """The first pictures of a row; None where it has no column for them."""
        side_px = _SIDE_PX if row.get("intrinsics") is None else _LARGE_SIDE_PX
        column = next((name for name in _IMAGE_COLUMNS if name in row), None)
        if column is None:
            return None
        value = row[column]
        images = value if isinstance(value, list) else [value]
        shown = [image for image in images[:_MAX_PICTURES] if image is not None]
        return [self._embedded(image, side_px) for image in shown]

    def _embedded(self, image: object, side_px: int) -> Picture | NoPicture:
        content = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(content, bytes):
            return picture_of(content, self._limits, side_px)
        path = image.get("path") if isinstance(image, dict) else image
        if isinstance(path, str):
            for folder in self._folders:
                file = inside(folder, path)
                if file is not None and file.is_file():
                    return self._from_file(file, side_px)
        return NoPicture("The build names a file that is not in its folder or in the corpus.")

    def _from_file(self, file: Path, side_px: int) -> Picture | NoPicture:
        if file.stat().st_size > self._limits.max_bytes:
            return NoPicture("The image cannot be shown: image_too_many_bytes.")
        return picture_of(file.read_bytes(), self._limits, side_px)

    def in_corpus(self, key: str, image_sha256: str | None) -> Picture | NoPicture:
        """The picture with that key, and with that hash where one is given."""
        if self._index is None:
            return NoPicture("No image: give --corpus with the folder of the tars.")
        try:
            if image_sha256 is not None:
                return picture_of(self._index.image(key, image_sha256), self._limits)
            content = next(iter(self._index.images(key)), None)
        except CorpusError:
            return NoPicture("No image: the corpus holds none with this key and hash.")
        if content is None:
            return NoPicture("No image: the corpus holds none with this key.")
        return picture_of(content, self._limits)


def boxes_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Box], int]:
    """Boxes of the columns ``objects`` and ``phrases``, and how many more are not drawn.

    A box is not drawn where it is not finite, lies outside the picture, or is one of too many;
    those that relations name come first.
    """
    colours = label_colours(rows)
    boxes: dict[Box, None] = {}  # the same box may stand in several configs
    left_out = 0
    labelled = [item for row in rows for item in _labelled(row)]
    for item in sorted(labelled, key=lambda item: not item.has_role):
        box = _box(item, colours[item.label])
        if box is None or (len(boxes) >= _MAX_BOXES and box not in boxes):
            left_out += 1
        else:
            boxes[box] = None
    return list(boxes), left_out


def label_colours(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Place in ``PALETTE`` of each label of the rows."""
    labels = dict.fromkeys(item.label for row in rows for item in _labelled(row))
    return {label: number % len(PALETTE) for number, label in enumerate(labels)}


def label_of(item: Mapping[str, Any]) -> str:
    """What an object is called on the page."""
    return str(item.get("category") or "")[:_LABEL_CHARS]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A box as the row holds it."""

    label: str
    bbox: object
    number: int | None = None
    has_role: bool = True


def _labelled(row: Mapping[str, Any]) -> Iterator[_Labelled]:
    relations = structs(row.get("relations"))
    named = [relation.get(end) for relation in relations for end in ("anchor", "target")]
    roles = {place for place in named if isinstance(place, int)}
    for number, item in enumerate(structs(row.get("objects"))):
        if relations:
            yield _Labelled(label_of(item), item.get("bbox"), number, number in roles)
        else:
            yield _Labelled(label_of(item), item.get("bbox"))
    for item in structs(row.get("phrases")):
        boxes = item.get("boxes")
        for bbox in boxes if isinstance(boxes, list) else []:
            yield _Labelled(str(item.get("text") or "")[:_LABEL_CHARS], bbox)


def structs(value: object) -> list[dict[str, Any]]:
    """The structs of a list column; none where it holds something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _box(item: _Labelled, colour: int) -> Box | None:
    """The part of a box, xyxy 0-1, that lies in the picture."""
    bbox = item.bbox
    if not isinstance(bbox, list | tuple) or len(bbox) != 4:
        return None
    if not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in bbox):
        return None
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in bbox)
    if right <= left or bottom <= top:
        return None
    size = (right - left, bottom - top)
    return Box(item.label, colour, left, top, *size, item.number, item.has_role)
