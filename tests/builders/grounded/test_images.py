"""The index of a corpus's images, and what its SQL says of rows and images."""

import io
import json
import random
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from making import make_picture
from PIL import Image
from strangers import encoded, huge_png, item, jpeg, picture, special, tar_of

from vila2data.builders.grounded_narration import images
from vila2data.builders.grounded_narration.images import (
    first_image_sql,
    index_images,
    join_column,
    status_sql,
    unusable_counts,
)
from vila2data.builders.grounded_narration.recipe import ImageRules
from vila2data.corpus.images import ImageLimits, decode
from vila2data.corpus.pack import pack
from vila2data.corpus.phash import phash
from vila2data.errors import CorpusError, MissingExtra
from vila2data.executor import ExecutorSpec

Parts = list[tuple[str, bytes]]
COLUMNS = ["key", "id", "url", "image_sha256", "width", "height", "phash", "shard", "place"]


def indexed(corpus: Path, *, with_phash: bool = False, workers: int = 1) -> list[Path]:
    return index_images(
        corpus,
        corpus.parent / f"index-{with_phash}-{workers}",
        with_phash=with_phash,
        executor=ExecutorSpec(workers=workers),
        on_rows=lambda _: None,
    )


def rows_of(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def downloaded(key: str, image: bytes | None = None, **metadata: object) -> Parts:
    """A sample as img2dataset writes it."""
    told = {"key": key, "status": "success", "original_width": 1000, "original_height": 10}
    members = [(f"{key}.jpg", jpeg() if image is None else image), (f"{key}.txt", b"a text")]
    return [*members, (f"{key}.json", json.dumps(told | metadata).encode())]


def corpus_of(folder: Path, *shards: Sequence[Any]) -> Path:
    for number, parts in enumerate(shards):
        tar_of(folder / f"{number:05d}.tar", parts)
    return folder


def rules(**values: Any) -> ImageRules:
    return ImageRules(corpus=Path("corpus"), **values)


def firsts(files: Sequence[Path]) -> list[tuple[Any, ...]]:
    by = join_column(files)
    query = f"SELECT {by}, key FROM ({first_image_sql(files, by)}) ORDER BY 1"
    return duckdb.connect().execute(query).fetchall()


def test_a_packed_corpus_is_indexed_image_by_image(tmp_path: Path) -> None:
    stored = [make_picture(0), make_picture(4, exif_orientation=6), make_picture(2)]
    items = [item(f"k{n}", image, id=10**12 + n, url=f"u{n}") for n, image in enumerate(stored)]
    pack(items, tmp_path / "corpus", samples_per_shard=2)
    files = indexed(tmp_path / "corpus", with_phash=True)
    sizes = [(24, 20), (64, 52), (38, 42)]  # the second lies on its side
    assert [file.name for file in files] == ["images-00000.parquet", "images-00001.parquet"]
    expected = [
        {
            "key": f"k{n}",
            "id": 10**12 + n,
            "url": f"u{n}",
            "image_sha256": sha256(image).hexdigest(),
            "width": sizes[n][0],
            "height": sizes[n][1],
            "phash": phash(decode(image, ImageLimits())),
            "shard": n // 2,
            "place": n % 2,
        }
        for n, image in enumerate(stored)
    ]
    assert rows_of(files) == expected
    without = rows_of(indexed(tmp_path / "corpus"))
    assert without == [{**row, "phash": None} for row in expected]
    assert unusable_counts(files) == {}


def test_hashes_keep_all_64_bits_in_duckdb(tmp_path: Path) -> None:
    white = encoded(Image.new("RGB", (50, 40), "white"), "PNG")
    corpus = corpus_of(tmp_path / "corpus", [("a.png", white)])
    (file,) = indexed(corpus, with_phash=True)
    found = duckdb.connect().execute(
        "SELECT phash, typeof(phash) FROM read_parquet(?)", [str(file)]
    )
    assert found.fetchall() == [(1 << 63, "UBIGINT")]


def test_sizes_are_those_of_the_image_that_is_stored(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", downloaded("0", width=7, height=7))
    assert [(r["width"], r["height"]) for r in rows_of(indexed(corpus))] == [(16, 12)]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"id": 2**63 - 1, "url": "https://a/b?c='d'"}, (2**63 - 1, "https://a/b?c='d'")),
        ({"id": -5}, (-5, None)),
        ({"id": "7", "url": 7}, (None, None)),
        ({"id": 2**63, "url": ""}, (None, "")),
        ({"id": 7.0, "url": None}, (None, None)),
        ({"id": True, "url": "\ud800"}, (None, None)),
    ],
)
def test_ids_and_urls_that_are_none_are_null(
    tmp_path: Path, metadata: dict[str, Any], found: tuple[Any, Any]
) -> None:
    (row,) = rows_of(indexed(corpus_of(tmp_path / "corpus", downloaded("0", **metadata))))
    assert (row["id"], row["url"]) == found


