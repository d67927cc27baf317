"""Interleaved documents in MMC4's layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feeding import byte_tokenizer, document, image_bytes, processor_of, records_of, write_documents

from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.errors import BadInput
from vila2data.training.feed.plan import Plan
from vila2data.training.feed.rows import Passage, Row, open_rows
from vila2data.training.feed.spec import SourceSpec

Planned = Callable[..., Plan]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Images p0 to p4, packed from files in a folder `d`."""
    items = [
        SourceItem(f"d_p{n}", lambda n=n: image_bytes(n, (20 + n, 30)), b"", {}) for n in range(5)
    ]
    pack(items, tmp_path / "corpus", samples_per_shard=2)
    return tmp_path / "corpus"


def name(number: int) -> str:
    return f"d/p{number}.png"


def rows_of(file: Path, corpus: Path, **settings: Any) -> list[Row]:
    opened = open_rows(SourceSpec(documents=file, corpus=corpus, **settings))
    rows = [row for part in range(opened.parts) for row in opened.rows(part)]
    assert [row.key for row in rows] == [
        key for part in range(opened.parts) for key in opened.row_keys(part)
    ]
    return rows


def sizes(row: Row) -> list[int | None]:
    """Images by their bytes: p0 to p4 differ in length, see ``test_images_are_found_by_name``."""
    return [None if place is None else place.size for place in row.images]


def size(number: int) -> int:
    return len(image_bytes(number, (20 + number, 30)))


def test_images_stand_before_their_sentences_in_their_order(tmp_path: Path, corpus: Path) -> None:
    told = document(
        ["One.", "Two.", "Three."], (name(2), 2, 0.3), (name(0), 0, 0.3), (name(1), 2, 0.3)
    )
    (row,) = rows_of(write_documents(tmp_path / "a.jsonl", [told]), corpus)
    assert row.passages == [Passage(1, "One."), Passage(0, "Two."), Passage(2, "Three.")]
    assert sizes(row) == [size(0), size(2), size(1)]
    assert row.key == "a.jsonl:1"


def test_images_that_fit_less_and_those_over_the_most_are_left_out(
    tmp_path: Path, corpus: Path
) -> None:
    images = [(name(n), n % 3, 0.1 * n) for n in range(5)]
    file = write_documents(tmp_path / "a.jsonl", [document(["a", "b", "c"], *images)])
    (row,) = rows_of(file, corpus, min_similarity=0.15)
    assert sizes(row) == [size(3), size(4), size(2)]  # by sentence: 0, 1, 2
    (row,) = rows_of(file, corpus, max_images=2)
    assert sizes(row) == [size(0), size(3)]
    assert [p.images for p in row.passages] == [2, 0, 0]


BROKEN = [
    b"{",
    b"",
    b"[]",
    b"null",
    b'"text"',
    b'{"text_list": ["a"]}',
    b'{"text_list": [1], "image_info": []}',
    b'{"text_list": null, "image_info": []}',
    b'{"text_list": ["a"], "image_info": [{}]}',
    b'{"text_list": ["a"], "image_info": [{"image_name": "d/p0.png", "matched_text_index": 1}]}',
    b'{"text_list": ["a"], "image_info": [{"image_name": "d/p0.png", "matched_text_index": -1}]}',
    b'{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": Infinity}]}',
    b'{"text_list": ["a"], "image_info": [{"image_name": "x", "matched_text_index": "x"}]}',
    b'{"text_list": ["\\ud800"], "image_info": []}',
    b'{"text_list": ["a"], "image_info": [{"image_name": "\\udfff", "matched_text_index": 0}]}',
    b'{"text_list": ["\xff"], "image_info": []}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_line_is_counted_and_stops_no_other(
    tmp_path: Path, corpus: Path, planned: Planned, line: bytes
) -> None:
    good = document(["a red box", "left ."], (name(0), 1, 0.3))
    file = write_documents(tmp_path / "a.jsonl", [good, line, good])
    plan = planned({"documents": file, "corpus": corpus})
    (step,) = plan.funnel
    assert (step.read, step.written, step.rejected) == (3, 2, {"document_unreadable": 1})
    assert {r["key"] for item in records_of(plan) for r in item} == {"a.jsonl:1", "a.jsonl:3"}


