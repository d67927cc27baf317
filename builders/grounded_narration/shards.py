"""The task that runs in parallel: rows of one part, filtered and narrated."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vila2data.build.tables import streamed, work_connection
from vila2data.build.work import write_shard
from vila2data.conversation import neutralise
from vila2data.counts import Counts, added
from vila2data.files import appearing
from vila2data.keyed import keyed_hash, mixed
from vila2data.schema import GROUNDED_NARRATION

from .crowds import most_instances
from .cuts import first_bytes
from .filtering import ITEM_REASONS, ROW_REASONS, prepare
from .narration import narrated, row_keys
from .parts import Part, readable
from .phrases import Bools, Ints, choose, items_of, numbers_of
from .recipe import GroundedNarrationRecipe

_BATCH_ROWS = 50_000
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

CROWDED = "crowded"
SIZE_UNKNOWN = "size_unknown"
BOX_TEXT = "box_text_in_caption"
NO_PHRASE = "no_phrase_left"
REASONS = (*ROW_REASONS, SIZE_UNKNOWN, BOX_TEXT, NO_PHRASE)
"""In the order of their numbers, from 1."""
_CROWDED, _SIZE_UNKNOWN, _BOX_TEXT, _NO_PHRASE = (
    REASONS.index(reason) + 1 for reason in (CROWDED, SIZE_UNKNOWN, BOX_TEXT, NO_PHRASE)
)
_TO_LOWER = 0x20  # of an ASCII letter

BOXES, ROWS, PHRASED = "boxes", "rows", "boxes of kept rows"
"""Steps that are counted."""

_PUBLISHED = {field.name: field.type for field in GROUNDED_NARRATION.arrow_schema}
_OWN = {
    "file": pa.int32(),
    "row": pa.int32(),
    "place": pa.int64(),
    "num_phrases": pa.int32(),
    "num_words": pa.int32(),
    "image_phash": pa.string(),
}
_FROM_CORPUS = ("image_sha256", "image_status")
SCHEMA = pa.schema(
    {**_OWN, **{name: kind for name, kind in _PUBLISHED.items() if name not in _FROM_CORPUS}}
)
"""Of a file of narrated rows: ``row`` is the number in the file, ``place`` that in the part."""

REJECT_SCHEMA = pa.schema({"reason": pa.string(), "draw": pa.uint64(), "place": pa.int64()})
"""Of a file of rejected rows that may be shown: for each reason the lowest draws."""


@dataclass(frozen=True, slots=True)
class Task:
    """Rows ``first`` to ``end`` of a part, and the files that they become: the narrated rows, and,
    once these are whole, which rejected ones may be shown.
    """

    number: int
    part: Part
    first: int
    end: int
    recipe: GroundedNarrationRecipe
    threads: int
    out: Path
    done: Path
    work: Path


def run(task: Task) -> int:
    """Writes the narrated rows, and which rejected ones may be shown; returns the rows read."""
    counts = [{BOXES: Counts(), ROWS: Counts(), PHRASED: Counts()}]
    rejects = _Rejects(task.recipe.rejects_per_reason)
    written = 0
    with appearing(task.out) as temporary, pa.ipc.new_file(temporary, SCHEMA, options=_LZ4) as file:
        for batch in _filtered(task):
            found = _Batch.of(batch, task.recipe)
            rejects.add(found, task.recipe.seed)
            if found.kept.num_rows:
                table, step = _narrated(found, task, written)
                file.write_table(table)
                written += table.num_rows
                counts.append({PHRASED: step})
            counts.append(found.counts())
    write_shard(rejects.table(), task.done, added(counts))
    return task.end - task.first


def _filtered(task: Task) -> Iterator[pa.RecordBatch]:
    with work_connection(str(task.work)) as connection, readable(task.part.path):
        connection.execute(f"SET threads = {task.threads}")
        prepare(connection, task.recipe, task.part.source_sql(task.first, task.end))
        yield from streamed(connection, "FROM narratable", _BATCH_ROWS)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows as ``filter.sql`` gives them.

    Attributes:
        ids, places, reasons: (rows,).
        item_reasons: (items,), of all rows whose items were looked at.
        kept: the rows that are kept.
        usable: of all their items, those that are sound and have a text with a letter or number.
    """

    ids: Ints
    places: Ints
    reasons: NDArray[np.uint8]
    item_reasons: NDArray[np.uint8]
    kept: pa.RecordBatch
    usable: Bools

    @classmethod
    def of(cls, batch: pa.RecordBatch, recipe: GroundedNarrationRecipe) -> "_Batch":
        reasons = batch["reason"].to_numpy(zero_copy_only=False).copy()
        _settle(reasons, batch, recipe)
        kept, usable = _with_words(reasons, batch.filter(pa.array(reasons == 0)))
        return cls(
            ids=batch["id"].fill_null(0).to_numpy(zero_copy_only=False),
            places=batch["place"].to_numpy(),
            reasons=reasons,
            item_reasons=batch["item_reasons"].flatten().to_numpy(zero_copy_only=False),
            kept=kept,
            usable=usable,
        )

    def counts(self) -> dict[str, Counts]:
        """Of boxes and of rows."""
        return {
            BOXES: _counts(self.item_reasons, ITEM_REASONS),
            ROWS: _counts(self.reasons, REASONS),
        }


