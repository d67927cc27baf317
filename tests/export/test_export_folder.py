"""An export appears whole or not at all."""

import errno
import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from export_making import folder_hashes, instruct_row, mixed_rows, write_fake_build
from filelock import FileLock
from making import make_picture

from vila2data.errors import BadInput, RunFailed
from vila2data.export.command import export_command
from vila2data.export.folder import appearing_folder
from vila2data.export.run import FORMATS, export


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return write_fake_build(tmp_path / "in" / "build", mixed_rows())


def test_a_filled_folder_is_refused_and_kept(build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(BadInput, match=r"out: is there and no empty folder; give --out another"):
        export(build, out, format="llava")
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_refused(build: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    out.write_text("x") if kind == "file" else out.symlink_to(build)
    with pytest.raises(BadInput, match="is there and no empty folder"):
        export(build, out, format="llava")


def test_an_empty_folder_and_one_that_is_not_there_are_filled(build: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "deep"):
        export(build, out, format="llava")
        assert (out / "export.json").is_file()
        assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with appearing_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with appearing_folder(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFailed, match="no space left while writing"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed_by_the_next(build: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from vila2data.export.run import export\n"
        "def kill(count): kill.rows += 1; kill.rows == 3 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "kill.rows = 0\n"
        "export(Path(sys.argv[1]), Path(sys.argv[2]), format='llava', on_row=kill)"
    )
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", script, str(build), str(out)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial" / "conversations.json").is_file()
    export(build, out, format="llava")
    assert not (tmp_path / ".out.partial").exists()
    export(build, tmp_path / "unhurt", format="llava")
    assert folder_hashes(out) == folder_hashes(tmp_path / "unhurt")


def test_two_processes_do_not_write_one_folder(build: Path, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(BadInput, match="another process is writing it"),
    ):
        export(build, tmp_path / "out", format="llava")


def test_the_command_says_what_was_written_and_what_next(
    build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*mixed_rows(), mixed_rows()[0] | {"messages": []}]
    build = write_fake_build(tmp_path / "b", rows)
    out = tmp_path / "out"
    export_command(build, config=None, format="llava", out=out, images=None, corpus=None)
    told = capsys.readouterr().out
    assert f"{out}: llava" in told
    counts = [line.split("│")[1:3] for line in told.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in counts] == [
        ["rows", "6"],
        ["left out: turns_out_of_order", "1"],
        ["images", "4"],
    ]
    last = f"LLaVA: --data_path {out}/conversations.json --image_folder {out}/images"
    assert told.splitlines()[-1] == last


def test_rows_are_told_as_they_are_read(build: Path, tmp_path: Path) -> None:
    told: list[int] = []
    export(build, tmp_path / "out", format="llava", on_row=told.append)
    assert told == [1] * 6


@pytest.mark.parametrize("format", FORMATS)
def test_no_more_than_some_rows_are_held(tmp_path: Path, format: str) -> None:
    noise = [hashlib.shake_128(f"{n}".encode()).digest(250_000) for n in range(80)]
    rows = [
        instruct_row(f"{n}", "<image>", "a", images=[make_picture(0) + more])
        for n, more in enumerate(noise)
    ]
    build = write_fake_build(tmp_path / "build", rows, rows_per_group=4)
    before = pa.total_allocated_bytes()
    held: list[int] = []

    def note(count: int) -> None:
        held.append(pa.total_allocated_bytes() - before)

    export(build, tmp_path / "out", format=format, max_shard_bytes=1_000_000, on_row=note)
    assert len(held) == 80
    assert max(held) < 10_000_000  # of 20 million bytes
