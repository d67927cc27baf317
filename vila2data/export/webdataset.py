"""WebDataset tars, each row a sample: its images and a JSON; with what Megatron-Energon wants
beside them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .energon import write_energon
from .row import Row
from .writer import Target, WriteRow

_ROWS_PER_TAR = 10_000
_MADE = {"mtime": 0, "user": "vila2data", "group": "vila2data"}
"""A fixed time and owner, so that the same rows give the same bytes."""


@contextmanager
def write_webdataset(target: Target) -> Iterator[WriteRow]:
    """Writes ``train-000000.tar`` and so on, each with its ``.tar.idx``, and ``.nv-meta``."""
    tars = _Tars(target)
    try:
        yield tars.write
    finally:
        tars.close()
    write_energon(target, tars.paths)


class _Tars:
    """Tars that are filled one after the other."""

    def __init__(self, target: Target) -> None:
        self.paths: list[Path] = []
        self._target = target
        self._writer: Any = None
        self._file: Any = None
        self._rows = 0
        self._rows_in_tar = 0

    def write(self, row: Row) -> None:
        from webdataset import TarWriter

        members, bytes_of_row = members_of(row)
        full = self._writer is not None and (
            self._rows_in_tar >= _ROWS_PER_TAR
            or self._writer.tarstream.offset + bytes_of_row > self._target.max_shard_bytes
        )
        if full:
            self.close()
        if self._writer is None:
            self.paths.append(self._target.folder / f"train-{len(self.paths):06d}.tar")
            self._file = self.paths[-1].open("wb")
            self._writer = TarWriter(self._file, encoder=False, **_MADE)
        self._writer.write({"__key__": f"{self._rows:09d}", **members})
        self._rows += 1
        self._rows_in_tar += 1
        self._target.images += len(row.pictures)
        self._target.members.update(members)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._file.close()
        self._writer, self._rows_in_tar = None, 0


def members_of(row: Row) -> tuple[dict[str, bytes], int]:
    """The members of a sample by their suffixes, and the bytes of all.

    One image has the suffix of its format, of several each its number before it. ``json`` holds the
    id, the messages, and under ``images`` the suffixes in the order of the markers. The key is the
    row's number, whatever its id is: keys must be unique, and may hold no dot.
    """
    several = len(row.pictures) > 1
    images = {
        f"{number}.{picture.suffix}" if several else picture.suffix: picture.content or b""
        for number, picture in enumerate(row.pictures)
    }
    messages = [{"role": m["role"], "content": m["content"]} for m in row.messages]
    told = {"id": row.id, **row.about, "images": list(images), "messages": messages}
    members = {**images, "json": json.dumps(told).encode()}
    return members, sum(map(len, members.values()))
