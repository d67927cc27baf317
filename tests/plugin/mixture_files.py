"""Photos, JSON and parquet files of simulated sources, and what a build must make of these."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURES = 100
WIDTH, HEIGHT = 32, 24
_ROWS_PER_GROUP = 1_000


@dataclass
class Expected:
    """What a build must make of a source.

    Attributes:
        records: in its files.
        rows: of the build.
        exchanges: questions with their answers, in all of these rows.
        missing: conversations whose photo is not there.
        misnamed: photos used that are GIFs named .jpg.
        refused: records by the reason why nothing of them could be used.
        too_long: conversations whose first exchange has too many tokens.
    """

    records: int
    rows: int = 0
    exchanges: int = 0
    missing: int = 0
    misnamed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    too_long: int = 0


@dataclass(frozen=True)
class Photos:
    """Photos in folders, hard links to a few pictures; some missing, some GIFs named .jpg."""

    folder: Path
    missing_every: int | None
    gif_every: int | None

    def is_missing(self, number: int) -> bool:
        return bool(self.missing_every) and number % self.missing_every == self.missing_every - 1

    def is_gif(self, number: int) -> bool:
        is_one = bool(self.gif_every) and number % self.gif_every == self.gif_every - 1
        return is_one and not self.is_missing(number)

    def link(self, numbers: Iterable[int], name_of: Callable[[int], str]) -> None:
        known = set()
        for number in numbers:
            if self.is_missing(number):
                continue
            file = self.folder / name_of(number)
            if file.parent not in known:
                file.parent.mkdir(parents=True, exist_ok=True)
                known.add(file.parent)
            kind = "gif" if self.is_gif(number) else "jpg"
            os.link(self.folder / "pictures" / f"{number % PICTURES}.{kind}", file)


def coco_name(number: int) -> str:
    return f"coco/train2017/{number + 1:012d}.jpg"


def gqa_name(number: int) -> str:
    return f"gqa/images/{2_300_000 + number}.jpg"


def vg_name(number: int) -> str:
    return f"vg/VG_100K{'_2' if number % 3 == 0 else ''}/{number + 1}.jpg"


def draw_pictures(folder: Path) -> None:
    """``PICTURES`` small pictures that differ, each as JPEG and as GIF."""
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        for kind in ("jpg", "gif"):
            (folder / f"{number}.{kind}").write_bytes(
                picture(number, "JPEG" if kind == "jpg" else "GIF")
            )


def picture(number: int, kind: str = "JPEG") -> bytes:
    """A small picture; those of other numbers below 10,000 look otherwise."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (number % 100, 40 + number // 100, 90))
    for bit in range(14):
        if number >> bit & 1:
            image.paste(
                (250, 240, 30),
                (4 * (bit % 7), 12 * (bit // 7), 4 * (bit % 7) + 4, 12 * (bit // 7) + 12),
            )
    held = io.BytesIO()
    image.save(held, kind)
    return held.getvalue()


def write_json(
    file: Path, records: Iterator[str], *, opening: str = "[", closing: str = "]"
) -> int:
    """Writes records that are JSON already, and returns how many there were."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with file.open("w", encoding="utf-8") as out:
        out.write(opening)
        for record in records:
            out.write(f"{',' if written else ''}\n{record}")
            written += 1
        out.write(f"\n{closing}\n")
    return written


def write_parquet(file: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    written, held = 0, []
    with pq.ParquetWriter(file, schema) as writer:
        for row in rows:
            held.append(row)
            if len(held) == _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(held, schema))
                written, held = written + len(held), []
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema))
    return written + len(held)
