"""Rows of the samples that a page shows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .phrases import read_phrases
from .pictures import NoPicture, Picture, PictureFinder
from .samples import rows_of
from .source import Source, base_of, place_of

_MAX_ROWS = 4
_MAX_IDENTITY_CHARS = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A row without its images.

    Attributes:
        is_caption: whether it is a caption of a model, or an original text.
        pictures: None where it has no column for them.
    """

    config: str
    is_caption: bool
    values: Mapping[str, Any]
    pictures: list[Picture | NoPicture] | None

    @property
    def is_grounded(self) -> bool:
        """Whether it stands for itself: other rows with its key may mean another image."""
        return "phrases" in self.values and not self.is_caption


def samples_of(
    source: Source, keys: Sequence[str], finder: PictureFinder
) -> list[tuple[str, list[Row]]]:
    """Key and rows of each sample with one of these keys, in order.

    Rows with the same key are one sample, but for grounded ones.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for config in sorted(source.columns, key=place_of):
        seen: dict[str, int] = defaultdict(int)
        for key, values in rows_of(source, config, keys):
            seen[key] += 1
            if seen[key] <= _MAX_ROWS:
                # At once, so that no more than one row's images are held.
                found[key].append(_row(source, config, values, finder))
    return [(key, rows) for key in keys if key in found for rows in _parted(found[key])]


def _parted(rows: list[Row]) -> list[list[Row]]:
    if not any(row.is_grounded for row in rows):
        return [rows]
    return [[row] for row in sorted(rows, key=lambda row: "reject_reason" in row.values)]


def _row(source: Source, config: str, values: Mapping[str, Any], finder: PictureFinder) -> Row:
    pictures = finder.in_row(values)
    if pictures and values.get("reject_reason") is not None:
        pictures = [p for p in pictures if isinstance(p, Picture)]
    kept = {n: v for n, v in values.items() if n not in ("image", "images")}
    is_caption = source.is_caption(config)
    if is_caption and base_of(config) == "grounding":
        kept["phrases"] = read_phrases(str(values.get("caption") or ""))
    return Row(config, is_caption, kept, pictures)


def identity_of(key: str, rows: list[Row]) -> list[tuple[str, str]]:
    """What the rows say of the sample itself; the first that says it counts."""
    found: dict[str, str] = {}
    for row in rows:
        width, height = row.values.get("width"), row.values.get("height")
        if width and height:
            found.setdefault("size", f"{width} × {height}")
        if row.values.get("image_status") not in (None, "ok"):
            found.setdefault("image status", str(row.values["image_status"])[:_MAX_IDENTITY_CHARS])
        for name in ("id", "source", "task", "license", "url"):
            value = row.values.get(name)
            told = name == "task" and "round" in row.values  # by the config's name
            if value is not None and not told and value != key:
                found.setdefault(name, str(value)[:_MAX_IDENTITY_CHARS])
    return list(found.items())


def with_original(rows: list[Row]) -> list[Row]:
    """The rows, with the original text first also where the build holds it beside captions only."""
    captions = [row for row in rows if row.is_caption]
    if not captions or base_of(captions[0].config) == "original":
        return rows
    original = captions[0].values["original"]
    values = {"caption": original, "original": original, "round": 0}
    return [Row("original", True, values, None), *rows]
