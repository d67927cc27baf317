"""Engine ``replay``: answers from an existing build; regenerates a round without a model."""

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from vila2data.build.manifest import MANIFEST_FILE, REJECTS_SUFFIX
from vila2data.build.views import sql_list
from vila2data.errors import BadInput
from vila2data.files import file_sha256
from vila2data.recipe import RecipePath

from .busy import BusyClock
from .protocol import Author, EngineConfig, Request, Result, failed

_NOBODY = Author("replay", None, "replay")
_CHUNK = 4096

_MATCH = """
SELECT asked.place, told.image_sha256 IS NOT DISTINCT FROM asked.image_sha256 AS same_image,
       told.seed, told.caption, told.finish_reason, told.num_tokens,
       told.captioner, told.captioner_revision, told.engine, told.reject_reason
FROM asked
LEFT JOIN told ON told.key = asked.key AND told.task = asked.task AND told.round = asked.round
ORDER BY asked.place
"""


class ReplayConfig(EngineConfig):
    """Settings of engine ``replay``."""

    name: Literal["replay"] = "replay"
    build: RecipePath = Field(description="folder of a coyo-recap build")
    match: Literal["seed", "key"] = Field(
        "seed",
        description="seed: only the recorded attempt; key: the caption at any seed",
    )

    def shaping(self) -> dict[str, Any]:
        """Settings, and the build's manifest by its hash in place of its path."""
        manifest = self.build / MANIFEST_FILE
        told = file_sha256(manifest) if manifest.is_file() else None
        return super().shaping() | {"build": told}

    def problems(self) -> list[str]:
        """The build is not there."""
        there = (self.build / MANIFEST_FILE).is_file()
        return [] if there else [f"engine.build: {self.build}: no such build"]


class ReplayEngine:
    """A captioner that answers with what a build recorded, and signs with who wrote it then.

    Requests are joined with the build in chunks; builds are sorted by key, so a chunk touches few
    row groups.
    """

    Config = ReplayConfig

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self._connection = duckdb.connect()
        # Own settings: the join of a chunk needs little, and replay may run in many workers.
        self._connection.execute("SET threads = 1")
        self._connection.execute("SET enable_progress_bar = false")
        # The caption configs and their rejects; conversations and other tables have no caption
        # column.
        files = [
            p.as_posix()
            for p in sorted(Path(config.build, "data").glob("*/*.parquet"))
            if p.parent.name.removesuffix(REJECTS_SUFFIX) not in ("original", "conversations")
        ]
        if not files:
            raise BadInput(f"engine.build: {config.build} holds no generated captions")
        self._connection.execute(
            "CREATE VIEW told AS SELECT * "
            f"FROM read_parquet({sql_list(files)}, union_by_name = true)"
        )
        self._busy = BusyClock()

    @property
    def busy_s(self) -> float:
        """Seconds of looking up: a build stands in the model's place."""
        return self._busy.seconds

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """One result per request, in their order."""
        remaining = iter(requests)
        while chunk := list(islice(remaining, _CHUNK)):
            asked = _table_of(chunk)  # noqa: F841 - read by DuckDB under this name
            with self._busy.working():
                rows = self._connection.execute(_MATCH).fetchall()
            for place, recorded in groupby(rows, key=itemgetter(0)):
                yield self._answer(chunk[place], list(recorded))

    def _answer(self, request: Request, rows: list[Any]) -> Result:
        """The recorded row of the same image and, unless matched by key, the same seed."""
        index = request.index
        recorded = [row for row in rows if row[3] is not None]
        if not recorded:
            return failed(
                index, _NOBODY, "not_recorded", "the build has no such row", retriable=False
            )
        of_image = [row for row in recorded if row[1]]
        if not of_image:
            return failed(
                index, _NOBODY, "image_changed", "the build's image differs", retriable=False
            )
        for _, _, seed, text, finish, num_tokens, captioner, revision, engine, rejected in of_image:
            if self.config.match == "key" or seed == request.sampling.seed:
                author = Author(captioner, revision, engine)
                reason = rejected if finish == "error" else ""
                # What was recorded was the last attempt; no other has an answer here.
                return Result(
                    index,
                    text,
                    finish,
                    author,
                    num_tokens,
                    error_reason=reason,
                    retriable=False,
                )
        return failed(index, _NOBODY, "not_recorded", "recorded from another attempt")

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def _table_of(requests: list[Request]) -> pa.Table:
    """What tells which rows are meant; ``place`` is that of a request in the list."""
    return pa.table(
        {
            "place": pa.array(range(len(requests)), pa.int32()),
            "key": [request.key for request in requests],
            "task": [request.task for request in requests],
            "round": pa.array([request.round for request in requests], pa.int32()),
            "image_sha256": pa.array([r.image_sha256 for r in requests], pa.string()),
        }
    )
