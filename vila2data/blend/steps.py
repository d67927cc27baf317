"""The work of a blend: annotations, conversations, comparison, selection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vila2data.build.builder import OnRows
from vila2data.build.manifest import FunnelStep
from vila2data.build.work import bind, funnel_step, row_count, steps_in
from vila2data.counts import Counts, Steps, added
from vila2data.errors import BadInput
from vila2data.executor import run_tasks
from vila2data.files import file_sha256

from .annotate import CLEANED, QUESTIONS, RECORDS, AnnotateTask, annotate
from .converse import ANNOTATIONS, CONVERSATIONS, MISNAMED, ConverseTask, converse
from .copies import DROPPED, Compared, Overlaps, overlaps
from .files import SourceFile, layout_of
from .images import ImageStore
from .places import Place, find_places
from .recipe import BlendRecipe
from .selection import OVERLAP, ROWS, SAMPLING, Selected, Share, select
from .signing import Signing

_ROWS_PER_BUCKET = 100_000
_FUNNEL = (RECORDS, QUESTIONS, ANNOTATIONS, CONVERSATIONS)
_SELECTION = (OVERLAP, SAMPLING, ROWS)

Task = TypeVar("Task", AnnotateTask, ConverseTask)


@dataclass(frozen=True)
class Origin:
    """Where the rows of a file come from: the source, and where its images are."""

    source: str
    task: str
    license: str
    images: ImageStore


@dataclass(frozen=True)
class Made:
    """What the build is written from.

    Attributes:
        rows: files of rows, of all sources in order.
        origins: of each of them.
        fates: which rows the blend holds; see ``selection.Selected``.
        rejects: files of what was not used.
        funnel: counts of each step.
        sources: what the manifest tells of each source and evaluation set.
    """

    rows: list[Path]
    origins: list[Origin]
    fates: Path
    rejects: list[Path]
    funnel: list[FunnelStep]
    sources: list[Mapping[str, Any]]


@dataclass(frozen=True)
class _Source:
    """A source after its conversations are written."""

    place: Place
    compared: Compared
    rejects: list[Path]
    steps: Steps


def make(recipe: BlendRecipe, work: Path, on_rows: OnRows) -> Made:
    """Does all the work that comes before writing files.

    Raises:
        BadInput: a source is missing or cannot be read, or has no names of images to tell.
        RunFailed: an evaluation set leaks into the blend.
    """
    places, missing = find_places(recipe, list(recipe.sources))
    evaluation, unseen = find_places(recipe, list(recipe.overlap.evaluation))
    bind(work, _shaping(recipe, [*places, *evaluation]))
    found = _all(recipe, places, evaluation, work, on_rows)
    blend, tests = found[: len(places)], found[len(places) :]
    seen = _compared(recipe, blend, tests)
    selected = select(
        [path for source in blend for path in source.compared.rows],
        [_share(recipe, source) for source in blend],
        seen.dropped,
        work,
    )
    steps = {**added(source.steps for source in blend), **selected.steps}
    return Made(
        rows=[path for source in blend for path in source.compared.rows],
        origins=[_origin(source) for source in blend for _ in source.compared.rows],
        fates=selected.fates,
        rejects=[path for source in blend for path in source.rejects]
        + [work / "rejects-selection.parquet"],
        funnel=[funnel_step(n, steps.get(n, Counts())) for n in (*_FUNNEL, *_SELECTION)],
        sources=[
            *(_told(recipe, source, selected, seen) for source in blend),
            *(
                {"config": recipe.config, "role": "evaluation", **source.place.told()}
                for source in tests
            ),
            *(_told_missing(recipe, name, why) for name, why in (missing | unseen).items()),
        ],
    )


def _shaping(recipe: BlendRecipe, places: Sequence[Place]) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"executor", "out", "max_shard_size"}),
        "sources": [[p.folder.root, str(p.images), *map(_state, p.files)] for p in places],
        "groups": [_groups(recipe, place.name) for place in places],
        "tokenizer": str(recipe.tokenizer),
        "catalogue": [place.source.model_dump(mode="json") for place in places],
    }


def _state(file: SourceFile) -> list[object]:
    """What changes when the file does; files of a commit of the Hub never do."""
    stamp = None if file.folder.on_hub else Path(file.name).stat().st_mtime_ns
    return [file.name, file.size, stamp]


def _groups(recipe: BlendRecipe, name: str) -> str | None:
    path = recipe.entry(name).groups
    return None if path is None else file_sha256(path)


def _all(
    recipe: BlendRecipe,
    places: Sequence[Place],
    evaluation: Sequence[Place],
    work: Path,
    on_rows: OnRows,
) -> list[_Source]:
    """Annotations of all sources, then conversations of all: workers wait for none of them."""
    everything = [*places, *evaluation]
    folders = [work / f"{number:03d}" for number in range(len(everything))]
    read = [_annotations(recipe, p, f) for p, f in zip(everything, folders, strict=True)]
    _run(annotate, [task for tasks in read for task in tasks], recipe, on_rows)
    if recipe.images == "paths":
        _refuse_bytes(task for tasks in read[: len(places)] for task in tasks)
    asked: list[list[ConverseTask]] = []
    first = 0
    for number, (place, folder, tasks) in enumerate(zip(everything, folders, read, strict=True)):
        signing = _signing(recipe, is_evaluation=number >= len(places))
        asked.append(_conversations(recipe, place, folder, tasks, first, signing))
        first += len(asked[-1])
    _run(converse, [task for tasks in asked for task in tasks], recipe, on_rows)
    return [
        _Source(
            place,
            Compared(
                place.name,
                [task.out for task in rows],
                [task.signatures for task in rows],
                rows[0].number if rows else 0,
                ImageStore(place.images, [task.blobs for task in notes]),
            ),
            [*(task.rejects for task in notes), *(task.rejects for task in rows)],
            added([steps_in([t.out for t in notes]), steps_in([t.out for t in rows])]),
        )
        for place, notes, rows in zip(everything, read, asked, strict=True)
    ]


def _run(
    function: Callable[[Task], int], tasks: Sequence[Task], recipe: BlendRecipe, on_rows: OnRows
) -> None:
    for count in run_tasks(function, [t for t in tasks if not t.out.is_file()], recipe.executor):
        on_rows(count)


def _refuse_bytes(tasks: Iterable[AnnotateTask]) -> None:
    for task in tasks:
        if task.blobs.stat().st_size:
            raise BadInput(f"{task.name}: its images have no names of files; set images to embed")


def _annotations(recipe: BlendRecipe, place: Place, folder: Path) -> list[AnnotateTask]:
    folder.mkdir(exist_ok=True)
    return [
        AnnotateTask(
            name=place.name,
            source=place.source,
            part=part,
            groups=recipe.entry(place.name).groups,
            rejects_per_reason=recipe.rejects_per_reason,
            out=folder / f"annotations-{number:05d}.parquet",
            blobs=folder / f"images-{number:05d}.bin",
            rejects=folder / f"rejects-read-{number:05d}.parquet",
        )
        for number, part in enumerate(place.parts())
    ]


def _signing(recipe: BlendRecipe, *, is_evaluation: bool) -> Signing | None:
    rules = recipe.overlap
    copies = rules.copies == "drop" and bool(_copied(recipe))
    if not rules.evaluation and not copies:
        return None
    return Signing(near=rules.near is not None, views=is_evaluation and rules.near is not None)


def _copied(recipe: BlendRecipe) -> dict[str, str]:
    """Sources of the recipe that repeat another one of it."""
    copies = {name: recipe.source(name).copies for name in recipe.sources}
    return {name: other for name, other in copies.items() if other in recipe.sources and other}


def _conversations(
    recipe: BlendRecipe,
    place: Place,
    folder: Path,
    read: Sequence[AnnotateTask],
    first: int,
    signing: Signing | None,
) -> list[ConverseTask]:
    shards = [task.out for task in read]
    entry, merge = recipe.entry(place.name), place.source.rules.merge
    buckets = max(1, -(-row_count(shards) // _ROWS_PER_BUCKET))
    return [
        ConverseTask(
            name=place.name,
            rules=place.source.rules,
            is_worded=layout_of(place.source).worded,
            shards=shards,
            blobs=[task.blobs for task in read],
            only=number,
            bucket=number,
            buckets=buckets,
            images=place.images,
            seed=recipe.seed,
            is_drawn_from=entry.cap is not None or entry.weight % 1 != 0,
            tokenizer=recipe.tokenizer,
            rejects_per_reason=recipe.rejects_per_reason,
            number=first + number,
            signing=signing,
            work=folder,
            out=folder / f"rows-{number:05d}.parquet",
            rejects=folder / f"rejects-rows-{number:05d}.parquet",
            signatures=folder / f"signatures-{number:05d}.parquet",
        )
        for number in range(buckets if merge and shards else len(shards))
    ]


def _compared(recipe: BlendRecipe, blend: Sequence[_Source], tests: Sequence[_Source]) -> Overlaps:
    names = {source.place.name for source in blend}
    copied = {n: o for n, o in _copied(recipe).items() if n in names and o in names}
    if not tests and not copied:
        return Overlaps(DROPPED.empty_table(), [])
    return overlaps(
        [source.compared for source in blend],
        [source.compared for source in tests],
        copied,
        recipe.overlap,
    )


def _share(recipe: BlendRecipe, source: _Source) -> Share:
    entry = recipe.entry(source.place.name)
    first = source.compared.first
    shards = range(first, first + len(source.compared.rows))
    return Share(source.place.name, shards, entry.weight, entry.cap)


def _origin(source: _Source) -> Origin:
    place = source.place
    return Origin(place.name, place.source.task, place.source.license, source.compared.images)


def _told(
    recipe: BlendRecipe, source: _Source, selected: Selected, seen: Overlaps
) -> dict[str, Any]:
    name, steps = source.place.name, source.steps
    return {
        "config": recipe.config,
        "role": "source",
        **source.place.told(),
        "license": source.place.source.license,
        "wanted": recipe.entry(name).wanted,
        "records": steps.get(RECORDS, Counts()).read,
        "conversations": steps.get(CONVERSATIONS, Counts()).written,
        "tokens": selected.tokens.get(name, 0),
        "misnamed_images": steps.get(MISNAMED, Counts()).read,
        "cleaned": {
            step.removeprefix(CLEANED): counts.read
            for step, counts in steps.items()
            if step.startswith(CLEANED)
        },
        "overlap": [each for each in seen.told if each["source"] == name],
    }


def _told_missing(recipe: BlendRecipe, name: str, why: str) -> dict[str, Any]:
    role = "source" if name in recipe.sources else "evaluation"
    wanted = recipe.entry(name).wanted
    return {
        "config": recipe.config,
        "role": role,
        "source": name,
        "license": recipe.source(name).license,
        "wanted": wanted,
        "missing": why,
    }
