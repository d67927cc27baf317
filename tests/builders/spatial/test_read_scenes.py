"""Reading our own data set `scenes`: boxes from a build, images from a corpus."""

import io
import json
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import make_picture

from vila2data.builders.spatial_relation_qa.scene import Unread
from vila2data.builders.spatial_relation_qa.sources import scenes as scenes_module
from vila2data.builders.spatial_relation_qa.sources.scenes import SceneBuild
from vila2data.errors import BadInput
from vila2data.schema import SCENES

K = [500.0, 0.0, 320.0, 0.0, 500.0, 240.0, 0.0, 0.0, 1.0]
TURN = [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0]
CHAIR = {
    "category": "chair",
    "bbox": [0.25, 0.5, 0.75, 1.0],
    "center": [1.0, 2.0, 3.0],
    "dimensions": [0.5, 1.5, 2.5],
    "rotation": TURN,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def a_row(key, **changes):
    digest = sha256(PICTURES.get(key, b"")).hexdigest()
    return {
        "key": key,
        "image_sha256": digest,
        "width": 640,
        "height": 480,
        "intrinsics": K,
        "objects": [CHAIR],
        **changes,
    }


PICTURES = {"00000": make_picture(0), "00001": make_picture(1)}
SUFFIXES = {"00000": "jpg", "00001": "png"}


def make_corpus(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for key, picture in PICTURES.items():
            member = tarfile.TarInfo(f"{key}.{SUFFIXES[key]}")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))


def write_build(folder: Path, files, data_set="scenes", schema=SCENES.arrow_schema):
    """Makes a build of which each file holds some rows."""
    entries = []
    for number, rows in enumerate(files):
        path = folder / "data" / "train" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        entries.append(
            {
                "path": f"data/train/{number}.parquet",
                "config": "train",
                "split": "train",
                "rows": len(rows),
                "bytes": 1,
                "sha256": "x",
            }
        )
    manifest = {
        "data_set": data_set,
        "version": "1.0.0",
        "schema_version": 2,
        "license": "cc0-1.0",
        "default_config": "train",
    }
    manifest |= {
        "recipe": {},
        "sources": [],
        "packages": {},
        "files": entries,
        "funnel": [],
        "stats": {},
    }
    (folder / "build.json").write_text(json.dumps(manifest))
    return folder


def source_of(tmp_path, *files, **build):
    folder = write_build(tmp_path / "build", files, **build)
    return SceneBuild(name="s", layout="scenes", path=folder, corpus=tmp_path / "corpus")


def read(tmp_path, *files, **build):
    return list(source_of(tmp_path, *files, **build).scenes(tmp_path))


def test_row_is_read_as_it_stands_and_its_boxes_in_pixels(tmp_path):
    [scene] = read(tmp_path, [a_row("a")])
    assert (scene.id, scene.image, scene.width, scene.height) == ("a", "a", 640, 480)
    assert scene.intrinsics.tolist() == [K[:3], K[3:6], K[6:]]
    [chair] = scene.objects
    assert (chair.category, chair.center, chair.dimensions) == ("chair", [1, 2, 3], [0.5, 1.5, 2.5])
    assert chair.rotation.tolist() == [TURN[:3], TURN[3:6], TURN[6:]]
    assert chair.bbox_px == [160.0, 240.0, 480.0, 480.0]
    assert chair.vouched
    assert np.isnan([chair.visibility, chair.truncation, chair.points, chair.depth_error]).all()


def test_rows_come_in_the_order_of_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_module, "_ROWS", 2)
    scenes = read(tmp_path, [a_row(key) for key in "zyx"], [a_row("a")])
    assert [scene.id for scene in scenes] == ["z", "y", "x", "a"]


def test_null_is_nan_or_told(tmp_path):
    bare = dict.fromkeys(CHAIR)
    rows = [
        a_row("a", intrinsics=None, objects=[bare]),
        a_row(None),
        a_row("c", width=None),
        a_row("d", height=0),
        a_row("e", objects=None),
    ]
    first, *others = read(tmp_path, rows)
    assert first.intrinsics is None
    [thing] = first.objects
    assert (thing.category, thing.bbox_px) == ("", None)
    assert np.isnan([*thing.center, *thing.dimensions, *thing.rotation.flatten()]).all()
    assert [(s.id, s.problem.reason) for s in others if isinstance(s, Unread)] == [
        ("0.parquet[1]", "key_missing"),
        ("c", "image_size_missing"),
        ("d", "image_size_missing"),
        ("e", "annotations_missing"),
    ]


def test_image_is_that_of_key_and_hash(tmp_path):
    make_corpus(tmp_path / "corpus")
    rows = [a_row("00000"), a_row("00001", image_sha256="0" * 64), a_row("00009")]
    source = source_of(tmp_path, rows)
    asked = ("00000", "00001", "00009", "00002")
    for _ in range(2):  # before the rows are read, and after
        assert [source.image(key) for key in asked] == [PICTURES["00000"], None, None, None]
        list(source.scenes(tmp_path))
    assert source.image("'; DROP TABLE images") is None


def test_files_are_hashed_one_by_one(tmp_path):
    source = source_of(tmp_path, [a_row("a")], [a_row("b")])
    files = [tmp_path / "build/data/train" / f"{n}.parquet" for n in (0, 1)]
    hashes = "".join(sha256(file.read_bytes()).hexdigest() for file in files)
    assert source.fingerprint() == {
        "files": 2,
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": sha256(hashes.encode()).hexdigest(),
    }


def test_build_of_rows_without_cameras_is_refused(tmp_path):
    schema = SCENES.arrow_schema
    older = schema.remove(schema.get_field_index("intrinsics"))
    with pytest.raises(
        BadInput, match=r"0\.parquet: column 'intrinsics' is missing, expected fixed_size_list<"
    ):
        read(tmp_path, [{k: v for k, v in a_row("a").items() if k != "intrinsics"}], schema=older)
    wrong = schema.set(schema.get_field_index("width"), pa.field("width", pa.string()))
    with pytest.raises(BadInput, match=r"0\.parquet: column 'width' is string, expected int32$"):
        read(tmp_path, [a_row("a", width="640")], schema=wrong)


def test_damaged_file_is_refused(tmp_path):
    source = source_of(tmp_path, [a_row("a")])
    file = tmp_path / "build/data/train/0.parquet"
    whole = file.read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"0\.parquet: cannot be read: "):
            list(source.scenes(tmp_path))
    file.unlink()
    with pytest.raises(BadInput, match=r"0\.parquet: cannot be read: "):
        list(source.scenes(tmp_path))


def test_problems_name_their_keys(tmp_path):
    nothing = SceneBuild(name="s", layout="scenes", path=tmp_path / "no", corpus=tmp_path / "tars")
    first, second = nothing.problems()
    assert first.startswith(f"path: {tmp_path}/no: is no build")
    assert second.startswith(f"corpus: {tmp_path}/tars: no such folder")

    make_corpus(tmp_path / "corpus")
    source = source_of(tmp_path, [a_row("a")])
    assert source.problems() == []
    other = source.model_copy(update={"config": "test"})
    assert other.problems() == [f"config: {tmp_path}/build has no config test; known: train"]
    other = source_of(tmp_path, [a_row("a")], data_set="coyo-recap")
    assert other.problems() == [f"path: {tmp_path}/build: is a build of coyo-recap, not of scenes"]