def _counts(reasons: NDArray[np.uint8], names: tuple[str, ...]) -> Counts:
    numbers = np.bincount(reasons, minlength=len(names) + 1).tolist()
    rejected = {n: c for n, c in zip(names, numbers[1:], strict=True) if c}
    return Counts(len(reasons), numbers[0], dict(sorted(rejected.items())))


def _settle(
    reasons: NDArray[np.uint8], batch: pa.RecordBatch, recipe: GroundedNarrationRecipe
) -> None:
    """Decides, in place, what the filter leaves open: crowds, sizes, box text."""
    many = np.flatnonzero(reasons == _CROWDED)
    if len(many):
        instances, _ = most_instances(batch.take(many), recipe.rows.same_instance_iou)
        reasons[many[instances <= recipe.rows.max_instances]] = 0
    convention = recipe.questions.convention
    if convention.steps is None:
        reasons[(reasons == 0) & (_sides(batch) < 1).any(axis=1)] = _SIZE_UNKNOWN
    can_hold = pc.match_substring(batch["caption"], convention.lead).fill_null(False)
    suspects = np.flatnonzero(can_hold.to_numpy(zero_copy_only=False) & (reasons == 0))
    captions = batch["caption"].take(suspects).to_pylist()
    for place, caption in zip(suspects, captions, strict=True):
        if convention.stands_in(neutralise(caption)):
            reasons[place] = _BOX_TEXT


def _with_words(reasons: NDArray[np.uint8], rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Bools]:
    """The rows with a phrase that has a letter or number, and which of their items are usable;
    notes the reason of the others.

    Args:
        reasons: (all rows,), changed in place.
        rows: those without a reason.
    """
    numbers, row, _ = numbers_of(rows["noun_chunks"])
    usable: Bools = rows["item_reasons"].flatten().to_numpy(zero_copy_only=False) == 0
    places = np.flatnonzero(usable)
    start, end = numbers[places, :2].astype(np.int64).T
    captions = rows["caption"]
    first = first_bytes(captions, row[places], start) | _TO_LOWER
    odd = np.flatnonzero((first < ord("a")) | (first > ord("z")))  # few
    for place in odd.tolist():
        text = captions[int(row[places[place]])].as_py()[start[place] : end[place]]
        usable[places[place]] = any(category(letter)[0] in "LN" for letter in text)
    has = np.bincount(row[usable], minlength=rows.num_rows) > 0
    reasons[np.flatnonzero(reasons == 0)[~has]] = _NO_PHRASE
    return rows.filter(pa.array(has)), usable[has[row]]


