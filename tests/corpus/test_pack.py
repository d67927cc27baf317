"""Packing: same items, same bytes; every item counted; interrupted work goes on."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from making import sample_items
from strangers import encoded, huge_png, item, jpeg, picture, sample, tar_of

from vila2data.corpus import ImageLimits, read_corpus
from vila2data.corpus.pack import adopt, pack
from vila2data.corpus.sources import SourceItem
from vila2data.errors import CorpusError, RunFailed, RunRefused


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pack(sample_items(10), tmp_path / name, samples_per_shard=4)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert len(hashes(tmp_path / "a")) == 3 * 3 + 1


def test_layout_is_that_of_img2dataset(tmp_path: Path) -> None:
    pack([item("k", jpeg(), "text", id=7, url="http://u")], tmp_path)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        members = tar.getmembers()
        told = json.loads(tar.extractfile("k.json").read())
    assert sorted(m.name for m in members) == ["k.jpg", "k.json", "k.txt"]
    assert {(m.mtime, m.uname, m.gname) for m in members} == {(0, "vila2data", "vila2data")}
    assert told == {
        "caption": "text",
        "height": 12,
        "id": 7,
        "key": "k",
        "sha256": sha256(jpeg()).hexdigest(),
        "status": "success",
        "url": "http://u",
        "width": 16,
    }
    (row,) = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    assert row == {**told, "error_message": None}
    stats = json.loads((tmp_path / "00000_stats.json").read_text())
    assert (stats["count"], stats["successes"]) == (1, 1)
    assert stats["status_dict"] == {"success": 1}


def test_counts_balance_and_every_rejected_item_has_its_reason(tmp_path: Path) -> None:
    items = [
        item("0", jpeg()),
        item("1", b""),
        item("2", b"text"),
        item("3", jpeg()[:-200]),
        item("4", huge_png()),
        item("", jpeg()),
        item("nul\0", jpeg()),
        item("caf\udce9", jpeg()),
        item("x" * 2000, jpeg()),
        item("5", tmp_path / "nowhere.jpg"),
        item("6", tmp_path),
        item("7", jpeg(7)),
    ]
    summary = pack(items, tmp_path / "out", samples_per_shard=5)
    assert summary.rejected == {
        "image_empty": 1,
        "image_missing": 2,
        "image_too_many_pixels": 1,
        "image_undecodable": 2,
        "key_missing": 1,
        "key_unusable": 3,
    }
    assert (summary.shards, summary.read, summary.written) == (3, 12, 2)
    rows = [
        r
        for p in sorted((tmp_path / "out").glob("*.parquet"))
        for r in pq.read_table(p).to_pylist()
    ]
    assert len(rows) == 12
    assert [r["key"] for r in rows if r["status"] == "success"] == ["0", "7"]
    assert all(r["error_message"] for r in rows if r["status"] != "success")
    assert [s.key for s in read_corpus(tmp_path / "out")] == ["0", "7"]


def test_shards_do_not_depend_on_what_could_be_read(tmp_path: Path) -> None:
    items = [item(f"{n}", b"" if n < 2 else jpeg(n)) for n in range(4)]
    summary = pack(items, tmp_path, samples_per_shard=2)
    assert (summary.shards, summary.written) == (2, 2)
    assert [s.key for s in read_corpus(tmp_path, shards=[0])] == []
    assert [s.key for s in read_corpus(tmp_path, shards=[1])] == ["2", "3"]


def test_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    summary = pack([item("0", tmp_path / "pipe.jpg")], tmp_path / "out")
    assert summary.rejected == {"image_missing": 1}


def test_file_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    summary = pack([item("0", huge)], tmp_path / "out", limits=ImageLimits(max_bytes=1000))
    assert summary.rejected == {"image_too_many_bytes": 1}


@pytest.mark.parametrize(
    "text", [b"caf\xe9", b"x" * 1_000_000, b"\x00", b"<image> USER: <|im_start|>"]
)
def test_text_is_stored_as_it_came(tmp_path: Path, text: bytes) -> None:
    pack([item("0", jpeg(), text)], tmp_path)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.extractfile("0.txt").read() == text
    (found,) = read_corpus(tmp_path)
    assert found.problem is None


def test_long_text_of_many_bytes_leaves_the_metadata_readable(tmp_path: Path) -> None:
    pack([item("0", jpeg(), "я" * 32_000, id=5, url="http://u")], tmp_path)
    (found,) = read_corpus(tmp_path)
    assert (found.id, found.url, len(found.text)) == (5, "http://u", 32_000)


def test_metadata_that_json_cannot_say_is_left_out(tmp_path: Path) -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    metadata = {"nan": float("nan"), "deep": deep, "fine": [1, {"a": None}], "id": 2**70, "url": 5}
    pack(
        [item("0", jpeg(), **metadata), item("1", jpeg(1), url="\ud800", long="x" * 2**21)],
        tmp_path,
    )
    first, second = read_corpus(tmp_path)
    assert first.metadata["fine"] == [1, {"a": None}]
    assert first.metadata.keys() & {"nan", "deep"} == set()
    assert (first.id, first.url, second.url) == (None, None, None)
    assert (second.metadata_problem, second.metadata["key"]) == (None, "1")
    del deep


def test_other_samples_per_shard_or_limits_are_refused(tmp_path: Path) -> None:
    pack(sample_items(3), tmp_path, samples_per_shard=2)
    with pytest.raises(
        RunRefused, match=r"was begun with .*'samples_per_shard': 2.* another --out"
    ):
        pack(sample_items(3), tmp_path, samples_per_shard=3)
    with pytest.raises(RunRefused, match="max_image_pixels"):
        pack(sample_items(3), tmp_path, samples_per_shard=2, limits=ImageLimits(max_pixels=5))


def test_items_that_changed_since_are_refused(tmp_path: Path) -> None:
    pack([item("0", jpeg()), item("1", jpeg(1))], tmp_path, samples_per_shard=2)
    with pytest.raises(RunRefused, match="was packed from other items: the source has changed"):
        pack(
            [item("0", jpeg()), item("00", jpeg(2)), item("1", jpeg(1))],
            tmp_path,
            samples_per_shard=2,
        )


def test_finished_shards_are_not_packed_again(tmp_path: Path) -> None:
    whole = pack(sample_items(6), tmp_path, samples_per_shard=2)
    before = hashes(tmp_path)

    def unreadable() -> Iterator[SourceItem]:
        for found in sample_items(6):
            yield SourceItem(found.key, lambda: pytest.fail("was loaded"), found.text)

    done: list[None] = []
    assert (
        pack(unreadable(), tmp_path, samples_per_shard=2, on_item=lambda: done.append(None))
        == whole
    )
    assert hashes(tmp_path) == before
    assert len(done) == 6


def test_error_of_the_source_leaves_nothing_partial(tmp_path: Path) -> None:
    def breaking() -> Iterator[SourceItem]:
        yield from sample_items(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pack(breaking(), tmp_path, samples_per_shard=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000.parquet",
        "00000.tar",
        "00000_stats.json",
        "pack.json",
    ]


def test_only_one_item_is_in_memory_at_a_time(tmp_path: Path) -> None:
    loaded: list[str] = []

    def items() -> Iterator[SourceItem]:
        for number in range(5):
            assert len(loaded) == number
            yield SourceItem(f"{number}", lambda n=number: loaded.append("") or jpeg(n), b"")

    pack(items(), tmp_path)


_PACK_AND_DIE = """
import os, signal, sys
from pathlib import Path
from making import sample_items
from vila2data.corpus.pack import pack
left = int(sys.argv[2])
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
real = os.fsync
def fsync(descriptor):
    real(descriptor)
    if sys.argv[3] == "sync":
        step()
