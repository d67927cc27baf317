"""Capacity: a run, its build and what reads them, simulated without images at up to 25M rows.

    python -m benchmarks.scale --rows 1_000_000 --folder FOLDER       # each step in its own process
    python -m benchmarks.scale --driver 1_000 10_000 --folder FOLDER  # the real ``run``
    python -m benchmarks.scale --paper                                # the table of docs/scale.md

What is not real in the first: the tars are empty files; in place of reading and captioning them, a
crew of one worker hands the driver finished tables, and the scan of the originals is handed its
rows. ``LEDGER_ROWS`` texts of the vocabulary of ``benchmarks.corpora`` are drawn, judged for their
signals and put into tables by the package's own functions; every shard has these texts, with keys,
addresses, hashes and seeds of its own. Planning, claims, driver, ledger, build, rules, statistics
and queries are the package's. In the second the corpus is one tar of 1,000 tiny images under many
names, and the engine answers at once.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from vila2data.build.verify import verify
from vila2data.build.views import connect
from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap, CoyoRecapRecipe
from vila2data.counts import Counts
from vila2data.engines import Request, Result
from vila2data.recaption.crew import Event, Wants, Written
from vila2data.recaption.rows import Row, counts_of, table_of
from vila2data.recaption.run import plan, run
from vila2data.recaption.spec import RecaptionSpec
from vila2data.stats import run_sql, statements, statistics
from vila2data.stats.signals import signals_of

from . import paper
from .corpora import InstantEngine, make_corpus, recipe

LEDGER_ROWS = 10_000
WORDS = 70
REJECTED_EVERY = 100
TAR_IMAGES = 1_000
STEPS = ("run", "plan", "resume", "ledger", "build", "verify", "stats", "query")
_LENGTHS = "SELECT num_words // 10 * 10 AS words, count(*) FROM {} GROUP BY 1 ORDER BY 1"
_ENGINE = {"name": "openai", "base_url": "http://localhost:1", "model": "never asked"}


@cache
def _texts(words: int, salt: int) -> list[str]:
    """``LEDGER_ROWS`` texts of about ``words`` words."""
    made = InstantEngine()
    rng = np.random.default_rng((salt, words))
    lengths = rng.normal(words, words / 4, LEDGER_ROWS).clip(3).astype(int)
    points = rng.random(lengths.sum()) * made.cumulative[-1]
    drawn = np.array(made.words)[np.searchsorted(made.cumulative, points)]
    return [" ".join(found) + "." for found in np.split(drawn, np.cumsum(lengths)[:-1])]


@cache
def _pattern(round_: int) -> tuple[list[Row], pa.Table]:
    """Rows of a shard but for what tells its samples from others'."""
    rows = []
    originals, captions = _texts(12, 0), _texts(WORDS, 1)
    for number, original in enumerate(originals):
        row = Row("", None, None, None, 512, 384, original, "general", round_)
        row.caption = captions[number] if round_ else original
        row.signals = signals_of(row.caption)
        if round_:
            row.template_id, row.prompt_id = "concatenated", f"long-v{number % 3 + 1}"
            row.captioner, row.captioner_revision = "vila0", "0" * 40
            row.engine, row.num_tokens = "instant 1", WORDS * 4 // 3
            is_cut = number % REJECTED_EVERY == 0
            row.finish_reason, row.attempts = ("length", 3) if is_cut else ("stop", 1)
            if is_cut:
                row.reject("length")
        rows.append(row)
    return rows, table_of(rows)


def _made(shard: Path, round_: int, samples: int) -> tuple[pa.Table, Counts]:
    """The rows of a shard; the same at every call."""
    rows, table = _pattern(round_)
    number = int(shard.stem)
    rng = np.random.default_rng(number)
    digits = rng.bytes(32 * samples).hex()
    hashes = [digits[start : start + 64] for start in range(0, len(digits), 64)]
    first = number * samples
    own: dict[str, Any] = {
        "key": [f"{n:09d}" for n in range(first, first + samples)],
        "id": range(first, first + samples),
        "url": [f"https://images.example/{h[:12]}/{h[12:24]}.jpg" for h in hashes],
        "image_sha256": hashes,
    }
    if round_:
        own["seed"] = rng.integers(0, 2**63 - 1, samples)
    table = table.slice(0, samples)
    for name, values in own.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table, counts_of(rows[:samples], read=samples)