def test_metadata_that_is_none_costs_no_image(tmp_path: Path) -> None:
    parts = [("a.jpg", jpeg()), ("b.jpg", jpeg()), ("b.json", b"{'id': 1}"), ("c.jpg", jpeg())]
    corpus = corpus_of(tmp_path / "corpus", [*parts, ("c.json", b"[" * 9999)])
    found = rows_of(indexed(corpus))
    assert [(r["key"], r["id"], r["url"]) for r in found] == [(k, None, None) for k in "abc"]


def hostile_parts() -> list[Any]:
    return [
        *downloaded("a", b"<html>not found</html>"),
        *downloaded("b", b""),
        ("c.txt", b"no image"),
        special("d.jpg", b"2"),
        *downloaded("e", huge_png()),
        *downloaded("f", jpeg()[:20]),
        *downloaded("g", id=7),
        ("../h.jpg", jpeg()),
        *downloaded("i", id=9),
    ]


def test_images_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    files = indexed(corpus_of(tmp_path / "corpus", hostile_parts(), [("x.txt", b"alone")]))
    assert [(r["key"], r["id"], r["place"]) for r in rows_of(files)] == [("g", 7, 6), ("i", 9, 8)]
    assert unusable_counts(files) == {
        "image_empty": 1,
        "image_missing": 2,
        "image_too_many_pixels": 1,
        "image_undecodable": 2,
        "member_name_unsafe": 1,
        "member_not_a_file": 1,
    }


def test_every_sample_that_was_read_is_told_of(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", hostile_parts(), [("x.txt", b"alone")], [])
    seen: list[int] = []
    index_images(
        corpus, tmp_path / "i", with_phash=False, executor=ExecutorSpec(), on_rows=seen.append
    )
    assert seen == [9, 1, 0]


def test_a_shard_that_ends_early_gives_the_images_before(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path / "corpus", [*downloaded("a", id=1), *downloaded("b", id=2)])
    tar = corpus / "00000.tar"
    tar.write_bytes(tar.read_bytes()[: 512 * 6])
    files = indexed(corpus)
    assert [row["key"] for row in rows_of(files)] == ["a"]
    assert sum(unusable_counts(files).values()) >= 1
    assert set(unusable_counts(files)) == {"shard_truncated"}


def test_damaged_pixels_are_found_where_pictures_are_hashed(tmp_path: Path) -> None:
    cut = encoded(picture(size=(200, 150)), "JPEG")[:-700]
    corpus = corpus_of(tmp_path / "corpus", [*downloaded("a", cut), *downloaded("b")])
    assert [row["key"] for row in rows_of(indexed(corpus))] == ["a", "b"]
    files = indexed(corpus, with_phash=True)
    assert [row["key"] for row in rows_of(files)] == ["b"]
    assert unusable_counts(files) == {"image_undecodable": 1}


def test_a_corpus_without_a_usable_image_gives_empty_tables(tmp_path: Path) -> None:
    files = indexed(corpus_of(tmp_path / "corpus", [("x.txt", b"alone")], []))
    assert [pq.read_schema(file).names for file in files] == [COLUMNS, COLUMNS]
    assert rows_of(files) == []
    assert join_column(files) == "url"
    assert firsts(files) == []


def test_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no \.tar shards"):
        indexed(tmp_path)


def test_without_the_library_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    corpus = corpus_of(tmp_path / "corpus", downloaded("a"))
    with pytest.raises(MissingExtra, match=r"pip install 'vila2data\[phash\]'"):
        indexed(corpus, with_phash=True)
    assert len(rows_of(indexed(corpus))) == 1
    assert not (tmp_path / "index-True-1").exists()


class Killed(BaseException):
    pass


def test_a_killed_index_goes_on_from_the_shards_that_are_whole(tmp_path: Path) -> None:
    shards = [[*downloaded(f"{n}a", id=n), *downloaded(f"{n}b")] for n in range(4)]
    corpus = corpus_of(tmp_path / "corpus", *shards)
    whole = indexed(corpus)
    seen: list[int] = []

    def until_the_second(rows: int) -> None:
        seen.append(rows)
        if len(seen) == 2:
            raise Killed

    folder = tmp_path / "again"
    given = {"with_phash": False, "executor": ExecutorSpec()}
    with pytest.raises(Killed):
        index_images(corpus, folder, on_rows=until_the_second, **given)
    assert len(list(folder.glob("*.parquet"))) == 2
    (folder / ".images-00002.parquet.partial").write_bytes(b"half")
    made = {file.name: file.stat().st_ino for file in folder.glob("*.parquet")}
    files = index_images(corpus, folder, on_rows=seen.append, **given)
    assert seen == [2, 2, 2, 2]
    assert {name: (folder / name).stat().st_ino for name in made} == made
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in whole]
    assert sorted(folder.iterdir()) == files


