"""Builder of ``coyo-recap``: original texts, rounds of recaptions, specialists' answers,
conversations.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import datasets
import duckdb
import pyarrow as pa
from pydantic import Field

from vila2data.build.arrow import TableBuilder
from vila2data.build.builder import OnRows, Prepared
from vila2data.build.manifest import REJECTS_SUFFIX, FunnelStep, Manifest, read_manifest
from vila2data.build.recipe import BuildRecipe
from vila2data.build.tables import ROWS_PER_RANGE, key_ranges, rebatched, streamed, work_connection
from vila2data.build.views import sql_list
from vila2data.build.work import funnel_step
from vila2data.conversation import Answer, compose
from vila2data.corpus.identity import corpus_source
from vila2data.corpus.read import list_shards
from vila2data.errors import BadInput
from vila2data.prompts import template
from vila2data.recaption.ledger import Ledger
from vila2data.recaption.run import scan
from vila2data.recaption.spec import LimitRules, RecaptionSpec
from vila2data.recipe import RecipePath, RecipePlace
from vila2data.schema import CONVERSATION
from vila2data.stats import run_sql, statements
from vila2data.storage import Place, RemotePath, download

from . import coyo_recap_rules

ORIGINAL = "original"
CONVERSATIONS = "conversations"
_ROWS_PER_GROUP = 10_000

# One copy of a key, the same in every config: chosen by image and text, never by what became of its
# caption.
_LEDGER_ROWS = """
SELECT * EXCLUDE (copy, reject_reason),
       CASE WHEN copy > 1 THEN 'duplicate_key' ELSE reject_reason END AS reject_reason
FROM (SELECT *, row_number() OVER (
          PARTITION BY key ORDER BY image_sha256 NULLS LAST, original, url) AS copy
      FROM read_parquet({files}, union_by_name = true) WHERE {within})
"""
_ORDER = "ORDER BY key, image_sha256, original, caption, reject_reason"

_CONVERSATION_ROWS = """
WITH general AS (
    SELECT key, arg_max(caption, round) AS caption, arg_max(template_id, round) AS template_id
    FROM captions WHERE task = 'general' AND round > 0 GROUP BY key),
specialists AS (
    SELECT key, list(struct_pack(task := task, text := caption) ORDER BY task) AS answers
    FROM (SELECT key, task, arg_max(caption, round) AS caption
          FROM captions WHERE task <> 'general' GROUP BY key, task) GROUP BY key)
SELECT o.key, o.id, o.url, o.image_sha256, o.original,
       coalesce(g.caption, '') AS caption, coalesce(g.template_id, '') AS template_id,
       coalesce(s.answers, []) AS answers
FROM originals o LEFT JOIN general g USING (key) LEFT JOIN specialists s USING (key)
WHERE g.key IS NOT NULL OR s.key IS NOT NULL
   OR (o.usable AND o.key NOT IN (SELECT key FROM refused))
