"""What is drawn of a row with boxes in space, beside its picture and over it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vila2data.errors import MissingExtra

from .labels import Label, Labels
from .overlay import Box, label_colours
from .pictures import Canvas, Picture, embedded
from .space import Space, space_of
from .topview import TopView, top_view
from .view3d import view_of_space
from .wires import WireFrames, wires_of


@dataclass(frozen=True, slots=True)
class Figures:
    """Drawings of one row.

    Attributes:
        wires: over the picture; None where the row has no camera.
        view: of the boxes as solids; None where it cannot be made, or is not asked for.
        left_out: objects that are in no drawing: they have no place in space, or are too many.
    """

    wires: WireFrames | None
    top: TopView
    view: Picture | None
    left_out: int


def figures_of(rows: Iterable[Mapping[str, Any]], *, with_view: bool) -> Figures | None:
    """The drawings of the first of a sample's rows that has boxes in space; None where none has."""
    held = list(rows)
    colours = label_colours(held)
    spaces = (space_of(row, colours) for row in held)
    space = next((space for space in spaces if space is not None), None)
    if space is None:
        return None
    view = _view(space) if with_view else None
    return Figures(wires_of(space), top_view(space), view, space.left_out)


def _view(space: Space) -> Picture | None:
    try:
        return embedded(view_of_space(space))
    except MissingExtra:
        return None  # the page is whole without it


def numbers_over(picture: Picture | Canvas, boxes: Sequence[Box]) -> list[Label]:
    """The numbers of boxes at their corners; those without a role where there is room."""
    labels = Labels(picture.width_px, picture.height_px)
    for box in boxes:
        if box.number is not None:
            text = str(box.number)
            spots = _corners(box, picture, labels.width_px(text))
            labels.place(text, spots, must=box.has_role, minor=not box.has_role)
    return labels.take()


def _corners(box: Box, picture: Picture | Canvas, width: float) -> Iterator[tuple[float, float]]:
    left = box.left_norm * picture.width_px + width / 2 + 1
    top = box.top_norm * picture.height_px + 8
    right = (box.left_norm + box.width_norm) * picture.width_px - width / 2 - 1
    bottom = (box.top_norm + box.height_norm) * picture.height_px - 8
    yield from ((left, top), (right, top), (left, bottom), (right, bottom))
    yield left, top - 16
