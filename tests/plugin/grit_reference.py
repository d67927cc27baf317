"""What docs/grounding.md says, once more: box by box in plain Python, slow, written to be read.

With the package it shares how text is made safe and how boxes are written, nothing else. Images are
left to others: a recipe without a corpus is meant.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any, NamedTuple
from unicodedata import category

import yaml

from vila2data.boxes import Convention
from vila2data.builders.grounded_narration.recipe import GroundedNarrationRecipe
from vila2data.conversation import neutralise

Row = Mapping[str, Any]
Rect = tuple[float, float, float, float]
Span = tuple[int, int]
Phrase = dict[str, Any]

WHITE = " \t\n\r"
PUNCTUATION = ".,;:!?\"'()[]"
ENDS_OF_HEAD = re.findall("[a-z]+", "of in on with for at by from to near that which who")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Item(NamedTuple):
    """One of ``noun_chunks`` that is sound; ``place`` is that in the list."""

    place: int
    span: Span
    box: Rect
    score: float | None


@dataclass(frozen=True)
class Kept:
    """A row that may be used.

    Attributes:
        phrases: in the order of the caption, as ``phrases`` of the data set; boxes are doubles.
        grounded_caption: of the data set.
        left_out: items by why they are in no phrase though nothing is wrong with them.
        items: rejected items by reason, and all under ``read``.
    """

    phrases: list[Phrase]
    grounded_caption: str
    left_out: Counter[str]
    items: Counter[str]


@dataclass(frozen=True)
class Rejected:
    """A row that is not used, and its items as in ``Kept``."""

    reason: str
    items: Counter[str]


@dataclass(frozen=True)
class Built:
    """What becomes of all rows.

    Attributes:
        short, long: rows of the configs without questions, in order; numbers as they are stored.
        outcomes: of each row that was read, in order.
        rejected: rows by reason.
        items: rejected items by reason, and those that were looked at under ``read``.
        left_out: as in ``Kept``, of all rows that may be used, duplicates among them.
        threshold: the least density that is long; None where no row is.
    """

    short: list[dict[str, Any]]
    long: list[dict[str, Any]]
    outcomes: list[Kept | Rejected]
    rejected: Counter[str]
    items: Counter[str]
    left_out: Counter[str]
    threshold: tuple[int, int] | None


# --- what is read --------------------------------------------------------------------------------


def number(value: object) -> float | None:
    """A double; None for what is no number."""
    if isinstance(value, str):
        plain = value.lower().lstrip("+-")
        return float(value) if _NUMBER.fullmatch(value) or plain in ("nan", "inf") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def items_of(column: object) -> list[list[float | None]]:
    """The items of ``noun_chunks`` or ``ref_exps``; an item that is none has no numbers."""
    if isinstance(column, str):
        try:
            column = json.loads(column)
        except ValueError:
            column = None
    if not isinstance(column, list):
        return []
    return [[number(v) for v in item] if isinstance(item, list) else [] for item in column]


def words_of(text: str) -> list[str]:
    """Parted by white space, of which there are four characters."""
    return [word for word in re.split("[ \t\n\r]+", text) if word]


# --- an item -------------------------------------------------------------------------------------


def why_rejected(
    item: Sequence[float | None], caption: str, recipe: GroundedNarrationRecipe
) -> str | None:
    """The first reason that holds; None for an item that is sound."""
    if len(item) < 6 or not is_span(item[:2], caption):
        return "malformed_span"
    box = item[2:6]
    if any(v is None or math.isnan(v) or not 0 <= v <= 1 for v in box):
        return "malformed_box"
    x1, y1, x2, y2 = (v for v in box if v is not None)
    if not (x1 < x2 and y1 < y2):
        return "malformed_box"
    if x2 - x1 < recipe.boxes.min_side or y2 - y1 < recipe.boxes.min_side:
        return "thin_box"
    score = score_of(item)
    least = recipe.boxes.min_score
    if least is not None and (score is None or score < least):
        return "low_score"
    if (x2 - x1) * (y2 - y1) > recipe.boxes.max_area:
        return "large_box"
    return None


def is_span(offsets: Sequence[float | None], caption: str) -> bool:
    """Whether two offsets are whole, in order and in the caption."""
    start, end = offsets
    if start is None or end is None or not (is_whole(start) and is_whole(end)):
        return False
    return 0 <= start < end <= len(caption)


def is_whole(value: float) -> bool:
    """Neither a fraction nor NaN nor infinite."""
    return math.isfinite(value) and value == math.floor(value)


def score_of(item: Sequence[float | None]) -> float | None:
    """The detector's confidence; None where there is none, or NaN."""
    score = item[6] if len(item) > 6 else None
    return None if score is None or math.isnan(score) else score


