"""Which column of a build is trained on; a row without a text is no row of its source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feeding import image_bytes, make_build, make_pair, talk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.errors import BadInput
from vila2data.training.feed.plan import Plan
from vila2data.training.feed.rows import Row, open_rows
from vila2data.training.feed.spec import SourceSpec
from vila2data.training.feed.texts import TEXT_NULL, TextColumn, text_column

Planned = Callable[..., Plan]

QUESTION = {"question": "Is there a ball ?", "answer": "yes", "kind": "existence"}
SCENES = [
    {"key": "a", "alt_text": "a ball", "reference": "a red ball .", "questions": [QUESTION]},
    {"key": "b", "alt_text": "a box", "reference": None, "questions": []},
    {"key": "c", "alt_text": None, "reference": "", "questions": [QUESTION, QUESTION]},
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scenes")
    items = [SourceItem(k, lambda k=k: image_bytes(ord(k)), b"x", {}) for k in "abc"]
    pack(items, root / "corpus")
    return {"build": make_build(root / "b", "scenes", "train", SCENES), "corpus": root / "corpus"}


def rows_of(**source: Any) -> list[Row]:
    opened = open_rows(SourceSpec(**source))
    rows = [row for part in range(opened.parts) for row in opened.rows(part)]
    keys = [key for part in range(opened.parts) for key in opened.row_keys(part)]
    assert keys == [row.key for row in rows if row.problem is None]
    return rows


def test_a_column_of_captions(scenes: dict[str, Path]) -> None:
    a, b, c = rows_of(**scenes, column="reference")
    assert a.messages == talk("<image>", "a red ball .")
    assert (a.problem, b.problem, c.problem) == (None, TEXT_NULL, None)
    assert b.messages == ()
    assert c.messages == talk("<image>", "")  # a text, though nothing can be learnt from it
    a, b, c = rows_of(**scenes, column="alt_text")
    assert [row.problem for row in (a, b, c)] == [None, None, TEXT_NULL]
    assert b.messages == talk("<image>", "a box")


def test_a_column_of_questions_becomes_turns_after_one_image(scenes: dict[str, Path]) -> None:
    a, b, c = rows_of(**scenes, column="questions")
    assert a.messages == talk("<image>\nIs there a ball ?", "yes")
    assert b.problem == TEXT_NULL
    assert c.messages == talk("<image>\nIs there a ball ?", "yes", "Is there a ball ?", "yes")


def test_null_messages_are_left_out_too(tmp_path: Path) -> None:
    corpus, _ = make_pair(tmp_path, 2)
    rows = [
        {"key": "a0000", "caption": "told .", "messages": talk("<image>", "Told.")},
        {"key": "a0001", "caption": "not told .", "messages": None},
    ]
    build = make_build(tmp_path / "b", "grounded-narration", "long", rows)
    told, null = rows_of(build=build, corpus=corpus)
    assert (told.messages, told.problem) == (talk("<image>", "Told."), None)
    assert null.problem == TEXT_NULL
    _, caption = rows_of(build=build, corpus=corpus, column="caption")
    assert caption.messages == talk("<image>", "not told .")


def test_rows_without_a_text_are_counted_under_their_own_reason(
    scenes: dict[str, Path], planned: Planned
) -> None:
    plan = planned(*({**scenes, "column": column} for column in ("reference", "alt_text")))
    reference, alt_text = plan.funnel
    assert (reference.read, reference.written) == (3, 1)
    assert reference.rejected == {"text_missing": 1, TEXT_NULL: 1}
    assert (alt_text.read, alt_text.written, alt_text.rejected) == (3, 2, {TEXT_NULL: 1})
    assert reference.step.endswith("b/reference")
    assert [source["column"] for source in plan.sources] == ["reference", "alt_text"]
    told = json.loads((plan.folder / "plan.json").read_text())
    assert told["funnel"][1]["rejected"] == {TEXT_NULL: 1}


def test_a_cap_counts_rows_with_a_text_alone(tmp_path: Path, planned: Planned) -> None:
    corpus, _ = make_pair(tmp_path, 30)
    rows = [
        {"key": f"a{n:04d}", "alt_text": "a box", "reference": "a red box ." if n % 3 else None}
        for n in range(30)
    ]
    build = make_build(tmp_path / "b", "scenes", "train", rows, files=3)
    source = {"build": build, "corpus": corpus, "column": "reference"}
    assert planned({**source, "cap": 7}).samples == 7
    assert planned({**source, "cap": 999}).samples == 20


def test_two_columns_of_one_build_have_draws_of_their_own(scenes: dict[str, Path]) -> None:
    identities = [
        open_rows(SourceSpec(**scenes, column=column)).identity
        for column in ("reference", "alt_text")
    ]
    assert identities == ["scenes/train/reference", "scenes/train/alt_text"]


def test_sources_without_a_column_keep_their_identity(tmp_path: Path) -> None:
    corpus, build = make_pair(tmp_path, 1)
    opened = open_rows(SourceSpec(build=build, corpus=corpus))
    assert opened.identity == "coyo-recap/original"
    assert "column" not in opened.told()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("objects", "column 'objects' holds no text; columns that hold one: key, image_sha256"),
        ("caption", "column 'caption' is not there; columns that hold one: key, image_sha256"),
    ],
)
def test_a_column_without_texts_is_refused(scenes: dict[str, Path], column: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as told:
        open_rows(SourceSpec(**scenes, column=column))
    assert "config 'train'" in str(told.value)


def test_a_config_of_neither_conversations_nor_captions_is_refused() -> None:
    schema = pa.schema({"key": pa.string(), "boxes": pa.list_(pa.float32())})
    with pytest.raises(BadInput, match=r"^here: holds neither conversations nor captions$"):
        text_column(schema, None, where="here")


def test_a_column_belongs_to_a_build(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="column: belongs to a build, not to documents:"):
        SourceSpec(documents=tmp_path, corpus=tmp_path, column="caption")


def test_texts_are_read_for_keys_only_where_one_may_be_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"key": "a", "reference": "one"}, {"key": "b", "reference": "two"}]
    corpus, _ = make_pair(tmp_path, 1)
    whole = make_build(tmp_path / "whole", "scenes", "train", rows)
    holes = make_build(tmp_path / "holes", "scenes", "train", [*rows, {"key": "c"}])
    read: list[list[str]] = []
    batches = pq.ParquetFile.iter_batches

    def noting(self: Any, *arguments: Any, columns: list[str], **options: Any) -> Any:
        read.append(columns)
        return batches(self, *arguments, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    for build in (whole, holes):
        opened = open_rows(SourceSpec(build=build, corpus=corpus, column="reference"))
        assert list(opened.row_keys(0)) == ["a", "b"]
    assert read == [["key"], ["key", "reference"]]


PAIRS = st.lists(st.fixed_dictionaries({"question": st.text(), "answer": st.text()}), max_size=4)


@given(PAIRS)
@settings(deadline=None)
def test_every_question_and_answer_is_told_once_and_in_order(pairs: list[dict[str, str]]) -> None:
    turns = TextColumn("questions", "questions").messages(pairs)
    if not pairs:
        assert turns is None
        return
    assert turns is not None
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * len(pairs)
    contents = [turn["content"] for turn in turns]
    assert contents[0] == "<image>\n" + pairs[0]["question"]
    assert contents[1:] == [t for p in pairs for t in (p["question"], p["answer"])][1:]


def test_a_question_without_words_stays_without_for_the_encoder_to_refuse() -> None:
    turns = TextColumn("q", "questions").messages([{"question": None, "answer": "yes"}])
    assert turns == [{"role": "user", "content": None}, {"role": "assistant", "content": "yes"}]