def test_the_executor_gets_a_task_for_each_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path / "corpus", downloaded("a"), downloaded("b"))
    given: list[Any] = []
    monkeypatch.setattr(images, "run_tasks", lambda *call: given.append(call) or iter([]))
    files = indexed(corpus, workers=3)
    ((function, tasks, executor),) = given
    assert (function, executor) == (images.index_shard, ExecutorSpec(workers=3))
    assert [(task.shard, task.out) for task in tasks] == [
        (corpus / f"0000{n}.tar", file) for n, file in enumerate(files)
    ]


def test_ids_join_where_any_image_has_one(tmp_path: Path) -> None:
    without = [*downloaded("a", url="u"), *downloaded("b", id="3", url="v")]
    assert join_column(indexed(corpus_of(tmp_path / "1" / "corpus", without))) == "url"
    both = corpus_of(tmp_path / "2" / "corpus", without, [], downloaded("c", id=0))
    assert join_column(indexed(both)) == "id"


def test_of_images_with_one_id_the_first_of_the_corpus_is_taken(tmp_path: Path) -> None:
    second = [*downloaded("a", id=1, url="z"), *downloaded("0", id=2), *downloaded("nothing")]
    first = [
        *downloaded("broken", b"", id=1),
        *downloaded("z", id=1, url="x"),
        *downloaded("y", id=1, url="x"),
        *downloaded("none", url="y"),
    ]
    files = indexed(corpus_of(tmp_path / "it's" / "corpus", first, second))
    assert firsts(files) == [(1, "z"), (2, "0")]
    assert firsts(files[::-1]) == [(1, "z"), (2, "0")]


def test_of_images_with_one_url_the_first_of_the_corpus_is_taken(tmp_path: Path) -> None:
    first = [*downloaded("b", url="u'"), *downloaded("a", url="u'"), *downloaded("c", id="1")]
    files = indexed(corpus_of(tmp_path / "corpus", first, downloaded("0", url="t")))
    assert firsts(files) == [("t", "0"), ("u'", "b")]


def statuses(
    rows: Sequence[Mapping[str, Any]], given: ImageRules, *, with_phash: bool = True
) -> list[str]:
    """Of rows, each with the image's width, height and hash, or without an image."""
    columns = {"width": "BIGINT", "height": "BIGINT", "image_phash": "VARCHAR"}
    if not with_phash:
        columns.pop("image_phash")
    image = {"key": "VARCHAR", "width": "INTEGER", "height": "INTEGER", "phash": "UBIGINT"}
    connection = duckdb.connect()
    for name, types in (("r", columns), ("i", image)):
        listed = ", ".join(f"{column} {kind}" for column, kind in types.items())
        connection.execute(f"CREATE TABLE {name} (n INTEGER, {listed})")
    for number, row in enumerate(rows):
        connection.execute(
            f"INSERT INTO r VALUES (?{', ?' * len(columns)})",
            [number, *(row.get(column) for column in columns)],
        )
        if "image" in row:
            connection.execute("INSERT INTO i VALUES (?, 'k', ?, ?, ?)", [number, *row["image"]])
    expression = status_sql(given, with_phash=with_phash)
    query = f"SELECT {expression} FROM r LEFT JOIN i ON r.n = i.n ORDER BY r.n"
    return [status for (status,) in connection.execute(query).fetchall()]


def test_a_row_without_an_image_is_missing_whatever_it_tells() -> None:
    told = {"width": 100, "height": 100, "image_phash": "0" * 16}
    assert statuses([told, {}, {"image": (1, 1, None)}], rules()) == ["missing", "missing", "ok"]


def test_sides_may_be_in_a_ratio_that_differs_by_as_much_as_the_rule_says() -> None:
    expected = {
        (100, 100): "ok",
        (7, 7): "ok",
        (125, 100): "ok",
        (126, 100): "size_differs",
        (75, 100): "ok",
        (74, 100): "size_differs",
        (1, 10_000): "size_differs",
    }
    rows = [{"width": 4000, "height": 4000, "image": (*size, None)} for size in expected]
    found = statuses(rows, rules(max_aspect_difference=0.25))
    assert dict(zip(expected, found, strict=True)) == expected


def test_sides_that_are_none_are_not_compared() -> None:
    sides = [(None, 1), (1, None), (None, None), (0, 1), (1, 0), (0, 0), (-3, -4), (-1, 1), (1, 1)]
    rows = [{"width": w, "height": h, "image": (3, 4, None)} for w, h in sides]
    found = statuses(rows, rules(max_aspect_difference=0.0))
    assert dict(zip(sides, found, strict=True)) == {
        pair: "size_differs" if pair == (1, 1) else "ok" for pair in sides
    }


