"""Which conversations of a blend repeat an evaluation set, or another source of the blend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.corpus.images import ImageRefused
from vila2data.errors import RunFailed
from vila2data.overlap.find import PairRules, find_pairs
from vila2data.overlap.signature import SIGNATURES

from .images import ImageStore
from .recipe import OverlapRules

COPY = "copy_of_source"
LEAKS: Mapping[str, str] = {
    "image": "leak_image",
    "near_image": "leak_near_image",
    "text": "leak_text",
}

DROPPED = pa.schema(
    {
        "shard": pa.int32(),
        "conversation": pa.int64(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
"""Conversations that are left out, each once."""

_SHOWN = 5
_REMEMBERED = 8  # shards whose images' places are kept


@dataclass(frozen=True)
class Compared:
    """Conversations of a source.

    Attributes:
        name: of the source.
        rows, signatures: its files, in order of the numbers of its shards.
        first: the number of its first shard.
        images: where its images are.
    """

    name: str
    rows: Sequence[Path]
    signatures: Sequence[Path]
    first: int
    images: ImageStore

    def table(self) -> pa.Table:
        """Signatures of all its conversations."""
        tables = [pq.read_table(path) for path in self.signatures]
        return pa.concat_tables([SIGNATURES.empty_table(), *tables])


class Images:
    """The bytes of images, by the ids that conversations are compared under; for many threads."""

    def __init__(self, sources: Sequence[Compared]) -> None:
        self._sources = sources
        self._known = lru_cache(_REMEMBERED)(_images_of)

    def content(self, name: str, number: int) -> bytes | None:
        """The image's bytes, None where they are gone."""
        shard, conversation = map(int, name.split(":"))
        source = next(s for s in self._sources if 0 <= shard - s.first < len(s.rows))
        image = self._known(source.rows[shard - source.first])[conversation][number]
        try:
            return source.images.content(image, image["shard"])
        except ImageRefused:
            return None


def _images_of(rows: Path) -> dict[int, list[dict[str, Any]]]:
    table = pq.read_table(rows, columns=["conversation", "images"])
    return dict(zip(table["conversation"].to_pylist(), table["images"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Overlaps:
    """What was found.

    Attributes:
        dropped: with the columns of ``DROPPED``.
        told: one row for each source, set it overlaps with, and kind.
    """

    dropped: pa.Table
    told: list[dict[str, Any]]


def overlaps(
    sources: Sequence[Compared],
    evaluation: Sequence[Compared],
    copied: Mapping[str, str],
    rules: OverlapRules,
) -> Overlaps:
    """Compares the sources of a blend with evaluation sets, and with those that they copy.

    Args:
        sources: of the blend.
        evaluation: sets that must not be in it.
        copied: names of sources, and of the source of the blend that each repeats.
        rules: of the recipe.

    Raises:
        RunFailed: an evaluation set is repeated, and ``leakage`` is ``fail``.
    """
    distance = None if rules.near is None else rules.near.max_distance
    within = PairRules(max_distance=distance, text=False)
    against = PairRules(max_distance=distance, text=rules.text)
    by_name = {source.name: source for source in sources}
    found: list[dict[str, Any]] = []
    if rules.copies == "drop":
        for name, other in copied.items():
            pairs = _pairs([by_name[name]], [by_name[other]], within)
            same = [p for p in pairs if p["kind"] == "image" or p["same_question"]]
            found += [p | {"source": name, "reason": COPY} for p in same]
    leaks: list[dict[str, Any]] = []
    if evaluation:
        for source in sources:
            pairs = _pairs([source], evaluation, against)
            leaks += [p | {"source": source.name, "reason": LEAKS[p["kind"]]} for p in pairs]
    if leaks and rules.leakage == "fail":
        raise RunFailed(_complaint(leaks))
    dropped = found + (leaks if rules.leakage == "drop" else [])
    return Overlaps(_table(dropped), _told(found, leaks, rules.leakage))


def _pairs(
    left: Sequence[Compared], right: Sequence[Compared], rules: PairRules
) -> list[dict[str, Any]]:
    tables = [pa.concat_tables([each.table() for each in side]) for side in (left, right)]
    found = find_pairs(
        tables[0],
        tables[1],
        rules=rules,
        left_images=Images(left).content,
        right_images=Images(right).content,
    )
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def _complaint(leaks: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[tuple[str, str, str], int] = {}
    for leak in leaks:
        key = leak["source"], leak["right_source"], leak["reason"]
        counts[key] = counts.get(key, 0) + 1
    told = [f"{s} repeats {n} of {e} ({reason})" for (s, e, reason), n in counts.items()]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return (
        f"evaluation sets leak into the blend: {'; '.join(told[:_SHOWN])}{more}; set "
        "overlap.leakage to drop to leave these rows out, or to warn to count them"
    )


def _table(dropped: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Each conversation with its first reason."""
    found: dict[str, dict[str, Any]] = {}
    for pair in dropped:
        shard, conversation = map(int, pair["left_id"].split(":"))
        near = "" if pair["distance"] is None else f", {pair['distance']} bits apart"
        found.setdefault(
            pair["left_id"],
            {
                "shard": shard,
                "conversation": conversation,
                "reason": pair["reason"],
                "detail": f"{pair['right_source']}: {pair['kind']}{near}",
            },
        )
    return pa.Table.from_pylist(list(found.values()), DROPPED)


def _told(
    copies: Sequence[Mapping[str, Any]], leaks: Sequence[Mapping[str, Any]], leakage: str
) -> list[dict[str, Any]]:
    conversations: dict[tuple[str, str, str, str], set[str]] = {}
    for pairs, then in ((copies, "dropped"), (leaks, {"drop": "dropped"}.get(leakage, "kept"))):
        for pair in pairs:
            key = pair["source"], pair["right_source"], pair["kind"], then
            conversations.setdefault(key, set()).add(pair["left_id"])
    return [
        {"source": s, "repeats": r, "by": kind, "conversations": len(ids), "then": then}
        for (s, r, kind, then), ids in sorted(conversations.items())
    ]
