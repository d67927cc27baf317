"""Makes builds of conversations without a builder."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from making import make_picture

from vila2data.build.manifest import BuildFile, Manifest
from vila2data.schema import INSTRUCT, SCHEMA_VERSION

Turns = list[tuple[str, str]]


def write_fake_build(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    features: Features = INSTRUCT,
    data_set: str = "llava-instruct",
    config: str = "default",
    rows_per_file: int = 1000,
    rows_per_group: int = 1000,
) -> Path:
    """A build that has nothing but its rows and a manifest."""
    found = list(rows)
    starts = range(0, max(len(found), 1), rows_per_file)
    files = []
    for number, start in enumerate(starts):
        path = f"data/{config}/train-{number:05d}-of-{len(starts):05d}.parquet"
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        part = found[start : start + rows_per_file]
        complete = [{name: row.get(name) for name in features} for row in part]
        table = pa.Table.from_pylist(complete, features.arrow_schema)
        pq.write_table(table, file, row_group_size=rows_per_group)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        files.append(BuildFile(path, config, "train", len(part), file.stat().st_size, digest))
    manifest = Manifest(
        data_set=data_set,
        version="1.0.0",
        schema_version=SCHEMA_VERSION,
        license="cc-by-4.0",
        default_config=config,
        recipe={},
        sources=[],
        packages={},
        files=files,
        funnel=[],
        stats={},
    )
    (folder / "build.json").write_text(manifest.to_json())
    return folder


def messages_of(*texts: str) -> list[dict[str, str]]:
    """Turns of user and assistant."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def instruct_row(
    name: str, *texts: str, images: Iterable[bytes] = (), origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A row of ``llava-instruct`` with embedded images."""
    return {
        "id": name,
        "source": "llava-665k",
        "task": "conversation",
        "license": "cc-by-4.0",
        "images": [{"bytes": image, "path": None} for image in images],
        "messages": messages_of(*texts),
        "origin": None if origin is None else json.dumps(origin),
    }


def mixed_rows() -> list[dict[str, Any]]:
    """Rows of no image, one, and several; an image twice; a token that was made inert."""
    pictures = [make_picture(n) for n in range(4)]  # JPEG, PNG, WebP, JPEG
    return [
        instruct_row("s/text", "Why?", "Because ‹image› is\ninert.", "And?", "So."),
        instruct_row("s/one", "<image>\nWhat is it?", "A cat.", images=pictures[:1]),
        instruct_row("s/last", "What is it?\n<image>", "A dog.", images=pictures[1:2]),
        instruct_row(
            "s/two",
            "<image>\n<image>\nWhich one?",
            "The second.",
            "Sure?",
            "Yes.",
            images=[pictures[2], pictures[0]],
        ),
        instruct_row("s/none", "Hello", "Hi"),
        instruct_row("s/caption", "<image>", "A cat again.", images=pictures[3:]),
    ]


def folder_hashes(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path there."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
