"""The way from a recipe to rows and corpora: draw and render in parallel, then pack.

Each task leaves a file in the build's work folder, and the corpus grows by whole shards; a build
that was killed goes on from those.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.builder import OnRows
from vila2data.build.manifest import FunnelStep
from vila2data.build.work import bind, funnel_step, steps_in, write_shard
from vila2data.corpus.identity import corpus_source
from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.counts import Counts, added
from vila2data.errors import RunRefused
from vila2data.executor import run_tasks
from vila2data.runfolder import locked, read_shaping, refuse_differences, write_shaping
from vila2data.schema import SCENES

from .drawing import TEST, TRAIN, draw_scene
from .recipe import ScenesRecipe

_SCENES_PER_TASK = 50  # some seconds of rendering
_SCENES_PER_TAR = 1000
_IMAGE = "image"
_SHARD = pa.schema([*SCENES.arrow_schema, pa.field(_IMAGE, pa.binary())])
_OTHER_CORPUS = "Use another corpus, or remove this one."


@dataclass(frozen=True, slots=True)
class Task:
    """Scenes ``first`` to ``end`` of a split, and the file that they become."""

    recipe: ScenesRecipe
    split: str
    first: int
    end: int
    out: Path


@dataclass(frozen=True, slots=True)
class Made:
    """What the steps left.

    Attributes:
        rows: parquet files by split, in order; with a column for the images beside those of the
            schema.
        funnel, sources: for the manifest.
    """

    rows: Mapping[str, Sequence[Path]]
    funnel: list[FunnelStep]
    sources: list[Mapping[str, Any]]


def splits_of(recipe: ScenesRecipe) -> dict[str, int]:
    """Scenes by split; a split without any is none."""
    return {split: n for split, n in ((TRAIN, recipe.train), (TEST, recipe.test)) if n}


def make(recipe: ScenesRecipe, work: Path, on_rows: OnRows) -> Made:
    """Does all steps.

    Raises:
        RunRefused: the corpus holds other images.
        RunFailed: a scene cannot be drawn by these rules.
    """
    with locked(recipe.corpus):
        _bind_corpus(recipe)
        bind(work, recipe.model_dump(mode="json", exclude={"executor", "out", "max_shard_size"}))
        tasks = list(_tasks(recipe, work))
        missing = [task for task in tasks if not task.out.is_file()]
        for written in run_tasks(draw_shard, missing, recipe.executor):
            on_rows(written)
        rows = {s: [task.out for task in tasks if task.split == s] for s in splits_of(recipe)}
        sources = [_packed(recipe.corpus / split, files) for split, files in rows.items()]
    steps = {split: added([steps_in(files)]) for split, files in rows.items()}
    funnel = [funnel_step(f"{split} scenes", found[split]) for split, found in steps.items()]
    return Made(rows, funnel, sources)


def _bind_corpus(recipe: ScenesRecipe) -> None:
    """Makes the corpus one of this recipe's images.

    Raises:
        RunRefused: it holds images of others.
    """
    names = {"seed", "image_side_px", "train", "test", "objects", "min_visibility"}
    asked = recipe.model_dump(mode="json", include=names)
    begun = read_shaping(recipe.corpus)
    if any(recipe.corpus.glob("*/*.tar")):
        if begun is None:
            raise RunRefused(f"{recipe.corpus}: holds images that are no scenes. {_OTHER_CORPUS}")
        refuse_differences(recipe.corpus, begun, asked, remedy=_OTHER_CORPUS)
    write_shaping(recipe.corpus, asked)


def _tasks(recipe: ScenesRecipe, work: Path) -> Iterator[Task]:
    for split, count in splits_of(recipe).items():
        for first in range(0, count, _SCENES_PER_TASK):
            end = min(first + _SCENES_PER_TASK, count)
            yield Task(recipe, split, first, end, work / f"{split}-{first:07d}.parquet")


def draw_shard(task: Task) -> int:
    """Writes the scenes of a task, and returns how many there are."""
    found = [draw_scene(task.recipe, task.split, n) for n in range(task.first, task.end)]
    table = pa.Table.from_pylist([{**each.row, _IMAGE: each.image} for each in found], _SHARD)
    counts = added(
        {task.split: Counts(1 + sum(each.refused.values()), 1, each.refused)} for each in found
    )
    write_shard(table, task.out, counts)
    return len(found)


def _packed(corpus: Path, files: Sequence[Path]) -> Mapping[str, Any]:
    """Writes a corpus of the images and alt-texts; returns what the manifest says of it.

    Raises:
        RunRefused: it holds other images of the same keys.
    """
    pack(_items(files), corpus, samples_per_shard=_SCENES_PER_TAR)
    packed = pq.read_table(sorted(corpus.glob("*.parquet")), columns=["key", "sha256", "caption"])
    drawn = pq.read_table(files, columns=["key", "image_sha256", "alt_text"])
    if not packed.equals(drawn.rename_columns(packed.column_names)):
        raise RunRefused(
            f"{corpus}: holds scenes of the same keys that were drawn differently. {_OTHER_CORPUS}"
        )
    return {**corpus_source(corpus), "corpus": f"{corpus.parent.name}/{corpus.name}"}


def _items(files: Sequence[Path]) -> Iterator[SourceItem]:
    for file in files:
        for row in pq.read_table(file, columns=["key", "alt_text", _IMAGE]).to_pylist():
            load = partial(itemgetter(_IMAGE), row)
            number = int(row["key"].rpartition("-")[2])
            yield SourceItem(row["key"], load, row["alt_text"].encode(), {"id": number})
