"""Recaption and build of a corpus and a run on S3, and in fsspec's memory."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from faulty_storage import FaultyStorage
from making import do, parquet_hashes, write_recipe
from storing import put_corpus, recipe_at, remote, rows_of

from vila2data.build.manifest import read_manifest
from vila2data.corpus.check import check
from vila2data.errors import CorpusError
from vila2data.recaption.run import plan, run
from vila2data.recipe import load_recipe


def local_build(folder: Path, **settings: Any) -> Path:
    recaption = {"engine": {"name": "fake", "cut_share": 0.5}, **settings}
    return do(write_recipe(folder / "local.yaml", recaption=recaption))


def test_a_run_on_s3_gives_the_build_of_a_local_one_byte_for_byte(
    tmp_path: Path, storage: FaultyStorage, cli: Callable[..., Any]
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 20, shards=5)
    expected = local_build(tmp_path)
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("runs/round1"))
    dry = cli("recaption", file, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "5, of which 0 are finished" in dry.stdout
    assert storage.keys("runs") == []
    for command in ("recaption", "build"):
        ended = cli(command, file)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
    build = tmp_path / "s3" / "coyo-recap" / "1.0.0"
    assert parquet_hashes(build) == parquet_hashes(expected)
    left, right = read_manifest(build), read_manifest(expected)
    assert left.sources == right.sources
    assert left.funnel == right.funnel
    assert str(tmp_path) not in (build / "build.json").read_text()


def test_a_run_on_s3_leaves_its_shards_its_log_and_a_released_lease(
    tmp_path: Path, storage: FaultyStorage
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 4, shards=2)
    do(recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run")))
    names = [key for key in storage.keys("run/") if not key.startswith("run/log/")]
    assert names == [
        "run/locks/run.000001",
        "run/run.json",
        "run/shards/00000.parquet",
        "run/shards/00001.parquet",
    ]
    assert json.loads(remote(storage.url("run/locks/run.000001")).read_text())["is_released"]
    (log,) = remote(storage.url("run/log")).glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["state"] == "done"
    assert lines[-1]["images"] == 4


def test_claims_that_killed_processes_left_on_finished_shards_are_removed(
    tmp_path: Path, storage: FaultyStorage
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 4, shards=2)
    recipe: Any = load_recipe(recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run")))
    run(recipe.recaption, recipe.corpus, seed=0)
    dead, unknown = (remote(storage.url(f"run/claims/0000{n}")) for n in (1, 7))
    for claim in (dead, unknown):
        claim.write_bytes(b'{"name": "run", "number": 1, "token": "1"}')
    run(recipe.recaption, recipe.corpus, seed=0)
    assert storage.keys("run/claims/") == ["run/claims/00007"]


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_workers_and_actors_read_the_corpus_from_s3(
    tmp_path: Path, storage: FaultyStorage, kind: str
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 12, shards=4)
    expected = local_build(tmp_path)
    executor = {"kind": kind, "workers": 2}
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run"), executor=executor)
    assert parquet_hashes(do(file)) == parquet_hashes(expected)


def test_a_local_run_of_a_remote_corpus_and_the_other_way_round(
    tmp_path: Path, storage: FaultyStorage
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 6, shards=2)
    expected = parquet_hashes(local_build(tmp_path))
    there = recipe_at(tmp_path / "a.yaml", corpus, str(tmp_path / "run"))
    assert parquet_hashes(do(there)) == expected
    here = recipe_at(tmp_path / "b.yaml", tmp_path / "corpus", storage.url("run"))
    assert parquet_hashes(do(here)) == expected


def test_memory_works_in_one_process(tmp_path: Path) -> None:
    corpus = put_corpus(f"memory://{tmp_path.name}/corpus", tmp_path / "corpus", 6, shards=2)
    file = recipe_at(tmp_path / "m.yaml", corpus, f"memory://{tmp_path.name}/run")
    assert parquet_hashes(do(file)) == parquet_hashes(local_build(tmp_path))


def test_a_moved_run_is_gone_on_with_and_a_changed_shard_is_refused(
    tmp_path: Path, storage: FaultyStorage
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 6, shards=2)
    local_build(tmp_path)
    moved = remote(storage.url("run"))
    begun = tmp_path / "runs" / "round1"
    for name in ("run.json", "shards/00000.parquet"):
        (moved / name).upload(begun / name)
    recipe: Any = load_recipe(recipe_at(tmp_path / "s3.yaml", corpus, str(moved)))
    assert [s.stem for s in plan(recipe.recaption, recipe.corpus, seed=0).todo] == ["00001"]
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 6
    (corpus / "00000.tar").write_bytes(b"another")
    with pytest.raises(CorpusError, match=r"00000\.tar: has changed since s3://.*give another run"):
        plan(recipe.recaption, recipe.corpus, seed=0)


def test_planning_lists_rather_than_asks_about_every_shard(
    tmp_path: Path, storage: FaultyStorage
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 24, shards=12)
    file = recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run"))
    recipe: Any = load_recipe(file)
    storage.requests.clear()
    plan(recipe.recaption, recipe.corpus, seed=0)
    assert len(storage.requests) <= 5  # however many shards
    storage.requests.clear()
    run(recipe.recaption, recipe.corpus, seed=0)
    per_shard = [r for r in storage.requests if "log" not in r.target and "locks" not in r.target]
    # Claim, two to see whether another was faster, the rows, the claim's end, the foot; the tar at
    # each attempt.
    attempts = 3
    assert len(per_shard) <= 12 * (6 + attempts) + 10
    storage.requests.clear()
    plan(recipe.recaption, recipe.corpus, seed=0)
    feet = [r for r in storage.requests if "shards/" in r.target and r.method == "GET"]
    assert len(feet) == 12
    assert len(storage.requests) <= 12 + 9


def test_corpus_check_reads_from_s3(
    tmp_path: Path, storage: FaultyStorage, cli: Callable[..., Any]
) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 6, shards=2)
    expected = asdict(check(tmp_path / "corpus"))
    ended = cli("corpus", "check", str(corpus), "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == expected


def test_no_row_is_lost_or_doubled(tmp_path: Path, storage: FaultyStorage) -> None:
    corpus = put_corpus(storage.url("corpus"), tmp_path / "corpus", 12, shards=3)
    do(recipe_at(tmp_path / "s3.yaml", corpus, storage.url("run")))
    keys = [row["key"] for row in rows_of(remote(storage.url("run")))]
    assert keys == [f"{number:05d}" for number in range(12)]
