"""Builder of ``grounded-narration``: captions whose phrases stand with their boxes, from GRIT."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vila2data.build.arrow import TableBuilder
from vila2data.build.builder import OnRows, Prepared
from vila2data.build.manifest import REJECTS_SUFFIX, Manifest
from vila2data.build.recipe import BuildRecipe
from vila2data.build.tables import rebatched
from vila2data.errors import RunFailed
from vila2data.stats import run_sql

from .recipe import GroundedNarrationRecipe
from .shards import narrated_batches
from .steps import make
from .verifier import problems

SHORT, LONG = "short", "long"
REJECTS = "pool" + REJECTS_SUFFIX

_ROWS_PER_TABLE = 10_000

_BY_CONFIG = """
SELECT config, count(*) AS rows, round(count(*) / sum(count(*)) OVER (), 4) AS share,
       round(avg(len(phrases)), 2) AS mean_phrases,
       round(avg(list_sum([len(p.boxes) FOR p IN phrases])), 2) AS mean_boxes,
       round(avg(length(caption)), 1) AS mean_caption_chars
FROM (SELECT 'short' AS config, phrases, caption FROM "short"
      UNION ALL SELECT 'long', phrases, caption FROM "long")
GROUP BY config ORDER BY config DESC
"""
_BY_STATUS = """
SELECT coalesce(image_status, 'not looked for') AS image_status, count(*) AS rows
FROM (SELECT image_status FROM "short" UNION ALL SELECT image_status FROM "long")
GROUP BY ALL ORDER BY ALL
"""


@dataclass
class GroundedNarrationConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Where the rows of a config come from.

    Attributes:
        rows: files of narrated rows.
        fates: parquet file of what became of them.
        rejects: parquet file of rejected rows.
        long_from: phrases and words from which a row is long.
    """

    rows: Sequence[str] = ()
    fates: str = ""
    rejects: str = ""
    long_from: Sequence[int] = (0, 0)

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache by every setting and by the state of the input files."""
        stamps = [(f, Path(f).stat().st_mtime_ns) for f in (*self.rows, self.fates, self.rejects)]
        told = json.dumps([list(self.long_from), stamps, str(custom_features)])
        return f"{self.name}-{sha256(told.encode()).hexdigest()[:16]}"


class GroundedNarration(TableBuilder):
    """Captions of the web with boxes on their phrases, filtered from GRIT by VILA²'s rules: boxes
    that cover most of the image are left out, and so are images with many instances of a category.

    `grounded_caption` is the caption with the boxes of each phrase behind it; `phrases` holds them
    as numbers (xyxy, 0-1 of the image's width and height; `caption[start:end] == text`). One pool
    is split by how densely a caption is grounded: `long` holds the densest, `short` the others.

    Boxes and phrases of GRIT are a detector's, not people's.
    """

    BUILDER_CONFIG_CLASS = GroundedNarrationConfig
    DATA_SET: ClassVar[str] = "grounded-narration"
    RECIPE: ClassVar[type[BuildRecipe]] = GroundedNarrationRecipe

    def tables(self) -> Iterator[pa.Table]:
        """The rows of a part of the pool, or what was rejected."""
        if self.config.name == REJECTS:
            batches = pq.ParquetFile(self.config.rejects).iter_batches(_ROWS_PER_TABLE)
        else:
            batches = (b for n, f in enumerate(self.config.rows) for b in self._chosen(n, f))
        yield from rebatched(batches, _ROWS_PER_TABLE)

    def _chosen(self, number: int, file: str) -> Iterator[pa.RecordBatch]:
        """Rows of a file that belong to the config."""
        fates = pq.read_table(self.config.fates, filters=[("file", "=", number)])
        reached = 0
        for batch in narrated_batches(Path(file)):
            known = fates["row"].to_numpy()
            first, end = np.searchsorted(known, [reached, reached + batch.num_rows]).tolist()
            table = self._with_fates(batch, fates.slice(first, end - first), reached)
            yield from table.to_batches()
            reached += batch.num_rows

    def _with_fates(self, batch: pa.RecordBatch, fates: pa.Table, reached: int) -> pa.Table:
        """The batch's rows of this config, with what is known of their images."""
        places = fates["row"].to_numpy() - reached
        wanted = self._is_long(batch) == (self.config.name == LONG)
        wanted[places[fates["reject_reason"].is_valid().to_numpy()]] = False
        found = pa.Table.from_batches([batch])
        for name in ("image_sha256", "image_status"):
            found = found.append_column(name, _spread(fates[name], places, batch.num_rows))
        key = pc.coalesce(_spread(fates["key"], places, batch.num_rows), batch["key"])
        found = found.set_column(found.schema.get_field_index("key"), "key", key)
        return found.filter(pa.array(wanted))

    def _is_long(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        phrases, words = self.config.long_from
        count = batch["num_phrases"].to_numpy()
        long: NDArray[np.bool_] = (count > phrases) | (
            (count == phrases) & (batch["num_words"].to_numpy() >= words)
        )
        return long

    @classmethod
    def prepare(cls, recipe: GroundedNarrationRecipe, work: Path, on_rows: OnRows) -> Prepared:
        """Filters and narrates the parts, finds images and duplicates.

        Raises:
            BadInput: a part cannot be read.
            CorpusError: the corpus is none.
            RunFailed: no row is kept.
        """
        made = make(recipe, work / "grounded", on_rows)
        if not made.funnel[-1].written:
            steps = [f"{step.step}: {dict(step.rejected)}" for step in made.funnel if step.rejected]
            raise RunFailed("no row is kept: " + "; ".join(steps))
        return Prepared(
            configs=[SHORT, LONG, REJECTS],
            default_config=SHORT,
            arguments={
                "rows": [str(path) for path in made.rows],
                "fates": str(made.fates),
                "rejects": str(made.rejects),
                "long_from": (made.long_from.phrases, made.long_from.words),
            },
            funnel=made.funnel,
            sources=made.sources,
        )

    @classmethod
    def invariants(cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
        """What is wrong with the rows."""
        return problems(connection, manifest)

    @classmethod
    def statistics(
        cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest
    ) -> dict[str, Any]:
        """The two parts of the pool with their threshold, and what is known of the images."""
        long_from = manifest.sources[0]["long_from"]
        split = [
            {
                **row,
                **{f"from_{n}": v if row["config"] == LONG else None for n, v in long_from.items()},
            }
            for row in run_sql(connection, _BY_CONFIG).dicts()
        ]
        return {
            "split": split,
            "images": run_sql(connection, _BY_STATUS).dicts(),
        }


def _spread(values: pa.ChunkedArray, places: NDArray[np.int64], rows: int) -> pa.Array:
    """A column with ``values`` at ``places`` and null elsewhere."""
    index = np.full(rows, -1)
    index[places] = np.arange(len(places))
    picks = pa.array(index, pa.int64(), mask=index < 0)
    return values.combine_chunks().take(picks)
