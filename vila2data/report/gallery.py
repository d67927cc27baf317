"""Samples side by side: picture, original text, every round and specialist, turns."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from .pictures import Box, NoPicture, Picture, PictureFinder, boxes_of, structs
from .samples import rows_of
from .source import Source, base_of, place_of

_MAX_ROWS = 4
_MAX_CHARS = 6_000
_MAX_TURNS = 24
_MAX_IDENTITY_CHARS = 200
_OTHER_TEXTS = ("caption", "grounded_caption", "alt_text", "reference")
_FACTS = ("num_words", "num_tokens", "prompt_id", "finish_reason", "captioner")
_UNITS = {"num_words": "word", "num_tokens": "token"}
_NAMES = {"prompt_id": "prompt", "finish_reason": "ended by"}


@dataclass(frozen=True, slots=True)
class Text:
    """A text as shown; ``hidden_chars`` more were cut off."""

    shown: str
    hidden_chars: int

    @classmethod
    def of(cls, value: object) -> "Text":
        """The start of a text."""
        text = "" if value is None else str(value)
        return cls(text[:_MAX_CHARS], max(len(text) - _MAX_CHARS, 0))


@dataclass(frozen=True, slots=True)
class Panel:
    """One text of a sample."""

    title: str
    text: Text
    facts: list[tuple[str, str]]
    reject_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: str
    text: Text
    note: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a row; ``hidden_turns`` more were cut off."""

    title: str
    turns: list[Turn]
    hidden_turns: int


@dataclass(frozen=True, slots=True)
class Card:
    """A sample as it stands on the page."""

    anchor: str
    key: str
    identity: list[tuple[str, str]]
    pictures: list[Picture | NoPicture]
    boxes: list[Box]
    boxes_left_out: int
    panels: list[Panel]
    conversations: list[Conversation]

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
                kept = {n: v for n, v in values.items() if n not in ("image", "images")}
                found[key].append(_Row(config, kept, pictures))
    return [_card(source, key, found[key], finder) for key in keys if key in found]


def anchor_of(source: Source, key: str) -> str:
    """Target of links to a sample; keys may hold any character, their hash may not."""
    return f"{source.anchor}-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _card(source: Source, key: str, rows: list[_Row], finder: PictureFinder) -> Card:
    boxes, left_out = boxes_of(row.values for row in rows)
    return Card(
        anchor=anchor_of(source, key),
        key=key,
        identity=_identity(key, rows),
        pictures=_pictures(key, rows, finder),
        boxes=boxes,
        boxes_left_out=left_out,
        panels=[panel for row in _with_original(source, rows) for panel in _panels(source, row)],
        conversations=[c for row in rows for c in _conversations(row)],
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
    if own:
        return max(own, key=len)  # a row may be text alone
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
    for name in _OTHER_TEXTS:
        if isinstance(values.get(name), str):
            yield Panel(f"{row.config}: {name.replace('_', ' ')}", Text.of(values[name]), [])


def _fact(name: str, value: object) -> tuple[str, str]:
    """A column of a caption: its name, where the value does not speak for itself, and the value."""
    unit = _UNITS.get(name)
    if unit is None:
        return _NAMES.get(name, ""), str(value)
    return "", f"{value} {unit}" if value == 1 else f"{value} {unit}s"


def _conversations(row: _Row) -> Iterator[Conversation]:
    turns = list(_messages(row.values)) or list(_questions(row.values))
    if turns:
        hidden = max(len(turns) - _MAX_TURNS, 0)
        yield Conversation(row.config, turns[:_MAX_TURNS], hidden)


def _messages(values: Mapping[str, Any]) -> Iterator[Turn]:
    notes = _notes(values)
    answered = 0
    for message in structs(values.get("messages")):
        role = str(message.get("role"))
        note = ""
        if role == "assistant":
            note = notes[answered] if answered < len(notes) else ""
            answered += 1
        yield Turn(role[:40], Text.of(message.get("content")), note)


def _notes(values: Mapping[str, Any]) -> list[str]:
    """What each answer is, where the row says so: its task, or its relation."""
    tasks = values.get("tasks")
    if isinstance(tasks, list):
        return [str(task) for task in tasks]
    notes = []
    for relation in structs(values.get("relations")):
        gap = relation.get("gap")
        margin = f", gap {gap:.2f} m" if isinstance(gap, int | float) else ""
        what = f"{relation.get('family')}: {relation.get('relation')}".replace("_", " ")
        notes.append(f"{what}, target {relation.get('target')}{margin}")
    return notes


def _questions(values: Mapping[str, Any]) -> Iterator[Turn]:
    for item in structs(values.get("questions")):
        yield Turn("user", Text.of(item.get("question")), "")
        yield Turn("assistant", Text.of(item.get("answer")), str(item.get("kind") or ""))
