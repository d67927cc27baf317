"""Reads exports by the rules of the trainers that they are for."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

Read = list[tuple[list[str], list[str]]]
"""Of each row its texts, user and assistant in turn, and the hashes of its images."""

_ROLES = ("user", "assistant")


def expected_of(rows: list[dict[str, Any]]) -> Read:
    """What every reader should find of rows with embedded images."""
    return [
        (
            [message["content"] for message in row["messages"]],
            [sha256(image["bytes"]).hexdigest() for image in row["images"]],
        )
        for row in rows
    ]


def _file_hash(*parts: str | Path) -> str:
    return sha256(Path(os.path.join(*map(str, parts))).read_bytes()).hexdigest()  # noqa: PTH118


def read_llava(out: Path) -> Read:
    """As LLaVA's LazySupervisedDataset: the file as a whole in the locale's encoding, an image where
    the record has the key, its path joined to the folder; the roles alternate, the human first.
    """
    with (out / "conversations.json").open("r", encoding="ascii") as file:
        records = json.load(file)
    found: Read = []
    for record in records:
        images = record.get("image", [])
        for name in images if isinstance(images, list) else [images]:
            assert (out / "images" / name).is_file()
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns
        names = images if isinstance(images, list) else [images]
        hashes = [_file_hash(out, "images", name) for name in names]
        found.append(([turn["value"] for turn in turns], hashes))
    return found


def read_sharegpt(out: Path, name: str) -> Read:
    """As LLaMA-Factory: the file and the columns that dataset_info.json tells; paths below its
    folder; as many placeholders as images; roles by their default tags, odd and even.
    """
    entry = json.loads((out / "dataset_info.json").read_text())[name]
    assert entry["formatting"] == "sharegpt"
    columns = entry["columns"]
    found: Read = []
    for line in (out / entry["file_name"]).read_text().splitlines():
        example = json.loads(line)
        turns = example[columns["messages"]]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        images = example[columns["images"]] if "images" in columns else []
        texts = [turn["value"] for turn in turns]
        assert sum(text.count("<image>") for text in texts) == len(images)
        found.append((texts, [_file_hash(out, image) for image in images]))
    return found


def read_messages(rows: list[dict[str, Any]]) -> Read:
    """As TRL: each placeholder is filled with the next image, none is left. A placeholder stood in a
    line of its own.

    Args:
        rows: with images undecoded.
    """
    found: Read = []
    for row in rows:
        texts = []
        assert [m["role"] for m in row["messages"]] == list(_ROLES) * (len(row["messages"]) // 2)
        for message in row["messages"]:
            kinds = {"image": "<image>"}
            texts.append("\n".join(kinds.get(p["type"], p["text"]) for p in message["content"]))
        placeholders = sum(p["type"] == "image" for m in row["messages"] for p in m["content"])
        assert placeholders == len(row["images"])
        found.append((texts, [sha256(image["bytes"]).hexdigest() for image in row["images"]]))
    return found


def read_tars(out: Path) -> Read:
    """As WebDataset: members of one base name up to its first dot are one sample."""
    import webdataset

    found: Read = []
    urls = [str(path) for path in sorted(out.glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        told = json.loads(sample["json"])
        assert [m["role"] for m in told["messages"]] == list(_ROLES) * (len(told["messages"]) // 2)
        hashes = [sha256(sample[name]).hexdigest() for name in told["images"]]
        found.append(([message["content"] for message in told["messages"]], hashes))
    return found
