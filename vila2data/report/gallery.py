"""Samples side by side: picture, original text, every round and specialist, turns."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from .figures import Figures, figures_of, numbers_over
from .labels import Label
from .overlay import Box, boxes_of
from .panels import Panel, panels_of
from .phrases import MAX_PHRASES, Phrase, phrases_of
from .pictures import NoPicture, PictureFinder
from .rows import Row, identity_of, samples_of, with_original
from .source import Source
from .turns import Conversation, conversation_of
from .which import Shown, note_of, pictures_of, with_canvas

_MAX_VIEWS = 12
"""Samples of a build that are shown from behind too: pictures are most of the page's bytes."""


@dataclass(frozen=True, slots=True)
class Card:
    """A sample as it stands on the page.

    Attributes:
        note: on the picture, where it may be another than the row means.
        is_grounded: whether it is a row whose phrases have boxes.
    """

    anchor: str
    key: str
    identity: list[tuple[str, str]]
    pictures: list[Shown]
    note: str | None
    is_grounded: bool
    boxes: list[Box]
    boxes_left_out: int
    figures: Figures | None
    panels: list[Panel]
    conversations: list[Conversation]

    @property
    def numbers(self) -> list[Label]:
        """Numbers of the boxes, where they stand on the first picture."""
        first = next(iter(self.pictures), None)
        if first is None or isinstance(first, NoPicture):
            return []
        return numbers_over(first, self.boxes)

    @property
    def phrases(self) -> int:
        """The highest number of a phrase."""
        return max(
            (phrase.number for panel in self.panels for phrase, _ in panel.phrases), default=0
        )

    @property
    def legend(self) -> list[tuple[str, int, int]]:
        """Label, colour and number of the boxes of objects; phrases stand beside their text."""
        counts = Counter((box.label, box.colour) for box in self.boxes if not box.is_phrase)
        return [(label, colour, count) for (label, colour), count in counts.items()]


def cards_of(source: Source, keys: Sequence[str], finder: PictureFinder) -> list[Card]:
    """The samples with these keys, in order."""
    cards: list[Card] = []
    shown: Counter[str] = Counter()
    for key, rows in samples_of(source, keys, finder):
        views = sum(card.figures is not None for card in cards)
        anchor = _anchor_of(source, key, shown[key])
        cards.append(_card(anchor, key, rows, finder, with_view=views < _MAX_VIEWS))
        shown[key] += 1
    return cards


def _anchor_of(source: Source, key: str, copy: int) -> str:
    """Target of links to a sample; keys may hold any character, their hash may not."""
    name = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{source.anchor}-{name}" + (f"-{copy + 1}" if copy else "")


def _card(
    anchor: str, key: str, rows: list[Row], finder: PictureFinder, *, with_view: bool
) -> Card:
    values = [row.values for row in rows]
    phrases = phrases_of(values)
    known, hidden = phrases[:MAX_PHRASES], phrases[MAX_PHRASES:]
    boxes, left_out = boxes_of(values, [box for phrase in known for box in phrase.boxes])
    pictures = pictures_of(key, rows, finder)
    return Card(
        anchor=anchor,
        key=key,
        identity=identity_of(key, rows),
        pictures=with_canvas(pictures, rows)
        if any(box.is_phrase for box in boxes)
        else [*pictures],
        note=note_of(pictures, rows),
        is_grounded=any(row.is_grounded for row in rows),
        boxes=boxes,
        boxes_left_out=left_out + sum(len(phrase.bboxes) for phrase in hidden),
        figures=figures_of(values, with_view=with_view),
        panels=list(_panels(rows, known, boxes)),
        conversations=[
            conversation
            for row in rows
            if (conversation := conversation_of(row.config, row.values)) is not None
        ],
    )


def _panels(rows: list[Row], phrases: Sequence[Phrase], boxes: Sequence[Box]) -> Iterator[Panel]:
    shown = with_original(rows)
    for place, row in enumerate(shown, start=len(rows) - len(shown)):
        yield from panels_of(row, [p for p in phrases if p.row == place], boxes)
