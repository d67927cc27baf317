"""What can be packed: folders with captions in any form, and data sets."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from strangers import jpeg

from vila2data.corpus import read_corpus
from vila2data.corpus.pack import PackSummary, pack
from vila2data.corpus.sources import from_dataset, from_folder, load_rows
from vila2data.errors import BadInput

ROWS = [
    {"file_name": "b.jpg", "caption": "of b, first", "url": "http://b", "id": 5},
    {"file_name": "b.jpg", "caption": "of b, second", "url": "http://b2", "id": 6},
    {"file_name": "a.jpg", "caption": "of a, ü", "url": "http://a", "id": 4},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "images"
    found.mkdir()
    for number, name in enumerate("abc"):
        (found / f"{name}.jpg").write_bytes(jpeg(number))
    return found


def packed(folder: Path, captions: Path | None = None, **options: Any) -> dict[str, str]:
    out = folder.parent / "corpus"
    summary = pack(from_folder(folder, captions, **options), out)
    assert summary.read == summary.written + sum(summary.rejected.values())
    return {s.key: s.text for s in read_corpus(out)}


def rejected(folder: Path, captions: Path | None = None) -> dict[str, int]:
    return pack(from_folder(folder, captions), folder.parent / "corpus").rejected


def coco(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({row["file_name"] for row in rows})
    images = [
        {"id": n, "file_name": name, "coco_url": f"http://{name}"} for n, name in enumerate(names)
    ]
    annotations = [
        {"image_id": names.index(row["file_name"]), "id": 9, "caption": row["caption"]}
        for row in rows
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations}


def by_name(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["file_name"], []).append(row["caption"])
    return texts


def write_json(file: Path) -> None:
    file.write_text(json.dumps(ROWS))


def write_coco(file: Path) -> None:
    file.write_text(json.dumps(coco(ROWS)))


def write_by_name(file: Path) -> None:
    file.write_text("\ufeff" + json.dumps(by_name(ROWS), ensure_ascii=False))


def write_jsonl(file: Path) -> None:
    file.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n")


def write_csv(file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8-sig") as lines:
        writer = csv.DictWriter(
            lines, list(ROWS[0]), delimiter="\t" if file.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(file: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), file)


FORMS = [
    ("list.json", write_json),
    ("coco.json", write_coco),
    ("by_name.json", write_by_name),
    ("rows.jsonl", write_jsonl),
    ("rows.ndjson", write_jsonl),
    ("rows.csv", write_csv),
    ("rows.tsv", write_csv),
    ("rows.PARQUET", write_parquet),
]


@pytest.mark.parametrize(("name", "write"), FORMS, ids=[name for name, _ in FORMS])
def test_captions_of_every_form_give_the_first_text_of_each_image(
    folder: Path, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert packed(folder, tmp_path / name) == {"a": "of a, ü", "b": "of b, first", "c": ""}


@pytest.mark.parametrize("write", [write_json, write_jsonl, write_parquet])
def test_other_columns_become_metadata(
    folder: Path, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    file = tmp_path / f"captions.{write.__name__.removeprefix('write_')}"
    write(file)
    packed(folder, file)
    first = next(iter(read_corpus(tmp_path / "corpus")))
    assert (first.id, first.url) == (4, "http://a")


def test_coco_ids_are_no_coyo_ids(folder: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "coco.json")
    packed(folder, tmp_path / "coco.json")
    first = next(iter(read_corpus(tmp_path / "corpus")))
    assert (first.id, first.metadata["coco_image_id"], first.url) == (None, 0, "http://a.jpg")


def test_text_beside_an_image_is_its_caption(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"beside a")
    (folder / "b.txt").write_bytes(b"caf\xe9")
    assert packed(folder) == {"a": "beside a", "b": "", "c": ""}


def test_named_columns_are_used(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(json.dumps({"file_name": "x", "caption": "no", "pic": "a.jpg", "says": "yes"}))
    assert packed(folder, file, image_column="pic", text_column="says")["a"] == "yes"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "image column: none of file_name, image, .* is there; the columns are x, y"),
        ({"image_column": "z"}, "image column: 'z' is not there; the columns are x, y"),
        ({"image_column": "x"}, "text column: none of caption, text, .* the columns are x, y"),
    ],
)
def test_missing_column_is_named_with_those_that_are_there(
    folder: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    file = tmp_path / "captions.csv"
    file.write_text("x,y\n1,2\n")
    with pytest.raises(BadInput, match=message):
        packed(folder, file, **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"{", r"x\.json: is not JSON"),
        ("x.json", b"[" * 100_000, r"x\.json: is not JSON"),
        ("x.json", b"[1]", "holds neither a list of objects"),
        ("x.json", b"5", "holds neither a list of objects"),
        ("x.json", b'{"images": 5, "annotations": []}', "not laid out as COCO captions"),
        ("x.json", b'{"images": [{}], "annotations": []}', "not laid out as COCO captions"),
        ("x.json", b'{"images": [{"id": 1}], "annotations": [5]}', "not laid out as COCO captions"),
        (
            "x.json",
            b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]}',
            "none of its annotations is a caption",
        ),
        ("x.jsonl", b'{"file_name": "a.jpg", "caption": "t"}\n{', r"x\.jsonl:2: is not JSON"),
        ("x.jsonl", b"[" * 100_000, r"x\.jsonl:1: is not JSON"),
        ("x.jsonl", b"[]", r"x\.jsonl:1: is not a JSON object"),
        ("x.parquet", b"no parquet", "cannot be read as parquet"),
        ("x.docx", b"", "captions are read from .json, .jsonl"),
    ],
)
def test_captions_that_cannot_be_read_are_refused_with_the_place(
    folder: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        packed(folder, tmp_path / name)


def test_captions_file_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json: no such captions file"):
        packed(folder, tmp_path / "nowhere.json")
    with pytest.raises(BadInput, match="no such folder of images"):
        packed(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_caption_that_is_no_utf8_costs_itself_only(
    folder: Path, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"captions.{suffix}"
    if suffix == "parquet":
        texts = pa.array([b"caf\xe9", b"good"], pa.binary())
        loose = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
        pq.write_table(pa.table({"file_name": ["a.jpg", "b.jpg"], "caption": loose}), file)
    else:
        rows = [
            b'{"file_name": "a.jpg", "caption": "caf\xe9"}',
            b'{"file_name": "b.jpg", "caption": "good"}',
        ]
        contents = {
            "json": b"[" + b",".join(rows) + b"]",
            "jsonl": b"\n".join(rows),
            "csv": b"file_name,caption\na.jpg,caf\xe9\nb.jpg,good\n",
        }
        file.write_bytes(contents[suffix])
    assert packed(folder, file) == {"a": "", "b": "good", "c": ""}
    first = next(iter(read_corpus(tmp_path / "corpus")))
    assert first.text_problem is not None
    assert first.text_problem.reason == "text_not_utf8"


@pytest.mark.parametrize("text", [None, {"a": 1}, [], [["x"]], True])
def test_what_is_no_text_is_a_missing_caption(folder: Path, tmp_path: Path, text: object) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"file_name": "a.jpg", "caption": text}]))
    assert packed(folder, tmp_path / "x.json")["a"] in ("", "True")


def test_long_field_of_a_csv_does_not_stop_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"file_name,caption\na.jpg,{'x' * 1_000_000}\nb.jpg,good\n")
    assert packed(folder, tmp_path / "x.csv")["b"] == "good"


def test_images_are_matched_by_path_and_else_by_a_base_name_that_is_unique(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    names = ["one/x.jpg", "two/x.jpg", "two/y.jpg", "z.jpg"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
    captions = {"one/x.jpg": "one x", "y.jpg": "y", "/data/train/z.jpg": "z"}
    (tmp_path / "x.json").write_text(json.dumps(captions))
    assert packed(folder, tmp_path / "x.json") == {
        "one_x": "one x",
        "two_x": "",
        "two_y": "y",
        "z": "z",
    }


def test_ambiguous_base_name_is_given_to_no_image(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number, name in enumerate(["one/x.jpg", "two/x.jpg"]):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(jpeg(number))
    (tmp_path / "x.json").write_text(json.dumps({"x.jpg": "whose?"}))
    assert set(packed(folder, tmp_path / "x.json").values()) == {""}


def test_caption_whose_image_is_not_there_is_counted_and_named(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"gone.jpg": "a text", "a.jpg": "here"}))
    assert rejected(folder, tmp_path / "x.json") == {"image_missing": 1}
    rows = pq.read_table(tmp_path / "corpus" / "00000.parquet").to_pylist()
    assert [(r["key"], r["status"]) for r in rows][-1] == ("gone", "image_missing")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "path_unsafe"),
        ("SECRET", "path_unsafe"),
        ("nul\x00.jpg", "path_unsafe"),
        ("half \ud800.jpg", "path_unsafe"),
        ("x" * 5000 + ".jpg", "key_unusable"),
        ("loop.jpg", "path_unsafe"),
    ],
)
def test_caption_that_names_a_file_outside_is_refused(
    folder: Path, tmp_path: Path, name: str, reason: str
) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(9))
    (tmp_path / "elsewhere").mkdir()
    name = str(secret) if name == "SECRET" else name
    (tmp_path / "x.json").write_text(json.dumps({f"{name}": "mine"}))
    if name == "loop.jpg":
        (folder / "loop.jpg").symlink_to("loop.jpg")
    found = rejected(folder, tmp_path / "x.json")
    assert sum(found.values()) == 1
    assert set(found) <= {reason, "key_unusable"}
    assert {s.image for s in read_corpus(tmp_path / "corpus")} == {jpeg(0), jpeg(1), jpeg(2)}


def test_links_out_of_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(jpeg(9))
    (tmp_path / "outside" / "b.txt").write_text("secret text")
    (folder / "file.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (folder / "dir").symlink_to(tmp_path / "outside")
    (folder / "b.txt").symlink_to(tmp_path / "outside" / "b.txt")
    (folder / "inner.jpg").symlink_to("a.jpg")
    out = tmp_path / "corpus"
    assert pack(from_folder(folder), out).rejected == {"path_unsafe": 1}
    found = {s.key: (s.image, s.text) for s in read_corpus(out)}
    assert jpeg(9) not in {image for image, _ in found.values()}
    assert found["b"][1] == ""
    assert found["inner"][0] == jpeg(0)


def test_folder_and_pipe_named_like_images_are_counted(folder: Path) -> None:
    (folder / "d.jpg").mkdir()
    os.mkfifo(folder / "e.jpg")
    assert rejected(folder) == {"image_missing": 2}


def test_name_that_is_no_utf8_is_counted(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(jpeg())
    assert rejected(folder) == {"key_unusable": 1}


def test_second_image_of_the_same_key_is_counted(folder: Path) -> None:
    (folder / "a.png").write_bytes(jpeg(8))
    (folder / "a").mkdir()
    assert rejected(folder) == {"duplicate_key": 1}


def test_unicode_and_dotted_names_make_keys_without_dots(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "ü.d").mkdir(parents=True)
    (folder / "ü.d" / "x.v2.jpg").write_bytes(jpeg())
    assert list(packed(folder)) == ["ü_d_x_v2"]


def table(images: list[Any], **columns: list[Any]) -> Any:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}}
    )
    return datasets.Dataset.from_dict({"image": images, **columns}, features=features)


def from_source(source: Path, out: Path, **options: Any) -> PackSummary:
    rows = load_rows(str(source), config=None, split="train", image_column="image")
    return pack(from_dataset(rows, **options), out)


@pytest.fixture
def three(tmp_path: Path) -> Any:
    images = [{"bytes": jpeg(n), "path": None} for n in range(3)]
    return table(images, caption=["one", "two", "three"], name=["x", "y", "x"])


def test_data_set_saved_in_every_way_gives_the_same_corpus(tmp_path: Path, three: Any) -> None:
    import datasets

    (tmp_path / "parquet").mkdir()
    three.to_parquet(tmp_path / "parquet" / "train.parquet")
    three.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=three).save_to_disk(tmp_path / "dict")
    for name in ("parquet", "saved", "dict"):
        summary = from_source(tmp_path / name, tmp_path / f"{name}-corpus")
        assert (summary.read, summary.written) == (3, 3)
        found = [
            (s.key, s.text, s.metadata["name"]) for s in read_corpus(tmp_path / f"{name}-corpus")
        ]
        assert found == [
            ("000000000", "one", "x"),
            ("000000001", "two", "y"),
            ("000000002", "three", "x"),
        ]
    tars = {
        (tmp_path / f"{n}-corpus" / "00000.tar").read_bytes() for n in ("parquet", "saved", "dict")
    }
    assert len(tars) == 1


def test_map_style_data_set_is_packed(tmp_path: Path, three: Any) -> None:
    import datasets

    rows = three.cast_column("image", datasets.Image(decode=False))
    assert pack(from_dataset(rows), tmp_path / "out").written == 3


def test_second_row_of_the_same_key_is_counted(tmp_path: Path, three: Any) -> None:
    three.save_to_disk(tmp_path / "saved")
    summary = from_source(tmp_path / "saved", tmp_path / "out", key_column="name")
    assert (summary.written, summary.rejected) == (2, {"duplicate_key": 1})
    assert [s.key for s in read_corpus(tmp_path / "out")] == ["x", "y"]


def test_rows_without_image_or_key_are_counted(tmp_path: Path) -> None:
    rows = [
        {"image": None, "k": "a"},
        {"image": {"bytes": None, "path": None}, "k": "b"},
        {"image": {"bytes": b"", "path": None}, "k": "c"},
        {"image": {"bytes": jpeg(), "path": None}, "k": None},
        {"image": "decoded", "k": "e"},
    ]
    summary = pack(from_dataset(rows, key_column="k"), tmp_path)
    assert summary.rejected == {"image_empty": 1, "image_missing": 3, "key_missing": 1}


def test_local_folder_of_images_with_metadata_is_loaded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "train").mkdir(parents=True)
    rows = []
    for number in range(2):
        (source / "train" / f"{number}.jpg").write_bytes(jpeg(number))
        rows.append(json.dumps({"file_name": f"{number}.jpg", "text": f"text {number}"}))
    (source / "train" / "metadata.jsonl").write_text("\n".join(rows))
    assert from_source(source, tmp_path / "out").written == 2
    assert [s.text for s in read_corpus(tmp_path / "out")] == ["text 0", "text 1"]


def test_data_set_cannot_make_us_pack_files_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(9))
    (tmp_path / "source").mkdir()
    rows = [{"image": {"bytes": None, "path": str(p)}} for p in (secret, "../secret.jpg")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "plain.parquet")
    stored = table([{"bytes": jpeg(), "path": None}] * 2)
    paths = pa.array([str(secret), "../secret.jpg"])
    images = pa.StructArray.from_arrays([pa.nulls(2, pa.binary()), paths], ["bytes", "path"])
    schema = stored.data.table.schema
    pq.write_table(pa.table({"image": images}).cast(schema), tmp_path / "source" / "train.parquet")
    summary = from_source(tmp_path / "source", tmp_path / "out")
    assert summary.rejected == {"path_unsafe": 2}


def test_data_set_that_cannot_be_loaded_is_refused(tmp_path: Path, three: Any) -> None:
    import datasets

    with pytest.raises(BadInput, match="cannot be loaded as a data set"):
        from_source(tmp_path / "nowhere", tmp_path / "out")
    three.save_to_disk(tmp_path / "saved")
    with pytest.raises(
        BadInput, match=r"column 'pic' is no Image\(\); the columns are image, caption"
    ):
        load_rows(str(tmp_path / "saved"), config=None, split="train", image_column="pic")
    datasets.DatasetDict(test=three).save_to_disk(tmp_path / "dict")
    with pytest.raises(BadInput, match="has no split 'train'"):
        from_source(tmp_path / "dict", tmp_path / "out")
    with pytest.raises(BadInput, match="text column: 'gone' is not there; the columns are image"):
        from_source(tmp_path / "saved", tmp_path / "out", text_column="gone")


@pytest.mark.shared
def test_coco_photos_are_packed_with_their_first_captions(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "captions" / "coco"
    captions = source / "captions.json"
    summary = pack(from_folder(source / "images", captions), tmp_path, samples_per_shard=16)
    assert (summary.shards, summary.read, summary.written, summary.rejected) == (3, 40, 40, {})
    content = json.loads(captions.read_text())
    names = {image["id"]: image["file_name"].removesuffix(".jpg") for image in content["images"]}
    first: dict[str, str] = {}
    for annotation in content["annotations"]:
        first.setdefault(names[annotation["image_id"]], annotation["caption"].strip())
    samples = list(read_corpus(tmp_path))
    assert {s.key: s.text for s in samples} == first
    sizes = {names[i["id"]]: (i["width"], i["height"]) for i in content["images"]}
    assert {s.key: s.header and (s.header.width, s.header.height) for s in samples} == sizes


@pytest.mark.shared
def test_demo_photos_are_packed(shared_data: Path, tmp_path: Path) -> None:
    summary = pack(from_folder(shared_data / "captions" / "demo" / "images"), tmp_path)
    assert (summary.read, summary.written) == (6, 6)
