"""The two tasks that run in parallel: cleaning a shard of scenes, and asking about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from vila2data.build.work import write_shard
from vila2data.corpus.images import ImageLimits, ImageRefused, Problem, read_header
from vila2data.counts import Counts, Steps, tally
from vila2data.keyed import keyed_hash
from vila2data.schema import SPATIAL_REJECT

from .batch import Batch
from .candidates import Geometry
from .cleaning import Cleaned, clean
from .conversations import conversations
from .recipe import BoxRules, Questions, SceneRules, Semantics
from .scene import Unread
from .selection import box_keys, select
from .semantics import questions_of
from .source import Source
from .stored import StoredScenes, stored

_LIMITS = ImageLimits()


@dataclass(frozen=True, slots=True)
class CleanTask:
    """Scenes of one source, and the files that they become."""

    source: Source
    batch: Batch
    unread: Sequence[Unread]
    scenes: SceneRules
    objects: BoxRules
    out: Path
    rejects: Path


@dataclass(frozen=True, slots=True)
class AskTask:
    """Cleaned scenes of one source, and the files that they become."""

    source: str
    path: Path
    seed: int
    semantics: Semantics
    questions: Questions
    close_below_m: float
    far_above_m: float
    out: Path
    rejects: Path


def clean_shard(task: CleanTask) -> int:
    """Writes what is kept of a batch, and what is not; returns how many scenes were read."""
    problems = [
        _image_problem(task.source, name, size) if task.scenes.check_images else None
        for name, size in zip(task.batch.images, task.batch.sizes_px.tolist(), strict=True)
    ]
    cleaned = clean(task.batch, problems, task.scenes, task.objects)
    scenes = stored(task.batch, cleaned, task.source.name)
    _write_rejects(task, cleaned, scenes)
    scenes.write(task.out, _clean_counts(task, cleaned, scenes))
    return len(task.batch.ids) + len(task.unread)


def _image_problem(source: Source, name: str, size_px: list[int]) -> Problem | None:
    content = source.image(name)
    if content is None:
        return Problem("image_missing", name)
    try:
        header = read_header(content, _LIMITS)
    except ImageRefused as refused:
        return refused.problem
    if [header.width, header.height] != size_px:
        told = f"{header.width} x {header.height}, the source says {size_px[0]} x {size_px[1]}"
        return Problem("image_size_differs", told)
    return None


def _problems(task: CleanTask, cleaned: Cleaned, scenes: StoredScenes) -> list[Problem | None]:
    kept = set(scenes.ids)
    return [
        problem
        or (
            None if f"{task.source.name}/{key}" in kept else Problem("no_objects", "no box is left")
        )
        for key, problem in zip(task.batch.ids, cleaned.scene_problems, strict=True)
    ]


def _clean_counts(task: CleanTask, cleaned: Cleaned, scenes: StoredScenes) -> Steps:
    problems = [unread.problem for unread in task.unread]
    problems += [p for p in _problems(task, cleaned, scenes) if p is not None]
    used = np.array([p is None for p in cleaned.scene_problems], np.bool_)[task.batch.scene_of]
    left_out = [reason for reason, use in zip(cleaned.left_out, used, strict=True) if use]
    unclear = [
        unclear
        for unclear, out, use in zip(cleaned.unclear, cleaned.left_out, used, strict=True)
        if use and out is None
    ]
    read = len(task.batch.ids) + len(task.unread)
    fit = cleaned.projection_iou
    estimated = int((cleaned.estimated & used).sum())
    return {
        "scenes": Counts(read, len(scenes.ids), tally(p.reason for p in problems)),
        "boxes": _counts(left_out),
        "boxes to ask about": _counts(unclear),
        "calibration": Counts(len(fit), int(np.isfinite(fit).sum())),
        "visibility": Counts(len(unclear), len(unclear) - estimated),
    }


def _counts(reasons: Sequence[str | None]) -> Counts:
    rejected = tally(reason for reason in reasons if reason is not None)
    return Counts(len(reasons), len(reasons) - sum(rejected.values()), rejected)


def _write_rejects(task: CleanTask, cleaned: Cleaned, scenes: StoredScenes) -> None:
    name, batch = task.source.name, task.batch
    rows = [_reject(name, unread.id, unread.image, unread.problem) for unread in task.unread]
    for scene, problem in enumerate(_problems(task, cleaned, scenes)):
        if problem is not None:
            rows.append(_reject(name, batch.ids[scene], batch.images[scene], problem))
    scene_of, number = batch.scene_of.tolist(), batch.number.tolist()
    for place, reason in enumerate(cleaned.left_out):
        scene = scene_of[place]
        if reason is not None and cleaned.scene_problems[scene] is None:
            row = _reject(name, batch.ids[scene], batch.images[scene], Problem(reason))
            told = Problem("", batch.category[place]).detail  # from a stranger: one printable line
            rows.append(row | {"object": number[place], "category": told})
    write_rejects(rows, task.rejects)


def _reject(source: str, key: str, image: str, problem: Problem) -> dict[str, object]:
    return {
        "id": f"{source}/{key}",
        "source": source,
        "image_path": image,
        "object": None,
        "category": None,
        "reject_reason": problem.reason,
        "detail": problem.detail,
    }


def write_rejects(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Writes rows of the config for rejects."""
    table = pa.Table.from_pylist(list(rows), schema=SPATIAL_REJECT.arrow_schema)
    write_shard(table, path)


def ask_shard(task: AskTask) -> int:
    """Writes the conversations about a shard's scenes; returns how many there are."""
    scenes = StoredScenes.read(task.path)
    geometry = _geometry(scenes, task)
    possible, refused = questions_of(geometry, task.semantics)
    asked = select(
        possible,
        geometry,
        np.array([keyed_hash(task.seed, key) for key in scenes.ids], np.uint64),
        box_keys(scenes.category, scenes.center, scenes.dimensions),
        task.questions,
    )
    table = conversations(scenes, asked, task.source, task.questions, task.semantics)
    with_questions = set(asked.questions.scene.tolist())
    silent = [n for n in range(len(scenes.ids)) if n not in with_questions]
    asked_count, possible_count = len(asked.form), len(possible.target)
    read = possible_count + sum(refused.values())
    steps = {
        "questions": Counts(read, asked_count, refused, possible_count - asked_count),
        "conversations": Counts(
            len(scenes.ids), table.num_rows, tally("no_question" for _ in silent)
        ),
    }
    no_question = Problem("no_question", "nothing can be asked of its boxes")
    write_rejects(
        [
            _reject(task.source, scenes.ids[n].partition("/")[2], scenes.images[n], no_question)
            for n in silent
        ],
        task.rejects,
    )
    write_shard(table, task.out, steps)
    return int(table.num_rows)


def _geometry(scenes: StoredScenes, task: AskTask) -> Geometry:
    count = len(scenes.ids)
    starts = scenes.class_starts()
    return Geometry(
        starts=scenes.starts,
        group=np.repeat(np.arange(len(starts) - 1), np.diff(starts)),
        center=scenes.center.astype(np.float64),
        dimensions=scenes.dimensions.astype(np.float64),
        rotation=scenes.rotation.astype(np.float64).reshape(-1, 3, 3),
        bbox=scenes.bbox.astype(np.float64),
        focal_norm=scenes.intrinsics[:, 0].astype(np.float64) / scenes.sizes_px[:, 0],
        clear=scenes.clear,
        askable=scenes.askable,
        close_below_m=np.full(count, task.close_below_m),
        far_above_m=np.full(count, task.far_above_m),
    )