def sound_items(row: Row, recipe: GroundedNarrationRecipe) -> tuple[list[Item], Counter[str]]:
    """The items that are left, and all counted by reason, and under ``read``."""
    left, counts = [], Counter[str]()
    caption = row["caption"]
    for place, item in enumerate(items_of(row["noun_chunks"])):
        counts["read"] += 1
        reason = why_rejected(item, caption, recipe)
        if reason is not None:
            counts[reason] += 1
            continue
        start, end, x1, y1, x2, y2 = (v for v in item[:6] if v is not None)
        span, box = (int(start), int(end)), (x1, y1, x2, y2)
        left.append(Item(place, span, box, score_of(item)))
    return left, counts


# --- categories ----------------------------------------------------------------------------------


def category_of(phrase: str) -> str:
    """The head noun, singular."""
    words = words_of(phrase)
    for place, word in enumerate(words):
        if place > 0 and word.lower() in ENDS_OF_HEAD:
            words = words[:place]
            break
    last = words[-1] if words else ""
    return singular(last.strip(PUNCTUATION).lower().removesuffix("'s"))


@cache
def irregular_nouns() -> Mapping[str, str]:
    """Singular by plural."""
    file = files("vila2data") / "nouns.yaml"
    nouns: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return nouns


def singular(word: str) -> str:
    """By the first rule that fits."""
    if word in irregular_nouns():
        return irregular_nouns()[word]
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    return word[:-1]