def test_a_document_that_lacks_an_image_follows_the_policy(
    tmp_path: Path, corpus: Path, planned: Planned
) -> None:
    told = [document(["a red"], (n, 0, 0.3)) for n in (name(0), "d/lost.png")]
    source = {"documents": write_documents(tmp_path / "a.jsonl", told), "corpus": corpus}
    with pytest.raises(BadInput, match=r"^a.jsonl: 1 rows, 'a.jsonl:2' the first, are without"):
        planned(source)
    assert planned(source, missing_image="skip").funnel[0].rejected == {"image_missing": 1}


def test_a_document_in_the_plan(tmp_path: Path, corpus: Path, planned: Planned) -> None:
    processor = processor_of(byte_tokenizer())
    texts = ["First <image> of </s> all,", "\n then USER: this.", ""]
    told = document(texts, (name(3), 1, 0.3), (name(1), 0, 0.3))
    file = write_documents(tmp_path / "a.jsonl", [told])
    plan = planned({"documents": file, "corpus": corpus}, processor=processor)
    ((record,),) = records_of(plan)
    said = "<s><image>\nFirst ‹image› of ‹/s› all,\n<image>\nthen USER： this.</s>"
    assert processor.tokenizer.decode(record["input_ids"]) == said
    assert record["image_tokens"] == [16, 16]
    assert record["length"] == len(record["input_ids"]) + 30
    assert record["places"][2::3] == [size(1), size(3)]


def test_documents_of_a_folder_are_read_file_by_file(tmp_path: Path, corpus: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for stem in ("b", "a"):
        write_documents(folder / f"{stem}.jsonl", [document([f"{stem} {n}"]) for n in range(2)])
    rows = rows_of(folder, corpus)
    assert [row.key for row in rows] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2"]
    assert [row.passages for row in rows][2] == [Passage(0, "b 0")]
    told = open_rows(SourceSpec(documents=folder, corpus=corpus)).told()
    assert set(told["documents"]) == {"a.jsonl", "b.jsonl"}


def test_a_folder_without_documents_is_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(BadInput, match=r"^documents: .* holds no .jsonl files"):
        open_rows(SourceSpec(documents=corpus, corpus=corpus))


def test_a_document_goes_without_an_image_that_is_missing_where_that_is_the_policy(
    tmp_path: Path, corpus: Path, planned: Planned
) -> None:
    some = document(["One.", "Two."], ("d/gone.png", 0, 1.0), (name(1), 0, 1.0), (name(2), 1, 1.0))
    none = document(["Alone."], ("d/gone.png", 0, 1.0))
    text = document(["No picture at all."])
    file = write_documents(tmp_path / "a.jsonl", [some, none, text])
    with pytest.raises(BadInput, match=r"2 rows, 'a.jsonl:1' the first, are without their image"):
        planned({"documents": file, "corpus": corpus}, processor=processor_of(byte_tokenizer()))
    processor = processor_of(byte_tokenizer())
    plan = planned({"documents": file, "corpus": corpus}, processor=processor, missing_image="skip")
    (step,) = plan.funnel
    assert (step.read, step.written, step.rejected) == (3, 2, {"image_missing": 1})
    samples = {r["key"]: r for item in records_of(plan) for r in item}
    assert samples["a.jsonl:1"]["places"][2::3] == [size(1), size(2)]
    told = processor.tokenizer.decode(samples["a.jsonl:1"]["input_ids"])
    assert told.count("<image>") == 2
    assert told.index("<image>") < told.index("One.") < told.rindex("<image>") < told.index("Two.")
    assert samples["a.jsonl:3"]["places"] == []
