"""What each format holds, read by the rules of those that train on it."""

import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from export_making import folder_hashes, instruct_row, messages_of, mixed_rows, write_fake_build
from export_reading import (
    Read,
    expected_of,
    read_llava,
    read_messages,
    read_sharegpt,
    read_tars,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make_picture

from vila2data.errors import BadInput
from vila2data.export.messages import parts_of
from vila2data.export.run import FORMATS, Exported, export

NAME = "llava_instruct_default"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_build(tmp_path_factory.mktemp("mixed"), mixed_rows(), rows_per_file=4)


def read_parquet(out: Path) -> Read:
    files = sorted((out / "data").glob("*.parquet"))
    return read_messages([row for file in files for row in pq.read_table(file).to_pylist()])


def read(out: Path, format: str) -> Read:
    readers = {"llava": read_llava, "messages": read_parquet, "webdataset": read_tars}
    return read_sharegpt(out, NAME) if format == "sharegpt" else readers[format](out)


@pytest.mark.parametrize("format", FORMATS)
def test_turns_and_images_come_back_of_none_one_and_several(
    build: Path, tmp_path: Path, format: str
) -> None:
    done = export(build, tmp_path / "out", format=format)
    assert (done.read, done.written, done.left_out, done.lying) == (6, 6, {}, 0)
    found = read(tmp_path / "out", format)
    expected = expected_of(mixed_rows())
    if format == "sharegpt":  # the first row with an image stands first
        expected = [expected[1], expected[0], *expected[2:]]
    assert found == expected


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_build_gives_the_same_bytes(build: Path, tmp_path: Path, format: str) -> None:
    for name in ("one", "two"):
        export(build, tmp_path / name, format=format)
    assert folder_hashes(tmp_path / "one") == folder_hashes(tmp_path / "two")


@pytest.mark.parametrize(("format", "images"), [("llava", 4), ("sharegpt", 4), ("messages", 5), ("webdataset", 5)])  # fmt: skip
def test_a_content_is_written_once_where_images_are_files(
    build: Path, tmp_path: Path, format: str, images: int
) -> None:
    assert export(build, tmp_path / "out", format=format).images == images
    assert len([f for f in tmp_path.rglob("images/**/*") if f.is_file()]) in (0, images)


def test_an_export_says_what_it_is_of(build: Path, tmp_path: Path) -> None:
    export(build, tmp_path / "out", format="webdataset")
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (told["data_set"], told["version"], told["config"]) == (
        "llava-instruct",
        "1.0.0",
        "default",
    )
    assert (told["rows"], told["images"], told["left_out"]) == (6, 5, {})
    assert told["members"] == ["0.webp", "1.jpg", "jpg", "json", "png"]
    assert not (tmp_path / "out" / "left_out.jsonl").exists()


def test_a_record_of_one_image_has_a_text_of_several_a_list_of_none_no_key(
    build: Path, tmp_path: Path
) -> None:
    export(build, tmp_path / "out", format="llava")
    records = json.loads((tmp_path / "out" / "conversations.json").read_text())
    kinds = [type(record.get("image")) for record in records]
    assert kinds == [type(None), str, str, list, type(None), str]
    assert list(records[0]) == ["id", "conversations"]
    assert list(records[1]) == ["id", "image", "conversations"]


def test_dataset_info_names_the_columns_that_are_there(build: Path, tmp_path: Path) -> None:
    export(build, tmp_path / "some", format="sharegpt")
    texts = write_fake_build(tmp_path / "texts", [instruct_row("a", "Why?", "So.")])
    export(texts, tmp_path / "none", format="sharegpt")
    columns = [
        json.loads((tmp_path / n / "dataset_info.json").read_text())[NAME]["columns"]
        for n in ("some", "none")
    ]
    assert columns[0] == {"messages": "conversations", "images": "images"}
    assert columns[1] == {"messages": "conversations"}


def test_members_are_named_by_what_the_bytes_are(build: Path, tmp_path: Path) -> None:
    export(build, tmp_path / "out", format="webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        "000000000.json",
        "000000001.jpg",
        "000000001.json",
        "000000002.json",
        "000000002.png",
        "000000003.0.webp",
        "000000003.1.jpg",
        "000000003.json",
        "000000004.json",
        "000000005.jpg",
        "000000005.json",
    ]
    assert {(m.mtime, m.uname) for m in members} == {(0, "vila2data")}


def test_samples_tell_their_source_and_licence(build: Path, tmp_path: Path) -> None:
    export(build, tmp_path / "out", format="webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        content = tar.extractfile("000000001.json")
        assert content is not None
        told = json.loads(content.read())
    assert told == {
        "id": "s/one",
        "source": "llava-665k",
        "task": "conversation",
        "license": "cc-by-4.0",
        "images": ["jpg"],
        "messages": messages_of("<image>\nWhat is it?", "A cat."),
    }


@pytest.mark.parametrize("format", ["messages", "webdataset"])
def test_a_file_that_is_full_is_followed_by_the_next(
    build: Path, tmp_path: Path, format: str
) -> None:
    export(build, tmp_path / "out", format=format, max_shard_bytes=5000)
    files = [f.name for f in sorted(tmp_path.rglob("*.parquet")) + sorted(tmp_path.rglob("*.tar"))]
    if format == "messages":
        assert files == [f"train-{n:05d}-of-00002.parquet" for n in range(2)]
    else:
        # 3,584 bytes of two rows; 4,608; 8,192, more than fits but no less than a row; the rest
        assert files == [f"train-{n:06d}.tar" for n in range(4)]
    assert read(tmp_path / "out", format) == expected_of(mixed_rows())


def test_a_tar_holds_so_many_rows_at_most(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vila2data.export.webdataset._ROWS_PER_TAR", 4)
    export(build, tmp_path / "out", format="webdataset")
    info = json.loads((tmp_path / "out/.nv-meta/.info.json").read_text())
    assert info["shard_counts"] == {"train-000000.tar": 4, "train-000001.tar": 2}


def test_verbatim_is_for_llava_alone(build: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--verbatim: is for --format llava alone, not sharegpt"):
        export(build, tmp_path / "out", format="sharegpt", verbatim=True)


def test_an_unknown_format_is_refused(build: Path, tmp_path: Path) -> None:
    known = "known: llava, sharegpt, messages, webdataset"
    with pytest.raises(BadInput, match=f"--format: 'coco' is unknown; {known}"):
        export(build, tmp_path / "out", format="coco")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Why?", ["Why?"]),
        ("", [""]),
        ("<image>", [None]),
        ("<image>\nWhy?", [None, "Why?"]),
        ("Why?\n<image>", ["Why?", None]),
        ("<image>\n<image>\nWhy?\n", [None, None, "Why?\n"]),
        ("a <image> and <image>", ["a ", None, " and ", None]),
        ("<image>\n\nWhy?", [None, "\nWhy?"]),
    ],
)
def test_markers_become_parts_and_take_one_line_break_with_them(
    text: str, parts: list[str | None]
) -> None:
    expected = [
        {"type": "image", "text": None} if part is None else {"type": "text", "text": part}
        for part in parts
    ]
    assert parts_of(text) == expected


lines = st.lists(st.text(alphabet="ab‹ <", min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(lines, st.integers(0, 2)), min_size=1, max_size=3), st.booleans())
def test_any_turns_come_back(tmp_path_factory, turns: list, first: bool) -> None:
    """Markers in lines of their own, before the text or after it."""
    root = tmp_path_factory.mktemp("any")
    texts, images = [], 0
    for question, markers in turns:
        marked = ["<image>"] * markers
        texts += ["\n".join(marked + question if first else question + marked), "yes"]
        images += markers
    row = instruct_row("a", *texts, images=[make_picture(0)] * images)
    build = write_fake_build(root / "build", [row])
    for format in FORMATS:
        assert export(build, root / format, format=format).written == 1
        assert read(root / format, format) == expected_of([row])


def test_counts_balance(tmp_path: Path) -> None:
    rows = [
        instruct_row("good", "<image>", "a", images=[make_picture(0)]),
        instruct_row("marker", "Why?", "a", images=[make_picture(0)]),
        instruct_row("answer", "<image>", "<image>", images=[make_picture(0)]),
        instruct_row("turns", "Why?"),
        instruct_row("roles", "Why?", "So.") | {"messages": messages_of("a", "b")[::-1]},
        instruct_row("bytes", "<image>", "a", images=[b"no image"]),
        instruct_row("empty", "<image>", "a", images=[b""]),
        instruct_row("null", "<image>", "a") | {"images": [None]},
        instruct_row("named", "<image>", "a") | {"images": [{"bytes": None, "path": "/etc/passwd"}]},
        instruct_row("text", "Why?", "a") | {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}]},
    ]  # fmt: skip
    build = write_fake_build(tmp_path / "build", rows)
    done = export(build, tmp_path / "out", format="llava")
    assert done == Exported(
        read=10,
        written=1,
        images=1,
        lying=0,
        left_out={
            "markers_differ": 2,
            "turns_out_of_order": 2,
            "image_undecodable": 1,
            "image_empty": 1,
            "image_missing": 2,
            "turn_missing": 1,
        },
    )
    told = [json.loads(s) for s in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert [(t["id"], t["reason"]) for t in told][:3] == [
        ("marker", "markers_differ"),
        ("answer", "markers_differ"),
        ("turns", "turns_out_of_order"),
    ]
    assert told[0]["detail"] == "<image> stands 0 in questions and 0 in answers, of 1 images"
    assert sum(json.loads((tmp_path / "out" / "export.json").read_text())["left_out"].values()) == 9
