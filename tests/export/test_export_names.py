"""Names from strangers: of rows and of images. Nothing is written outside the export."""

import errno
import json
from hashlib import sha256
from pathlib import Path

import pytest
from export_making import folder_hashes, instruct_row, write_fake_build
from export_reading import expected_of, read_llava, read_tars
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make_picture

from vila2data.export.row import Picture
from vila2data.export.run import FORMATS, export
from vila2data.export.store import ImageStore
from vila2data.files import inside

HOSTILE = [
    "../../escape",
    "/etc/passwd",
    "a/b.c.d",
    ".hidden",
    "__meta__",
    "ünïcode 🙂",
    "x" * 3000,
    "same",
    "same",
    "",
    "a\nb",
    "nul\0l",
    "C:\\x",
]


@pytest.mark.parametrize("format", FORMATS)
def test_ids_may_be_anything(tmp_path: Path, format: str) -> None:
    rows = [
        instruct_row(name, "<image>\nWhy?", f"{n}", images=[make_picture(n)])
        for n, name in enumerate(HOSTILE)
    ]
    build = write_fake_build(tmp_path / "in" / "build", rows)
    before = folder_hashes(tmp_path / "in")
    assert export(build, tmp_path / "o" / "out", format=format).written == len(HOSTILE)
    assert folder_hashes(tmp_path / "in") == before
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "o"]
    if format == "webdataset":
        assert read_tars(tmp_path / "o" / "out") == expected_of(rows)
    if format == "llava":
        records = json.loads((tmp_path / "o" / "out" / "conversations.json").read_text())
        assert [record["id"] for record in records] == HOSTILE


UNSAFE = [
    "../x.jpg",
    "a/../../x.jpg",
    "/tmp/x.jpg",
    "..\\x.jpg",
    "C:\\x.jpg",
    "C:x.jpg",
    "a//b.jpg",
    "./a.jpg",
    "a/../b.jpg",
    "a/",
    ".",
    "",
    "nul\0.jpg",
    "line\n.jpg",
    "\ud800.jpg",
    "x" * 300 + ".jpg",
    "x/" * 600 + "a.jpg",
    "sha256/ab/x.jpg",
]


def by_content(content: bytes, suffix: str = "jpg") -> str:
    digest = sha256(content).hexdigest()
    return f"sha256/{digest[:2]}/{digest}.{suffix}"


@pytest.mark.parametrize("name", UNSAFE, ids=range(len(UNSAFE)))
def test_a_name_that_could_lead_out_is_replaced_by_the_content_s(tmp_path: Path, name: str) -> None:
    content = make_picture(0)
    origin = {"id": 1, "image": name}
    row = instruct_row("a", "<image>", "b", images=[content], origin=origin)
    build = write_fake_build(tmp_path / "build", [row])
    export(build, tmp_path / "out", format="llava")
    (record,) = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert record["image"] == by_content(content)
    assert read_llava(tmp_path / "out") == expected_of([row])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "out"]


def place(folder: ImageStore, number: int, name: str | None = None) -> str:
    return folder.place(Picture(make_picture(number), "jpg", name))


def test_a_name_is_the_first_content_s(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    assert place(images, 0, "a/1.jpg") == "a/1.jpg"
    assert place(images, 3, "a/1.jpg") == by_content(make_picture(3))
    assert place(images, 0, "a/1.jpg") == "a/1.jpg"
    assert place(images, 0) == by_content(make_picture(0))
    assert images.written == 3
    assert (tmp_path / "a/1.jpg").read_bytes() == make_picture(0)


def test_a_folder_and_a_file_cannot_share_a_name(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    assert place(images, 0, "a") == "a"
    assert place(images, 3, "a/b.jpg") == by_content(make_picture(3))
    assert place(images, 3, "c/d.jpg") == "c/d.jpg"
    assert place(images, 0, "c") == by_content(make_picture(0))


def test_a_full_disk_is_no_reason_for_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full(self: Path, data: bytes) -> int:
        tried.append(self.name)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        place(ImageStore(tmp_path), 0, "a.jpg")
    assert tried == ["a.jpg"]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="a./\\\0~ \n:ü", max_size=8))
def test_no_name_leads_out(tmp_path_factory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-name"
    placed = ImageStore(folder / "images").place(Picture(b"x", "jpg", name))
    assert inside(folder / "images", placed) is not None
    assert (folder / "images" / placed).read_bytes() == b"x"
    assert [path.name for path in folder.iterdir()] == ["images"]
