"""A file system that is full in the middle: a small tmpfs, or a quota's worth of space."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from making import do, make_corpus, parquet_hashes, write_recipe

from vila2data.build.verify import verify

SIZE_BYTES = 8 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "vila2data", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, but_bytes: int) -> Path:
    """A file that leaves ``but_bytes`` of the disk free."""
    filler = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with filler.open("wb") as file:
        file.write(b"\0" * (free - but_bytes))
    return filler


def expected_of(tmp_path: Path) -> dict[str, str]:
    file = write_recipe(
        tmp_path / "quiet.yaml",
        out=str(tmp_path / "quiet"),
        recaption={"run": str(tmp_path / "runs" / "quiet")},
    )
    return parquet_hashes(do(file))


def failed_in_one_line(ended: "subprocess.CompletedProcess[str]", path: Path) -> None:
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: no space left while writing {path}")
    assert line.endswith("free some space and run the same command again")


def test_recaption_on_a_full_disk_keeps_its_shards_and_goes_on_after_space_returns(
    tmp_path: Path, small_disk: Path, cli: Callable[..., Any]
) -> None:
    make_corpus(tmp_path / "corpus", 24, shards=6)
    expected = expected_of(tmp_path)
    run = small_disk / "run"
    file = write_recipe(tmp_path / "r.yaml", recaption={"run": str(run)})
    for free in (0, 60_000):
        filler = fill(small_disk, but_bytes=free)
        failed_in_one_line(cli("recaption", file), run)
        finished = list((run / "shards").glob("*.parquet"))
        assert (0 < len(finished) < 6) if free else not finished
        assert list((run / "shards").glob(".*.partial")) == []
        filler.unlink()
    written = {shard: shard.stat().st_mtime_ns for shard in finished}
    build = do(file)
    assert {shard: shard.stat().st_mtime_ns for shard in finished} == written
    assert parquet_hashes(build) == expected


def test_recaption_in_workers_on_a_full_disk_fails_in_one_line_too(
    tmp_path: Path, small_disk: Path, cli: Callable[..., Any]
) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=4)
    settings = {"run": str(small_disk / "run"), "executor": {"workers": 2}}
    file = write_recipe(tmp_path / "r.yaml", recaption=settings)
    fill(small_disk, but_bytes=20_000)
    failed_in_one_line(cli("recaption", file), small_disk / "run")


@pytest.mark.slow
def test_build_on_a_full_disk_fails_in_one_line_and_goes_on_after_space_returns(
    tmp_path: Path, small_disk: Path, cli: Callable[..., Any]
) -> None:
    make_corpus(tmp_path / "corpus", 24, shards=6)
    expected = expected_of(tmp_path)
    out = small_disk / "builds"
    file = write_recipe(tmp_path / "r.yaml", out=str(out))
    assert cli("recaption", file).returncode == 0
    build = out / "coyo-recap" / "1.0.0"
    # In the scan of the corpus, in the tables, and in what describes them.
    for free in (0, 24_000, 49_152, 53_248):
        filler = fill(small_disk, but_bytes=free)
        ended = cli("build", file)
        filler.unlink()
        failed_in_one_line(ended, out)
        assert not build.exists()
    assert cli("build", file).returncode == 0
    assert verify(build).problems == []
    assert parquet_hashes(build) == expected