os.fsync = fsync
pack(sample_items(12), Path(sys.argv[1]), samples_per_shard=4,
     on_item=step if sys.argv[3] == "item" else lambda: None)
"""


@pytest.mark.parametrize(
    ("at", "count"),
    [("item", 7), ("sync", 3), ("sync", 4), ("sync", 6)],
)
def test_killed_pack_goes_on_to_the_same_bytes(tmp_path: Path, at: str, count: int) -> None:
    pack(sample_items(12), tmp_path / "whole", samples_per_shard=4)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _PACK_AND_DIE, str(out), str(count), at]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    for tar in out.glob("*.tar"):
        assert tar.read_bytes() == (tmp_path / "whole" / tar.name).read_bytes()
    pack(sample_items(12), out, samples_per_shard=4)
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_says_what_to_do_and_the_pack_goes_on_after(
    tmp_path: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(850_000))
    out = small_disk / "out"
    with pytest.raises(RunFailed, match=r"no space left while writing .*free some space and run"):
        pack(sample_items(30), out, samples_per_shard=5)
    finished = list(out.glob("*_stats.json"))
    assert finished
    assert list(out.glob(".*")) == []
    ballast.unlink()
    summary = pack(sample_items(30), out, samples_per_shard=5)
    assert (summary.read, summary.written) == (30, 30)
    pack(sample_items(30), tmp_path / "whole", samples_per_shard=5)
    assert hashes(out) == hashes(tmp_path / "whole")


def downloaded(folder: Path) -> Path:
    """An img2dataset output: a shard with its own counts, and one without."""
    tar_of(folder / "00000.tar", [*sample("000000000"), *sample("000000001", 1)])
    told = {"success": 2, "HTTP Error 404: Not Found": 1}
    (folder / "00000_stats.json").write_text(
        json.dumps({"count": 3, "successes": 2, "status_dict": told})
    )
    (folder / "00000.parquet").write_bytes(b"as it was")
    tar_of(folder / "00001.tar", sample("000010000", 2))
    return folder


def test_img2dataset_output_is_adopted_with_its_counts(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "source")
    summary = adopt(source, tmp_path / "out")
    assert (summary.shards, summary.read, summary.written) == (2, 4, 3)
    assert summary.rejected == {"HTTP Error 404: Not Found": 1}
    assert hashes(tmp_path / "out") == hashes(source)
    assert (tmp_path / "out" / "00000.tar").samefile(source / "00000.tar")
    assert adopt(source, tmp_path / "out") == summary


def test_adopting_reads_links_and_broken_counts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "00000.tar").symlink_to(downloaded(tmp_path / "real") / "00000.tar")
    (source / "00000_stats.json").write_text("{")
    assert adopt(source, tmp_path / "out").written == 2
    assert not (tmp_path / "out" / "00000.tar").is_symlink()


def test_adopting_over_other_files_is_refused(tmp_path: Path) -> None:
    source = downloaded(tmp_path / "source")
    (tmp_path / "out").mkdir()
    other = bytearray((source / "00000.tar").read_bytes())
    other[0] ^= 1  # of the same size
    (tmp_path / "out" / "00000.tar").write_bytes(other)
    with pytest.raises(
        CorpusError, match=r"00000\.tar exists and differs .* choose an empty --out"
    ):
        adopt(source, tmp_path / "out")


def test_gif_is_packed_as_png_and_its_identity_is_that_of_the_stored_bytes(tmp_path: Path) -> None:
    pack([item("0", encoded(picture(), "GIF"))], tmp_path)
    (found,) = read_corpus(tmp_path)
    assert found.suffix == "png"
    assert found.metadata["sha256"] == found.image_sha256
