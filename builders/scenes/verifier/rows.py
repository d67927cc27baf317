"""Stored scenes as the verifier reads them: any part of any column may be broken."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import hypot, isfinite
from typing import Any

import duckdb

from vila2data.build.tables import streamed
from vila2data.build.views import sql_name

_ROWS_AT_A_TIME = 2_000
_LENGTHS = {"bbox": 4, "center": 3, "dimensions": 3, "rotation": 9}
_WORDS = ("shape", "color", "size", "material")


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; numbers as they are stored."""

    category: str
    bbox: Sequence[float]
    center: Sequence[float]
    dimensions: Sequence[float]
    rotation: Sequence[float]
    shape: str
    color: str
    size: str
    material: str
    visibility: float

    @property
    def name(self) -> str:
        """Colour and shape."""
        return f"{self.color} {self.shape}"

    @property
    def side(self) -> float:
        """x/z of the centre."""
        return self.center[0] / self.center[2]

    @property
    def distance_m(self) -> float:
        """Of the centre from the camera."""
        return hypot(*self.center)

    @property
    def place(self) -> str:
        """The third of the image that holds the middle of the box, as references say it."""
        twice = self.bbox[0] + self.bbox[2]
        if 2 / 3 <= twice < 4 / 3:
            return "in the middle"
        return "on the left" if twice < 2 / 3 else "on the right"


@dataclass(frozen=True, slots=True)
class Row:
    """One scene; questions are (question, answer, kind), messages (role, content)."""

    key: str
    image_sha256: str
    size_px: tuple[int, int]
    intrinsics: Sequence[float]
    things: Sequence[Thing]
    floor: str
    wall: str
    alt_text: str
    reference: str | None
    questions: Sequence[tuple[str, str, str]]
    messages: Sequence[tuple[str, str]] | None

    def named(self, name: str) -> Thing | None:
        """The object of that colour and shape."""
        return next((thing for thing in self.things if thing.name == name), None)


def batches(
    connection: duckdb.DuckDBPyConnection, config: str
) -> Iterator[tuple[list[Row], list[str]]]:
    """Rows in order, some at a time, and the keys of those that are incomplete."""
    for found in streamed(connection, f"SELECT * FROM {sql_name(config)}", _ROWS_AT_A_TIME):
        rows, broken = [], []
        for told in found.to_pylist():
            row = _row(told)
            if row is None:
                broken.append(str(told["key"]))
            else:
                rows.append(row)
        yield rows, broken


def _row(told: Mapping[str, Any]) -> Row | None:
    """None where something is null that must not be, not finite, or of another length."""
    try:
        things = [_thing(*both) for both in zip(told["objects"], told["attributes"], strict=True)]
        asked = [(each["question"], each["answer"], each["kind"]) for each in told["questions"]]
        messages = told["messages"]
        turns = messages and [(each["role"], each["content"]) for each in messages]
        row = Row(
            key=told["key"],
            image_sha256=told["image_sha256"],
            size_px=(told["width"], told["height"]),
            intrinsics=_numbers(told["intrinsics"], 9),
            things=things,
            floor=told["floor"],
            wall=told["wall"],
            alt_text=told["alt_text"],
            reference=told["reference"],
            questions=asked,
            messages=turns,
        )
    except (TypeError, ValueError):
        return None
    words = [row.key, row.image_sha256, row.floor, row.wall, row.alt_text, *row.size_px]
    return None if None in (*words, *chain(*asked), *chain(*(turns or ()))) else row


def _thing(placed: Mapping[str, Any], told: Mapping[str, Any]) -> Thing:
    bbox, center, dimensions, rotation = (_numbers(placed[n], size) for n, size in _LENGTHS.items())
    (visibility,) = _numbers([told["visibility"]], 1)
    shape, color, size, material = words = [told[name] for name in _WORDS]
    if None in (placed["category"], *words) or center[2] <= 0:
        raise ValueError("an object is incomplete, or not before the camera")
    return Thing(
        category=placed["category"],
        bbox=bbox,
        center=center,
        dimensions=dimensions,
        rotation=rotation,
        shape=shape,
        color=color,
        size=size,
        material=material,
        visibility=visibility,
    )


def _numbers(found: Sequence[float] | None, length: int) -> list[float]:
    if found is None or len(found) != length or not all(map(isfinite, found)):
        raise ValueError(f"not {length} finite numbers")
    return list(found)
