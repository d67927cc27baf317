"""Files appear whole or not at all, and paths stay in their folder."""

import errno
import os
from hashlib import sha256
from pathlib import Path

import pytest

from vila2data.errors import BadInput, RunFailed
from vila2data.files import (
    appearing,
    existing_folder,
    file_sha256,
    inside,
    link_or_copy,
    write_text,
)


def test_file_appears_whole_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with appearing(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, OSError(errno.EIO, "x")])
def test_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")

    def write() -> None:
        with appearing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises((ZeroDivisionError, KeyboardInterrupt, OSError)):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    assert target.read_text() == "old"


def test_leavings_of_a_killed_process_are_overwritten(tmp_path: Path) -> None:
    with appearing(tmp_path / "x") as leaving:
        leaving.write_text("whole")
    leaving.write_text("from a killed process, and longer")
    write_text(tmp_path / "x", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "new")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_with_what_to_do(tmp_path: Path, number: int) -> None:
    def write() -> None:
        with appearing(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise OSError(number, "full")

    with pytest.raises(
        RunFailed, match=r"no space left while writing .*/x; nothing finished is lost"
    ):
        write()
    assert list(tmp_path.iterdir()) == []


def test_hash_is_that_of_the_content(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 1)
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == sha256(content).hexdigest()


def test_file_is_linked_where_that_works(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_file_is_copied_where_links_do_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "a").write_text("x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_link_over_an_existing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(FileExistsError, match="b"):
        link_or_copy(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("name", ["x", "a/b", "a/../x", "..x", "a/..b", ""])
def test_path_that_stays_in_its_folder_is_given(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/../../x", "/etc/passwd", "nul\0", "half \ud800", "loop", "out/x", "up"],
)
def test_path_that_leaves_its_folder_is_not(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "out").symlink_to(tmp_path)
    (folder / "up").symlink_to("../x")
    assert inside(folder, name) is None


def test_path_in_a_relative_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside(Path("folder"), "x") == Path("folder/x")
    assert inside(Path(), "../x") is None


def test_absolute_path_into_the_folder_is_refused(tmp_path: Path) -> None:
    assert inside(tmp_path, str(tmp_path / "x")) is None


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    assert existing_folder(tmp_path, "corpus") == tmp_path
    with pytest.raises(BadInput, match=r"corpus: .*/x is no folder"):
        existing_folder(tmp_path / "x", "corpus")
