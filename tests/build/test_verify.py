"""A build is changed in one way at a time; each change must be found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from making import do, make_corpus, write_recipe

from vila2data.build.manifest import Manifest, read_manifest
from vila2data.build.verify import verify
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.errors import BuildError
from vila2data.files import file_sha256

_LIMIT = "SELECT current_setting('memory_limit')"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    make_corpus(root / "corpus", 24, shards=2)
    first = do(write_recipe(root / "round1.yaml"))
    spatial = {
        "run": str(root / "runs" / "spatial"),
        "round": 2,
        "task": "spatial",
        "prompts": {"spatial-v1": 1},
        "engine": {"name": "fake", "flavour": "spatial"},
    }
    recipe = write_recipe(root / "s.yaml", version="1.1.0", base=str(first), recaption=spatial)
    return do(recipe)


@pytest.fixture
def build(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "1.1.0"))


def table_of(build: Path, config: str) -> tuple[Path, pa.Table]:
    file = next((build / "data" / config).glob("*.parquet"))
    return file, pq.read_table(file)


def rewrite(build: Path, config: str, table: pa.Table) -> None:
    """Changes a table as one would who also mends the manifest and croissant: only rules are left."""
    file, _ = table_of(build, config)
    before = file_sha256(file)
    pq.write_table(table, file)
    after = file_sha256(file)
    content = json.loads((build / "build.json").read_text())
    for entry in content["files"]:
        if entry["path"] == file.relative_to(build).as_posix():
            entry.update(sha256=after, bytes=file.stat().st_size, rows=table.num_rows)
    (build / "build.json").write_text(json.dumps(content))
    croissant = build / "croissant.json"
    croissant.write_text(croissant.read_text().replace(before, after))


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    position = table.column_names.index(name)
    field = table.schema.field(name)
    return table.set_column(position, field, pa.array(values, field.type))


def changed(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    return with_column(table, name, values)


def found(build: Path) -> str:
    return "\n".join(verify(build).problems)


def test_a_sound_build_verifies(build: Path) -> None:
    done = verify(build)
    assert done.problems == []
    assert done.checked["files"] == len(read_manifest(build).files)
    assert done.checked["row rules"] == 1


def test_the_rules_are_checked_in_bounded_memory(
    build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
        return [f"{connection.execute(_LIMIT).fetchall()[0][0]}, {manifest.version}"]

    monkeypatch.setattr(CoyoRecap, "invariants", limit)
    assert verify(build).problems == ["3.7 GiB, 1.1.0"]  # 4 GB


def test_a_flipped_byte_is_found(build: Path) -> None:
    file, _ = table_of(build, "round1")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    assert "data/round1/train-00000-of-00001.parquet: its sha256 differs" in found(build)


def test_a_cut_file_is_found(build: Path) -> None:
    file, _ = table_of(build, "round1")
    file.write_bytes(file.read_bytes()[:-10])
    assert "bytes, the manifest says" in found(build)


def test_missing_and_foreign_files_are_found(build: Path) -> None:
    file, _ = table_of(build, "round1")
    file.rename(build / "data" / "round1" / "other.parquet")
    assert "data/round1/other.parquet: is in the folder but not in build.json" in found(build)
    assert "data/round1/train-00000-of-00001.parquet: is missing" in found(build)


def test_a_croissant_that_tells_other_hashes_is_found(build: Path) -> None:
    croissant = build / "croissant.json"
    sha = read_manifest(build).files[0].sha256
    croissant.write_text(croissant.read_text().replace(sha, "0" * 64))
    assert "croissant.json: names other files or hashes" in found(build)
    croissant.write_text("{")
    assert "croissant.json: cannot be read" in found(build)


def test_a_funnel_that_loses_rows_is_found(build: Path) -> None:
    content = json.loads((build / "build.json").read_text())
    content["funnel"][0]["read"] += 1
    (build / "build.json").write_text(json.dumps(content))
    assert "funnel: read the corpus: rows were lost or invented" in found(build)


def test_another_type_and_an_unknown_column_are_found(build: Path) -> None:
    _, table = table_of(build, "round1")
    rewrite(build, "round1", table.append_column("extra", pa.nulls(table.num_rows, pa.int32())))
    assert "round1/train-00000-of-00001.parquet: column 'extra' (int32) is unknown" in found(build)
    wide = table.set_column(
        table.column_names.index("round"), "round", pc.cast(table["round"], pa.int64())
    )
    rewrite(build, "round1", wide)
    assert "column 'round' is int64, expected int32" in found(build)


def mutations() -> dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]]:
    def turns(row: int, change: Callable[[list], list]) -> Callable[[pa.Table], pa.Table]:
        return lambda t: changed(t, "messages", row, change(t["messages"].to_pylist()[row]))

    def user_first(messages: list, text: str) -> list:
        return [{"role": "user", "content": text}, *messages[1:]]

    return {
        "another caption": (
            "round1",
            lambda t: changed(t, "caption", 0, "Something else."),
            "num_",
        ),
        "an empty caption": (
            "round1",
            lambda t: changed(t, "caption", 1, " "),
            "a caption is empty",
        ),
        "a wrong word count": (
            "round1",
            lambda t: changed(t, "num_words", 0, 99),
            "num_words is not",
        ),
        "a wrong length": (
            "original",
            lambda t: changed(t, "num_chars", 0, 99),
            "num_chars is not",
        ),
        "another round": ("round1", lambda t: changed(t, "round", 0, 2), "the task or round"),
        "another task": ("spatial", lambda t: changed(t, "task", 0, "ocr"), "the task or round"),
        "a cut caption": (
            "round1",
            lambda t: changed(t, "finish_reason", 0, "length"),
            "did not end",
        ),
        "no writer": (
            "round1",
            lambda t: changed(t, "captioner", 0, None),
            "does not name its capt",
        ),
        "no seed": ("round1", lambda t: changed(t, "seed", 2, None), "does not name its captioner"),
        "another image": (
            "round1",
            lambda t: changed(t, "image_sha256", 0, "0" * 64),
            "an image is",
        ),
        "a key twice": (
            "round1",
            lambda t: pa.concat_tables([t, t.slice(0, 1)]),
            "a key stands twice",
        ),
        "no reason": (
            "original-rejects",
            lambda t: changed(t, "reject_reason", 0, ""),
            "has no reason",
        ),
        "a second image marker": (
            "conversations",
            turns(
                0, lambda m: [*m[:1], {"role": "assistant", "content": "an <image> here"}, *m[2:]]
            ),
            "exactly one <image>",
        ),
        "no image marker": (
            "conversations",
            turns(0, lambda m: user_first(m, "Describe.")),
            "exactly one <image>",
        ),
        "roles that do not alternate": (
            "conversations",
            turns(1, lambda m: [m[0], {**m[1], "role": "user"}, *m[2:]]),
            "roles do not alternate",
        ),
        "a turn without its task": (
            "conversations",
            lambda t: changed(t, "tasks", 0, []),
            "do not match the turns",
        ),
        "another training text": (
            "conversations",
            turns(2, lambda m: [m[0], {**m[1], "content": "Another text."}, *m[2:]]),
            "the training text is not its template's",
        ),
        "a role label": (
            "conversations",
            turns(2, lambda m: [m[0], {**m[1], "content": m[1]["content"] + " USER: hi"}, *m[2:]]),
            "a special token or role label was left in",
        ),
        "a conversation twice": (
            "conversations",
            lambda t: pa.concat_tables([t, t.slice(0, 1)]),
            "conversations: a key stands twice",
        ),
    }


@pytest.mark.parametrize("name", list(mutations()))
def test_every_change_of_a_row_is_found(build: Path, name: str) -> None:
    config, change, said = mutations()[name]
    _, table = table_of(build, config)
    rewrite(build, config, change(table))
    assert said in found(build), found(build)


def test_an_answer_that_was_dropped_is_found(build: Path) -> None:
    _, table = table_of(build, "conversations")
    row = next(n for n, tasks in enumerate(table["tasks"].to_pylist()) if "spatial" in tasks)
    for name, cut in (("messages", 2), ("tasks", 1), ("question_ids", 1)):
        table = changed(table, name, row, table[name].to_pylist()[row][:-cut])
    rewrite(build, "conversations", table)
    assert "a specialist's answer is missing or not its own: 1 rows" in found(build)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no build .it has no build.json"),
        ("{", "is not a complete manifest"),
        ("[]", "is not a complete manifest"),
        ('{"files": [], "funnel": []}', "is not a complete manifest"),
    ],
)
def test_a_folder_without_a_complete_manifest_is_no_build(
    build: Path, content: str | None, said: str
) -> None:
    (build / "build.json").unlink()
    if content is not None:
        (build / "build.json").write_text(content)
    with pytest.raises(BuildError, match=said):
        verify(build)


def test_a_manifest_cannot_name_files_outside_the_build(build: Path) -> None:
    content = json.loads((build / "build.json").read_text())
    content["files"][0]["path"] = "../../secret.parquet"
    (build / "build.json").write_text(json.dumps(content))
    with pytest.raises(BuildError, match="names a file outside the build"):
        read_manifest(build)


def test_croissant_is_what_its_own_validator_takes(build: Path) -> None:
    import mlcroissant

    data_set = mlcroissant.Dataset(jsonld=str(build / "croissant.json"))
    assert not data_set.metadata.issues.errors
    assert {r.id for r in data_set.metadata.record_sets} == set(read_manifest(build).configs)