def test_ratios_are_compared_as_the_rule_is_written() -> None:
    drawn = random.Random(0)
    sides = [[drawn.randint(1, 999) for _ in range(2)] for _ in range(200)]
    near = [[max(1, round(side * 0.3) + drawn.randint(-2, 2)) for side in pair] for pair in sides]
    rows = [
        {"width": w, "height": h, "image": (*image, None)}
        for (w, h), image in zip(sides, near, strict=True)
    ]
    expected = [
        "size_differs" if abs(wi / hi / (w / h) - 1) > 0.02 else "ok"
        for (w, h), (wi, hi) in zip(sides, near, strict=True)
    ]
    assert statuses(rows, rules()) == expected
    assert min(expected.count("ok"), expected.count("size_differs")) > 20


def test_hashes_may_differ_by_as_many_bits_as_the_rule_says() -> None:
    expected = {
        ("0000000000000000", 0): "ok",
        ("00000000000003ff", 0): "ok",
        ("00000000000007ff", 0): "phash_differs",
        ("ffc0000000000000", 0): "ok",
        ("FFE0000000000000", 0): "phash_differs",
        ("FfFfFfFfFfFfFfFf", 2**64 - 1): "ok",
        ("ffffffffffffffff", 0): "phash_differs",
        ("ffffffffffffffff", None): "ok",
    }
    rows = [{"image_phash": told, "image": (1, 1, stored)} for told, stored in expected]
    found = statuses(rows, rules(max_phash_distance=10))
    assert dict(zip(expected, found, strict=True)) == expected


def test_hashes_that_are_none_are_not_compared() -> None:
    good = "f" * 16
    malformed = [None, "", "f" * 15, "f" * 17, "0" + good, "0x" + "f" * 14, "0x" + good, "g" * 16]
    malformed += ["ffffffff_fffffff", "-" + "f" * 15, " " + "f" * 15, good + "\n", "\n" + good]
    malformed += ["\uff11" * 16, "f" * 15 + "\0", good + "\0"]
    rows = [{"image_phash": told, "image": (1, 1, 0)} for told in [*malformed, good]]
    found = statuses(rows, rules(max_phash_distance=0))
    assert [told for told, status in zip(malformed, found, strict=False) if status != "ok"] == []
    assert found[-1] == "phash_differs"


def test_another_ratio_is_told_before_another_hash() -> None:
    row = {"width": 2, "height": 1, "image_phash": "f" * 16, "image": (1, 1, 0)}
    assert statuses([row, row | {"width": 1}], rules()) == ["size_differs", "phash_differs"]


def test_rows_need_no_hash_where_none_is_compared() -> None:
    rows = [{"width": 1, "height": 1, "image": (1, 1, 0)}, {}]
    assert statuses(rows, rules(), with_phash=False) == ["ok", "missing"]


@pytest.mark.shared
def test_a_real_sample_is_indexed(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "corpus").mkdir()
    tar = shared_data / "captions" / "webdataset" / "00000.tar"
    (tmp_path / "corpus" / tar.name).symlink_to(tar)
    files = indexed(tmp_path / "corpus", with_phash=True)
    (row,) = rows_of(files)
    assert (row["key"], row["id"], row["url"]) == ("0", None, None)  # its id is a text
    assert (row["width"], row["height"]) == (639, 800)
    assert join_column(files) == "url"


@pytest.mark.shared
def test_small_copies_are_the_images_of_their_rows_and_no_others(
    tmp_path: Path, shared_data: Path
) -> None:
    photos = sorted((shared_data / "captions" / "coco" / "images").glob("*.jpg"))[:8]
    originals = [decode(photo.read_bytes(), ImageLimits()) for photo in photos]
    parts: Parts = []
    for number, photo in enumerate(originals):
        buffer = io.BytesIO()
        scale = 128 / min(photo.size)
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size).save(buffer, "JPEG", quality=60)
        parts += downloaded(f"{number}", buffer.getvalue(), id=number)
    found = rows_of(indexed(corpus_of(tmp_path / "corpus", parts), with_phash=True))
    stored = [(image["width"], image["height"], image["phash"]) for image in found]
    rows = [
        {"width": p.width, "height": p.height, "image_phash": f"{phash(p):016x}"} for p in originals
    ]
    own = [row | {"image": image} for row, image in zip(rows, stored, strict=True)]
    assert statuses(own, rules()) == ["ok"] * 8
    shifted = [
        {"image_phash": row["image_phash"], "image": image}
        for row, image in zip(rows, stored[1:] + stored[:1], strict=True)
    ]
    assert statuses(shifted, rules()) == ["phash_differs"] * 8