def iou(a: Rect, b: Rect) -> float:
    """Intersection over union of two boxes that are not empty."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = across * down
    return shared / (area(a) + area(b) - shared)


def area(box: Rect) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def instances(items: Sequence[Item], caption: str, same: float) -> Counter[str]:
    """How many there are of each category."""
    found = Counter[str]()
    earlier: list[tuple[str, Rect]] = []
    for item in items:
        category = category_of(caption[slice(*item.span)])
        if all(iou(box, item.box) < same for name, box in earlier if name == category):
            found[category] += 1
        earlier.append((category, item.box))
    return found


# --- phrases -------------------------------------------------------------------------------------


def chosen(spans: Iterable[Span]) -> list[Span]:
    """By end, of those with the same end the latest start first; in order."""
    taken: list[Span] = []
    for start, end in sorted(set(spans), key=lambda span: (span[1], -span[0])):
        if not taken or start >= taken[-1][1]:
            taken.append((start, end))
    return taken


def most_phrases(spans: Sequence[Span]) -> int:
    """How many of a few spans can stand side by side: all selections are tried."""
    for count in range(len(spans), 0, -1):
        for some in combinations(sorted(spans), count):
            if not any(overlap(a, b) for a, b in combinations(some, 2)):
                return count
    return 0


def overlap(a: Span, b: Span) -> bool:
    """Whether two spans share a character."""
    return a[0] < b[1] and b[0] < a[1]


def expression(first: Item, refs: Sequence[Sequence[float | None]], caption: str) -> Span | None:
    """The referring expression of a phrase by its first item; None where there is none of use."""
    same_place = refs[first.place : first.place + 1]
    equal = [ref for ref in (*same_place, *refs) if tuple(ref[2:6]) == first.box]
    if not equal or not is_span(equal[0][:2], caption):
        return None
    start, end = (int(v) for v in equal[0][:2] if v is not None)
    return (start, end) if start <= first.span[0] and first.span[1] <= end else None


def widened(spans: Sequence[Span], wanted: Sequence[Span | None]) -> list[Span]:
    """Each span as wide as is wanted, where that overlaps no other."""
    found: list[Span] = []
    for place, (span, wide) in enumerate(zip(spans, wanted, strict=True)):
        others = [*spans[:place], *spans[place + 1 :], *found[-1:]]
        free = wide is not None and not any(overlap(wide, other) for other in others)
        found.append(wide if wide is not None and free else span)
    return found


def unlike(boxes: Iterable[Rect]) -> list[Rect]:
    """The boxes without those that are equal, as they are stored, to an earlier one."""
    found: dict[tuple[float, ...], Rect] = {}
    for box in boxes:
        found.setdefault(tuple(stored_box(box)), box)
    return list(found.values())


def phrases_of(
    items: Sequence[Item], row: Row, recipe: GroundedNarrationRecipe
) -> tuple[list[Phrase], Counter[str]]:
    """The phrases with their boxes, and the items that are in none by why."""
    worded = [item for item in items if has_words(row["caption"][slice(*item.span)])]
    together: dict[Span, list[Item]] = {}
    for item in worded:
        together.setdefault(item.span, []).append(item)
    boxes = {span: unlike(item.box for item in some) for span, some in together.items()}
    spans = chosen(together)
    left_out = Counter(
        blank_phrase=len(items) - len(worded),
        repeated_box=len(worded) - sum(map(len, boxes.values())),
        overlapping_phrase=sum(len(boxes[span]) for span in boxes if span not in spans),
    )
    wide: list[Span] = spans
    if recipe.phrases.text == "ref_exp":
        refs = items_of(row["ref_exps"])
        wanted = [expression(together[span][0], refs, row["caption"]) for span in spans]
        wide = widened(spans, wanted)
    phrases = []
    for span, (start, end) in zip(spans, wide, strict=True):
        scores = [item.score for item in together[span] if item.score is not None]
        phrases.append(
            {
                "text": row["caption"][start:end],
                "start": start,
                "end": end,
                "boxes": boxes[span],
                "score": max(scores, default=None),
            }
        )
    return phrases, left_out


# --- a row ---------------------------------------------------------------------------------------


def narrate(row: Row, recipe: GroundedNarrationRecipe) -> Kept | Rejected:
    """What becomes of one row, apart from duplicates."""
    if (reason := why_not_looked_at(row, recipe)) is not None:
        return Rejected(reason, Counter())
    items, counts = sound_items(row, recipe)
    reason = why_row_rejected(row, items, counts, recipe)
    if reason is not None:
        return Rejected(reason, counts)
    phrases, left_out = phrases_of(items, row, recipe)
    return Kept(phrases, grounded(row, phrases, recipe), left_out, counts)


def why_not_looked_at(row: Row, recipe: GroundedNarrationRecipe) -> str | None:
    """The first reason that holds, of those that the boxes have no part in; None for none."""
    caption, rules = row["caption"], recipe.rows
    if caption is None or not caption.strip(WHITE):
        return "no_caption"
    if len(caption) > rules.max_caption_chars:
        return "caption_too_long"
    for name in ("clip_similarity_vitb32", "clip_similarity_vitl14"):
        least, value = getattr(rules, f"min_{name}"), number(row[name])
        if least is not None and (value is None or not value >= least):
            return "low_clip_similarity"
    return None if items_of(row["noun_chunks"]) else "no_boxes"


def why_row_rejected(
    row: Row, left: Sequence[Item], items: Counter[str], recipe: GroundedNarrationRecipe
) -> str | None:
    """The first reason that holds, of those after them; None for a row that may be used."""
    caption, rules = row["caption"], recipe.rows
    malformed = items["malformed_span"] + items["malformed_box"]
    if recipe.boxes.malformed == "drop_image" and malformed:
        return "malformed"
    if recipe.boxes.large == "drop_image" and items["large_box"]:
        return "large_box"
    if not left:
        return "no_box_left"
    crowd = instances(left, caption, rules.same_instance_iou)
    if max(crowd.values()) > rules.max_instances:
        return "crowded"
    convention = recipe.questions.convention
    size = size_of(row)
    if convention.steps is None and size is None:
        return "size_unknown"
    if convention.stands_in(neutralise(caption)):
        return "box_text_in_caption"
    return None if any(has_words(caption[slice(*item.span)]) for item in left) else "no_phrase_left"


def has_words(text: str) -> bool:
    """Whether there is a letter or a number."""
    return any(category(letter)[0] in "LN" for letter in text)


def size_of(row: Row) -> tuple[int, int] | None:
    """Width and height; None where one is not known."""
    width, height = row["width"], row["height"]
    if width is None or height is None or width < 1 or height < 1:
        return None
    return width, height


def grounded(row: Row, phrases: Sequence[Phrase], recipe: GroundedNarrationRecipe) -> str:
    """The safe caption with boxes behind its phrases."""
    spans = [(phrase["start"], phrase["end"]) for phrase in phrases]
    safe = made_safe(row["caption"], spans, recipe.questions.convention)
    written, before = "", 0
    for phrase in phrases:
        text = safe[phrase["start"] : phrase["end"]]
        written += safe[before : phrase["start"]]
        written += recipe.questions.convention.ground(text, phrase["boxes"], size_of(row))
        before = phrase["end"]
    return written + safe[before:]


def made_safe(caption: str, spans: Sequence[Span], convention: Convention) -> str:
    """The caption without what could act as a token, by itself or with what is written around its
    phrases.
    """
    both = not convention.phrase.startswith("{}")
    edges = [edge for span in spans for edge in (span if both else span[1:])]
    letters = list(neutralise(caption))
    for edge in reversed(edges):
        letters.insert(edge, "\ufffc")
    letters = list(neutralise("".join(letters)))
    for edge in edges:  # what was put in before is out again
        del letters[edge]
    return "".join(letters)


# --- all rows ------------------------------------------------------------------------------------


def build(rows: Sequence[Row], recipe: GroundedNarrationRecipe) -> Built:
    """What becomes of all rows, which stand in the order of the parts."""
    outcomes = [narrate(row, recipe) for row in rows]
    left_out, items = Counter[str](), Counter[str]()
    for outcome in outcomes:
        items += outcome.items
        left_out += outcome.left_out if isinstance(outcome, Kept) else Counter()
    seen = set()
    for place, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
        if row["id"] is None or isinstance(outcome, Rejected):
            continue
        if (row["id"], row["caption"]) in seen:
            outcomes[place] = Rejected("duplicate", outcome.items)
        seen.add((row["id"], row["caption"]))
    pairs = zip(rows, outcomes, strict=True)
    kept = [(row, outcome) for row, outcome in pairs if isinstance(outcome, Kept)]
    densities = [density(row, outcome) for row, outcome in kept]
    threshold = threshold_of(densities, recipe)
    configs: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for (row, outcome), dense in zip(kept, densities, strict=True):
        configs[threshold is not None and dense >= threshold].append(stored(row, outcome))
    rejected = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Rejected))
    return Built(*configs, outcomes, rejected, items, left_out, threshold)


def density(row: Row, kept: Kept) -> tuple[int, int]:
    """Phrases, then words of the caption."""
    return len(kept.phrases), len(row["caption"].split())


def threshold_of(
    densities: Sequence[tuple[int, int]], recipe: GroundedNarrationRecipe
) -> tuple[int, int] | None:
    """The lowest density of a row at which no more rows are long than may be."""
    given = recipe.split.long_from
    if given is not None:
        return given.phrases, given.words
    for threshold in sorted(set(densities)):
        long = sum(dense >= threshold for dense in densities)
        if long / len(densities) <= recipe.split.long_share:
            return threshold
    return None


def stored(row: Row, kept: Kept) -> dict[str, Any]:
    """A row of a config without its questions."""
    phrases = [
        {
            **phrase,
            "boxes": [stored_box(box) for box in phrase["boxes"]],
            "score": float32(phrase["score"]),
        }
        for phrase in kept.phrases
    ]
    plain = {name: row[name] for name in ("id", "url", "width", "height", "caption")}
    key = row["key"]  # null where it is made of the row's place
    if key is None and row["id"] is not None:
        key = str(row["id"])
    clip = {name: float32(row[name]) for name in row if name.startswith("clip_similarity_")}
    own = {"key": key, "image_sha256": None, "image_status": None}
    return {**own, **plain, **clip, "phrases": phrases, "grounded_caption": kept.grounded_caption}


def float32(value: float | None) -> float | None:
    """The nearest number that is stored; infinite where there is none near."""
    return None if value is None else c_float(value).value


def stored_box(box: Rect) -> list[float]:
    """As numbers that are stored."""
    return [c_float(value).value for value in box]
