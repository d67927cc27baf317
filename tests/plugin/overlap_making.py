"""Makes pictures, altered copies of them, and tables of signatures."""

import io
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from vila2data.corpus.images import ImageLimits
from vila2data.overlap.confirm import ImageBytes
from vila2data.overlap.signature import SIGNATURES, image_signature
from vila2data.overlap.text import text_keys

WORDS = (
    *("the", "of", "a", "report", "annual", "total", "revenue", "income", "page", "number"),
    *("date", "invoice", "amount", "due", "customer", "market", "share", "growth", "rate"),
    *("percent", "table", "figure", "value", "item", "price", "quantity", "tax", "balance"),
)
LIMITS = ImageLimits()


def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture of soft shapes, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    fine = np.random.default_rng(seed + 1_000_000).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    pictures = [
        Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC) for p in (coarse, fine)
    ]
    return Image.blend(*pictures, alpha=0.3)


def page(
    seed: int, *, lines: int = 40, other_line: int | None = None, heading: str = "Annual report"
) -> Image.Image:
    """A white page of text; ``other_line`` is the number of a line that reads otherwise."""
    picture = Image.new("RGB", (680, 880), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=16)
    draw.text((240, 16), heading, font=font, fill="black")
    for line in range(lines):
        drawn = random.Random(f"{seed}/{line}{'/other' if line == other_line else ''}")
        text = " ".join(drawn.choices(WORDS, k=9))
        draw.text((48, 48 + 20 * line), text, font=font, fill="black")
    return picture


def chart(seed: int) -> Image.Image:
    """Bars on axes that are the same for every seed."""
    heights = random.Random(seed).choices(range(20, 400), k=8)
    picture = Image.new("RGB", (640, 480), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=16)
    draw.text((180, 10), "Share of respondents", font=font, fill="black")
    for bar, height in enumerate(heights):
        left = 70 + 68 * bar
        draw.rectangle((left, 440 - height, left + 40, 440), fill="steelblue")
        draw.text((left + 4, 420 - height), str(height), font=font, fill="black")
        draw.text((left + 2, 445), str(2010 + bar), font=font, fill="black")
    for line in range(5):
        draw.line((60, 440 - 90 * line, 630, 440 - 90 * line), fill="lightgrey")
        draw.text((14, 430 - 90 * line), str(90 * line), font=font, fill="black")
    return picture


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    """The picture as a JPEG."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def resized(picture: Image.Image, scale: float) -> Image.Image:
    """The picture at another size."""
    size = (max(int(picture.width * scale), 1), max(int(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, *sides: float) -> Image.Image:
    """Without shares of its width or height at the left, upper, right and lower side."""
    left, upper, right, lower = sides
    width, height = picture.size
    box = (left * width, upper * height, (1 - right) * width, (1 - lower) * height)
    return picture.crop(tuple(round(edge) for edge in box))


ALTERED: Mapping[str, Callable[[Image.Image], bytes]] = {
    "JPEG of quality 50": lambda p: jpeg(p, 50),
    "a quarter of the size": lambda p: jpeg(resized(p, 0.25)),
    "twice the size": lambda p: jpeg(resized(p, 2)),
    "without 5 % at the left": lambda p: jpeg(cropped(p, 0.05, 0, 0, 0), 75),
    "without 5 % at the top": lambda p: jpeg(cropped(p, 0, 0.05, 0, 0), 75),
    "without 5 % at the right": lambda p: jpeg(cropped(p, 0, 0, 0.05, 0), 75),
    "without 5 % at the foot": lambda p: jpeg(cropped(p, 0, 0, 0, 0.05), 75),
    "without 5 % at every side": lambda p: jpeg(cropped(p, 0.05, 0.05, 0.05, 0.05), 75),
    "without 2.5 % at every side": lambda p: jpeg(cropped(p, 0.025, 0.025, 0.025, 0.025), 75),
    "without 5 % at two sides, half the size, quality 50": lambda p: jpeg(
        resized(cropped(p, 0.05, 0, 0, 0.05), 0.5), 50
    ),
}
"""Copies that must be found."""


def turns(*texts: str) -> list[dict[str, str]]:
    """Questions and answers in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def row(
    name: str,
    images: Sequence[bytes] = (),
    texts: Sequence[str] = (),
    *,
    source: str = "made",
    views: bool = False,
) -> list[dict[str, Any]]:
    """The records of a row: one for each image, or one."""
    keys = text_keys(turns(*texts))
    records: list[dict[str, Any]] = [{"id": name, "source": source} for _ in images or [None]]
    for number, content in enumerate(images):
        signed = image_signature(content, LIMITS, views=views)
        records[number] |= {"image": number, "sha256": signed.sha256}
        records[number] |= {"phash": signed.phash, "views": signed.views}
    records[0] |= {"text_keys": keys.exchanges, "question_keys": keys.questions}
    return records


def table(*rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of signatures."""
    return pa.Table.from_pylist([dict(record) for some in rows for record in some], SIGNATURES)


def signed(
    images: Mapping[str, bytes], *, views: bool = False, source: str = "made"
) -> tuple[pa.Table, ImageBytes]:
    """A table with a row for each image, and what gives their bytes."""
    rows = [row(name, [content], views=views, source=source) for name, content in images.items()]
    return table(*rows), lambda name, number: images[name]
