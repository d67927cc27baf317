"""Rows of builds: which config, which images."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feeding import (
    caption_row,
    image_bytes,
    instruct,
    keys_of,
    make_build,
    make_pair,
    records_of,
    talk,
)
from making import do, make_corpus, write_recipe

from vila2data.corpus.pack import pack
from vila2data.corpus.read import list_shards
from vila2data.corpus.sources import SourceItem
from vila2data.errors import BadInput, BuildError, CorpusError
from vila2data.training.feed.images import ROW_IMAGES, Place
from vila2data.training.feed.plan import Plan
from vila2data.training.feed.rows import Row, open_rows
from vila2data.training.feed.spec import SourceSpec

Planned = Callable[..., Plan]


def rows_of(**source: Any) -> list[Row]:
    opened = open_rows(SourceSpec(**source))
    parts = range(opened.parts)
    rows = [row for part in parts for row in opened.rows(part)]
    assert [row.key for row in rows] == [key for part in parts for key in opened.row_keys(part)]
    assert [row for part in parts for row in opened.rows(part)] == rows
    return rows


def bytes_at(corpus: Path, place: Place | None) -> bytes:
    """Read as any program would."""
    assert place is not None
    content = list_shards(corpus)[place.shard].read_bytes()
    return content[place.start : place.start + place.size]


def test_captions_become_one_turn_with_the_corpus_image(tmp_path: Path) -> None:
    corpus, build = make_pair(tmp_path, 9, shards=3)
    rows = rows_of(build=build, corpus=corpus)
    assert [row.key for row in rows] == [f"a{n:04d}" for n in range(9)]
    for number, row in enumerate(rows):
        assert row.messages == talk("<image>", f"picture {row.key} .")
        (place,) = row.images
        image = image_bytes(number, (8 + number % 5, 9))
        assert bytes_at(corpus, place) == image
        assert place is not None
        assert place.sha256 == hashlib.sha256(image).hexdigest()
        assert (place.width, place.height) == (8 + number % 5, 9)
    assert {row.images[0].shard for row in rows if row.images[0]} == {0, 1, 2}


def test_configs_of_a_recaptioned_build(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 12, shards=2)
    build = do(write_recipe(tmp_path / "r.yaml"))
    told = {c: rows_of(build=build, corpus=corpus, config=c) for c in ("original", "round1", None)}
    originals = {row.key: row.messages[1]["content"] for row in told["original"]}
    captions = {row.key: row.messages[1]["content"] for row in told["round1"]}
    assert len(originals) == 11  # one has no text
    for row in told[None]:  # conversations
        parts = [originals.get(row.key), captions.get(row.key)]
        assert row.messages == talk("<image>", "\n".join(filter(None, parts)))
        place = row.images[0]
        assert place is not None
        assert hashlib.sha256(bytes_at(corpus, place)).hexdigest() == place.sha256


def test_embedded_images_one_and_many(tmp_path: Path) -> None:
    scene = {"id": "s", "image": {"bytes": image_bytes(1), "path": None}, "width": 48, "height": 40}
    scene |= {"messages": talk("<image>\nWhere?", "[0.1, 0.2]"), "flip_safe": True}
    scenes = make_build(
        tmp_path / "s", "spatial-relation-qa", "all", [scene, {**scene, "image": None}]
    )
    rows = rows_of(build=scenes)
    assert rows[0].images == [Place(ROW_IMAGES, 0, 0, None, 48, 40)]
    assert rows[1].images == [None]
    two = [image_bytes(2), image_bytes(3)]
    mixed = [
        instruct("none", talk("", "a")),
        instruct("two", talk("<image><image>", "b"), two),
        instruct("lost", talk("<image><image>", "b"), [two[0], None]),
        instruct("one", talk("<image>", "c"), two[:1]),
    ]
    blend = make_build(tmp_path / "b", "llava-instruct", "all", mixed, files=3)
    assert [row.images for row in rows_of(build=blend)] == [
        [],
        [Place(ROW_IMAGES, 1, 0), Place(ROW_IMAGES, 1, 1)],
        [Place(ROW_IMAGES, 2, 0), None],
        [Place(ROW_IMAGES, 3, 0)],
    ]


def test_rows_without_a_hash_take_their_key_s_image(tmp_path: Path) -> None:
    corpus, _ = make_pair(tmp_path, 2)
    row = {"key": "a0001", "caption": "a long story", "messages": talk("<image>", "A story.")}
    build = make_build(tmp_path / "b", "grounded-narration", "long", [row])
    (found,) = rows_of(build=build, corpus=corpus)
    assert found.messages == talk("<image>", "A story.")
    assert bytes_at(corpus, found.images[0]) == image_bytes(1, (9, 9))


def test_a_key_that_stands_twice_is_told_apart_by_its_bytes(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    images = [image_bytes(n) for n in range(3)]
    for name, number in (("a", 0), ("b", 1)):
        pack([SourceItem("same", lambda i=images[number]: i, b"x", {})], tmp_path / name)
    corpus.mkdir()
    for number, name in enumerate("ab"):
        (tmp_path / name / "00000.tar").rename(corpus / f"{number:05d}.tar")
    rows = [caption_row("same", f"text {n} .", image) for n, image in enumerate(images)]
    build = make_build(tmp_path / "build", "coyo-recap", "original", rows)
    found = rows_of(build=build, corpus=corpus)
    assert [bytes_at(corpus, row.images[0]) for row in found[:2]] == images[:2]
    assert found[2].images == [None]


def test_a_row_whose_image_is_not_there_has_none(tmp_path: Path) -> None:
    corpus, _ = make_pair(tmp_path, 2)
    rows = [caption_row("a0000", "x .", image_bytes(0)), caption_row("zz", "y .", image_bytes(1))]
    found = rows_of(build=make_build(tmp_path / "b", "coyo-recap", "original", rows), corpus=corpus)
    assert [image is None for row in found for image in row.images] == [False, True]


def test_a_row_whose_image_is_marked_missing_takes_no_other_image_of_its_key(
    tmp_path: Path,
) -> None:
    corpus, _ = make_pair(tmp_path, 1)
    statuses = ["missing", "ok", "size_differs", "phash_differs", None]
    row = {"key": "a0000", "caption": "a story", "messages": talk("<image>", "A story.")}
    rows = [row | {"image_status": status} for status in statuses]
    build = make_build(tmp_path / "b", "grounded-narration", "long", rows)
    found = rows_of(build=build, corpus=corpus)
    assert [row.images[0] is None for row in found] == [True, False, False, False, False]


def test_rows_whose_image_is_marked_missing_are_passed_over_and_counted(
    tmp_path: Path, planned: Planned
) -> None:
    corpus, _ = make_pair(tmp_path, 2)
    rows = [
        {"key": f"a000{n}", "messages": talk("<image>", "A story."), "image_status": status}
        for n, status in enumerate(["missing", "ok"])
    ]
    build = make_build(tmp_path / "b", "grounded-narration", "long", rows)
    plan = planned({"build": build, "corpus": corpus}, missing_image="skip")
    assert keys_of(plan) == ["a0001"]
    assert plan.funnel[0].rejected == {"image_missing": 1}


def test_each_file_and_row_group_is_read_once_in_order(tmp_path: Path) -> None:
    rows = [instruct(f"{n:03d}", talk("", str(n))) for n in range(50)]
    build = make_build(tmp_path / "b", "sft-blend", "all", rows, files=7)
    assert [row.key for row in rows_of(build=build)] == [f"{n:03d}" for n in range(50)]


def test_what_cannot_be_read_is_refused_with_a_remedy(tmp_path: Path) -> None:
    corpus, build = make_pair(tmp_path, 2)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (BadInput, "has no config 'round9'; it has original", {"config": "round9"}),
        (BadInput, "config 'original' has no split 'test'; it has train", {"split": "test"}),
        (BadInput, "holds no images: give the corpus that it was made from", {"corpus": None}),
        (CorpusError, "holds no .tar shards", {"corpus": tmp_path}),
        (BuildError, "is no build", {"build": corpus}),
    ]
    for kind, told, changes in cases:
        with pytest.raises(kind, match=told):
            open_rows(SourceSpec(**{"build": build, "corpus": corpus, **changes}))
    next(build.rglob("*.parquet")).unlink()
    with pytest.raises(BadInput, match=r"is missing; `vila2data verify .*` says what else"):
        open_rows(SourceSpec(build=build, corpus=corpus))


def test_a_config_without_texts_to_train_on_is_refused(tmp_path: Path) -> None:
    build = make_build(tmp_path / "b", "sft-blend", "all-rejects", [{"id": "a", "detail": "x"}])
    with pytest.raises(BadInput, match="holds neither conversations nor captions"):
        open_rows(SourceSpec(build=build))


def test_a_source_of_two_kinds_or_none_is_refused(tmp_path: Path) -> None:
    for given, told in [
        ({}, "needs either build: or documents:"),
        ({"build": tmp_path, "documents": tmp_path}, "needs either build: or documents:"),
        ({"documents": tmp_path, "corpus": tmp_path, "config": "a"}, "config: belongs to a build"),
        ({"documents": tmp_path}, "documents: need a corpus"),
    ]:
        with pytest.raises(ValueError, match=told):
            SourceSpec(**given)


def test_draws_do_not_follow_from_where_a_folder_lies(tmp_path: Path, planned: Planned) -> None:
    corpus, build = make_pair(tmp_path / "one", 30, shards=3)
    first = planned({"build": build, "corpus": corpus, "fraction": 0.5})
    moved = (tmp_path / "one").rename(tmp_path / "two")
    source = {"build": moved / build.name, "corpus": moved / corpus.name, "fraction": 0.5}
    assert records_of(planned(source)) == records_of(first)
