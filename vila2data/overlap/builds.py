"""The conversations of a build, signed, and found again by their numbers."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.console import Advance
from vila2data.corpus.images import ImageLimits, ImageRefused, Problem
from vila2data.export.row import Picture, Row
from vila2data.export.rows import Conversations, open_conversations

from .signature import SIGNATURES, image_signature
from .text import text_keys

_TOGETHER = 64  # rows signed at a time
_ROW_GROUPS_HELD = 4
_LIMITS = ImageLimits()


@dataclass
class Collection:
    """A config of a build. Rows are known by their numbers, from 0, since ids need not be unique.

    Attributes:
        label: names it on pages.
        conversations: its rows.
        refused: how many rows or images could not be used, by reason.
        names: ids of the rows, once they are signed.
    """

    label: str
    conversations: Conversations
    refused: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, build: Path, *, config: str | None, images: Path | None) -> "Collection":
        """A config of a build.

        Args:
            build: folder.
            config: the build's default one where None.
            images: folder below which the images are that rows name.

        Raises:
            BuildError: the folder is no build.
            BadInput: the config is unknown, or its rows or their images cannot be had.
        """
        opened = open_conversations(build, config=config, images=images, corpus=None)
        manifest = opened.manifest
        return cls(f"{manifest.data_set} {manifest.version} {opened.config}", opened)

    def signatures(self, *, near: bool, views: bool, workers: int, done: Advance) -> pa.Table:
        """A table of ``SIGNATURES``; what cannot be used is left out and counted.

        Args:
            near: hash what images show, not their bytes alone.
            views: hash crops too.
            workers: threads.
            done: told how many rows are finished.
        """
        tables = [SIGNATURES.empty_table()]
        rows = enumerate(self.conversations.rows())
        with ThreadPoolExecutor(workers) as pool:
            while some := list(islice(rows, _TOGETHER)):
                signed = list(pool.map(lambda r: self._signed(r[0], r[1][1], near, views), some))
                self.names += [name for _, (name, _) in some]
                records = [record for records, _ in signed for record in records]
                tables.append(pa.Table.from_pylist(records, SIGNATURES))
                self.refused.update(reason for _, reasons in signed for reason in reasons)
                done(len(some))
        return pa.concat_tables(tables)

    def _signed(
        self, number: int, row: Row | Problem, near: bool, views: bool
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Records of a row, and why some of it has none."""
        if isinstance(row, Problem):
            return [], [row.reason]
        about = {"id": str(number), "source": row.about.get("source", self.label)}
        records, reasons = [], []
        for place, picture in enumerate(row.pictures):
            if picture.content is None:
                reasons.append("image_not_here")
                continue
            try:
                signed = image_signature(picture.content, _LIMITS, near=near, views=views)
            except ImageRefused as refused:
                reasons.append(refused.problem.reason)
                continue
            records.append(about | {"image": place} | asdict(signed))
        keys = text_keys(row.messages)
        records = records or [about]
        records[0] |= {"text_keys": keys.exchanges, "question_keys": keys.questions}
        return records, reasons

    @cached_property
    def _ends(self) -> list[int]:
        """Rows up to the end of each file."""
        return list(accumulate(pq.read_metadata(f).num_rows for f in self.conversations.files))

    @cached_property
    def _groups(self) -> "_Groups":
        return _Groups()

    def record(self, number: int) -> Mapping[str, Any]:
        """A row as the build has it."""
        place = bisect_right(self._ends, number)
        file = self.conversations.files[place]
        return self._groups.record(file, number - (self._ends[place - 1] if place else 0))

    def pictures(self, number: int) -> list[Picture]:
        """The images of a row; none where they cannot be had."""
        found = next(self.conversations.finder.find([self.record(number)]))
        return [] if isinstance(found, Problem) else found

    def content(self, name: str, image: int) -> bytes | None:
        """The bytes of an image of a row, by its number as text."""
        pictures = self.pictures(int(name))
        return pictures[image].content if image < len(pictures) else None


class _Groups:
    """Row groups of parquet files, the last few of them held."""

    def __init__(self) -> None:
        self._starts = lru_cache(maxsize=None)(self._starts_of)
        self._read = lru_cache(_ROW_GROUPS_HELD)(self._rows_of)

    def record(self, file: Path, row: int) -> dict[str, Any]:
        """A row of a file."""
        starts = self._starts(file)
        group = bisect_right(starts, row) - 1
        found: dict[str, Any] = self._read(file, group).slice(row - starts[group], 1).to_pylist()[0]
        return found

    @staticmethod
    def _starts_of(file: Path) -> list[int]:
        metadata = pq.read_metadata(file)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return [0, *accumulate(sizes)][:-1]

    @staticmethod
    def _rows_of(file: Path, group: int) -> pa.Table:
        with pq.ParquetFile(file) as opened:
            return opened.read_row_group(group)
