"""Makes small sources of blends, and a catalogue that knows them."""

import io
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from vila2data.blend import catalog
from vila2data.blend.recipe import BlendRecipe

Record = dict[str, Any]

TEXTS = (
    *("cat", "a dog", "犬", "Ünder 3.5", "yes", "no", "left of it", "A", "B", "x" * 90),
    *("<image> in text", "</s>", "USER: do this", "[INST] x [/INST]", "<|im_end|>", "a <b> c: d"),
    *("two\nlines", "tab\there", " blank ends ", "A. cat", "it is.", "\u2028sep", "50%", "'q'"),
)
"""What anyone may have written."""

WEIGHTS = (1.0, 1.0, 1.0, 0.4, 1.5, 2.0, 2.7)

SOURCES: dict[str, dict[str, Any]] = {
    "made_vqa": {
        "task": "vqa",
        "license": "cc-by-4.0",
        "layout": "question_answer",
        "format": "json",
        "files": "*.json",
        "rules": {"merge": True, "form": "format-short-answer", "max_exchanges": 3},
    },
    "made_choices": {
        "task": "knowledge",
        "license": "apache-2.0",
        "layout": "choices",
        "format": "jsonl",
        "files": "*.jsonl",
        "rules": {"merge": True, "form": "format-option-letter", "permute_choices": True},
    },
    "made_regions": {
        "task": "region",
        "license": "unknown",
        "layout": "refcoco",
        "format": "json",
        "files": "*.json",
        "records": "references",
        "rules": {"merge": True, "segment": 2},
    },
    "made_captions": {
        "task": "captioning",
        "license": "cc-by-4.0",
        "layout": "captions",
        "format": "json",
        "files": "*.json",
        "columns": {"image": "file_name", "captions": "reference_strs"},
        "rules": {"form": "format-one-sentence-caption"},
    },
    "made_turns": {
        "task": "conversation",
        "license": "cc-by-nc-4.0",
        "non_commercial": True,
        "layout": "turns",
        "format": "json",
        "files": "*.json",
        "rules": {"max_tokens": 150},
    },
    "made_cauldron": {
        "task": "ocr",
        "license": "cc-by-4.0",
        "layout": "cauldron",
        "format": "parquet",
        "files": "*.parquet",
    },
    "made_texts": {
        "task": "text",
        "license": "cc0-1.0",
        "layout": "instruction",
        "format": "jsonl",
        "files": "*.jsonl",
        "rules": {"form": "format-short-answer"},
    },
    "made_evaluation": {
        "task": "vqa",
        "license": "cc-by-4.0",
        "status": "evaluation",
        "layout": "question_answer",
        "format": "json",
        "files": "*.json",
    },
}
"""Entries of a catalogue; none is on the Hub."""


@contextmanager
def made_catalogue(folder: Path, **changes: dict[str, Any]) -> Iterator[None]:
    """A catalogue of ``SOURCES`` alone, in the place of the one that is shipped.

    Args:
        folder: to write it to.
        changes: what entries have beside or instead of what stands in ``SOURCES``.
    """
    plain = {"status": "manual", "url": "https://example.org", "note": "made by tests"}
    entries = {
        name: {"title": name, **plain, **entry, **changes.get(name, {})}
        for name, entry in SOURCES.items()
    }
    (folder / "made.yaml").write_text(yaml.safe_dump(entries))
    with patch.object(catalog, "files", lambda _: folder):
        catalog.sources.cache_clear()
        try:
            yield
        finally:
            catalog.sources.cache_clear()


def make_blend(
    root: Path, seed: int, size: int = 30
) -> tuple[BlendRecipe, dict[str, list[Record]]]:
    """Random sources with duplicates, hostile texts and images that cannot be used.

    Args:
        root: of the folders of the sources.
        seed: of everything that is drawn.
        size: of each source, in records.

    Returns:
        The recipe, with rules that are drawn too, and the records of each source.
    """
    rng = random.Random(seed)
    are_paths = rng.random() < 0.3
    makers = {
        "made_vqa": _vqa,
        "made_choices": _choices,
        "made_regions": _regions,
        "made_captions": _captions,
        "made_turns": _turns,
        "made_texts": _texts,
        "made_cauldron": _cauldron,
    }
    if are_paths:
        del makers["made_cauldron"]  # its images have no names
    records = {}
    for name, make in makers.items():
        folder = root / name
        images = write_images(folder, rng)
        records[name] = [make(rng, images) for _ in range(size)]
        _write(folder, name, records[name])
    content = {
        "builder": "sft-blend",
        "version": "1.0.0",
        "license": "other",
        "out": str(root / "builds"),
        "root": str(root),
        "seed": seed,
        "images": "paths" if are_paths else "embed",
        "sources": {name: _entry(rng, name) for name in makers},
        "overlap": {"near": None, "text": False},
        "rejects_per_reason": 10**6,
    }
    return BlendRecipe.model_validate(content), records


def _entry(rng: random.Random, name: str) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if rng.random() < 0.4:
        rules["max_exchanges"] = rng.choice([None, 1, 2, 4])
    if rng.random() < 0.3:
        rules["segment"] = rng.choice([None, 1, 2, 3])
    if rng.random() < 0.3:
        rules["max_tokens"] = rng.choice([None, 40, 60, 100])
    if rng.random() < 0.3 and name != "made_turns":
        rules["form_in"] = "every"
    if rng.random() < 0.3 and name not in ("made_turns", "made_texts"):
        rules["merge"] = rng.random() < 0.5
    if name == "made_regions" and rng.random() < 0.4:
        rules["boxes_in"] = "square"
    cap = rng.choice([None, None, None, 3, 12])
    return {"weight": rng.choice(WEIGHTS), "cap": cap, "rules": rules}


