"""The way from parts to rows: filter and narrate in parallel, then see all rows together.

Each task leaves files in the build's work folder; a build that was killed goes on from those that
are whole.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2data.build.builder import OnRows
from vila2data.build.manifest import FunnelStep
from vila2data.build.tables import work_connection
from vila2data.build.work import bind, funnel_step, steps_in
from vila2data.corpus.identity import corpus_source
from vila2data.counts import Counts
from vila2data.errors import RunFailed
from vila2data.executor import run_tasks

from .fates import Fates, decide, threshold
from .images import index_images
from .parts import Part, find_parts, told
from .recipe import Density, GroundedNarrationRecipe
from .rejects import write_rejects
from .shards import BOXES, PHRASED, ROWS, Task, run


@dataclass(frozen=True, slots=True)
class Made:
    """What the steps left.

    Attributes:
        rows: files of narrated rows, in order.
        fates: what became of those rows when they were seen together.
        long_from: the threshold of the long ones.
        rejects: file of rejected rows.
        funnel, sources: for the manifest.
    """

    rows: list[Path]
    fates: Path
    long_from: Density
    rejects: Path
    funnel: list[FunnelStep]
    sources: list[Mapping[str, Any]]


def make(recipe: GroundedNarrationRecipe, work: Path, on_rows: OnRows) -> Made:
    """Does all steps.

    Raises:
        BadInput: a part cannot be read.
        RunFailed: the parts hold no row.
    """
    work.mkdir(parents=True, exist_ok=True)
    parts = find_parts(recipe.path, work.with_name(f"{work.name}-lines"))
    if not sum(part.rows for part in parts):
        raise RunFailed(f"{recipe.path}: its {len(parts)} parts hold no row")
    sources: list[Mapping[str, Any]] = [told(parts)]
    if recipe.images is not None:
        sources.append(corpus_source(recipe.images.corpus))
    bind(work, _shaping(recipe, sources))
    tasks = list(_tasks(parts, recipe, work))
    for read in run_tasks(run, [t for t in tasks if not t.done.is_file()], recipe.executor):
        on_rows(read)
    rows = [task.out for task in tasks]
    images = _images(parts, recipe, work / "images", on_rows)
    with work_connection(str(work)) as connection:
        fates = decide(connection, rows, images, recipe, work / "fates.parquet")
        long_from = recipe.split.long_from or threshold(connection, recipe.split.long_share)
    rejects = write_rejects(tasks, fates.path, recipe, work / "rejects.parquet")
    sources[0] = {**sources[0], "long_from": long_from.model_dump()}
    return Made(
        rows, fates.path, long_from, rejects, _funnel([task.done for task in tasks], fates), sources
    )


def _shaping(
    recipe: GroundedNarrationRecipe, sources: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"executor", "out", "max_shard_size"}),
        "places": [str(recipe.path), str(recipe.images and recipe.images.corpus)],
        "sources": sources,
    }


def _tasks(parts: Sequence[Part], recipe: GroundedNarrationRecipe, work: Path) -> Iterator[Task]:
    threads = max(1, (os.cpu_count() or 1) // recipe.executor.workers)
    number = 0
    for part in parts:
        for first, end in part.ranges():
            yield Task(
                number=number,
                part=part,
                first=first,
                end=end,
                recipe=recipe,
                threads=threads,
                out=work / f"rows-{number:06d}.arrow",
                done=work / f"done-{number:06d}.parquet",
                work=work,
            )
            number += 1


def _images(
    parts: Sequence[Part], recipe: GroundedNarrationRecipe, folder: Path, on_rows: OnRows
) -> list[Path]:
    """The index of the corpus; none without one."""
    if recipe.images is None:
        return []
    return index_images(
        recipe.images.corpus,
        folder,
        with_phash=any("image_phash" in part.columns for part in parts),
        executor=recipe.executor,
        on_rows=on_rows,
    )


def _funnel(done: Sequence[Path], fates: Fates) -> list[FunnelStep]:
    steps = steps_in(done)
    return [
        funnel_step(BOXES, steps.get(BOXES, Counts())),
        funnel_step(ROWS, steps.get(ROWS, Counts())),
        funnel_step(PHRASED, steps.get(PHRASED, Counts())),
        funnel_step("kept rows", fates.counts),
    ]
