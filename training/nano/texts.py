"""What the foundation reads and writes: objects with their boxes.

The tasks are those of the decoder that SigLIP 2 is trained with (LocCa: captions with boxes, boxes
of phrases, phrases of boxes). Colours and shapes are all that they name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from vila2data.boxes import CONVENTIONS, Box

_BOXES = CONVENTIONS["norm2"]
_BY_NAME = 0.65  # share of boxes asked for by name: the harder direction


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, and whether it is learned or given."""

    text: str
    is_learned: bool


@dataclass(frozen=True, slots=True)
class Named:
    """An object by name and place.

    Attributes:
        name: such as ``red cube``.
        bbox: xyxy in 0-1.
    """

    name: str
    bbox: Box


def named(row: Mapping[str, Any], *, mirrored: bool) -> list[Named]:
    """The objects of a row of ``scenes``; ``mirrored`` turns left and right around."""
    found = []
    for thing, told in zip(row["objects"], row["attributes"], strict=True):
        x1, y1, x2, y2 = map(float, thing["bbox"])
        box = (1 - x2, y1, 1 - x1, y2) if mirrored else (x1, y1, x2, y2)
        found.append(Named(f"{told['color']} {told['shape']}", box))
    return found


def listed(things: Sequence[Named]) -> list[Piece]:
    """All objects with their boxes, from left to right."""
    ordered = sorted(things, key=lambda thing: (thing.bbox[0] + thing.bbox[2], thing.name))
    return [Piece(", ".join(f"{t.name} {written(t.bbox)}" for t in ordered) + ".", True)]


def looked_up(things: Sequence[Named], rng: np.random.Generator) -> list[Piece]:
    """Each object in any order: its box for its name, or its name for its box."""
    pieces = []
    for position, number in enumerate(rng.permutation(len(things))):
        thing, lead = things[number], "\n" if position else ""
        name, box = thing.name, written(thing.bbox)
        asked, answer = (name, box) if rng.random() < _BY_NAME else (box, name)
        pieces += [Piece(f"{lead}{asked}:", False), Piece(f" {answer}", True)]
    return pieces


@lru_cache(maxsize=1 << 18)
def written(bbox: Box) -> str:
    """A box as the foundation writes it, ``[0.12, 0.34, 0.30, 0.55]``."""
    return _BOXES.render(bbox)