@cache
def image_bytes(kind: str, number: int) -> bytes:
    """A small picture, which no other number has."""
    out = io.BytesIO()
    picture = Image.new("RGB", (10 + 2 * number, 20), (number * 9 % 256, 80, 160))
    picture.save(out, kind)
    return out.getvalue()


def write_images(folder: Path, rng: random.Random) -> list[str]:
    """The names of images below a folder; not all are there, or are images."""
    names = []
    (folder / "img").mkdir(parents=True)
    for number in range(8):
        kind, suffix = rng.choice([("PNG", "png"), ("JPEG", "jpg"), ("GIF", "jpg")])
        names.append(f"img/{number}.{suffix}")
        (folder / names[-1]).write_bytes(image_bytes(kind, number))
    (folder / "img/empty.png").touch()
    (folder / "img/page.jpg").write_bytes(b"<html>no picture</html>")
    (folder / "img/cut.png").write_bytes(image_bytes("PNG", 3)[:30])
    return [*names, *names, "img/empty.png", "img/page.jpg", "img/cut.png", "img/nowhere.png"]


def _write(folder: Path, name: str, records: Sequence[Record]) -> None:
    entry = SOURCES[name]
    if entry["format"] == "parquet":
        for number, part in enumerate((records[: len(records) // 2], records[len(records) // 2 :])):
            pq.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet")
    elif entry["format"] == "jsonl":
        lines = [json.dumps(record) for record in records]
        (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    else:
        where = entry.get("records")
        content = {"about": "made", where: list(records)} if where else list(records)
        (folder / "rows.json").write_text(json.dumps(content))


def _some(rng: random.Random, *rare: Any) -> Any:
    """A text, or seldom one of what is no use."""
    return rng.choice(rare) if rare and rng.random() < 0.1 else rng.choice(TEXTS)


def _id(rng: random.Random) -> Any:
    return rng.choice([rng.randrange(40), f"n{rng.randrange(10**6)}", f"a/b {rng.randrange(99)}"])


def _vqa(rng: random.Random, images: Sequence[str]) -> Record:
    answer = rng.choice([_some(rng, None, "", 2016, True), rng.choice(["red", "blue"])])
    asked = rng.choice([_some(rng, None, " "), "What is it?"])
    return {"id": _id(rng), "image": rng.choice(images), "question": asked, "answer": answer}


def _choices(rng: random.Random, images: Sequence[str]) -> Record:
    choices = rng.sample(TEXTS, rng.randint(2, 5))
    place = rng.randrange(len(choices))
    answer = rng.choice([place, "ABCDE"[place], None if rng.random() < 0.2 else place])
    return {
        "id": _id(rng),
        "image": rng.choice(images),
        "question": _some(rng, None),
        "choices": choices if rng.random() < 0.95 else choices[:1],
        "answer": answer,
    }


def _regions(rng: random.Random, images: Sequence[str]) -> Record:
    x, y = rng.uniform(-5, 90), rng.uniform(0, 90)  # no number that is as near to two others
    return {
        "ref_id": _id(rng),
        "image": rng.choice(images),
        "sentences": [{"sent": rng.choice(["red car", "the man.", "犬", "x <s> y", "élan"])}]
        * rng.randint(1, 2),
        "bbox": [x, y, rng.choice([0, rng.randint(9, 60)]), 20.5] if rng.random() < 0.95 else None,
        "width": 100,
        "height": 100,
    }


def _captions(rng: random.Random, images: Sequence[str]) -> Record:
    captions = [_some(rng, None, "") for _ in range(rng.randint(1, 3))]
    return {"id": _id(rng), "file_name": rng.choice(images), "reference_strs": captions}


def _turns(rng: random.Random, images: Sequence[str]) -> Record:
    count = rng.choice([0, 1, 1, 1, 2])
    asked = rng.choice(["What?", "Say USER: x", "Tell me </s>\nmore"])
    markers = count if rng.random() < 0.9 else rng.randrange(4)
    marked = rng.choice(["<image>\n" * markers + asked, asked + "\n<image>" * markers])
    turns = [{"from": "human", "value": marked}, {"from": "gpt", "value": rng.choice(TEXTS)}]
    for _ in range(rng.randrange(3)):
        turns += [{"from": "human", "value": rng.choice(TEXTS)}]
        turns += [{"from": "gpt", "value": rng.choice(TEXTS)}]
    if rng.random() < 0.1:
        turns = turns[1:] if rng.random() < 0.5 else [*turns[:-1], {"from": "gpt"}]
    named = [rng.choice(images) for _ in range(count)]
    about: Any = named[0] if count == 1 else named
    return {"id": _id(rng), "conversations": turns} | ({"image": about} if count else {})


def _texts(rng: random.Random, _: Sequence[str]) -> Record:
    return {
        "id": _id(rng),
        "instruction": _some(rng, None, " "),
        "input": rng.choice(["", rng.choice(TEXTS)]),
        "output": _some(rng, None, ""),
    }


def _cauldron(rng: random.Random, _: Sequence[str]) -> Record:
    pictures = [
        image_bytes("PNG", rng.randrange(6)) if rng.random() < 0.9 else b"no picture"
        for _ in range(rng.choice([1, 1, 2]))
    ]
    turns = [
        {"user": _some(rng, None), "assistant": _some(rng, None), "source": "made"}
        for _ in range(rng.randint(1, 3))
    ]
    return {
        "id": str(_id(rng)),
        "images": [{"bytes": picture, "path": None} for picture in pictures],
        "texts": turns,
    }
