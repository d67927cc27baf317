"""Texts of a sample, with the phrases that have boxes marked."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .overlay import Box
from .phrases import Phrase, Run, runs_of
from .rows import Row
from .source import base_of
from .turns import Text

_OTHER_TEXTS = ("caption", "grounded_caption", "alt_text", "reference")
_FACTS = ("num_words", "num_tokens", "prompt_id", "finish_reason", "captioner")
_UNITS = {"num_words": "word", "num_tokens": "token"}
_NAMES = {"prompt_id": "prompt", "finish_reason": "ended by"}
_CLIP = {"clip_similarity_vitb32": "CLIP B/32", "clip_similarity_vitl14": "CLIP L/14"}
_MAX_DETAIL_CHARS = 300


@dataclass(frozen=True, slots=True)
class Panel:
    """One text of a sample.

    Attributes:
        runs: the text in parts, where phrases of it have boxes.
        phrases: of the text, and how many boxes of each are drawn.
    """

    title: str
    text: Text
    facts: list[tuple[str, str]]
    reject_reason: str | None = None
    runs: Sequence[Run] = ()
    phrases: Sequence[tuple[Phrase, int]] = ()


def panels_of(row: Row, phrases: Sequence[Phrase], boxes: Sequence[Box]) -> Iterator[Panel]:
    """The texts of a row.

    Args:
        row: of the sample.
        phrases: of the row.
        boxes: of the sample, as drawn.
    """
    values = row.values
    if row.is_caption:
        facts = [_fact(name, values[name]) for name in _FACTS if values.get(name) is not None]
        yield _caption(base_of(row.config), row, facts, phrases, boxes)
    elif row.is_grounded:
        yield _caption(f"{row.config}: caption", row, list(_told(values)), phrases, boxes)
        yield from _others(row, _OTHER_TEXTS[1:])
    else:
        if values.get("reject_reason") is not None:
            yield Panel(row.config, *_refusal(values), str(values["reject_reason"]))
        yield from _others(row, _OTHER_TEXTS)


def _caption(
    title: str,
    row: Row,
    facts: list[tuple[str, str]],
    phrases: Sequence[Phrase],
    boxes: Sequence[Box],
) -> Panel:
    text = Text.of(row.values["caption"])
    drawn = Counter(box.number for box in boxes if box.is_phrase)
    reason = row.values.get("reject_reason")
    return Panel(
        title,
        text,
        facts,
        None if reason is None else str(reason),
        runs_of(text.shown, phrases) if phrases else (),
        [(phrase, drawn[phrase.number]) for phrase in phrases],
    )


def _told(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if values.get("detail") is not None:
        yield "", str(values["detail"])[:_MAX_DETAIL_CHARS]
    for column, name in _CLIP.items():
        if isinstance(values.get(column), float):
            yield name, f"{values[column]:.3f}"


def _others(row: Row, names: Sequence[str]) -> Iterator[Panel]:
    for name in names:
        if isinstance(row.values.get(name), str):
            text = Text.of(row.values[name])
            yield Panel(f"{row.config}: {name.replace('_', ' ')}", text, [])


def _refusal(values: Mapping[str, Any]) -> tuple[Text, list[tuple[str, str]]]:
    """What was seen of something that was refused, and which part of the sample it was."""
    facts = [(n, str(values[n])) for n in ("object", "category") if values.get(n) is not None]
    return Text.of(values.get("detail")), facts


def _fact(name: str, value: object) -> tuple[str, str]:
    """A column of a caption: its name, where the value does not speak for itself, and the value."""
    unit = _UNITS.get(name)
    if unit is None:
        return _NAMES.get(name, ""), str(value)
    return "", f"{value} {unit}" if value == 1 else f"{value} {unit}s"
