"""The rejected rows that are shown: of each reason some, by draw."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.tables import work_connection
from vila2data.build.work import shard_writer
from vila2data.files import appearing
from vila2data.keyed import keyed_hash
from vila2data.schema import GROUNDED_REJECT

from .crowds import most_instances
from .filtering import prepare
from .parts import readable
from .recipe import GroundedNarrationRecipe
from .shards import CROWDED, REJECT_SCHEMA, Task, narrated_batches, reject_draws

_SCHEMA = GROUNDED_REJECT.arrow_schema
_CANDIDATES = pa.schema([*REJECT_SCHEMA, ("file", pa.int32())])


def write_rejects(
    tasks: Sequence[Task], fates: Path, recipe: GroundedNarrationRecipe, out: Path
) -> Path:
    """Writes the rows of ``pool-rejects``, in order of reason and of the source.

    Args:
        tasks: that were run.
        fates: rows that were rejected after narration.
        out: the file that is written.
    """
    if out.is_file():
        return out
    turns = [keyed_hash(recipe.seed, "turn", t.part.path.name, t.first) for t in tasks]
    chosen = _chosen(_candidates(tasks, fates, recipe), turns, recipe.rejects_per_reason)
    tables = [_SCHEMA.empty_table()]
    for number, group in groupby(chosen, key=lambda row: row[0]):
        tables.append(_rows(tasks[number], {place: reason for _, place, reason in group}, recipe))
    table = pa.concat_tables(tables).sort_by([("reject_reason", "ascending")])
    with appearing(out) as temporary, shard_writer(temporary, _SCHEMA) as writer:
        writer.write_table(table)
    return out


def _candidates(tasks: Sequence[Task], fates: Path, recipe: GroundedNarrationRecipe) -> pa.Table:
    """Reason, draw, place in the part, number of the task."""
    tables = []
    for number, task in enumerate(tasks):
        table = pq.read_table(task.done)
        tables.append(_numbered(table, number))
    late = pq.read_table(fates, columns=["file", "row", "reject_reason"])
    late = late.filter(pa.compute.is_valid(late["reject_reason"]))
    for number in np.unique(late["file"].to_numpy()).tolist():
        some = late.filter(pa.compute.equal(late["file"], number))
        batches = (b.select(["id", "place"]) for b in narrated_batches(tasks[number].out))
        rows = pa.Table.from_batches(batches).take(some["row"])
        ids = rows["id"].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
        places = rows["place"].to_numpy()
        draws = reject_draws(recipe.seed, ids, places)
        columns = {"reason": some["reject_reason"], "draw": draws, "place": places}
        tables.append(_numbered(pa.table(columns, schema=REJECT_SCHEMA), number))
    return pa.concat_tables(tables)


def _numbered(table: pa.Table, number: int) -> pa.Table:
    column = pa.array(np.full(table.num_rows, number), pa.int32())
    return table.append_column("file", column).cast(_CANDIDATES)


def _chosen(
    candidates: pa.Table, turns: Sequence[int], per_reason: int
) -> list[tuple[int, int, str]]:
    """(number of the task, place, reason) of the chosen rows, in order.

    Task after task in a drawn order, so that few of them are read again.
    """
    turn = np.asarray(turns, np.uint64)[candidates["file"].to_numpy()]
    ordered = candidates.append_column("turn", pa.array(turn)).sort_by(
        [(name, "ascending") for name in ("reason", "turn", "draw", "place")]
    )
    chosen: list[tuple[int, int, str]] = []
    counts: Counter[str] = Counter()
    columns = (ordered[name].to_pylist() for name in ("file", "place", "reason"))
    for file, place, reason in zip(*columns, strict=True):
        counts[reason] += 1
        if counts[reason] <= per_reason:
            chosen.append((file, place, reason))
    return sorted(chosen)


def _rows(task: Task, reasons: dict[int, str], recipe: GroundedNarrationRecipe) -> pa.Table:
    """The rows at some places of a task's part."""
    places = pa.table({"wanted": pa.array(reasons, pa.int64())})
    source = (
        f"SELECT * FROM ({task.part.source_sql(task.first, task.end)}) "
        "SEMI JOIN places ON place = wanted"
    )
    with work_connection(str(task.work)) as connection, readable(task.part.path):
        connection.register("places", places)
        prepare(connection, recipe, source)
        found = connection.sql("FROM shown ORDER BY place").to_arrow_table()
    named = [reasons[place] for place in found["place"].to_pylist()]
    told = np.full(len(named), None, object)
    crowded = np.array([reason == CROWDED for reason in named], np.bool_)
    if crowded.any():
        batch = found.filter(pa.array(crowded)).combine_chunks().to_batches()[0]
        counts, categories = most_instances(batch, recipe.rows.same_instance_iou)
        told[crowded] = [f"{n} × {name}" for n, name in zip(counts, categories, strict=True)]
    found = found.append_column("reject_reason", pa.array(named, pa.string()))
    found = found.append_column("detail", pa.array(told, pa.string()))
    return found.select(_SCHEMA.names).cast(_SCHEMA)