class InstantCrew:
    """One worker that has every shard ready; ``making_s`` is what making it took."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._given: Path | None = None
        self.making_s = 0.0

    def next_event(self) -> tuple[int, Event]:
        if self._given is None:
            return 0, Wants(is_idle=True)
        began_s = time.perf_counter()
        written = Written(self._given, *_made(self._given, 1, self._samples))
        self.making_s += time.perf_counter() - began_s
        self._given = None
        return 0, written

    def give(self, worker: int, shard: Path | None) -> None:
        self._given = shard

    def replace(self, worker: int) -> None:
        raise AssertionError("nobody is lost")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class CannedEngine(InstantEngine):
    """One of ``LEDGER_ROWS`` captions by the request's seed."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        texts = _texts(WORDS, 1)
        for request in requests:
            text = texts[request.sampling.seed % len(texts)]
            yield Result(request.index, text, "stop", self.author, WORDS * 4 // 3)


class Simulation:
    """The steps over one folder; each returns what it has to tell beside time and memory."""

    def __init__(self, folder: Path, rows: int, samples: int) -> None:
        self.corpus = folder / "corpus"
        self.samples = samples
        self.shards = [self.corpus / f"{n:05d}.tar" for n in range(rows // samples)]
        self.corpus.mkdir(parents=True, exist_ok=True)
        for shard in self.shards:
            if not shard.exists():  # a run notices a file that was touched
                shard.touch()
        self.recipe: CoyoRecapRecipe = recipe(self.corpus, folder, _ENGINE, "round1")
        self.build_folder = folder / "builds" / "coyo-recap" / "1.0.0"

    @property
    def spec(self) -> RecaptionSpec:
        found = self.recipe.recaption
        assert found is not None
        executor = found.executor.model_copy(update={"workers": 2})  # else there is no driver
        return found.model_copy(update={"executor": executor})

    def run(self) -> dict[str, Any]:
        """The driver over all shards that are left."""
        crew = InstantCrew(self.samples)
        with patch("vila2data.recaption.run._crew", lambda *_: crew):
            counts = run(self.spec, self.corpus, seed=0)
        assert counts.read == len(self.shards) * self.samples
        return {"of it made by the crew, s": round(crew.making_s, 1), **_size(self.spec.run)}

    def plan(self) -> dict[str, Any]:
        """What is left where one shard is not finished."""
        last = self.shards[-1]
        (self.spec.run / "shards" / f"{last.stem}.parquet").unlink(missing_ok=True)
        found = plan(self.spec, self.corpus, seed=0)
        assert found.todo == [last]
        return {"finished": len(found.finished)}

    def resume(self) -> dict[str, Any]:
        """The one shard that is left."""
        return self.run()

    def ledger(self) -> dict[str, Any]:
        """The lengths of `vila2data stats`, over the run's files in place of a build's."""
        import duckdb

        with duckdb.connect() as connection:
            connection.execute(
                "CREATE VIEW captions AS SELECT 'round1' AS config, * FROM "
                f"read_parquet('{self.spec.run}/shards/*.parquet') WHERE reject_reason IS NULL"
            )
            (row,) = run_sql(connection, statements("length")).dicts()
        return {name: row[name] for name in list(row)[:3]}

    def build(self) -> dict[str, Any]:
        """The build; its scan of the originals is handed the rows."""

        def scanned(shard: Path, *_: object) -> tuple[pa.Table, Counts]:
            return _made(shard, 0, self.samples)

        with patch("vila2data.recaption.run.scan_shard", scanned):
            write_build(CoyoRecap, self.recipe)
        return _size(self.build_folder)

    def verify(self) -> dict[str, Any]:
        """The check of every hash and rule."""
        found = verify(self.build_folder)
        assert not found.problems, found.problems
        return found.checked

    def stats(self) -> dict[str, Any]:
        """The tables of `vila2data stats`."""
        return {"tables": len(statistics(self.build_folder))}

    def query(self) -> dict[str, Any]:
        """A histogram of the captions' lengths."""
        with connect(self.build_folder) as connection:
            return {"bins": len(run_sql(connection, _LENGTHS.format("round1")).rows)}


def _size(folder: Path) -> dict[str, Any]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "GB": round(sum(sizes) / 1e9, 3)}


def _driver(folder: Path, images: int) -> dict[str, Any]:
    """The real ``run`` in this process, over a tar of tiny images under as many names as it takes;
    of no images, makes the tar.
    """
    one = folder / "one"
    if not images:
        make_corpus(one, images=TAR_IMAGES, shards=1, size_px=(16, 16))
        return {}
    (tar,) = one.glob("*.tar")
    corpus = folder / f"corpus-{images}"
    corpus.mkdir(exist_ok=True)
    for number in range(images // TAR_IMAGES):
        (corpus / f"{number:05d}.tar").hardlink_to(tar)
    made = recipe(corpus, folder, _ENGINE, f"run-{images}").recaption
    assert made is not None
    counts = run(made, corpus, seed=0, engine=CannedEngine())
    return {"read": counts.read, **_size(made.run)}


def _measured(work: Callable[[], dict[str, Any]]) -> None:
    """Does the work and prints seconds, the process's peak and what the work tells."""
    began_s = time.perf_counter()
    told = work()
    seconds = time.perf_counter() - began_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, peak_mib, told]))


def _in_child(*arguments: str) -> tuple[float, float, dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak_mib, told = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak_mib, told


def _told(values: dict[str, Any]) -> str:
    shown = {n: v if isinstance(v, str) else f"{v:,}" for n, v in values.items()}
    return ", ".join(f"{name}: {value}" for name, value in shown.items())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=25_000_000)
    parser.add_argument("--per-shard", type=int, default=LEDGER_ROWS)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--driver", type=int, nargs="+", help="samples of each real run")
    parser.add_argument("--folder", type=Path, help="of all that is written; is not deleted")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.paper:
        return paper.main()
    if given.folder is None:
        parser.error("give --folder: it takes up to 400 bytes a row, a build three times as much")
    if given.child and given.driver is not None:
        return _measured(lambda: _driver(given.folder, given.driver[0]))
    if given.child:
        return _measured(
            getattr(Simulation(given.folder, given.rows, given.per_shard), given.steps[0])
        )
    folder = ["--folder", str(given.folder)]
    if given.driver:
        title, names = "Real runs", [str(images) for images in given.driver]
        options = [["--driver", name] for name in names]
        _in_child("--driver", "0", *folder)
    else:
        title, names = f"{given.rows:,} rows, {given.per_shard:,} a shard", given.steps
        size = ["--rows", str(given.rows), "--per-shard", str(given.per_shard)]
        options = [["--steps", name, *size] for name in names]
    print(f"\n### {title}\n\n| | seconds | peak, MiB | |\n|---|---:|---:|---|", flush=True)
    for name, option in zip(names, options, strict=True):
        seconds, peak_mib, told = _in_child(*option, *folder)
        print(f"| {name} | {seconds:,.2f} | {peak_mib:,.0f} | {_told(told)} |", flush=True)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
