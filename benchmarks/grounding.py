"""Grounded narration: filter and whole build against the scan of the same columns and a plain loop.

``python -m benchmarks.grounding --rows 1000000 5000000`` for other sizes than the quick ones.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.plugin.grit_bulk import write_grit
from vila2data.boxes import CONVENTIONS
from vila2data.build.views import sql_list
from vila2data.build.write import write_build
from vila2data.builders.grounded_narration.builder import GroundedNarration
from vila2data.builders.grounded_narration.filtering import prepare
from vila2data.builders.grounded_narration.parts import Part, find_parts
from vila2data.builders.grounded_narration.recipe import GroundedNarrationRecipe
from vila2data.commands import quiet_libraries
from vila2data.conversation import neutralise
from vila2data.keyed import keyed_choice
from vila2data.prompts import load_prompts
from vila2data.schema import GROUNDED_NARRATION

from .peaks import watched
from .timing import seconds_in_turn, show

ROWS = (20_000, 100_000)
LOOP_ROWS = 20_000
ROWS_PER_PART = 250_000
WORKERS = 2
ROUNDS = 3

_COLUMNS = ["key", "id", "url", "caption", "width", "height"]
_COLUMNS += ["clip_similarity_vitb32", "clip_similarity_vitl14", "noun_chunks", "ref_exps"]
_QUESTIONS = {p.id: 1.0 for p in load_prompts().values() if p.task == "grounding"}


def recipe(folder: Path) -> GroundedNarrationRecipe:
    """The default recipe for the parts of a folder."""
    return GroundedNarrationRecipe.model_validate(
        {
            "builder": "grounded-narration",
            "version": "1.0.0",
            "license": "ms-pl",
            "out": folder / "builds",
            "path": folder / "grit",
            "executor": {"workers": WORKERS},
        }
    )


def write_rows(folder: Path, rows: int) -> None:
    """Parts of GRIT's layout."""
    parts = max(WORKERS, rows // ROWS_PER_PART)
    write_grit(folder / "grit", rows=rows, parts=parts, seed=0)


def scan(connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], of_lists: str) -> None:
    """Reads every column that the build needs, and does little with it."""
    files = sql_list(part.file.as_posix() for part in parts)
    lists = ("noun_chunks", "ref_exps")
    values = ", ".join(of_lists.format(n) if n in lists else f"max({n})" for n in _COLUMNS)
    connection.execute(f"SELECT {values} FROM read_parquet({files})").fetchall()


def filter_rows(
    connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], made: GroundedNarrationRecipe
) -> None:
    """The reason of every row, counted."""
    sources = " UNION ALL ".join(part.source_sql() for part in parts)
    prepare(connection, made, sources)
    connection.execute("SELECT reason, count(*) FROM filtered GROUP BY reason").fetchall()


def loop(folder: Path) -> int:
    """The same rows by a loop over them, in one process, without counts of what is left out."""
    out = pq.ParquetWriter(folder / "loop.parquet", GROUNDED_NARRATION.arrow_schema)
    seen: set[tuple[int, str]] = set()
    waiting: list[dict[str, Any]] = []
    written = 0
    for row in _rows(folder / "grit"):
        kept = narrate(row)
        if kept is None or (row["id"], row["caption"]) in seen:
            continue
        seen.add((row["id"], row["caption"]))
        waiting.append(kept)
        if len(waiting) == 10_000:
            out.write_table(pa.Table.from_pylist(waiting, GROUNDED_NARRATION.arrow_schema))
            written += len(waiting)
            waiting = []
    out.write_table(pa.Table.from_pylist(waiting, GROUNDED_NARRATION.arrow_schema))
    out.close()
    return written + len(waiting)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(10_000, columns=_COLUMNS):
            yield from batch.to_pylist()


def keep(row: dict[str, Any]) -> list[tuple[list[float], list[float]]] | None:
    """The boxes of a row, each with its referring expression; None where it is left out."""
    caption = row["caption"]
    if not caption or not caption.strip():
        return None
    kept = []
    for chunk, expression in zip(row["noun_chunks"], row["ref_exps"], strict=True):
        start, end, x1, y1, x2, y2, _ = chunk
        sound = 0 <= start < end <= len(caption) and 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        if sound and start == int(start) and end == int(end) and (x2 - x1) * (y2 - y1) <= 0.7:
            kept.append((chunk, expression))
    if not kept or (len(kept) > 3 and _is_crowded(caption, [chunk for chunk, _ in kept])):
        return None
    return kept


def _is_crowded(caption: str, chunks: list[list[float]]) -> bool:
    counts: Counter[str] = Counter()
    for chunk in chunks:
        word = caption[int(chunk[0]) : int(chunk[1])].split()[-1].lower()
        counts[word.removesuffix("s")] += 1
    return max(counts.values()) > 3


