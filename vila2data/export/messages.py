"""Parquet files with the images in the rows, in the conversational form that TRL trains on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vila2data.conversation.turns import IMAGE_MARKER

from .row import Row
from .writer import Target, WriteRow

FOLDER = "data"
_ROWS_PER_GROUP = 1000
_BYTES_PER_GROUP = 32 << 20


@contextmanager
def write_messages(target: Target) -> Iterator[WriteRow]:
    """Writes ``data/train-00000-of-00001.parquet`` and so on: ``id``, ``messages``, ``images``."""
    files = _Files(target)
    try:
        yield files.write
        files.name_all()
    finally:
        files.close()


class _Files:
    """Parquet files that are filled one after the other."""

    def __init__(self, target: Target) -> None:
        from datasets import Features, Image, List, Value

        text = Value("string")
        features = Features(
            {
                "id": text,
                "messages": List({"role": text, "content": List({"type": text, "text": text})}),
                "images": List(Image()),
            }
        )
        self._schema = features.arrow_schema
        self._target = target
        self._folder = target.folder / FOLDER
        self._folder.mkdir()
        self._count = 0
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._bytes_waiting = 0
        self._bytes_in_file = 0

    def write(self, row: Row) -> None:
        images = [{"bytes": picture.content, "path": None} for picture in row.pictures]
        content = [{"role": m["role"], "content": parts_of(m["content"])} for m in row.messages]
        self._rows.append({"id": row.id, "messages": content, "images": images})
        self._bytes_waiting += sum(len(p.content or b"") for p in row.pictures)
        self._bytes_waiting += sum(len(m["content"]) for m in row.messages)
        self._target.images += len(images)
        if self._bytes_waiting >= self._most() or len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def _most(self) -> int:
        return min(_BYTES_PER_GROUP, self._target.max_shard_bytes)

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._folder / _name(self._count), self._schema)
            self._count += 1
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._bytes_in_file += self._bytes_waiting
        self._rows, self._bytes_waiting = [], 0
        if self._bytes_in_file >= self._target.max_shard_bytes:
            self.close()

    def name_all(self) -> None:
        """Finishes the files and gives them the names that tell how many there are."""
        self._flush()
        self.close()
        for number in range(self._count):
            name = f"train-{number:05d}-of-{self._count:05d}.parquet"
            (self._folder / _name(number)).rename(self._folder / name)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._bytes_in_file = None, 0


def _name(number: int) -> str:
    return f"{number:05d}.parquet"


def parts_of(text: str) -> list[dict[str, str | None]]:
    """A turn as parts: ``{type: image}`` where a marker stood, ``{type: text, text}`` between.

    The line break that sets a marker apart goes with it: chat templates put their own there.

    Example:
        >>> [part["type"] for part in parts_of("<image>" + chr(10) + "What is it?")]
        ['image', 'text']
    """
    chunks = text.split(IMAGE_MARKER)
    parts: list[dict[str, str | None]] = []
    for number, chunk in enumerate(chunks):
        shown = chunk.removeprefix("\n") if number else chunk
        shown = shown.removesuffix("\n") if number < len(chunks) - 1 else shown
        if shown or len(chunks) == 1:
            parts.append({"type": "text", "text": shown})
        if number < len(chunks) - 1:
            parts.append({"type": "image", "text": None})
    return parts
