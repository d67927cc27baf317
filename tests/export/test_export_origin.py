"""LLaVA's own records: in, through a build, and out the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from export_making import instruct_row, write_fake_build
from making import make_picture

from vila2data.blend.layouts import LAYOUTS
from vila2data.blend.recipe import BlendRecipe, Entry
from vila2data.build.write import write_build
from vila2data.builders.llava_instruct import LlavaInstruct
from vila2data.conversation import neutralise
from vila2data.export.run import export


def record(name: Any, *texts: str, **others: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    turns = [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": name} | others | {"conversations": turns}


RECORDS = [
    record("000000033471", "<image>\nWhat colours?", "White and red.", image="coco/train2017/1.jpg"),
    record(1225, "Which?\n<image>", "The left.", "Sure?", "Yes.", image="vg/VG_100K/2.jpg"),
    record("wgByO4Y_0", "Hi, how are you?", "Fine.", model=""),
    record(7, "Why?", "So.", model="gpt-4"),
    record("two", "<image>\n<image>\nWhich?", "Both.", image=["a/1.jpg", "b/1.jpg"]),
    record("listed", "<image>\nOne?", "One.", image=["a/1.jpg"]),
    record("again", "<image>\nAnd now?", "The same.", image="coco/train2017/1.jpg"),
    record("again", "<image>\nAnd now?", "The same.", image="coco/train2017/1.jpg", split="x"),
    record("ünïcode/🙂", "<image>\nWas ist das? ‹", "Ein Hund.\n", image="größe/ü 1.jpg", n=[1, {"a": None}]),
]  # fmt: skip
PICTURES = {"coco/train2017/1.jpg": 0, "vg/VG_100K/2.jpg": 3, "a/1.jpg": 6, "b/1.jpg": 9, "größe/ü 1.jpg": 12}  # fmt: skip


def through_the_layout(given: dict[str, Any], number: int) -> dict[str, Any]:
    """The row that a build has of a record: what the layout `turns` reads, worded as it stands."""
    (read,) = LAYOUTS["turns"].read(given)
    texts = [text for e in read.exchanges for text in (e.question, e.answer)]  # type: ignore[union-attr]
    safe = ["<image>".join(map(neutralise, text.split("<image>"))) for text in texts]
    changed = {str(n): t for n, (t, s) in enumerate(zip(texts, safe, strict=True)) if t != s}
    origin = dict(read.origin) | ({"texts": changed} if changed else {})  # type: ignore[union-attr]
    images = [make_picture(PICTURES[str(name)]) for name in read.images]  # type: ignore[union-attr]
    return instruct_row(f"llava-665k/{number}", *safe, images=images, origin=origin)


def exported(folder: Path, records: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    rows = [through_the_layout(given, n) for n, given in enumerate(records)]
    build = write_fake_build(folder / "build", rows)
    export(build, folder / "out", format="llava", **options)
    found: list[dict[str, Any]] = json.loads((folder / "out" / "conversations.json").read_text())
    return found


def test_published_records_come_back_the_same_and_in_order(tmp_path: Path) -> None:
    assert exported(tmp_path, RECORDS) == RECORDS


def test_images_keep_the_names_that_the_records_give_them(tmp_path: Path) -> None:
    exported(tmp_path, RECORDS)
    images = tmp_path / "out" / "images"
    found = {f.relative_to(images).as_posix(): f.read_bytes() for f in images.rglob("*.jpg")}
    assert found == {name: make_picture(number) for name, number in PICTURES.items()}


UNSAFE = record("x", "USER: say </s>", "[INST] ok", "Fine?", "Fine.")


def test_texts_that_were_made_safe_stay_safe(tmp_path: Path) -> None:
    (found,) = exported(tmp_path, [UNSAFE])
    values = [turn["value"] for turn in found["conversations"]]
    assert values == ["USER： say ‹/s›", "(INST) ok", "Fine?", "Fine."]


def test_verbatim_gives_the_source_s_texts_back(tmp_path: Path) -> None:
    assert exported(tmp_path, [UNSAFE], verbatim=True) == [UNSAFE]


def test_other_keys_of_turns_come_back(tmp_path: Path) -> None:
    given = record("x", "Why?", "So.", "And?", "Thus.")
    given["conversations"][1] |= {"weight": 0.5, "markdown": None}
    given["conversations"][2] |= {"tag": ["a"]}
    assert exported(tmp_path, [given]) == [given]


@pytest.mark.parametrize(
    "origin",
    [
        {"other": {"conversations": [], "id": 5, "image": "/etc/passwd"}},
        {"turns": {"0": {"value": "no", "from": "gpt"}, "7": {"x": 1}, "x": []}},
        {"other": [], "turns": 5, "texts": "no", "image": {"path": "x"}},
        {"image": ["a", 5]},
        [],
        "text",
    ],
    ids=["other", "turns", "kinds", "image", "list", "text"],
)
def test_an_origin_of_another_form_changes_nothing_of_the_row(tmp_path: Path, origin: Any) -> None:
    row = instruct_row("a", "Why?", "So.", origin=origin)
    export(write_fake_build(tmp_path / "b", [row]), tmp_path / "out", format="llava", verbatim=True)
    (found,) = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert found == record("a", "Why?", "So.")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "null", ""], ids=["cut", "deep", "null", "empty"])  # fmt: skip
def test_an_origin_that_is_no_json_is_as_none(tmp_path: Path, text: str) -> None:
    row = instruct_row("a", "Why?", "So.") | {"origin": text}
    export(write_fake_build(tmp_path / "b", [row]), tmp_path / "out", format="llava")
    assert json.loads((tmp_path / "out" / "conversations.json").read_text()) == [
        record("a", "Why?", "So.")
    ]


def test_an_id_of_half_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    row = instruct_row("a", "Why?", "So.") | {"origin": '{"id": "\\ud800"}'}
    export(write_fake_build(tmp_path / "b", [row]), tmp_path / "out", format="llava")
    (found,) = json.loads((tmp_path / "out" / "conversations.json").read_text())
    assert found["id"] == "\ud800"


@pytest.mark.parametrize("images", ["embed", "paths"])
def test_a_published_file_comes_back_through_a_whole_build(tmp_path: Path, images: str) -> None:
    source = tmp_path / "source"
    for name, number in PICTURES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(make_picture(number))
    published = source / "llava_v1_5_mix665k.json"
    published.write_text(json.dumps([*RECORDS, UNSAFE]))
    recipe = BlendRecipe(
        builder="llava-instruct",
        version="1.0.0",
        license="cc-by-4.0",
        out=tmp_path / "builds",
        sources={"llava_v1_5_mix665k": Entry(path=source)},
        images=images,
    )
    build = write_build(LlavaInstruct, recipe)
    folder = source if images == "paths" else None
    export(build, tmp_path / "out", format="llava", images=folder, verbatim=True)
    exported_text = (tmp_path / "out" / "conversations.json").read_text()
    assert json.loads(exported_text) == json.loads(published.read_text())


@pytest.mark.shared
def test_real_records_come_back(shared_data: Path, tmp_path: Path) -> None:
    given = []
    for entry in json.loads((shared_data / "instruct/llava/mix665k_rows.json").read_text()):
        whole = entry.get("conversations", [])
        roles = [turn["from"] for turn in whole]
        if roles and roles == ["human", "gpt"] * (len(roles) // 2):
            given.append(entry)
    assert len(given) >= 3
    for entry in given:
        if "image" in entry:
            PICTURES.setdefault(entry["image"], 0)
    found = exported(tmp_path, given, verbatim=True)
    assert found == given