def _sides(rows: pa.RecordBatch) -> Ints:
    """(rows, 2) width and height, 0 where unknown."""
    sides = [rows[n].fill_null(0).to_numpy(zero_copy_only=False) for n in ("width", "height")]
    return np.stack(sides, axis=1).astype(np.int64)


def _narrated(batch: _Batch, task: Task, written: int) -> tuple[pa.Table, Counts]:
    """The rows as they will stand in the build, and what became of their boxes.

    Args:
        written: rows that the file has already.
    """
    rows, recipe = batch.kept, task.recipe
    captions = rows["caption"]
    places = pc.binary_join_element_wise(task.part.path.stem, rows["place"].cast(pa.string()), "-")
    names = pc.coalesce(rows["key"], rows["id"].cast(pa.string()), places)
    keys = row_keys(recipe.seed, rows["id"], names)
    chars = rows["chars"].to_numpy()
    items = items_of(rows["noun_chunks"], rows["ref_exps"], batch.usable, chars)
    phrases = choose(items, widen=recipe.phrases.text == "ref_exp")
    columns = narrated(captions, _sides(rows), keys, phrases, recipe.questions)
    words = [len(text.split()) for text in captions.to_pylist()]
    columns["num_words"] = pa.array(words, pa.int32())
    columns["num_phrases"] = pc.list_value_length(columns["phrases"])
    columns["file"] = pa.array(np.full(len(words), task.number, np.int32))
    columns["row"] = pa.array(np.arange(written, written + len(words), dtype=np.int32))
    columns["key"] = names
    found = [columns[n] if n in columns else rows[n].cast(kind) for n, kind in _KINDS.items()]
    table = pa.table(found, schema=SCHEMA)
    sound = int((rows["item_reasons"].flatten().to_numpy(zero_copy_only=False) == 0).sum())
    left_out = {
        "blank_phrase": sound - len(items.row),
        "overlapping_phrase": phrases.overlapping,
        "repeated_box": phrases.repeated,
    }
    rejected = {name: count for name, count in left_out.items() if count}
    return table, Counts(sound, len(phrases.boxes), rejected)


_KINDS = {field.name: field.type for field in SCHEMA}


class _Rejects:
    """For each reason the places with the lowest draws."""

    def __init__(self, per_reason: int) -> None:
        self._per_reason = per_reason
        self._found: dict[int, tuple[NDArray[np.uint64], Ints]] = {}

    def add(self, batch: _Batch, seed: int) -> None:
        """Takes in the rejected rows of a batch."""
        for reason in (
            np.unique(batch.reasons[batch.reasons > 0]).tolist() if self._per_reason else []
        ):
            rows = batch.reasons == reason
            places = batch.places[rows]
            draws = reject_draws(seed, batch.ids[rows], places)
            if reason in self._found:
                draws = np.concatenate([self._found[reason][0], draws])
                places = np.concatenate([self._found[reason][1], places])
            lowest = np.lexsort((places, draws))[: self._per_reason]
            self._found[reason] = draws[lowest], places[lowest]

    def table(self) -> pa.Table:
        """What was found."""
        tables = [
            pa.table(
                {"reason": [REASONS[reason - 1]] * len(draws), "draw": draws, "place": places},
                schema=REJECT_SCHEMA,
            )
            for reason, (draws, places) in sorted(self._found.items())
        ]
        return pa.concat_tables([REJECT_SCHEMA.empty_table(), *tables])


def reject_draws(seed: int, ids: Ints, places: Ints) -> NDArray[np.uint64]:
    """(n,): rejected rows with the lowest are shown."""
    begun = np.full(len(ids), keyed_hash(seed, "reject"), np.uint64)
    return mixed(begun, ids.astype(np.int64).view(np.uint64), places.view(np.uint64))


def narrated_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """The narrated rows of a task."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
