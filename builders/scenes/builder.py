"""Builder of ``scenes``: rendered scenes with exact ground truth, and their corpus."""

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
from vila2data.build.manifest import Manifest
from vila2data.build.recipe import BuildRecipe
from vila2data.build.tables import rebatched
from vila2data.build.views import sql_name, sql_text
from vila2data.stats import run_sql

from .drawing import TRAIN
from .recipe import ScenesRecipe
from .steps import make
from .verifier import problems

_ROWS_PER_TABLE = 1_000

_BY_CONFIG = """
SELECT config, count(*) AS scenes, round(avg(len(objects)), 2) AS mean_objects,
       round(avg(list_avg([a.visibility FOR a IN attributes])), 3) AS mean_visibility,
       round(avg(len(string_split(alt_text, ' '))), 1) AS mean_alt_text_words,
       count(reference) AS references,
       round(avg(len(string_split(reference, ' '))), 1) AS mean_reference_words,
       count(*) FILTER (len(questions) > 0) AS with_questions, count(messages) AS conversations
FROM scenes GROUP BY config ORDER BY config DESC
"""
_BY_ANSWER = """
WITH answers AS (
    SELECT asked.kind AS kind, asked.answer AS answer,
           count(*) FILTER (config = 'train') AS train, count(*) FILTER (config = 'test') AS test
    FROM (SELECT config, unnest(questions) AS asked FROM scenes)
    GROUP BY asked.kind, asked.answer)
SELECT kind, answer, train, round(train / nullif(sum(train) OVER of_kind, 0), 3) AS train_share,
       test, round(test / nullif(sum(test) OVER of_kind, 0), 3) AS test_share
FROM answers WINDOW of_kind AS (PARTITION BY kind) ORDER BY kind, answer
"""


@dataclass
class ScenesConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Where the rows of a config come from.

    Attributes:
        rows: parquet files by config.
    """

    rows: dict[str, Sequence[str]] | None = None

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache by every setting and by the state of the input files."""
        files = (self.rows or {}).get(self.name, ())
        stamps = [(path, Path(path).stat().st_mtime_ns) for path in files]
        told = json.dumps([stamps, str(custom_features)])
        return f"{self.name}-{sha256(told.encode()).hexdigest()[:16]}"


class Scenes(TableBuilder):
    """Rendered 3D scenes of simple objects with exact ground truth: boxes in the image and in
    space, attributes, visibility, and texts that follow from them.

    `alt_text` is short, partial and now and then wrong, in the manner of texts from the web;
    `reference` is a true description, for a share of the scenes; `questions` have one answer each.
    `messages` is a conversation of both for fine-tuning. Sides and depth are the camera's: left of
    means that the centre has the smaller x/z, in front of that it is nearer, both by a margin. An
    object's `bbox` is that of its whole outline within the image, hidden parts included.

    The images are not in the rows: they stand, with their alt-texts, in the corpus that the build
    was written with, under the same keys and with the sha256 of the rows.
    """

    BUILDER_CONFIG_CLASS = ScenesConfig
    DATA_SET: ClassVar[str] = "scenes"
    RECIPE: ClassVar[type[BuildRecipe]] = ScenesRecipe

    def tables(self) -> Iterator[pa.Table]:
        """The scenes of a split."""
        columns = list(self.info.features)
        batches = (
            batch
            for path in self.config.rows[self.config.name]
            for batch in pq.ParquetFile(path).iter_batches(columns=columns)
        )
        yield from rebatched(batches, _ROWS_PER_TABLE)

    @classmethod
    def prepare(cls, recipe: ScenesRecipe, work: Path, on_rows: OnRows) -> Prepared:
        """Draws the scenes, and writes their corpus.

        Raises:
            RunRefused: the corpus holds other images.
            RunFailed: a scene cannot be drawn by these rules.
        """
        made = make(recipe, work / "scenes", on_rows)
        rows = {split: [str(path) for path in files] for split, files in made.rows.items()}
        return Prepared(
            configs=list(rows),
            default_config=TRAIN,
            arguments={"rows": rows},
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
        """Scenes by config, and questions by kind and answer."""
        configs = " UNION ALL ".join(
            f"SELECT {sql_text(config)} AS config, * FROM {sql_name(config)}"
            for config in manifest.configs
        )
        connection.execute(f"CREATE OR REPLACE TEMP VIEW scenes AS {configs}")
        return {
            "scenes": run_sql(connection, _BY_CONFIG).dicts(),
            "answers": run_sql(connection, _BY_ANSWER).dicts(),
        }
