"""Ground truth as it is read from a build, and what cannot be read."""

import io
from hashlib import sha256

import pyarrow as pa
import pytest
from PIL import Image
from scene_rows import a_row, a_thing, drawn_rows, make_scenes, write_corpus, write_scenes

from vila2data.errors import BadInput, BuildError, CorpusError
from vila2data.schema import SCENES
from vila2data.training.evaluation.scenes import read_scenes, read_vocabulary


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(tmp_path, rows, pictures=None, **build):
    return (
        write_scenes(tmp_path / "build", {"test": rows}, **build),
        write_corpus(tmp_path / "corpus", [r for r in rows if r["key"]], pictures),
    )


def test_rows_are_read_as_they_stand(tmp_path):
    rows = drawn_rows(3)
    scenes, rejected = read_scenes(*make(tmp_path, rows))
    assert rejected == {}
    assert [s.key for s in scenes] == [r["key"] for r in rows]
    for scene, row in zip(scenes, rows, strict=True):
        assert (scene.floor, scene.wall, scene.reference) == (
            row["floor"],
            row["wall"],
            row["reference"],
        )
        assert [(t.color, t.shape, t.size, t.material) for t in scene.things] == [
            (w["color"], w["shape"], w["size"], w["material"]) for w in row["attributes"]
        ]
        for thing, place in zip(scene.things, row["objects"], strict=True):
            assert thing.center == pytest.approx(place["center"])
            assert thing.bbox_norm == pytest.approx(place["bbox"])
        asked = [
            {"question": q.question, "answer": q.answer, "kind": q.kind} for q in scene.questions
        ]
        assert asked == row["questions"]


def test_the_first_so_many_rows_are_read(tmp_path):
    build, corpus = make_scenes(tmp_path, 6)
    assert [s.key for s in read_scenes(build, corpus, 2)[0]] == ["test-00000", "test-00001"]


def test_the_words_are_those_of_every_config(tmp_path):
    train = [a_row("a", [a_thing("mauve", "torus", size="tiny", material="furry")], floor="mossy")]
    asked = [{"question": "q", "answer": "north", "kind": "side"}] * 2
    asked += [{"question": "q", "answer": "red", "kind": "color"}]
    test = [a_row("b", [a_thing("red", "cube")], wall="dark", questions=asked)]
    words = read_vocabulary(write_scenes(tmp_path / "b", {"train": train, "test": test}))
    assert words.shapes == ["cube", "torus"]
    assert words.colors == ["mauve", "red"]
    assert words.sizes == ["small", "tiny"]
    assert words.materials == ["furry", "matte"]
    assert (words.floors, words.walls) == (["gray", "mossy"], ["dark", "white"])
    assert words.answers == {"side": ["north"], "depth": []}


GOOD = drawn_rows(2)


def broken(key, **changes):
    return a_row(key, [a_thing("red", "cube")]) | changes


def changed_object(key, **changes):
    row = a_row(key, [a_thing("red", "cube")])
    return row | {"objects": [row["objects"][0] | changes]}


def changed_words(key, **changes):
    row = a_row(key, [a_thing("red", "cube")])
    return row | {"attributes": [row["attributes"][0] | changes]}


@pytest.mark.parametrize(
    "row",
    [
        broken("x", objects=None),
        broken("x", attributes=None),
        broken("x", objects=[]),
        broken("x", objects=[], attributes=[]),
        broken("x", floor=None),
        broken("x", wall=""),
        changed_object("x", bbox=[0.1, 0.2, None, 0.4]),
        changed_object("x", bbox=None),
        changed_object("x", center=[0.0, 0.0, float("nan")]),
        changed_object("x", center=[0.0, 0.0, 0.0]),
        changed_object("x", center=[0.0, 0.0, -2.0]),
        changed_words("x", color=None),
        changed_words("x", shape=""),
        broken("x", questions=[{"question": None, "answer": "yes", "kind": "existence"}]),
        broken("x", questions=[{"question": "q", "answer": "", "kind": "existence"}]),
        broken("x", questions=[None]),
    ],
)
def test_a_broken_row_is_left_out_and_counted(tmp_path, row):
    scenes, rejected = read_scenes(*make(tmp_path, [GOOD[0], row, GOOD[1]]))
    assert [s.key for s in scenes] == [GOOD[0]["key"], GOOD[1]["key"]]
    assert rejected == {"row_unusable": 1}


def test_a_row_without_questions_is_used(tmp_path):
    scenes, _ = read_scenes(*make(tmp_path, [GOOD[0], broken("x", questions=None)]))
    assert scenes[1].questions == []


def test_images_are_those_of_the_build(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48)).save(buffer, "PNG")
    others = [broken("other"), broken(None), broken("cut")]
    half = buffer.getvalue()[:60]
    others[2]["image_sha256"] = sha256(half).hexdigest()
    found = read_scenes(
        *make(tmp_path, [*GOOD, *others], {"other": buffer.getvalue(), "cut": half})
    )
    assert [s.key for s in found[0]] == [r["key"] for r in GOOD]
    assert found[1] == {"image_missing": 2, "image_undecodable": 1}


def test_another_corpus_is_refused(tmp_path):
    build, _ = make(tmp_path, GOOD)
    other = write_corpus(tmp_path / "other", [broken("y")])
    with pytest.raises(CorpusError, match=r"other: holds no image of .*build: is it the corpus of"):
        read_scenes(build, other)


def test_one_scene_is_too_few(tmp_path):
    told = r"build: 1 of its rows can be used \(rejected: row_unusable 1\); at least 2 are needed"
    with pytest.raises(BadInput, match=told):
        read_scenes(*make(tmp_path, [GOOD[0], broken("x", floor=None)]))


def test_another_build_is_refused(tmp_path):
    other = write_scenes(tmp_path / "a", {"test": GOOD}, data_set="coyo-recap")
    with pytest.raises(BuildError, match="a: is a build of coyo-recap, not of scenes"):
        read_vocabulary(other)
    train = write_scenes(tmp_path / "b", {"train": GOOD})
    with pytest.raises(BuildError, match="b: has no config 'test'; its configs: train"):
        read_vocabulary(train)
    with pytest.raises(BuildError, match="c: is no build"):
        read_vocabulary(tmp_path / "c")


def test_a_missing_column_is_named(tmp_path):
    schema = pa.schema([field for field in SCENES.arrow_schema if field.name != "attributes"])
    rows = [{k: v for k, v in row.items() if k != "attributes"} for row in GOOD]
    build = write_scenes(tmp_path / "b", {"test": rows}, schema=schema)
    with pytest.raises(BuildError, match=r"b: cannot be read \(Binder Error: .*attributes"):
        read_vocabulary(build)


def test_a_damaged_file_is_named(tmp_path):
    build, corpus = make(tmp_path, GOOD)
    [file] = build.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BuildError, match=r"build: cannot be read \(.*`vila2data verify"):
        read_scenes(build, corpus)
