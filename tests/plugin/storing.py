"""Corpora and runs on a storage, for the tests of it."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from making import make_corpus, write_recipe

from vila2data.storage import Place, RemotePath, place_of


def remote(url: str) -> RemotePath:
    place = place_of(url)
    assert isinstance(place, RemotePath)
    return place


def put_corpus(url: str, folder: Path, count: int = 12, *, shards: int = 3) -> RemotePath:
    """Packs a corpus locally and uploads it."""
    corpus = remote(url)
    for file in sorted(make_corpus(folder, count, shards=shards).iterdir()):
        (corpus / file.name).upload(file)
    return corpus


def recipe_at(file: Path, corpus: Place, run: str, **settings: Any) -> Path:
    """A recipe over a corpus somewhere; the build lies beside ``file``."""
    blocks = {"engine": {"name": "fake", "cut_share": 0.5}, **settings, "run": run}
    out = str(file.parent / file.stem)
    return write_recipe(file, corpus=str(corpus), out=out, recaption=blocks)


def rows_of(run: RemotePath) -> list[dict[str, Any]]:
    """All rows of a run's ledger, in the order of the shards."""
    files = sorted((run / "shards").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file.open()).to_pylist()]
