"""A page of pairs to look at."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from vila2data.corpus.images import ImageLimits
from vila2data.files import write_text
from vila2data.report.overlay import PALETTE
from vila2data.report.pictures import NoPicture, Picture, picture_of
from vila2data.report.turns import Text
from vila2data.shown import shown

from .builds import Collection
from .find import KINDS
from .text import text_keys

_MAX_TURNS = 24
_NAMES = {"image": "same image", "near_image": "near image", "text": "same text"}


@dataclass(frozen=True)
class Comparison:
    """A build compared with another one, or with itself.

    Attributes:
        pairs: with the columns of ``find.PAIRS``; ids are numbers of rows.
    """

    left: Collection
    right: Collection
    pairs: pa.Table

    @property
    def other(self) -> str:
        """What the left build is compared with."""
        return "itself" if self.right is self.left else self.right.label

    @property
    def rows(self) -> int:
        """How many rows of the left build are in a pair."""
        return len(set(self.pairs["left_id"].to_pylist()))

    @property
    def counts(self) -> list[tuple[str, str, str, int]]:
        """Pairs by source of the left rows, source of the right rows, and kind."""
        columns = ("left_source", "right_source", "kind")
        tally = Counter(zip(*(self.pairs[name].to_pylist() for name in columns), strict=True))
        ordered = sorted(tally.items(), key=lambda item: (*item[0][:2], KINDS.index(item[0][2])))
        return [(left, right, _NAMES[kind], count) for (left, right, kind), count in ordered]

    @property
    def refused(self) -> list[tuple[str, str, int]]:
        """Rows and images that could not be compared, by build and reason."""
        builds = {id(build): build for build in (self.left, self.right)}.values()
        return [(b.label, reason, n) for b in builds for reason, n in sorted(b.refused.items())]


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a row; ``shared`` where the other row asks and answers the same."""

    role: str
    text: Text
    shared: bool


@dataclass(frozen=True, slots=True)
class Half:
    """A row of a pair.

    Attributes:
        name: its id in the build.
        picture: None where the pair is one of texts.
        turns: of its conversation, those that are shared first; ``hidden_turns`` more are not
            shown.
    """

    label: str
    name: str
    source: str
    picture: Picture | NoPicture | None
    turns: list[Turn]
    hidden_turns: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that share something."""

    kind: str
    facts: list[tuple[str, str]]
    halves: tuple[Half, Half]


@dataclass(frozen=True, slots=True)
class Section:
    """What the page says of a comparison.

    Attributes:
        groups: kind, how many pairs of it there are, and those that are shown.
    """

    comparison: Comparison
    anchor: str
    groups: list[tuple[str, int, list[Pair]]]


def write_page(comparisons: Sequence[Comparison], out: Path, *, samples: int) -> None:
    """Writes one HTML file that needs no network, no server and no other file.

    Args:
        comparisons: each gets a section.
        out: the file.
        samples: how many pairs of each kind are shown of a comparison: those of least likeness, for
            they are what one looks for.
    """
    sections = [
        Section(comparison, f"comparison-{number}", _groups(comparison, samples))
        for number, comparison in enumerate(comparisons, start=1)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    # A build, being of strangers, may hold half a surrogate pair, which no file can.
    write_text(out, _render(sections).encode("utf-8", "replace").decode("utf-8"))


def _groups(comparison: Comparison, samples: int) -> list[tuple[str, int, list[Pair]]]:
    rows = comparison.pairs.to_pylist()
    groups = []
    for kind in KINDS:
        of_kind = sorted((row for row in rows if row["kind"] == kind), key=lambda r: r["score"])
        if of_kind:
            pairs = [_pair(comparison, row) for row in of_kind[:samples]]
            groups.append((_NAMES[kind], len(of_kind), pairs))
    return groups


def _pair(comparison: Comparison, row: Mapping[str, Any]) -> Pair:
    sides = (("left", comparison.left), ("right", comparison.right))
    messages = [_messages(build, int(row[f"{side}_id"])) for side, build in sides]
    shared = set.intersection(*(set(text_keys(m).exchanges) for m in messages))
    left, right = (
        _half(build, row, side, told, shared)
        for (side, build), told in zip(sides, messages, strict=True)
    )
    facts = [("likeness", f"{row['score']:.2f}")] if row["kind"] == "near_image" else []
    if row["kind"] == "near_image":
        facts.append(("bits apart", str(row["distance"])))
    if row["kind"] != "text":
        same = "question and answer" if row["same_text"] else "question"
        facts.append(("text", f"the same {same}" if row["same_question"] else "another"))
    return Pair(_NAMES[row["kind"]], facts, (left, right))


def _messages(build: Collection, number: int) -> list[Mapping[str, Any]]:
    found = build.record(number).get("messages")
    return [message for message in found or [] if isinstance(message, dict)]


def _half(
    build: Collection,
    row: Mapping[str, Any],
    side: str,
    messages: Sequence[Mapping[str, Any]],
    shared: set[int],
) -> Half:
    number, image = row[f"{side}_id"], row[f"{side}_image"]
    turns: list[Turn] = []
    for place in range(0, len(messages), 2):
        exchange = messages[place : place + 2]
        is_shared = not shared.isdisjoint(text_keys(exchange).exchanges)
        turns += [
            Turn(str(turn.get("role"))[:40], Text.of(turn.get("content")), is_shared)
            for turn in exchange
        ]
    turns.sort(key=lambda turn: not turn.shared)
    return Half(
        label=build.label,
        name=build.names[int(number)],
        source=row[f"{side}_source"],
        picture=None if image is None else _picture(build.content(number, image)),
        turns=turns[:_MAX_TURNS],
        hidden_turns=max(len(turns) - _MAX_TURNS, 0),
    )


def _picture(content: bytes | None) -> Picture | NoPicture:
    if content is None:
        return NoPicture("The image is gone.")
    return picture_of(content, ImageLimits())


def _render(sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("vila2data.overlap"), PackageLoader("vila2data.report")]
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["shown"] = shown
    return environment.get_template("overlap.html.jinja").render(
        sections=sections,
        palette=PALETTE,
        phrases=0,
        is_missing=lambda picture: isinstance(picture, NoPicture),
    )
