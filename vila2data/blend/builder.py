"""What the builders of blends share."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.arrow import TableBuilder
from vila2data.build.builder import OnRows, Prepared
from vila2data.build.manifest import REJECTS_SUFFIX, Manifest, read_manifest
from vila2data.build.recipe import BuildRecipe
from vila2data.build.tables import rebatched, streamed, work_connection
from vila2data.build.views import sql_list, sql_name
from vila2data.corpus.images import ImageRefused
from vila2data.errors import BadInput, RunFailed

from .images import ImageStore
from .recipe import BlendRecipe
from .steps import Origin, make
from .verifier import problems

_ROWS_WITH_IMAGES = 100  # as `datasets` writes images
_ROWS = 5_000


@dataclass
class BlendConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Where the rows of a config come from.

    Attributes:
        rows: parquet files of rows.
        origins: of each of them.
        fates: parquet file of the rows that the blend holds.
        rejects: parquet files of what was not used.
        embed: whether images are put into the rows.
        work: folder for what does not fit into memory.
    """

    rows: Sequence[str] = ()
    origins: Sequence[Origin] = ()
    fates: str = ""
    rejects: Sequence[str] = ()
    embed: bool = True
    work: str | None = None

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache by every setting and by the state of the input files."""
        files = [*self.rows, self.fates, *self.rejects]
        stamps = [(path, Path(path).stat().st_mtime_ns) for path in files]
        told = json.dumps([self.embed, stamps, str(custom_features)])
        return f"{self.name}-{sha256(told.encode()).hexdigest()[:16]}"


class BlendBuilder(TableBuilder):
    """A data set of conversations from many sources."""

    BUILDER_CONFIG_CLASS = BlendConfig
    DATA_SET: ClassVar[str]
    RECIPE: ClassVar[type[BuildRecipe]] = BlendRecipe

    def tables(self) -> Iterator[pa.Table]:
        """The chosen rows, or the rejected ones."""
        if self.config.name.endswith(REJECTS_SUFFIX):
            return self._rejects()
        size = _ROWS_WITH_IMAGES if self.config.embed else _ROWS
        return rebatched(self._batches(), size)

    def _rejects(self) -> Iterator[pa.Table]:
        files = sql_list(self.config.rejects)
        with work_connection(self.config.work) as connection:
            rows = f"SELECT * FROM read_parquet({files}) ORDER BY source, id, reject_reason, detail"
            yield from rebatched(streamed(connection, rows, _ROWS), _ROWS)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        size = _ROWS_WITH_IMAGES if self.config.embed else _ROWS
        for shard, file in enumerate(self.config.rows):
            fates = pq.read_table(self.config.fates, filters=[("shard", "=", shard)])
            wanted, ids = fates["row"].to_numpy(), fates["id"]
            reached = 0
            for batch in pq.ParquetFile(file).iter_batches(size):
                first, end = np.searchsorted(wanted, [reached, reached + batch.num_rows]).tolist()
                if end > first:
                    rows = pa.Table.from_batches([batch]).take(wanted[first:end] - reached)
                    named = rows.append_column("id", ids.slice(first, end - first))
                    yield from self._finished(named, shard).to_batches()
                reached += batch.num_rows

    def _finished(self, rows: pa.Table, shard: int) -> pa.Table:
        """The rows with their images, and with what is known of their source."""
        origin = self.config.origins[shard]
        for column in ("source", "task", "license"):
            value = getattr(origin, column)
            rows = rows.append_column(column, pa.array([value] * len(rows), pa.string()))
        images = rows["images"].to_pylist()
        rows = rows.drop_columns("images")
        if self.config.embed:
            held = [[_embedded(image, origin.images) for image in each] for each in images]
            kind = self.info.features.arrow_schema.field("images").type
            return rows.append_column("images", pa.array(held, kind))
        paths = [[image["name"] for image in each] for each in images]
        return rows.append_column("image_paths", pa.array(paths, pa.list_(pa.string())))

    @classmethod
    def prepare(cls, recipe: BlendRecipe, work: Path, on_rows: OnRows) -> Prepared:
        """Reads the sources, makes conversations, compares and chooses.

        Raises:
            BadInput: a source is missing or cannot be read, or the base is of another data set.
            RunFailed: an evaluation set leaks into the blend, or no row is left.
        """
        configs = [recipe.config, recipe.config + REJECTS_SUFFIX]
        carried = [c for c in cls._configs_of(recipe.base) if c not in configs]
        made = make(recipe, work / "blend", on_rows)
        if not made.funnel[-1].written:
            steps = [f"{step.step}: {dict(step.rejected)}" for step in made.funnel if step.rejected]
            raise RunFailed("no row is left: " + "; ".join(steps))
        return Prepared(
            configs=configs,
            default_config=recipe.config,
            carried=carried,
            base=recipe.base,
            arguments={
                "rows": [str(path) for path in made.rows],
                "origins": made.origins,
                "fates": str(made.fates),
                "rejects": [str(path) for path in made.rejects],
                "embed": recipe.images == "embed",
                "work": str(work),
            },
            funnel=made.funnel,
            sources=made.sources,
        )

    @classmethod
    def _configs_of(cls, base: Path | None) -> list[str]:
        if base is None:
            return []
        manifest = read_manifest(base)
        if manifest.data_set != cls.DATA_SET:
            raise BadInput(f"base: {base} is {manifest.data_set}, not {cls.DATA_SET}")
        return manifest.configs

    @classmethod
    def invariants(cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
        """What is wrong with the rows."""
        return problems(connection, manifest)

    @classmethod
    def statistics(
        cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest
    ) -> dict[str, Any]:
        """What was wanted and found of each source, labels that rules cleaned, and overlap."""
        config = manifest.recipe["config"]
        rows = connection.execute(
            f"SELECT source, count(*) FROM {sql_name(config)} GROUP BY source"
        ).fetchall()
        told = [
            each
            for each in manifest.sources
            if each["config"] == config and each["role"] == "source"
        ]
        tables = {
            "sources": [_wanted_and_found(each, dict(rows)) for each in told],
            "cleaned_labels": [
                {"source": each["source"], "rule": rule, "labels": count}
                for each in told
                for rule, count in each.get("cleaned", {}).items()
            ],
            "overlap": [pairs for each in told for pairs in each.get("overlap", ())]
            + [
                {"source": None, "repeats": each["source"], "by": None}
                | {"conversations": None, "then": "not compared: was not found"}
                for each in manifest.sources
                if each["config"] == config and each["role"] == "evaluation" and "missing" in each
            ],
        }
        return {name: table for name, table in tables.items() if table}


def _wanted_and_found(told: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    name, wanted = told["source"], told["wanted"]
    found = rows.get(name, 0)
    return {
        "source": name,
        "license": told["license"],
        "wanted": wanted,
        "records": told.get("records"),
        "conversations": told.get("conversations"),
        "rows": found,
        "off_by": None if wanted is None else found - wanted,
        "tokens": told.get("tokens"),
        "misnamed_images": told.get("misnamed_images"),
        "note": told.get("missing"),
    }


def _embedded(image: dict[str, Any], store: ImageStore) -> dict[str, Any]:
    try:
        content = store.content(image, image["shard"])
    except ImageRefused as refused:
        raise RunFailed(f"an image was there and is gone: {refused}") from refused
    return {"bytes": content, "path": Path(image["name"] or image["sha256"]).name}