def narrate(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row as it stands in the build; None where it is left out."""
    kept = keep(row)
    if kept is None:
        return None
    caption, convention = row["caption"], CONVENTIONS["vila"]
    groups: dict[tuple[int, int], list[tuple[list[float], list[float]]]] = {}
    for chunk, expression in kept:
        groups.setdefault((int(chunk[0]), int(chunk[1])), []).append((chunk, expression))
    spans, reached = [], 0
    for start, end in sorted(groups, key=lambda span: (span[1], -span[0])):
        if start >= reached:
            spans.append((start, end))
            reached = end
    phrases, pieces, reached = [], [], 0
    safe = neutralise(caption)
    for place, span in enumerate(spans):
        start, end = _widened(spans, place, groups[span][0][1], reached, len(caption))
        boxes = [chunk[2:6] for chunk, _ in groups[span]]
        phrases.append(
            {
                "text": caption[start:end],
                "start": start,
                "end": end,
                "boxes": boxes,
                "score": max(chunk[6] for chunk, _ in groups[span]),
            }
        )
        pieces += [safe[reached:start], convention.ground(safe[start:end], boxes)]
        reached = end
    grounded = "".join(pieces) + safe[reached:]
    question = keyed_choice(_QUESTIONS, 0, row["key"], "question")
    asked = f"<image>\n{load_prompts()[question].text}"
    return {
        **{name: row[name] for name in _COLUMNS if name not in ("noun_chunks", "ref_exps")},
        "phrases": phrases,
        "grounded_caption": grounded,
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": grounded},
        ],
        "question_ids": [question],
    }


def _widened(
    spans: list[tuple[int, int]], place: int, expression: list[float], reached: int, chars: int
) -> tuple[int, int]:
    start, end = int(expression[0]), int(expression[1])
    following = spans[place + 1][0] if place + 1 < len(spans) else chars
    return (start, end) if reached <= start and end <= following else spans[place]


def measure_filter(folder: Path, rows: int) -> None:
    """Shows rows a second of the scan and of the filter, with as many threads."""
    made = recipe(folder)
    parts = find_parts(made.path, folder)
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {WORKERS}")
        connection.execute("SET enable_progress_bar = false")
        ways = {
            "scan of the same columns": lambda: scan(connection, parts, "sum(len({}))"),
            "the same, each list's numbers looked at": lambda: scan(connection, parts, "max({})"),
            "`filter.sql`": lambda: filter_rows(connection, parts, made),
        }
        seconds = seconds_in_turn(ways, rounds=ROUNDS)
    title = f"Filter of {rows:,} rows, DuckDB with {WORKERS} threads"
    show(title, rows, "rows", seconds, against="scan of the same columns")


def build(folder: Path) -> None:
    """Makes the build of a folder; prints seconds and kept rows."""
    quiet_libraries()
    began_s = time.perf_counter()
    path = write_build(GroundedNarration, recipe(folder))
    seconds = time.perf_counter() - began_s
    funnel = json.loads((path / "build.json").read_text())["funnel"]
    print(seconds, funnel[-1]["written"])


def run_loop(folder: Path) -> None:
    """Does what the build does by a loop; prints seconds and kept rows."""
    began_s = time.perf_counter()
    written = loop(folder)
    print(time.perf_counter() - began_s, written)


def measure_build(rows: int) -> None:
    """Prints a row of the table: build and loop over the same rows, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, rows)
        plain = watched("-m", "benchmarks.grounding", "--loop", name)
        found = watched("-m", "benchmarks.grounding", "--build", name)
        loop_s, loop_kept = map(float, plain.printed.split())
        seconds, kept = map(float, found.printed.split())
        print(
            f"| {rows:,} | {kept:,.0f} | {seconds:.1f} | {rows / seconds:,.0f} | {loop_s:.1f} "
            f"| {rows / loop_s:,.0f} | {loop_s / seconds:.1f} | {found.driver_mib:,.0f} "
            f"| {found.worker_mib:,.0f} |",
            flush=True,
        )
        assert abs(loop_kept - kept) <= 0.01 * kept, (loop_kept, kept)


def main(rows: Sequence[int] = ROWS) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name), max(rows))
        measure_filter(Path(name), max(rows))
    print(f"\n### Whole builds with {WORKERS} worker processes, and a plain loop in one process\n")
    print(
        "| rows | kept | build, s | rows/s | loop, s | rows/s | ratio | driver, MiB "
        "| largest worker, MiB |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for count in rows:
        measure_build(count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--full", action="store_const", const=(1_000_000, 5_000_000), dest="rows")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--loop", type=Path)
    asked = parser.parse_args()
    if asked.build:
        build(asked.build)
    elif asked.loop:
        run_loop(asked.loop)
    else:
        main(asked.rows)
