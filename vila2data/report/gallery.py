"""Samples side by side: picture, original text, every round and specialist, turns."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from .figures import Figures, figures_of, numbers_over
from .labels import Label
from .pictures import Box, NoPicture, Picture, PictureFinder, boxes_of
from .samples import rows_of
from .source import Source, base_of, place_of
from .turns import Conversation, Text, conversation_of

_MAX_ROWS = 4
_MAX_VIEWS = 12
"""Samples of a build that are shown from behind too: pictures are most of the page's bytes."""
_MAX_IDENTITY_CHARS = 200
_OTHER_TEXTS = ("caption", "grounded_caption", "alt_text", "reference")
_FACTS = ("num_words", "num_tokens", "prompt_id", "finish_reason", "captioner")
_UNITS = {"num_words": "word", "num_tokens": "token"}
_NAMES = {"prompt_id": "prompt", "finish_reason": "ended by"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One text of a sample."""

    title: str
    text: Text
    facts: list[tuple[str, str]]
    reject_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """A sample as it stands on the page."""

    anchor: str
    key: str
    identity: list[tuple[str, str]]
    pictures: list[Picture | NoPicture]
    boxes: list[Box]
    boxes_left_out: int
    figures: Figures | None
    panels: list[Panel]
    conversations: list[Conversation]

    @property
    def numbers(self) -> list[Label]:
        """Numbers of the boxes, where they stand on the first picture."""
        first = next(iter(self.pictures), None)
        return numbers_over(first, self.boxes) if isinstance(first, Picture) else []

    @property
    def legend(self) -> list[tuple[str, int, int]]:
        """Label, colour and number of the boxes."""
        counts = Counter((box.label, box.colour) for box in self.boxes)
        return [(label, colour, count) for (label, colour), count in counts.items()]


@dataclass(frozen=True, slots=True)
class _Row:
    config: str
    values: Mapping[str, Any]
    pictures: list[Picture | NoPicture] | None


def cards_of(source: Source, keys: Sequence[str], finder: PictureFinder) -> list[Card]:
    """The samples with these keys, in order."""
    found: dict[str, list[_Row]] = defaultdict(list)
    for config in sorted(source.columns, key=place_of):
        seen: dict[str, int] = defaultdict(int)
        for key, values in rows_of(source, config, keys):
            seen[key] += 1
            if seen[key] <= _MAX_ROWS:
                # At once, so that no more than one row's images are held.
                pictures = finder.in_row(values)
                if pictures and values.get("reject_reason") is not None:
                    pictures = [p for p in pictures if isinstance(p, Picture)]
                kept = {n: v for n, v in values.items() if n not in ("image", "images")}
                found[key].append(_Row(config, kept, pictures))
    cards: list[Card] = []
    for key in keys:
        if key in found:
            views = sum(card.figures is not None for card in cards)
            cards.append(_card(source, key, found[key], finder, with_view=views < _MAX_VIEWS))
    return cards


def anchor_of(source: Source, key: str) -> str:
    """Target of links to a sample; keys may hold any character, their hash may not."""
    return f"{source.anchor}-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _card(
    source: Source, key: str, rows: list[_Row], finder: PictureFinder, *, with_view: bool
) -> Card:
    values = [row.values for row in rows]
    boxes, left_out = boxes_of(values)
    return Card(
        anchor=anchor_of(source, key),
        key=key,
        identity=_identity(key, rows),
        pictures=_pictures(key, rows, finder),
        boxes=boxes,
        boxes_left_out=left_out,
        figures=figures_of(values, with_view=with_view),
        panels=[panel for row in _with_original(source, rows) for panel in _panels(source, row)],
        conversations=[
            conversation
            for row in rows
            if (conversation := conversation_of(row.config, row.values)) is not None
        ],
    )


def _identity(key: str, rows: list[_Row]) -> list[tuple[str, str]]:
    """What the rows say of the sample itself; the first that says it counts."""
    found: dict[str, str] = {}
    for row in rows:
        width, height = row.values.get("width"), row.values.get("height")
        if width and height:
            found.setdefault("size", f"{width} × {height}")
        for name in ("id", "source", "task", "license", "url"):
            value = row.values.get(name)
            told = name == "task" and "round" in row.values  # by the config's name
            if value is not None and not told and value != key:
                found.setdefault(name, str(value)[:_MAX_IDENTITY_CHARS])
    return list(found.items())


def _pictures(key: str, rows: list[_Row], finder: PictureFinder) -> list[Picture | NoPicture]:
    own = [row.pictures for row in rows if row.pictures is not None]
    if any(own):
        return max(own, key=len)  # a row may be text alone
    if own and all(row.values.get("reject_reason") is not None for row in rows):
        return [NoPicture("It was refused: the build names its image and does not hold it.")]
    if own:
        return []
    hashes = [row.values["image_sha256"] for row in rows if "image_sha256" in row.values]
    known = next((value for value in hashes if value is not None), None)
    if hashes and known is None:
        return [NoPicture("No image: the sample has none that can be used.")]
    return [finder.in_corpus(key, known)]


def _with_original(source: Source, rows: list[_Row]) -> list[_Row]:
    """The rows, with the original text first also where the build holds it beside captions only."""
    captions = [row for row in rows if source.is_caption(row.config)]
    if not captions or base_of(captions[0].config) == "original":
        return rows
    original = captions[0].values["original"]
    values = {"caption": original, "original": original, "round": 0}
    return [_Row("original", values, None), *rows]


def _panels(source: Source, row: _Row) -> Iterator[Panel]:
    values = row.values
    if row.config not in source.columns or source.is_caption(row.config):
        facts = [_fact(name, values[name]) for name in _FACTS if values.get(name) is not None]
        reason = values.get("reject_reason")
        text = Text.of(values["caption"])
        yield Panel(base_of(row.config), text, facts, None if reason is None else str(reason))
        return
    if values.get("reject_reason") is not None:
        yield Panel(row.config, *_refusal(values), str(values["reject_reason"]))
    for name in _OTHER_TEXTS:
        if isinstance(values.get(name), str):
            yield Panel(f"{row.config}: {name.replace('_', ' ')}", Text.of(values[name]), [])


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
