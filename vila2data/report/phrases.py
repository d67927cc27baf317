"""Phrases of captions: where they stand in the text, and their boxes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

from vila2data.boxes import CONVENTIONS

from .overlay import PALETTE, Labelled, structs

MAX_PHRASES = 100
"""Phrases of a sample that are shown."""

_CONVENTIONS = (CONVENTIONS["vila"], CONVENTIONS["norm3"])
_LABEL_CHARS = 60
_LABEL_WORDS = 4
_REACH_CHARS = 200
_BEFORE_BOX = " \t\r\n.,;:!?-–—([\"'"
_CLAUSE_END = re.compile(r"[.,;:!?\]]\s|\n")
_WORD = re.compile(r"\S+")

Span = tuple[int, int]
"""Characters of a text, end exclusive."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase with its boxes.

    Attributes:
        number: place among the sample's phrases, from 1.
        row: place among the sample's rows.
        span: in the caption; None where the caption does not hold the phrase there.
        score: of the detector, the highest; None where there is none.
        bboxes: as the row holds them.
    """

    number: int
    row: int
    label: str
    span: Span | None
    score: float | None
    bboxes: tuple[object, ...]

    @property
    def colour(self) -> int:
        """Place in ``PALETTE``."""
        return (self.number - 1) % len(PALETTE)

    @property
    def boxes(self) -> list[Labelled]:
        """Its boxes, to be drawn."""
        return [
            Labelled(self.label, self.colour, bbox, self.number, is_phrase=True)
            for bbox in self.bboxes
        ]


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a text and the phrases that it belongs to, the shortest first."""

    text: str
    phrases: tuple[Phrase, ...]
    begins: tuple[int, ...]
    """Numbers of those that begin here."""


def phrases_of(rows: Sequence[Mapping[str, Any]]) -> list[Phrase]:
    """The phrases of a sample's rows, in the order of each caption; those that have no place in it
    come last.

    Items with the same text and place are one phrase, whose boxes they hold.
    """
    found: list[Phrase] = []
    for place, row in enumerate(rows):
        caption = row.get("caption")
        groups = [(_span(items[0], caption), items) for items in _together(row)]
        for span, items in sorted(groups, key=lambda group: group[0] or (len(str(caption)), 0)):
            found.append(_phrase(len(found) + 1, place, span, items))
    return found


def _together(row: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for number, item in enumerate(structs(row.get("phrases"))):
        place = tuple(str(item.get(name)) for name in ("text", "start", "end"))
        known = item.get("text") is not None
        groups.setdefault(place if known else (str(number),), []).append(item)
    return list(groups.values())


def _span(item: Mapping[str, Any], caption: object) -> Span | None:
    start, end, text = item.get("start"), item.get("end"), item.get("text")
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(caption, str):
        return None
    if not 0 <= start < end <= len(caption) or caption[start:end] != text:
        return None
    return start, end


def _phrase(number: int, row: int, span: Span | None, items: Sequence[Mapping[str, Any]]) -> Phrase:
    label = str(items[0].get("label", items[0].get("text")) or "")
    cut = f"{label[:_LABEL_CHARS]}…" if len(label) > _LABEL_CHARS else label
    scores = [s for item in items if isinstance(s := item.get("score"), float) and isfinite(s)]
    boxes = [b for item in items if isinstance(item.get("boxes"), list) for b in item["boxes"]]
    return Phrase(number, row, cut, span, max(scores, default=None), tuple(boxes))


def read_phrases(caption: str) -> list[dict[str, Any]]:
    """The boxes that a model wrote into its caption, in the form of the column ``phrases``.

    Each is labelled with the words before it, at most four, of the same clause; where none stand
    between it and the last one, it belongs to the same phrase.
    """
    found = [each for convention in _CONVENTIONS for each in convention.parse(caption)]
    items: list[dict[str, Any]] = []
    for each in sorted(found, key=lambda each: each.start):
        last = items[-1]["end"] if items else 0
        start, end = _label_before(caption, last, each.start)
        if items and start == end:
            items[-1]["boxes"] += each.boxes
        else:
            items.append({"start": start, "label": caption[start:end], "boxes": list(each.boxes)})
        items[-1] |= {"end": each.end, "text": caption[items[-1]["start"] : each.end]}
    return items


def _label_before(caption: str, last: int, start: int) -> Span:
    """Where the words before a box stand; empty where there are none since the last one."""
    low = max(last, start - _REACH_CHARS)
    end = low + len(caption[low:start].rstrip(_BEFORE_BOX))
    begin = max((found.end() for found in _CLAUSE_END.finditer(caption, low, end)), default=low)
    words = [found.start() for found in _WORD.finditer(caption, begin, end)][-_LABEL_WORDS:]
    return (words[0], end) if words else (start, start)


def runs_of(text: str, phrases: Sequence[Phrase]) -> list[Run]:
    """The text, parted where phrases begin and end; spans beyond its end are cut."""
    placed = [(p.span, p) for p in phrases if p.span is not None]
    inner = {edge for span, _ in placed for edge in span if edge < len(text)}
    return list(_runs(text, sorted({0, len(text)} | inner), placed))


def _runs(text: str, edges: Sequence[int], placed: Sequence[tuple[Span, Phrase]]) -> Iterator[Run]:
    shortest_first = sorted(placed, key=lambda item: item[0][1] - item[0][0])
    for start, end in pairwise(edges):
        over = [(span, p) for span, p in shortest_first if span[0] <= start and end <= span[1]]
        begins = sorted(phrase.number for span, phrase in over if span[0] == start)
        yield Run(text[start:end], tuple(phrase for _, phrase in over), tuple(begins))
