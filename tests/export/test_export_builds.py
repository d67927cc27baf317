"""The builds that can be exported, and where their images are found."""

import io
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from export_making import instruct_row, messages_of, mixed_rows, write_fake_build
from export_reading import read_llava, read_sharegpt
from making import make_corpus, make_picture
from PIL import Image

from vila2data.corpus.read import read_corpus
from vila2data.errors import BadInput, BuildError, CorpusError, RunFailed
from vila2data.export.run import export
from vila2data.schema import (
    CAPTION,
    CONVERSATION,
    GROUNDED_NARRATION,
    INSTRUCT_PATHS,
    INSTRUCT_REJECT,
    SPATIAL_RELATION_QA,
    SPATIAL_RELATION_QA_PATHS,
)

TURNS = messages_of("<image>\nWhat is it?", "A cat.")
TEXTS = ["<image>\nWhat is it?", "A cat."]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 6, shards=2)


@pytest.fixture(autouse=True)
def _own_index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "indexes"))


def corpus_rows(corpus: Path) -> list[dict[str, Any]]:
    return [
        {"key": s.key, "id": s.id, "image_sha256": s.image_sha256, "messages": TURNS}
        for s in read_corpus(corpus)
    ]


def coyo(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    kind = {"features": CONVERSATION, "data_set": "coyo-recap", "config": "conversations"}
    return write_fake_build(folder, rows, **kind | options)


def test_images_of_a_corpus_are_found_by_key_and_hash(corpus: Path, tmp_path: Path) -> None:
    rows = corpus_rows(corpus)
    build = coyo(tmp_path / "build", rows)
    done = export(build, tmp_path / "out", format="llava", corpus=corpus)
    assert (done.written, done.images) == (6, 6)
    assert read_llava(tmp_path / "out") == [(TEXTS, [row["image_sha256"]]) for row in rows]
    records = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert [record["id"] for record in records] == [f"{n:05d}" for n in range(6)]


def test_an_image_that_the_corpus_lacks_costs_its_row_alone(corpus: Path, tmp_path: Path) -> None:
    rows = corpus_rows(corpus)
    rows[1]["image_sha256"] = "0" * 64
    rows[2]["key"] = "elsewhere"
    build = coyo(tmp_path / "build", rows)
    done = export(build, tmp_path / "out", format="sharegpt", corpus=corpus)
    assert (done.written, done.left_out) == (4, {"image_missing": 2})
    found = read_sharegpt(tmp_path / "out", "coyo_recap_conversations")
    assert found == [(TEXTS, [row["image_sha256"]]) for row in (rows[0], *rows[3:])]


def test_captions_become_conversations_of_one_turn_each(corpus: Path, tmp_path: Path) -> None:
    rows = [row | {"caption": f"alt {n}"} for n, row in enumerate(corpus_rows(corpus))]
    rows[3]["caption"] = None
    build = coyo(tmp_path / "build", rows, features=CAPTION, config="round1")
    done = export(build, tmp_path / "out", format="llava", corpus=corpus)
    assert done.left_out == {"turn_missing": 1}
    texts = [texts for texts, _ in read_llava(tmp_path / "out")]
    assert texts == [["<image>", f"alt {n}"] for n in (0, 1, 2, 4, 5)]


def test_a_grounded_row_whose_image_was_missing_takes_no_other_s(
    corpus: Path, tmp_path: Path
) -> None:
    rows = corpus_rows(corpus)[:4]
    rows[0] |= {"image_sha256": None, "image_status": "missing"}
    rows[1] |= {"image_sha256": None}  # a build without a corpus: by its key
    rows[2] |= {"image_status": "ok"}
    grounded = {"features": GROUNDED_NARRATION, "data_set": "grounded-narration", "config": "short"}
    build = write_fake_build(tmp_path / "build", rows, **grounded)
    done = export(build, tmp_path / "out", format="llava", corpus=corpus)
    assert (done.written, done.left_out) == (3, {"image_missing": 1})
    hashes = [sample.image_sha256 for sample in read_corpus(corpus)]
    assert read_llava(tmp_path / "out") == [(TEXTS, [sha]) for sha in hashes[1:4]]


def test_images_that_lie_are_counted_and_keep_their_bytes(corpus: Path, tmp_path: Path) -> None:
    build = coyo(tmp_path / "build", corpus_rows(corpus))
    done = export(build, tmp_path / "out", format="llava", corpus=corpus)
    assert done.lying == 1


def test_upright_turns_the_images_that_lie_and_no_others(corpus: Path, tmp_path: Path) -> None:
    rows = corpus_rows(corpus)
    build = coyo(tmp_path / "build", rows)
    done = export(build, tmp_path / "out", format="llava", corpus=corpus, upright=True)
    assert (done.written, done.lying) == (6, 0)
    records = json.loads((tmp_path / "out" / "conversations.json").read_text())
    hashes = [sha for _, (sha,) in read_llava(tmp_path / "out")]
    same = [sha == row["image_sha256"] for sha, row in zip(hashes, rows, strict=True)]
    assert same == [True] * 4 + [False, True]
    stored = Image.open(io.BytesIO(make_picture(4, exif_orientation=6)))
    turned = Image.open(tmp_path / "out" / "images" / records[4]["image"])
    assert (turned.format, turned.size) == ("PNG", stored.size[::-1])
    assert turned.tobytes() == stored.convert("RGB").transpose(Image.Transpose.ROTATE_270).tobytes()


def test_an_image_of_a_spatial_row_is_embedded(tmp_path: Path) -> None:
    row = {"id": "k/1", "image": {"bytes": make_picture(1), "path": "x.jpg"}, "messages": TURNS}
    spatial = {"features": SPATIAL_RELATION_QA, "data_set": "spatial-relation-qa"}
    build = write_fake_build(tmp_path / "build", [row], **spatial)
    export(build, tmp_path / "out", format="llava")
    assert read_llava(tmp_path / "out") == [(TEXTS, [sha256(make_picture(1)).hexdigest()])]


def named_rows(*names: list[str]) -> list[dict[str, Any]]:
    return [
        instruct_row(f"r/{n}", "<image>\n" * len(each) + "Why?", "So.") | {"image_paths": each}
        for n, each in enumerate(names)
    ]


def folder_of_images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(make_picture(number * 3))
    return folder


def test_named_images_are_linked_from_their_folder(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", "coco/1.jpg", "coco/2.jpg")
    rows = named_rows(["coco/1.jpg"], [], ["coco/2.jpg", "coco/1.jpg"])
    build = write_fake_build(tmp_path / "build", rows, features=INSTRUCT_PATHS)
    done = export(build, tmp_path / "out", format="llava", images=images)
    assert (done.written, done.images) == (3, 2)
    records = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert [r.get("image") for r in records] == ["coco/1.jpg", None, ["coco/2.jpg", "coco/1.jpg"]]
    assert (tmp_path / "out/images/coco/1.jpg").samefile(images / "coco/1.jpg")


def test_a_link_within_the_folder_becomes_a_file(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", "1.jpg")
    (images / "2.jpg").symlink_to("1.jpg")
    build = write_fake_build(tmp_path / "build", named_rows(["2.jpg"]), features=INSTRUCT_PATHS)
    export(build, tmp_path / "out", format="llava", images=images)
    assert not (tmp_path / "out/images/2.jpg").is_symlink()
    assert (tmp_path / "out/images/2.jpg").read_bytes() == make_picture(0)


def test_each_source_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", "1.jpg", "llava-665k/1.jpg")
    other = named_rows(["1.jpg"])[0] | {"source": "elsewhere"}
    rows = [*named_rows(["1.jpg"]), other]
    build = write_fake_build(tmp_path / "build", rows, features=INSTRUCT_PATHS)
    export(build, tmp_path / "out", format="llava", images=images)
    hashes = [images for _, images in read_llava(tmp_path / "out")]
    assert hashes == [[sha256(make_picture(n)).hexdigest()] for n in (3, 0)]


def test_a_named_image_outside_the_folder_is_never_read(tmp_path: Path) -> None:
    images = folder_of_images(tmp_path / "images", "1.jpg")
    secret = folder_of_images(tmp_path, "secret.jpg") / "secret.jpg"
    (images / "link.jpg").symlink_to(secret)
    names = ["../secret.jpg", str(secret), "link.jpg", "gone.jpg", "x" * 5000, "nul\0", "", "."]
    rows = named_rows(*[[name] for name in names], ["1.jpg"])
    build = write_fake_build(tmp_path / "build", rows, features=INSTRUCT_PATHS)
    done = export(build, tmp_path / "out", format="llava", images=images)
    assert done.written == 1
    assert done.left_out == {"image_name_unsafe": 2, "image_missing": 6}


def test_without_the_folder_names_stand_as_they_are(tmp_path: Path) -> None:
    rows = named_rows(["coco/1.jpg"], ["../x.jpg"], [])
    rows[0]["origin"] = json.dumps({"image": "../../etc/passwd"})
    build = write_fake_build(tmp_path / "build", rows, features=INSTRUCT_PATHS)
    done = export(build, tmp_path / "l", format="llava")
    assert (done.written, done.images, done.left_out) == (2, 0, {"image_name_unsafe": 1})
    records = json.loads((tmp_path / "l" / "conversations.json").read_text())
    assert [record.get("image") for record in records] == ["coco/1.jpg", None]
    export(build, tmp_path / "s", format="sharegpt")
    first = json.loads((tmp_path / "s" / "conversations.jsonl").read_text().splitlines()[0])
    assert first["images"] == ["coco/1.jpg"]


@pytest.mark.parametrize("format", ["messages", "webdataset"])
def test_formats_that_hold_images_need_the_folder(tmp_path: Path, format: str) -> None:
    spatial = {"features": SPATIAL_RELATION_QA_PATHS, "data_set": "spatial-relation-qa"}
    row = {"id": "1", "image_path": "1.jpg", "messages": TURNS}
    build = write_fake_build(tmp_path / "build", [row], **spatial)
    with pytest.raises(BadInput, match=f"--format {format} needs them: --images DIR"):
        export(build, tmp_path / "out", format=format)
    images = folder_of_images(tmp_path / "images", "1.jpg")
    assert export(build, tmp_path / "out", format=format, images=images).images == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "none"}, "config 'none': is not there; the build has conversations"),
        ({}, "holds no images; give the corpus it was made from: --corpus DIR"),
        ({"images": Path()}, "names no image by its file; leave --images out"),
    ],
    ids=["config", "corpus", "images"],
)
def test_what_does_not_fit_a_build_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    build = coyo(tmp_path / "build", [{"key": "1", "messages": TURNS}])
    with pytest.raises(BadInput, match=message):
        export(build, tmp_path / "out", format="llava", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_a_corpus_is_refused_where_rows_hold_their_images(tmp_path: Path) -> None:
    build = write_fake_build(tmp_path / "build", mixed_rows())
    with pytest.raises(BadInput, match="has no image in a corpus; leave --corpus out"):
        export(build, tmp_path / "out", format="llava", corpus=tmp_path)


def test_a_corpus_that_is_none_is_refused(tmp_path: Path) -> None:
    build = coyo(tmp_path / "build", [{"key": "1", "messages": TURNS}])
    with pytest.raises(CorpusError, match="no such folder"):
        export(build, tmp_path / "out", format="llava", corpus=tmp_path / "none")


def test_a_folder_that_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"is no build \(it has no build.json\)"):
        export(tmp_path, tmp_path / "out", format="llava")