ORDER BY o.key
"""


class CoyoRecapRecipe(BuildRecipe):
    """Recipe of ``coyo-recap``: a version is the base's configs, the recipe's own round, and
    further runs.
    """

    corpus: RecipePlace = Field(description="folder of tars; see `vila2data corpus pack`")
    base: RecipePath | None = Field(
        None, description="earlier build of the same corpus whose configs are carried along"
    )
    recaption: RecaptionSpec | None = Field(None, description="the round that this recipe adds")
    runs: Sequence[RecipePlace] = Field((), description="folders of further finished runs")
    template: str = "concatenated"
    limits: LimitRules = LimitRules()
    license: str = Field("cc-by-4.0", description="COYO-700M's is cc-by-4.0")

    def problems(self) -> list[str]:
        """Folders that are not there, and what the engine lacks."""
        found = []
        if not self.corpus.is_dir():
            found.append(
                f"corpus: {self.corpus}: no such folder; `vila2data corpus pack` makes one"
            )
        if self.base is not None and not self.base.is_dir():
            found.append(f"base: {self.base}: no such build")
        if self.recaption is not None:
            found += [f"recaption.{told}" for told in self.recaption.engine.problems()]
            found += [f"recaption.executor.{told}" for told in self.recaption.executor.problems()]
        return found


@dataclass
class CoyoRecapConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Where the rows of a config come from.

    Attributes:
        originals: parquet files of the original texts, with and without problems.
        captions: parquet files of each caption config, rows with a ``reject_reason`` among them or
            not.
        template: joins original and recaption where the caption rows name none.
        seed: of the data set.
        work: folder for what does not fit into memory.
    """

    originals: Sequence[str] = ()
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    template: str = "concatenated"
    seed: int = 0
    work: str | None = None

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Names the cache by every setting and by the state of the input files, so that a file that
        was written anew is not taken for the old one.
        """
        patterns = [*self.originals, *(p for files in self.captions.values() for p in files)]
        inputs = sorted(path for pattern in patterns for path in glob(pattern))  # noqa: PTH207
        stamps = [(path, Path(path).stat().st_mtime_ns) for path in inputs]
        told = json.dumps(
            [config_kwargs, str(custom_features), stamps], sort_keys=True, default=str
        )
        return f"{self.name}-{sha256(told.encode()).hexdigest()[:16]}"


class CoyoRecap(TableBuilder):
    """Image-text pairs from the web, recaptioned in rounds by the model that was trained on them,
    by the recipe of VILA².

    `original` holds the text an image was found with. `roundN` holds what the model of round N-1
    wrote; `spatial`, `grounding` and `ocr` what specialists wrote. `conversations` (the default)
    joins the original text, the newest recaption that passed the gate, and the specialists' answers
    to turns for training; special tokens and role labels in them are made inert there, and only
    there.

    Captions carry no images: `vila2data.corpus.attach_images(dataset, corpus)` joins them by key
    and hash.
    """

    BUILDER_CONFIG_CLASS = CoyoRecapConfig
    DATA_SET: ClassVar[str] = "coyo-recap"
    RECIPE: ClassVar[type[BuildRecipe]] = CoyoRecapRecipe

    def tables(self) -> Iterator[pa.Table]:
        """The captions of a round or task, the rejected ones, or the conversations."""
        with work_connection(self.config.work) as connection:
            is_made = self.config.name == CONVERSATIONS
            rows_of = self._conversations if is_made else self._captions
            files = self.config.originals if is_made else self._caption_files()
            keys = f"SELECT key FROM read_parquet({sql_list(files)}, union_by_name = true)"
            ranges = key_ranges(connection, keys, ROWS_PER_RANGE)
            batches = (batch for within in ranges for batch in rows_of(connection, within))
            yield from rebatched(batches, _ROWS_PER_GROUP)

    def _caption_files(self) -> Sequence[str]:
        config = self.config.name.removesuffix(REJECTS_SUFFIX)
        sources: Mapping[str, Sequence[str]] = self.config.captions
        files = self.config.originals if config == ORIGINAL else sources.get(config)
        if not files:
            known = ", ".join([ORIGINAL, *self.config.captions])
            raise BadInput(f"config '{config}' has no source; configs with one: {known}")
        return files

    def _captions(
        self, connection: duckdb.DuckDBPyConnection, within: str
    ) -> Iterator[pa.RecordBatch]:
        rejected = "NOT" if self.config.name.endswith(REJECTS_SUFFIX) else ""
        rows = _ledger_rows(self._caption_files(), within)
        query = f"SELECT * FROM ({rows}) WHERE reject_reason IS {rejected} NULL {_ORDER}"
        return streamed(connection, query, _ROWS_PER_GROUP)

    def _conversations(
        self, connection: duckdb.DuckDBPyConnection, within: str
    ) -> Iterator[pa.RecordBatch]:
        view = "CREATE OR REPLACE TEMP VIEW"
        originals = _ledger_rows(self.config.originals, within)
        connection.execute(
            f"{view} originals AS SELECT *, reject_reason IS NULL AS usable "
            f"FROM ({originals}) WHERE reject_reason IS DISTINCT FROM 'duplicate_key'"
        )
        rows = [_ledger_rows(files, within) for files in self.config.captions.values()]
        kept = [
            f"SELECT key, task, round, caption, template_id FROM ({r}) WHERE reject_reason IS NULL"
            for r in rows
        ]
        nothing = "SELECT key, task, round, caption, template_id FROM originals WHERE false"
        connection.execute(f"{view} captions AS {' UNION ALL '.join([nothing, *kept])}")
        # The scan of the originals reads headers alone; that an image cannot be decoded is found by
        # the engine that had to look at it.
        seen = [f"SELECT key FROM ({r}) WHERE starts_with(reject_reason, 'image_')" for r in rows]
        nobody = "SELECT key FROM originals WHERE false"
        connection.execute(f"{view} refused AS {' UNION ALL '.join([nobody, *seen])}")
        schema = CONVERSATION.arrow_schema.remove_metadata()
        for batch in streamed(connection, _CONVERSATION_ROWS, _ROWS_PER_GROUP):
            rows_of_batch = [self._conversation(row) for row in batch.to_pylist()]
            yield from pa.Table.from_pylist(
                [row for row in rows_of_batch if row], schema=schema
            ).to_batches()

    def _conversation(self, row: dict[str, Any]) -> dict[str, Any] | None:
        made = compose(
            row["key"],
            original=row["original"],
            caption=row["caption"],
            template=template(row["template_id"] or self.config.template),
            answers=[Answer(a["task"], a["text"]) for a in row["answers"]],
            seed=self.config.seed,
        )
        if made is None:
            return None
        identity = {name: row[name] for name in ("key", "id", "url", "image_sha256")}
        turns = {"tasks": made.tasks, "question_ids": made.question_ids}
        return {**identity, "messages": made.messages, **turns}

    @classmethod
    def prepare(cls, recipe: CoyoRecapRecipe, work: Path, on_rows: OnRows) -> Prepared:
        """Scans the corpus's original texts, unless the base has them, and finds the finished runs.

        Raises:
            BadInput: a run is not there, is not finished, or its config is in the base already.
        """
        shards = list_shards(recipe.corpus)
        carried = _carried(recipe)
        funnel: list[FunnelStep] = []
        configs: list[str] = []
        if recipe.base is not None:
            originals = _files_of(recipe.base, ORIGINAL)
        else:
            counts = scan(
                recipe.corpus, work / ORIGINAL, limits=recipe.limits.reading(), on_sample=on_rows
            )
            funnel.append(funnel_step("read the corpus", counts))
            originals = [(work / ORIGINAL / "shards" / "*.parquet").as_posix()]
            configs += [ORIGINAL, ORIGINAL + REJECTS_SUFFIX]
        captions = {c: _files_of(recipe.base, c) for c in carried if recipe.base and _is_caption(c)}
        sources: list[Mapping[str, Any]] = [corpus_source(recipe.corpus, shards)]
        for folder in _runs(recipe):
            ledger = Ledger.open(folder)
            config = _config_of(ledger)
            if config in captions:
                raise BadInput(
                    f"{folder}: config '{config}' is in the base, or in another run, already"
                )
            funnel.append(funnel_step(config, ledger.total(shards)))
            captions[config] = [_shards_of(ledger, work / config)]
            configs += [config, config + REJECTS_SUFFIX]
            sources.append({"run": config, "fingerprint": ledger.fingerprint, **ledger.shaping})
        return Prepared(
            configs=[*configs, CONVERSATIONS],
            default_config=CONVERSATIONS,
            carried=carried,
            base=recipe.base,
            arguments={
                "originals": originals,
                "captions": captions,
                "template": recipe.template,
                "seed": recipe.seed,
                "work": str(work),
            },
            funnel=funnel,
            sources=sources,
        )

    @classmethod
    def funnel(cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[FunnelStep]:
        """Images that became conversations."""
        return coyo_recap_rules.conversation_funnel(connection)

    @classmethod
    def invariants(cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
        """What is wrong with the rows."""
        return coyo_recap_rules.problems(connection, manifest.configs)

    @classmethod
    def statistics(
        cls, connection: duckdb.DuckDBPyConnection, manifest: Manifest
    ) -> dict[str, Any]:
        """Table 1 by config, and the length of the training text, which is neither original nor
        recaption alone.
        """
        training_text = run_sql(connection, coyo_recap_rules.TRAINING_TEXT).dicts()[0]
        lengths = run_sql(connection, statements("length")).dicts()
        return {"captions": lengths, "training_text": training_text}


def _ledger_rows(files: Sequence[str], within: str) -> str:
    return _LEDGER_ROWS.format(files=sql_list(files), within=within)


def _is_caption(config: str) -> bool:
    return config not in (ORIGINAL, CONVERSATIONS) and not config.endswith(REJECTS_SUFFIX)


def _carried(recipe: CoyoRecapRecipe) -> list[str]:
    """Configs of the base; conversations are made anew."""
    if recipe.base is None:
        return []
    manifest = read_manifest(recipe.base)
    if manifest.data_set != CoyoRecap.DATA_SET:
        raise BadInput(f"base: {recipe.base} is {manifest.data_set}, not {CoyoRecap.DATA_SET}")
    return [config for config in manifest.configs if config != CONVERSATIONS]


def _files_of(base: Path, config: str) -> list[str]:
    """A carried config with its rejects: a config's whole ledger, as a run's shards are."""
    return [
        (base / "data" / folder / "*.parquet").as_posix()
        for folder in (config, config + REJECTS_SUFFIX)
    ]


def _runs(recipe: CoyoRecapRecipe) -> list[Place]:
    own = [recipe.recaption.run] if recipe.recaption else []
    return [*own, *recipe.runs]


def _shards_of(ledger: Ledger, work: Path) -> str:
    """The files of a run for DuckDB; those of a remote one are copied, since they are read several
    times.
    """
    files = [file for file in ledger.shard_files() if isinstance(file, RemotePath)]
    if files:
        shutil.rmtree(work, ignore_errors=True)  # of a run that was begun anew
        download(sorted(files), work)
        return (work / "*.parquet").as_posix()
    return f"{ledger.folder.as_posix()}/shards/*.parquet"


def _config_of(ledger: Ledger) -> str:
    task = str(ledger.shaping["task"])
    return f"round{ledger.shaping['round']}" if task == "general" else task
