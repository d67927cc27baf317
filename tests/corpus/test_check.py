"""What the check counts and lists, and how the command ends."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from making import make_corpus
from strangers import encoded, huge_png, jpeg, picture, sample, special, tar_of

from vila2data.corpus import ImageLimits, ReadLimits
from vila2data.corpus.check import Finding, check
from vila2data.errors import CorpusError

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_good_corpus_has_counts_and_no_findings(tmp_path: Path) -> None:
    report = check(make_corpus(tmp_path, 6, shards=2))
    assert (report.shards, report.samples, report.usable) == (2, 6, 6)
    assert (report.counts, report.findings, report.failed) == ({}, [], False)


@pytest.mark.parametrize(
    ("parts", "kind", "detail", "failed"),
    [
        ([("1.jpg", jpeg(1)), ("1.txt", b"")], "text_missing", "no text", False),
        ([("1.jpg", jpeg(1)), ("1.txt", b"\xff")], "text_not_utf8", "byte 0", False),
        ([("1.jpg", jpeg(1)), ("1.txt", b"x" * 70_000)], "text_too_long", "70000 bytes", False),
        ([("1.jpg", jpeg(1)), ("1.txt", b"a\x00")], "text_control_characters", "at 1", False),
        ([*sample("1", 1), ("1.json", b"{")], "metadata_unreadable", "JSONDecodeError", False),
        ([*sample("1", 1), ("1.json", b" " * 2**21)], "metadata_too_long", "bytes, at", False),
        ([("1.png", jpeg(1)), ("1.txt", b"t")], "suffix_differs", "is jpg, named png", False),
        (
            [("1.jpg", encoded(picture(), "GIF")), ("1.txt", b"t")],
            "suffix_differs",
            "is gif, named jpg",
            False,
        ),
        (sample("1"), "duplicate_image", "as 0", False),
        (sample("0", 1), "duplicate_key", "first in 00000.tar", True),
        ([("1.jpg", b""), ("1.txt", b"t")], "image_empty", "zero bytes", True),
        ([("1.jpg", huge_png()), ("1.txt", b"t")], "image_too_many_pixels", "50000 x", True),
        ([("1.jpg", jpeg(1)[:-40]), ("1.txt", b"t")], "image_undecodable", "truncated", True),
        ([("1.txt", b"t")], "image_missing", "no image member", True),
        ([special("1.jpg", b"2"), ("1.txt", b"t")], "member_not_a_file", "link", True),
        (sample("../1", 1), "member_name_unsafe", "../1", True),
        (sample("a\x1b", 1), "key_unusable", "control", True),
    ],
)
def test_every_kind_of_finding_is_listed(
    tmp_path: Path, parts: list[tuple[str, bytes]], kind: str, detail: str, failed: bool
) -> None:
    tar_of(tmp_path / "00000.tar", [*sample("0"), *parts])
    report = check(tmp_path)
    assert report.counts == {kind: 1}
    (found,) = report.findings
    assert (found.kind, found.shard) == (kind, "00000.tar")
    assert detail in found.detail
    assert report.failed is failed


def test_broken_shards_are_findings(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "00000.tar", sample("0"))
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(b"a text") + 512])
    (tmp_path / "00001.tar").write_bytes(b"no tar" * 200)
    report = check(tmp_path)
    assert report.counts == {"shard_damaged": 1, "shard_truncated": 1}
    assert (report.samples, report.usable, report.failed) == (3, 1, True)


def test_duplicates_are_found_across_shards(tmp_path: Path) -> None:
    for shard in range(3):
        tar_of(tmp_path / f"{shard:05d}.tar", sample("0"))
    report = check(tmp_path)
    assert report.counts == {"duplicate_image": 2, "duplicate_key": 2}
    assert Finding("duplicate_key", "00002.tar", "0", "first in 00000.tar") in report.findings


def test_findings_are_listed_up_to_a_limit_and_counted_in_full(tmp_path: Path) -> None:
    tar_of(tmp_path / "00000.tar", [(f"{n}.jpg", b"") for n in range(5)])
    report = check(tmp_path, limit=2)
    assert report.counts == {"image_empty": 5, "text_missing": 5}
    assert [f.key for f in report.findings] == ["0", "1", "0", "1"]
    assert check(tmp_path, limit=0).findings == []


def test_pixels_are_looked_at_unless_headers_suffice(tmp_path: Path) -> None:
    tar_of(tmp_path / "00000.tar", [("1.jpg", jpeg(1)[:-40]), ("1.txt", b"t")])
    assert check(tmp_path).usable == 0
    assert check(tmp_path, decode_images=False).usable == 1


def test_limits_are_those_that_were_asked_for(tmp_path: Path) -> None:
    tar_of(tmp_path / "00000.tar", sample("0"))
    report = check(tmp_path, limits=ReadLimits(ImageLimits(max_pixels=10)))
    assert report.counts == {"image_too_many_pixels": 1}


def test_folder_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no \.tar shards"):
        check(tmp_path)


def test_command_ends_with_0_1_and_2(tmp_path: Path, cli: Cli) -> None:
    fine = make_corpus(tmp_path / "fine", 3)
    told = cli("corpus", "check", fine, "--json")
    assert (told.returncode, json.loads(told.stdout)["usable"]) == (0, 3)
    broken = tmp_path / "broken"
    tar_of(broken / "00000.tar", [*sample("0"), ("caf\udce9\x1b[2J.jpg", b""), ("[red]x.jpg", b"")])
    told = cli("corpus", "check", broken)
    assert told.returncode == 1
    assert "image_empty" in told.stdout
    assert "[red]x" in told.stdout
    assert "\x1b" not in told.stdout
    told = cli("corpus", "check", tmp_path / "nowhere")
    assert told.returncode == 2
    assert "no such folder; `vila2data corpus pack` makes a corpus" in told.stderr
    assert "Traceback" not in told.stderr


def test_pack_command_ends_with_0_1_and_2(tmp_path: Path, cli: Cli) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.jpg").write_bytes(jpeg())
    (images / "b.jpg").write_bytes(b"no image")
    (tmp_path / "c.jsonl").write_text('{"file_name": "a.jpg", "caption": "of a"}\n')
    told = cli(
        "corpus", "pack", images, "--out", tmp_path / "out", "--captions", tmp_path / "c.jsonl"
    )
    assert told.returncode == 0
    assert "image_undecodable" in told.stdout
    assert check(tmp_path / "out").usable == 1
    (images / "a.jpg").unlink()
    assert cli("corpus", "pack", images, "--out", tmp_path / "none").returncode == 1
    told = cli(
        "corpus", "pack", images, "--out", tmp_path / "x", "--captions", tmp_path / "gone.csv"
    )
    assert told.returncode == 2
    assert "no such captions file" in told.stderr
