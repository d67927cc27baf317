"""Places of recipes, and the files that a storage holds."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from making import write_recipe
from storing import remote

from vila2data.errors import BadInput, MissingExtra, RecipeError
from vila2data.files import appearing, write_text
from vila2data.recipe import load_recipe
from vila2data.storage import download, place_of, read_each, tails
from vila2data.storage.remote import BLOCK_BYTES


def test_a_path_stays_a_path_and_a_url_keeps_its_slashes() -> None:
    assert place_of("corpora/mine") == Path("corpora/mine")
    assert place_of("file:///data/mine") == Path("/data/mine")
    place = remote("memory://bucket/corpus/")
    assert str(place) == "memory://bucket/corpus"
    assert str(place / "00000.tar") == "memory://bucket/corpus/00000.tar"
    assert (place / "00000.tar").stem == "00000"
    assert (place / "00000.tar").parent == place
    assert pickle.loads(pickle.dumps(place)) == place


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://", "must name a folder"),
        ("memory://a/../b", "without '..'"),
        ("simplecache::memory://a", "URLs within URLs"),
        ("sftp://me:secret@host/run", "credentials come from the environment"),
        ("gopher://host/run", "gopher"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        place_of(url)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtra, match=r"s3://b/c: pip install 'vila2data\[s3\]'"):
        place_of("s3://b/c")


def test_mistakes_in_places_are_told_with_all_others(tmp_path: Path) -> None:
    file = write_recipe(
        tmp_path / "r.yaml", corpus="gopher://x/y", recaption={"run": 5, "round": 0}
    )
    with pytest.raises(RecipeError, match="has 3 mistakes") as refused:
        load_recipe(file)
    assert "recaption.run: must be a path or a URL" in str(refused.value)
    with pytest.raises(RecipeError, match="leaves the working folder"):
        load_recipe(file, ["corpus=../x", "recaption.run=runs/1", "recaption.round=1"])


def test_a_corpus_that_is_not_there_is_told_before_the_run(tmp_path: Path) -> None:
    file = write_recipe(tmp_path / "r.yaml", corpus=f"memory://{tmp_path.name}/none")
    with pytest.raises(RecipeError, match="none: no such folder"):
        load_recipe(file)


def test_a_large_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * (BLOCK_BYTES // 256) * 3
    place = remote(f"memory://{tmp_path.name}/large.tar")
    place.write_bytes(content)
    asked: list[int] = []
    system = type(place.system()[0])
    whole = system.cat_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append((end or 0) - (start or 0))
        return bytes(whole(self, path, start=start, end=end))

    monkeypatch.setattr(system, "cat_file", counted)
    with place.open() as file:
        assert file.seek(0, 2) == len(content)
        file.seek(0)
        read = b"".join(iter(lambda: file.read(1 << 16), b""))
    assert read == content
    assert Counter(asked) == {BLOCK_BYTES: 3}


def test_several_files_come_in_their_order(tmp_path: Path) -> None:
    folder = remote(f"memory://{tmp_path.name}/several")
    for number in range(300):
        (folder / f"{number:03d}").write_bytes(b"x" * 40 + f"{number:03d}".encode())
    files = sorted(folder.glob("*"))
    assert [content[-3:] for content in read_each(files)] == [file.name.encode() for file in files]
    (folder / "empty").write_bytes(b"")
    assert list(read_each([folder / "empty", files[0]]))[0] == b""  # noqa: RUF015 - both are asked
    assert [len(end) for end in tails(files, 5)] == [5] * 300
    assert [len(end) for end in tails(files[:1], 500)] == [43]
    copies = download(files, tmp_path / "copies")
    assert [copy.read_bytes()[-3:] for copy in copies] == [file.name.encode() for file in files]


class Disk(LocalFileSystem):
    """A remote disk, where what is being written can be seen."""

    protocol = "disk"
    seen: list[str] = []  # noqa: RUF012 - of the class, since fsspec makes the instances

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        self.seen.append(rpath)
        super().put_file(lpath, rpath, **options)


def test_where_files_grow_they_appear_by_a_rename(tmp_path: Path) -> None:
    fsspec.register_implementation("disk", Disk, clobber=True)
    place = remote(f"disk://{tmp_path}/run/shards/00000.parquet")
    with appearing(place) as temporary:
        temporary.write_bytes(b"rows")
    assert set(Disk.seen) == {f"{tmp_path}/run/shards/.00000.parquet.partial"}
    assert [path.name for path in (tmp_path / "run" / "shards").iterdir()] == ["00000.parquet"]
    assert place.read_bytes() == b"rows"
    write_text(place, "more")
    assert place.read_text() == "more"


def test_nothing_appears_of_what_failed(tmp_path: Path) -> None:
    place = remote(f"memory://{tmp_path.name}/file")

    def write_half() -> None:
        with appearing(place) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert not place.is_file()
