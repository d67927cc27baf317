"""Statistics of 1,000,000 captions: ``vila2data stats`` against counting in the text itself."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.manifest import BuildFile, Manifest
from vila2data.files import file_sha256
from vila2data.schema import CAPTION, SCHEMA_VERSION
from vila2data.stats import statistics

from .timing import process, seconds_in_turn, show

ROWS = 1_000_000
ROWS_PER_FILE = 250_000
ROWS_PER_GROUP = 10_000
ROUNDS = 5

_PANDAS = """
import sys, pandas as pd
captions = pd.read_parquet(sys.argv[1], columns=["caption"])["caption"]
words = captions.str.split().str.len()
print(words.mean(), words.std())
"""
_DATASETS = """
import sys, datasets
datasets.disable_progress_bars()
rows = datasets.load_dataset("parquet", data_dir=sys.argv[1], split="train", columns=["caption"],
                             cache_dir=sys.argv[2])
count = lambda batch: {"words": [len(c.split()) for c in batch["caption"]]}
words = rows.map(count, batched=True, remove_columns=["caption"], load_from_cache_file=False)
words = words.with_format("numpy")["words"][:]
print(words.mean(), words.std())
"""
_SPLIT = "avg(len(string_split(caption, ' '))), stddev_pop(len(string_split(caption, ' ')))"
_SCAN = "sum(strlen(caption))"
_DUCKDB_SCAN = f"""
import sys, duckdb
print(duckdb.sql("SELECT {_SCAN} FROM read_parquet('" + sys.argv[1] + "/*.parquet')").fetchall())
"""


def _tables(rng: np.random.Generator) -> Iterator[pa.Table]:
    """Captions of about 110 words of a vocabulary with Zipf's frequencies, all different."""
    letters = np.array(list("etaoinshrdlucmfw"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(5000)])
    weights = 1 / np.arange(1, len(vocabulary) + 1)
    weights /= weights.sum()
    schema = CAPTION.arrow_schema
    for first in range(0, ROWS, ROWS_PER_GROUP):
        count = ROWS_PER_GROUP
        lengths = rng.normal(110, 30, count).clip(20, 250).astype(int)
        words = vocabulary[rng.choice(len(vocabulary), lengths.sum(), p=weights)]
        ends = np.cumsum(lengths)
        captions = [" ".join(w) + "." for w in np.split(words, ends[:-1])]
        keys = [f"{n:09d}" for n in range(first, first + count)]
        columns = {
            "key": keys,
            "caption": captions,
            "original": ["short alt text of the web"] * count,
            "task": ["general"] * count,
            "round": [1] * count,
            "captioner": ["vila0"] * count,
            "num_tokens": (lengths * 1.3).astype("int32"),
            "num_words": lengths.astype("int32"),
            "num_chars": np.array([len(c) for c in captions], "int32"),
            "num_sentences": np.ones(count, "int32"),
            "distinct_ratio": rng.random(count, "float32"),
            "repeated_ngram_share": rng.random(count, "float32"),
            "compression_ratio": rng.random(count, "float32"),
            "list_format": rng.random(count) < 0.01,
        }
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(count, field.type)
            for field in schema
        ]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _make_build(folder: Path) -> Path:
    data = folder / "data" / "round1"
    data.mkdir(parents=True)
    per_file = ROWS_PER_FILE // ROWS_PER_GROUP
    writer, files = None, []
    for number, table in enumerate(_tables(np.random.default_rng(0))):
        if number % per_file == 0:
            if writer:
                writer.close()
            files.append(
                data / f"train-{number // per_file:05d}-of-{ROWS // ROWS_PER_FILE:05d}.parquet"
            )
            writer = pq.ParquetWriter(files[-1], table.schema)
        writer.write_table(table)
    writer.close()
    (folder / "data" / "round1-rejects").mkdir()
    empty = folder / "data" / "round1-rejects" / "train-00000-of-00001.parquet"
    rejects = table.slice(0, 0).append_column("reject_reason", pa.array([], pa.string()))
    pq.write_table(rejects, empty)
    listed = [(f, "round1", ROWS_PER_FILE) for f in files] + [(empty, "round1-rejects", 0)]
    entries = [
        BuildFile(
            path=file.relative_to(folder).as_posix(),
            config=config,
            split="train",
            rows=rows,
            bytes=file.stat().st_size,
            sha256=file_sha256(file),
        )
        for file, config, rows in listed
    ]
    manifest = Manifest(
        data_set="coyo-recap",
        version="1.0.0",
        schema_version=SCHEMA_VERSION,
        license="cc0-1.0",
        default_config="round1",
        recipe={},
        sources=[],
        packages={},
        files=entries,
        funnel=[],
        stats={},
    )
    (folder / "build.json").write_text(manifest.to_json())
    return folder


def _in_process(build: Path) -> dict[str, float]:
    """Seconds of the queries alone, the libraries imported and the files in the page cache."""
    files = f"read_parquet('{build}/data/round1/*.parquet')"
    return seconds_in_turn(
        {
            "the three tables of vila2data stats": lambda: statistics(build),
            "scan of the text column (DuckDB)": lambda: duckdb.sql(
                f"SELECT {_SCAN} FROM {files}"
            ).fetchall(),
            "split on blanks (DuckDB)": lambda: duckdb.sql(
                f"SELECT {_SPLIT} FROM {files}"
            ).fetchall(),
        },
        rounds=ROUNDS,
    )


def _whole_processes(build: Path, cache: Path) -> dict[str, float]:
    data = str(build / "data" / "round1")
    seconds = seconds_in_turn(
        {
            "vila2data stats": process("-m", "vila2data", "stats", str(build), "--json"),
            "scan of the text column (DuckDB)": process("-c", _DUCKDB_SCAN, data),
        },
        rounds=ROUNDS,
    )
    peers = {
        "pandas": process("-c", _PANDAS, data),
        "datasets.map": process("-c", _DATASETS, data, str(cache)),
    }
    return seconds | seconds_in_turn(peers, rounds=1)


def main() -> None:
    against = "scan of the text column (DuckDB)"
    with tempfile.TemporaryDirectory() as folder:
        build = _make_build(Path(folder) / "build")
        inside = _in_process(build)
        whole = _whole_processes(build, Path(folder) / "cache")
    show(f"Statistics of {ROWS:,} captions, queries", ROWS, "captions", inside, against=against)
    title = f"Statistics of {ROWS:,} captions, whole processes"
    show(title, ROWS, "captions", whole, against=against)
