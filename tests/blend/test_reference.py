"""The builder against a slow reference of what docs/blends.md says, on hostile sources.

By hand, in the repository: python tests/blend/test_reference.py 200 compares as many blends.
"""

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "plugin"))

import blend_reference as reference
import pyarrow.parquet as pq
import pytest
from blend_making import image_bytes, made_catalogue, make_blend

from vila2data import registry
from vila2data.blend.recipe import BlendRecipe
from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.write import write_build

Row = dict[str, Any]
SEEDS = (1, 2)


def rows_of(built: Path, config: str) -> list[Row]:
    files = sorted((built / "data" / config).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def compare(root: Path, seed: int, size: int = 30) -> None:
    """Builds a blend and compares it with the reference."""
    (root / "catalogue").mkdir()
    with made_catalogue(root / "catalogue"):
        recipe, records = make_blend(root / "sources", seed, size)
        wanted = reference.build(recipe, records)
        built = write_build(registry.load("builders", recipe.builder), recipe)
        assert verify(built).problems == []
        merged = {name for name in recipe.sources if recipe.source(name).rules.merge}
    compare_rows(rows_of(built, "default"), wanted, merged)
    compare_counts(built, wanted)


def compare_rows(found: list[Row], wanted: reference.Built, merged: set[str]) -> None:
    """``origin`` of rows that were merged of several records is left out."""
    told = {row["id"]: row for row in wanted.rows}
    assert {row["id"] for row in found} == set(told)
    for row in found:
        other = told[row["id"]]
        assert row["messages"] == other["messages"]
        names = ("source", "task", "license")
        assert [row[name] for name in names] == [other[name] for name in names]
        if row["source"] not in merged:
            origin = json.loads(row["origin"] or "{}")
            origin.pop("texts", None)  # what a worded question was before it was made safe
            assert origin == (other["origin"] or {})
        if "image_paths" in row:
            assert row["image_paths"] == other["images"]
        else:
            assert [image["bytes"] for image in row["images"]] == other["images"]


def compare_counts(built: Path, wanted: reference.Built) -> None:
    steps = {step.step: step for step in read_manifest(built).funnel}
    records, questions = (
        sum(counts.values(), Counter[str]()) for counts in (wanted.records, wanted.questions)
    )
    assert steps["records"].read == records.pop("read")
    assert steps["records"].written == records.pop("written")
    assert steps["records"].rejected == records
    assert steps["questions"].written == questions.pop("written")
    assert steps["questions"].rejected == questions
    conversations: Counter[str] = Counter()
    for (_, reason), count in wanted.rejected.items():
        conversations[reason] += count
    assert steps["conversations"].rejected == conversations
    rejects = Counter(
        (row["source"], row["reject_reason"]) for row in rows_of(built, "default-rejects")
    )
    assert rejects == wanted.rejected + Counter(
        {
            (source, reason): count
            for source, counts in wanted.questions.items()
            for reason, count in counts.items()
            if reason != "written"
        }
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rows_are_those_of_the_reference(seed: int, tmp_path: Path) -> None:
    compare(tmp_path, seed)


def small(tmp_path: Path, name: str, records: list[Row], **entry: Any) -> list[Row]:
    """Rows of a few records, in the reference alone."""
    (tmp_path / "a.png").write_bytes(image_bytes("PNG", 0))
    with made_catalogue(tmp_path):
        blocks = {"sources": {name: {"path": str(tmp_path), **entry}}, "version": "1.0.0"}
        recipe = BlendRecipe(builder="sft-blend", license="other", **blocks)
        return reference.build(recipe, {name: records}).rows


def said(row: Row) -> list[str]:
    return [message["content"] for message in row["messages"]]


def test_the_reference_rotates_choices_to_the_left(tmp_path: Path) -> None:
    asked = {"question": "Which?", "choices": ["a", "b", "c"], "answer": 0, "image": "a.png"}
    form = "Answer with the option's letter from the given choices directly."
    rows = small(tmp_path, "made_choices", [asked, asked])
    assert [row["id"] for row in rows] == [f"made_choices/a.png/r{n}" for n in range(3)]
    assert [said(row) for row in rows] == [
        [f"<image>\nWhich?\nA. a\nB. b\nC. c\n{form}", "A"],
        [f"<image>\nWhich?\nA. b\nB. c\nC. a\n{form}", "C"],
        [f"<image>\nWhich?\nA. c\nB. a\nC. b\n{form}", "B"],
    ]


def test_the_reference_words_boxes_in_parts(tmp_path: Path) -> None:
    sentences = [{"sent": text} for text in ("red car", "the man.", "x")]
    box = {"bbox": [10, 0, 30, 100], "width": 100, "height": 100}
    rows = small(tmp_path, "made_regions", [{"sentences": sentences, "image": "a.png", **box}])
    assert [(row["id"][-3:], len(row["messages"])) for row in rows] == [("/s0", 4), ("/s1", 2)]
    ask = "Please provide a short description for this region: [0.1, 0.0, 0.4, 1.0]."
    locate = "Please provide the bounding box coordinate of the region this sentence describes: "
    both = {(ask, "Red car."), (f"{locate}red car.", "[0.1, 0.0, 0.4, 1.0]")}
    assert tuple(said(rows[0])[:2]) in {(f"<image>\n{asked}", text) for asked, text in both}


def test_the_reference_names_copies_and_rows_of_one_name(tmp_path: Path) -> None:
    records = [{"id": 7, "instruction": "Sum?", "output": str(n)} for n in range(2)]
    rows = small(tmp_path, "made_texts", records, weight=2)
    names = [row["id"].removeprefix("made_texts/7") for row in rows]
    assert list(zip(names, (said(row)[1] for row in rows), strict=True)) == [
        ("", "0"),
        ("/c1", "0"),
        ("/d1", "1"),
        ("/c1/d1", "1"),
    ]
    assert len(small(tmp_path, "made_texts", records, weight=2, cap=3)) == 2


if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), number, 60)
            sys.stdout.write(f"{number}: build and reference agree\n")
