"""Spatial questions: pairs a second against plain Python, and the whole build's time and memory.

``python -m benchmarks.spatial --pairs 100000 1000000`` for other sizes of the build than the quick
ones.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.plugin import spatial_reference as reference
from tests.plugin.spatial_making import write_omni3d
from vila2data.boxes import CONVENTIONS
from vila2data.build.write import write_build
from vila2data.builders.spatial_relation_qa.batch import Batch
from vila2data.builders.spatial_relation_qa.builder import SpatialRelationQA
from vila2data.builders.spatial_relation_qa.names import OBJECT_OBJECT, SIDES
from vila2data.builders.spatial_relation_qa.recipe import SpatialRelationQARecipe
from vila2data.builders.spatial_relation_qa.scene import Scene
from vila2data.builders.spatial_relation_qa.shards import (
    AskTask,
    CleanTask,
    ask_shard,
    clean_shard,
)
from vila2data.builders.spatial_relation_qa.templates import templates
from vila2data.schema import SPATIAL_RELATION_QA_PATHS

from .peaks import watched
from .timing import seconds_in_turn, show

BOXES = 20
SCENES = 2_000
SHARDS = 2
WORKERS = 2
ROUNDS = 3
PAIRS = (5_000, 20_000)
PAIRS_A_SCENE = 5.1


def recipe(folder: Path) -> SpatialRelationQARecipe:
    """A recipe of ``scenes.json`` in a folder, whose images are only named."""
    (folder / "images").mkdir(exist_ok=True)
    source = {
        "name": "random",
        "layout": "omni3d",
        "path": folder / "scenes.json",
        "images": folder / "images",
    }
    return SpatialRelationQARecipe.model_validate(
        {
            "builder": "spatial-relation-qa",
            "version": "1.0.0",
            "license": "cc0-1.0",
            "out": folder / "builds",
            "sources": [source],
            "images": "path",
            "scenes": {"check_images": False},
            "executor": {"workers": WORKERS},
        }
    )


def make_tasks(folder: Path) -> list[AskTask]:
    """Shards of cleaned scenes, to be asked about."""
    write_omni3d(folder / "scenes.json", scenes=SCENES, boxes=(BOXES, BOXES))
    made = recipe(folder)
    scenes = (each for each in made.sources[0].scenes(folder) if isinstance(each, Scene))
    tasks: list[AskTask] = []
    while some := list(islice(scenes, SCENES // SHARDS)):
        path = folder / f"scenes-{len(tasks)}.parquet"
        rejects = folder / f"rejects-{len(tasks)}.parquet"
        batch = Batch.of(some)
        clean_shard(CleanTask(made.sources[0], batch, [], made.scenes, made.objects, path, rejects))
        tasks.append(
            AskTask(
                source="random",
                path=path,
                seed=0,
                semantics=made.relations,
                questions=made.questions,
                close_below_m=4.0,
                far_above_m=20.0,
                out=folder / f"rows-{len(tasks)}.parquet",
                rejects=rejects,
            )
        )
    return tasks


def ask_plainly(task: AskTask) -> int:
    """What ``ask_shard`` does, by the reference of the tests: box by box in plain Python."""
    rng = random.Random(task.seed)
    rows = []
    for scene in pq.read_table(task.path).to_pylist():
        possible = reference.questions(_reference_scene(scene, task), task.semantics)
        chosen = list(islice(_in_turn(possible, rng), task.questions.per_image))
        if chosen:
            rows.append(_row(scene, chosen, task, rng))
    table = pa.Table.from_pylist(rows, schema=SPATIAL_RELATION_QA_PATHS.arrow_schema)
    pq.write_table(table, task.out)
    return len(rows)


def _reference_scene(scene: dict[str, Any], task: AskTask) -> reference.RefScene:
    boxes = [
        reference.Box(clear=clear, **thing)
        for thing, clear in zip(scene["objects"], scene["clear"], strict=True)
    ]
    whole = {box.category for box, ask in zip(boxes, scene["askable"], strict=True) if ask}
    return reference.RefScene(
        boxes,
        scene["intrinsics"],
        scene["width"],
        task.close_below_m,
        task.far_above_m,
        frozenset(whole),
    )


def _in_turn(
    possible: Sequence[reference.Question], rng: random.Random
) -> Iterator[reference.Question]:
    """One of each relation, again and again."""
    groups: dict[tuple[str, str], list[reference.Question]] = {}
    for question in rng.sample(possible, len(possible)):
        groups.setdefault(question[:2], []).append(question)
    for turn in zip_longest(*groups.values()):
        yield from (question for question in turn if question is not None)


def _row(
    scene: dict[str, Any],
    chosen: Sequence[reference.Question],
    task: AskTask,
    rng: random.Random,
) -> dict[str, Any]:
    relations, messages = [], []
    for question in chosen:
        asked = scene["objects"][question.target]["category"]
        candidates = [
            number
            for number, thing in enumerate(scene["objects"])
            if thing["category"] == asked and number != question.anchor
        ]
        template_id, *texts = _words(scene, question, len(candidates) > 1, task, rng)
        relations.append(
            {**question._asdict(), "candidates": candidates, "template_id": template_id}
        )
        for role, text in zip(("user", "assistant"), texts, strict=True):
            messages.append({"role": role, "content": text})
    messages[0]["content"] = "<image>\n" + messages[0]["content"]
    return {
        **scene,
        "source": task.source,
        "relations": relations,
        "messages": messages,
        "flip_safe": SIDES.isdisjoint(question.relation for question in chosen),
    }


def _words(
    scene: dict[str, Any],
    question: reference.Question,
    several: bool,
    task: AskTask,
    rng: random.Random,
) -> tuple[str, str, str]:
    """Id of the template, question and answer."""
    convention = CONVENTIONS[task.questions.boxes]
    choices = [
        each
        for each in templates(question.family, question.relation, "box")
        if several or "{targets}" not in each.question
    ]
    template, target = rng.choice(choices), scene["objects"][question.target]
    anchor: tuple[str | None, str | None] = (None, None)
    if question.family == OBJECT_OBJECT:
        thing = scene["objects"][question.anchor]
        anchor = thing["category"], convention.render(thing["bbox"])
    return (
        template.id,
        template.ask(target["category"], *anchor),
        template.reply(target["category"], *anchor, box=convention.render(target["bbox"])),
    )


def pairs_in(tasks: Sequence[AskTask]) -> int:
    """How many pairs the tasks' files hold."""
    rows = (row for task in tasks for row in pq.read_table(task.out)["relations"].to_pylist())
    return sum(map(len, rows))