def test_rejects_are_no_conversations(tmp_path: Path) -> None:
    row = {"id": "1", "source": "x", "reject_reason": "y", "detail": ""}
    options = {"features": INSTRUCT_REJECT, "config": "default-rejects"}
    build = write_fake_build(tmp_path / "build", [row], **options)
    with pytest.raises(BadInput, match="holds no conversations of split 'train' to export"):
        export(build, tmp_path / "out", format="llava")


def test_a_build_without_rows_is_refused(tmp_path: Path) -> None:
    build = write_fake_build(tmp_path / "build", [])
    with pytest.raises(BadInput, match="config 'default': holds no rows to export"):
        export(build, tmp_path / "out", format="llava")


@pytest.mark.parametrize("format", ["llava", "sharegpt", "messages", "webdataset"])
def test_an_export_of_which_nothing_is_left_fails_and_leaves_nothing(
    tmp_path: Path, format: str
) -> None:
    rows = [instruct_row("a", "<image>", "b"), instruct_row("c", "only a question")]
    build = write_fake_build(tmp_path / "build", rows)
    expected = "no row could be exported: markers_differ 1, turns_out_of_order 1"
    with pytest.raises(RunFailed, match=expected):
        export(build, tmp_path / "out", format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


@pytest.mark.parametrize("damage", ["cut", "gone", "middle"])
def test_a_damaged_build_is_told_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    build = write_fake_build(tmp_path / "build", mixed_rows(), rows_per_file=2)
    file = sorted(build.rglob("*.parquet"))[1]
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        content = bytearray(file.read_bytes())
        content[4:2000] = bytes(1996)
        file.write_bytes(content)
    with pytest.raises(BuildError, match=r"00001-of-00003\.parquet: (cannot be read|is missing)"):
        export(build, tmp_path / "out", format="llava")
    assert [path.name for path in tmp_path.iterdir()] == ["build"]
