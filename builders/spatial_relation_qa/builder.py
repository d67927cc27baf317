"""Builder of ``spatial-relation-qa``: conversations about space, made from 3D boxes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import datasets
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.arrow import TableBuilder
from vila2data.build.builder import OnRows, Prepared
from vila2data.build.manifest import REJECTS_SUFFIX, Manifest
from vila2data.build.recipe import BuildRecipe
from vila2data.build.tables import rebatched, streamed, work_connection
from vila2data.build.views import sql_list
from vila2data.build.work import row_count
from vila2data.errors import RunFailed
from vila2data.stats import run_sql

from .recipe import SpatialRelationQARecipe
from .source import Source
from .steps import make
from .verifier import problems

DEFAULT = "default"
REJECTS = DEFAULT + REJECTS_SUFFIX

_ROWS_WITH_IMAGES = 100  # as `datasets` writes images
_ROWS = 1_000

_BY_RELATION = """
SELECT r.family, r.relation, split_part(r.template_id, '.', 3) AS form, count(*) AS questions,
       round(count(*) / sum(count(*)) OVER (), 4) AS share,
       count(DISTINCT r.template_id) AS templates, round(median(r.gap::DOUBLE), 3) AS median_gap_m
FROM (SELECT unnest(relations) AS r FROM "default") GROUP BY ALL ORDER BY ALL
"""
_BY_SOURCE = """
SELECT source, count(*) AS conversations, sum(len(relations))::BIGINT AS questions,
       sum(len(objects))::BIGINT AS boxes, round(avg(len(objects)), 2) AS mean_boxes,
       count(*) FILTER (flip_safe) AS flip_safe
FROM "default" GROUP BY source ORDER BY source
"""


@dataclass
class SpatialRelationQAConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Where the rows of a config come from.

    Attributes:
        rows: parquet files of conversations with the names of their images.
        rejects: parquet files of what was not used.
        sources: what finds the images, by name.
        embed: whether images are put into the rows.
        work: folder for what does not fit into memory.
    """

    rows: Sequence[str] = ()
    rejects: Sequence[str] = ()
    sources: Sequence[Source] = ()
    embed: bool = True
    work: str | None = None

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache by every setting and by the state of the input files."""
        files = [*self.rows, *self.rejects]
        stamps = [(path, Path(path).stat().st_mtime_ns) for path in files]
        sources = [source.name for source in self.sources]
        told = json.dumps([self.embed, sources, stamps, str(custom_features)])
        return f"{self.name}-{sha256(told.encode()).hexdigest()[:16]}"


class SpatialRelationQA(TableBuilder):
    """Question-answer conversations about where things are, made from annotated 3D boxes, by the
    recipe of VILA²'s SpatialRelationQA.

    Each question asks for the one box of a class that stands in a relation to another box (closest,
    in front of, behind, left, right) or to the camera (close, far, closest, farthest, left, right).
    All directions are the camera's. It is asked only where the relation holds for exactly one box
    of the class and no other comes near it; boxes that are hidden, cut off or too small are never
    asked for, but do count as rivals. `relations` names anchor, target, candidates and margin of
    every answer; `objects` and `intrinsics` are what it follows from, and `vila2data verify`
    computes each answer again from them.

    `flip_safe` rows speak of no side: they stay true when the image and the boxes are mirrored.
    """

    BUILDER_CONFIG_CLASS = SpatialRelationQAConfig
    DATA_SET: ClassVar[str] = "spatial-relation-qa"
    RECIPE: ClassVar[type[BuildRecipe]] = SpatialRelationQARecipe

    def tables(self) -> Iterator[pa.Table]:
        """The conversations, or the objects that nothing is asked of."""
        return self._rejects() if self.config.name.endswith(REJECTS_SUFFIX) else self._rows()

    def _rows(self) -> Iterator[pa.Table]:
        size = _ROWS_WITH_IMAGES if self.config.embed else _ROWS
        batches = (b for path in self.config.rows for b in pq.ParquetFile(path).iter_batches(size))
        for table in rebatched(batches, size):
            yield self._with_images(table) if self.config.embed else table

    def _rejects(self) -> Iterator[pa.Table]:
        files = sql_list(self.config.rejects)
        with work_connection(self.config.work) as connection:
            rows = f"SELECT * FROM read_parquet({files}) ORDER BY id, object NULLS FIRST"
            yield from rebatched(streamed(connection, rows, _ROWS), _ROWS)

    def _with_images(self, table: pa.Table) -> pa.Table:
        sources = {source.name: source for source in self.config.sources}
        images = []
        for name, path in zip(
            table["source"].to_pylist(), table["image_path"].to_pylist(), strict=True
        ):
            content = sources[name].image(path)
            if content is None:
                raise RunFailed(f"{name}: the image {path} was there and is gone")
            images.append({"bytes": content, "path": Path(path).name})
        kind = self.info.features.arrow_schema.field("image").type
        return table.append_column("image", pa.array(images, kind))

    @classmethod
    def prepare(cls, recipe: SpatialRelationQARecipe, work: Path, on_rows: OnRows) -> Prepared:
        """Reads and cleans the sources, and asks.

        Raises:
            BadInput: the files of a source cannot be read.
            RunFailed: there is nothing to ask about.
        """
        made = make(recipe, work / "spatial", on_rows)
        if not row_count(made.rows):
            steps = [f"{step.step}: {dict(step.rejected)}" for step in made.funnel if step.rejected]
            raise RunFailed("no scene gives a question: " + "; ".join(steps))
        return Prepared(
            configs=[DEFAULT, REJECTS],
            default_config=DEFAULT,
            arguments={
                "rows": [str(path) for path in made.rows],
                "rejects": [str(path) for path in made.rejects],
                "sources": list(recipe.sources),
                "embed": recipe.images == "embed",
                "work": str(work),
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
        """Questions by relation and form, and conversations by source."""
        return {
            "questions": run_sql(connection, _BY_RELATION).dicts(),
            "conversations": run_sql(connection, _BY_SOURCE).dicts(),
        }
