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
DEPTH_UNIT_M = 8.0  # brings depths to about 0-1
_MENTIONS, _WORDS_BETWEEN = 8, 10  # names in a text; words between two, at most
_BY_WORD = 0.3  # share of objects called by one of their two words, where it is theirs alone
_DESCRIBED, _TURNS = 0.5, 4  # share of descriptions among what is read; questions at a time
_BY_NAME = 0.65  # share of boxes asked for by name: the harder direction


@dataclass(frozen=True, slots=True)
class Named:
    """An object by name and place.

    Attributes:
        name: such as ``red cube``.
        bbox: xyxy in 0-1.
        depth_m: of its centre.
    """

    name: str
    bbox: Box
    depth_m: float

    @property
    def place(self) -> tuple[float, ...]:
        """What the tower and the language model are asked of it: ``bbox`` and depth, about 0-1."""
        return (*self.bbox, self.depth_m / DEPTH_UNIT_M)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text.

    Attributes:
        is_learned: to be written; otherwise given.
        names: the object that the text is the name of, where it is one.
        pair: the two objects that were named last, where their difference is asked.
    """

    text: str
    is_learned: bool
    names: Named | None = None
    pair: tuple[Named, Named] | None = None


def named(row: Mapping[str, Any], *, mirrored: bool) -> list[Named]:
    """The objects of a row of ``scenes``; ``mirrored`` turns left and right around."""
    found = []
    for thing, told in zip(row["objects"], row["attributes"], strict=True):
        x1, y1, x2, y2 = map(float, thing["bbox"])
        box = (1 - x2, y1, 1 - x1, y2) if mirrored else (x1, y1, x2, y2)
        name = f"{told['color']} {told['shape']}"
        found.append(Named(name, box, float(thing["center"][2])))
    return found


def listed(things: Sequence[Named]) -> list[Piece]:
    """All objects with their boxes, from left to right."""
    ordered = sorted(things, key=lambda thing: (thing.bbox[0] + thing.bbox[2], thing.name))
    pieces = []
    for position, thing in enumerate(ordered):
        pieces.append(Piece(f"{', ' if position else ''}{thing.name}", True, thing))
        pieces.append(Piece(f" {written(thing.bbox)}", True))
    return [*pieces, Piece(".", True)]


def looked_up(things: Sequence[Named], rng: np.random.Generator) -> list[Piece]:
    """Each object in any order: its box for its name, or its name for its box."""
    pieces = []
    for position, number in enumerate(rng.permutation(len(things))):
        thing, lead = things[number], "\n" if position else ""
        box = written(thing.bbox)
        if rng.random() < _BY_NAME:
            called = f"{lead}{_called(thing, things, rng)}"
            asked = [Piece(called, False, thing), Piece(":", False)]
            pieces += [*asked, Piece(f" {box}", True)]
        else:
            pieces += [Piece(f"{lead}{box}:", False), Piece(f" {thing.name}", True, thing)]
    return pieces


def mentioned(
    things: Sequence[Named], words: Sequence[str], rng: np.random.Generator
) -> list[Piece]:
    """Names in any order among words that mean nothing here: where they are is asked, and by how
    much the last two differ.
    """
    pieces: list[Piece] = []
    pair: tuple[Named, Named] | None = None
    before: Named | None = None
    for _ in range(_MENTIONS):
        thing = things[int(rng.integers(len(things)))]
        if before is not None:
            pair = (before, thing)
        pieces.append(Piece(f" {_called(thing, things, rng)}", False, thing, pair))
        for number in rng.integers(len(words), size=int(rng.integers(_WORDS_BETWEEN + 1))):
            pieces.append(Piece(words[number], False, None, pair))
        before = thing
    return pieces


def read(row: Mapping[str, Any], rng: np.random.Generator) -> list[Piece]:
    """What is written of a scene that is not shown: its description, or questions with answers.

    From such texts the model learns how one writes, and nothing of what can be seen.
    """
    if rng.random() < _DESCRIBED:
        return [Piece(row["reference"], True)]
    drawn = rng.permutation(len(row["questions"]))[:_TURNS]
    asked = [row["questions"][int(number)] for number in drawn]
    turns = (f"USER: {q['question']} ASSISTANT: {q['answer']}</s>" for q in asked)
    return [Piece("".join(turns), True)]


def _called(thing: Named, things: Sequence[Named], rng: np.random.Generator) -> str:
    """Its name, or a word of it that no other object's has."""
    words = [
        word for word in thing.name.split() if sum(word in t.name.split() for t in things) == 1
    ]
    if words and rng.random() < _BY_WORD:
        return words[int(rng.integers(len(words)))]
    return thing.name


def step(start: Named, end: Named) -> tuple[float, float]:
    """From one object to another: to the right, in widths of the image; away from the camera."""
    a, b = start.place, end.place
    return (b[0] + b[2] - a[0] - a[2]) / 2, b[4] - a[4]


@lru_cache(maxsize=1 << 18)
def written(bbox: Box) -> str:
    """A box as the foundation writes it, ``[0.12, 0.34, 0.30, 0.55]``."""
    return _BOXES.render(bbox)
