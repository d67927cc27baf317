"""JSON lines beside a folder of images, as LLaMA-Factory reads them, with its ``dataset_info``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import Any

from .row import Row
from .store import ImageStore
from .writer import Target, WriteRow, turns_of

FILE = "conversations.jsonl"
INFO = "dataset_info.json"
IMAGES = "images"


@contextmanager
def write_sharegpt(target: Target) -> Iterator[WriteRow]:
    """Writes ``conversations.jsonl``, ``dataset_info.json`` and ``images``.

    The first row with an image stands first, the others follow in order: readers take the types of
    columns from the beginning of a file, and would take a column of empty lists for one of nulls.
    """
    store = ImageStore(target.folder / IMAGES)
    with (
        (target.folder / FILE).open("wb") as file,
        TemporaryFile(dir=target.folder) as waiting,
    ):
        seen = False

        def write(row: Row) -> None:
            nonlocal seen
            line = json.dumps(_record(row, store)).encode() + b"\n"
            if seen or row.pictures:
                file.write(line)
            else:
                waiting.write(line)
            if row.pictures and not seen:
                seen = True
                _append(waiting, file)

        yield write
        if not seen:
            _append(waiting, file)
    target.images = store.written
    columns = {"messages": "conversations"} | ({"images": "images"} if seen else {})
    entry = {"file_name": FILE, "formatting": "sharegpt", "columns": columns}
    info = json.dumps({target.name: entry}, indent=2) + "\n"
    (target.folder / INFO).write_text(info, encoding="utf-8")


def _append(waiting: Any, file: Any) -> None:
    waiting.seek(0)
    copyfileobj(waiting, file)


def _record(row: Row, store: ImageStore) -> dict[str, Any]:
    below = "" if any(p.content is None for p in row.pictures) else f"{IMAGES}/"
    images = [below + store.place(picture) for picture in row.pictures]
    return {"id": row.id, "conversations": turns_of(row), "images": images}