def measure_asking() -> None:
    """Shows pairs a second of both ways, on the same scenes, in processes that run already."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(WORKERS, context) as pool:
        tasks = make_tasks(Path(name))
        plain = [replace(task, out=task.out.with_stem(f"plain-{task.out.stem}")) for task in tasks]
        ways = {
            "box by box in plain Python": _all(pool, ask_plainly, plain),
            "`ask_shard`": _all(pool, ask_shard, tasks),
        }
        seconds = seconds_in_turn(ways, rounds=ROUNDS)
        pairs = pairs_in(tasks)
        assert pairs == pairs_in(plain)
    title = (
        f"{pairs:,} question-answer pairs of {SCENES:,} cleaned scenes with {BOXES} boxes as "
        f"they were annotated, {WORKERS} processes"
    )
    show(title, pairs, "pairs", seconds, against="box by box in plain Python")


def _all(
    pool: Executor, ask: Callable[[AskTask], int], tasks: Sequence[AskTask]
) -> Callable[[], object]:
    return lambda: list(pool.map(ask, tasks))


def build(folder: Path) -> None:
    """Makes the build of a folder; prints seconds and pairs."""
    began_s = time.perf_counter()
    path = write_build(SpatialRelationQA, recipe(folder))
    seconds = time.perf_counter() - began_s
    funnel = json.loads((path / "build.json").read_text())["funnel"]
    pairs = next(step["written"] for step in funnel if step["step"] == "questions")
    print(seconds, pairs)


def measure_build(wanted: int) -> None:
    """Prints a row of the table for a build of about so many pairs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = round(wanted / PAIRS_A_SCENE)
        file = write_omni3d(folder / "scenes.json", scenes=scenes, boxes=(BOXES, BOXES))
        size_gb = file.stat().st_size / 1e9
        found = watched("-m", "benchmarks.spatial", "--build", name)
    seconds, pairs = map(float, found.printed.split())
    print(
        f"| {scenes:,} | {size_gb:.2f} | {pairs:,.0f} | {seconds:.1f} | {pairs / seconds:,.0f} "
        f"| {found.driver_mib:,.0f} | {found.worker_mib:,.0f} |",
        flush=True,
    )


def main(pairs: Sequence[int] = PAIRS) -> None:
    measure_asking()
    print(f"\n### Whole builds from one JSON of Omni3D's layout, {WORKERS} worker processes\n")
    print("| scenes | JSON, GB | pairs | seconds | pairs/s | driver, MiB | largest worker, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for wanted in pairs:
        measure_build(wanted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, nargs="+", default=PAIRS)
    parser.add_argument("--full", action="store_const", const=(100_000, 1_000_000), dest="pairs")
    parser.add_argument("--build", type=Path)
    asked = parser.parse_args()
    if asked.build:
        build(asked.build)
    else:
        main(asked.pairs)
