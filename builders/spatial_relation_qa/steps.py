"""The way from sources to conversations: read and clean, find what is close and far, ask.

Each step leaves files in the build's work folder; a build that was killed goes on from those that
are whole.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from vila2data.build.builder import OnRows
from vila2data.build.manifest import FunnelStep
from vila2data.build.views import sql_list
from vila2data.build.work import bind, funnel_step, steps_in
from vila2data.corpus.images import Problem
from vila2data.corpus.names import printable
from vila2data.counts import Counts, Steps, added
from vila2data.executor import run_tasks
from vila2data.files import write_text

from .batch import Batch
from .recipe import SpatialRelationQARecipe
from .scene import Scene, Unread
from .shards import AskTask, CleanTask, ask_shard, clean_shard
from .source import Source

_SCENES_PER_SHARD = 1000
_PAIRS_PER_SHARD = 400_000  # of boxes of one scene; what memory goes with
_DONE = "done.json"
_FUNNEL = ("scenes", "boxes", "boxes to ask about", "questions", "conversations")


@dataclass(frozen=True, slots=True)
class Made:
    """What the steps left.

    Attributes:
        rows, rejects: parquet files, in the order of the build.
        funnel: counts of every step, over all sources.
        sources: what the manifest says of each source.
    """

    rows: list[Path]
    rejects: list[Path]
    funnel: list[FunnelStep]
    sources: list[Mapping[str, Any]]


def make(recipe: SpatialRelationQARecipe, work: Path, on_rows: OnRows) -> Made:
    """Does all steps for all sources."""
    fingerprints = [dict(source.fingerprint()) for source in recipe.sources]
    bind(work, _shaping(recipe, fingerprints))
    found: list[Steps] = []
    rows: list[Path] = []
    rejects: list[Path] = []
    sources: list[Mapping[str, Any]] = []
    for number, (source, fingerprint) in enumerate(zip(recipe.sources, fingerprints, strict=True)):
        folder = work / f"{number:03d}"
        cleaned = _cleaned(source, recipe, folder, on_rows)
        depths = _thresholds(cleaned, recipe)
        conversations = _asked(source, recipe, cleaned, depths, on_rows)
        steps = steps_in([*cleaned, *conversations])
        found.append(steps)
        rows += conversations
        rejects += sorted(folder.glob("rejects-*.parquet")) + sorted(
            folder.glob("silent-*.parquet")
        )
        told = {"source": source.name, "layout": source.layout, **fingerprint, **depths}
        sources.append({**told, **_checks(steps)})
    return Made(rows, rejects, _funnel(added(found)), sources)


def _shaping(recipe: SpatialRelationQARecipe, fingerprints: Sequence[Any]) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"executor", "out", "max_shard_size"}),
        "places": [repr(source) for source in recipe.sources],  # a manifest tells names alone
        "sources": fingerprints,
    }


def _cleaned(
    source: Source, recipe: SpatialRelationQARecipe, folder: Path, on_rows: OnRows
) -> list[Path]:
    """The files of a source's cleaned scenes; they are all there once the source was read to its
    end.
    """
    done = folder / _DONE
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        reading = folder / "reading"
        reading.mkdir(parents=True)
        tasks = _clean_tasks(source, recipe, folder, reading)
        for read in run_tasks(clean_shard, tasks, recipe.executor):
            on_rows(read)
        shutil.rmtree(reading)
        write_text(done, json.dumps({"shards": len(list(folder.glob("scenes-*.parquet")))}))
    return sorted(folder.glob("scenes-*.parquet"))


def _clean_tasks(
    source: Source, recipe: SpatialRelationQARecipe, folder: Path, reading: Path
) -> Iterator[CleanTask]:
    shards = _in_shards(source.scenes(reading), recipe.scenes.max_objects)
    for number, (scenes, unread) in enumerate(shards):
        yield CleanTask(
            source=source,
            batch=Batch.of(scenes),
            unread=unread,
            scenes=recipe.scenes,
            objects=recipe.objects,
            out=folder / f"scenes-{number:06d}.parquet",
            rejects=folder / f"rejects-{number:06d}.parquet",
        )


def _in_shards(
    found: Iterator[Scene | Unread], max_objects: int
) -> Iterator[tuple[list[Scene], list[Unread]]]:
    scenes: list[Scene] = []
    unread: list[Unread] = []
    pairs = 0
    for item in map(_tellable, found):
        if isinstance(item, Unread):
            unread.append(item)
        else:
            scenes.append(item)
            count = len(item.objects)
            pairs += count * count if count <= max_objects else count
        if len(scenes) + len(unread) >= _SCENES_PER_SHARD or pairs >= _PAIRS_PER_SHARD:
            yield scenes, unread
            scenes, unread, pairs = [], [], 0
    if scenes or unread:
        yield scenes, unread


def _tellable(item: Scene | Unread) -> Scene | Unread:
    """The item where its names can be stored; strings of JSON need not be Unicode."""
    try:
        f"{item.id}{item.image}".encode()
    except UnicodeEncodeError:
        problem = Problem("name_not_unicode", f"{item.id} {item.image}")
        return Unread(printable(item.id), "", problem)
    return item


def _thresholds(cleaned: Sequence[Path], recipe: SpatialRelationQARecipe) -> dict[str, float]:
    """The depths of a source's boxes that count as close and far; infinite without any box."""
    rules = recipe.relations
    files = sql_list(path.as_posix() for path in cleaned)
    close, far = None, None
    if cleaned:
        with duckdb.connect() as connection:
            connection.execute("SET enable_progress_bar = false")
            close, far = connection.execute(
                f"""SELECT quantile_disc(depth, {rules.close_percentile / 100}),
                           quantile_disc(depth, {rules.far_percentile / 100})
                FROM (SELECT unnest([o.center[3] FOR o IN objects]) AS depth,
                             unnest(clear) AS clear FROM read_parquet({files}))
                WHERE clear"""
            ).fetchall()[0]
    nothing = -1.0, 1e9  # no depth is closer, none is farther
    return {
        "close_below_m": nothing[0] if close is None else float(close),
        "far_above_m": nothing[1] if far is None else float(far),
    }


def _asked(
    source: Source,
    recipe: SpatialRelationQARecipe,
    cleaned: Sequence[Path],
    depths: Mapping[str, float],
    on_rows: OnRows,
) -> list[Path]:
    """The files of a source's conversations."""
    tasks = [
        AskTask(
            source=source.name,
            path=path,
            seed=recipe.seed,
            semantics=recipe.relations,
            questions=recipe.questions,
            close_below_m=depths["close_below_m"],
            far_above_m=depths["far_above_m"],
            out=path.with_name(path.name.replace("scenes", "rows")),
            rejects=path.with_name(path.name.replace("scenes", "silent")),
        )
        for path in cleaned
    ]
    missing = [task for task in tasks if not task.out.is_file()]
    for written in run_tasks(ask_shard, missing, recipe.executor):
        on_rows(written)
    return [task.out for task in tasks]


def _funnel(total: Steps) -> list[FunnelStep]:
    return [funnel_step(name, total.get(name, Counts())) for name in _FUNNEL]


def _checks(steps: Steps) -> dict[str, int]:
    """How much of a source could be checked, and was known."""
    calibration = steps.get("calibration", Counts())
    visibility = steps.get("visibility", Counts())
    return {
        "scenes_with_2d_boxes": calibration.written,
        "scenes_without_2d_boxes": calibration.read - calibration.written,
        "boxes_of_known_visibility": visibility.written,
        "boxes_of_estimated_visibility": visibility.read - visibility.written,
    }
