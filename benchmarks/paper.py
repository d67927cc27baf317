"""Capacity on paper: what rounds over a corpus would take, from figures per image.

Every figure is a product of the constants below. Those of ``_MEASURED`` are what
``benchmarks.scale`` left on disk, the others are assumptions or other people's measurements.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

ROUNDS = 4
SPECIALISTS = 3
RETRY_SHARE = 0.05
"""Assumed: answers that are asked for again, of all images."""

SAMPLES_PER_SHARD = 10_000  # `corpus pack`'s own
FILES_PER_SHARD = 3  # img2dataset's: tar, parquet, _stats.json
BYTES_PER_IMAGE = 25_000
"""LAION-400M at 256 px: 10 TB for 400M images (img2dataset, dataset_examples/laion400m.md)."""

IMAGES_PER_GPU_S = 9.33
"""LLaVA-1.5-7B by vLLM on one A100, 104 tokens of output on average, March 2024, not by us:
1,000 answers in 107.2 s (https://gist.github.com/xwjiang2010/1752fcf8fc3f0435a0dfb69a53adaa5b).
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes a row, and rows a file, of what the package wrote of captions of about 70 words."""

    ledger_bytes: float
    original_bytes: float
    caption_bytes: float
    conversation_bytes: float
    text_bytes: float  # of a caption alone, compressed: what a specialist adds to a conversation
    original_rows: int  # in a file of 500 MB of Arrow
    caption_rows: int
    conversation_rows: int
    manifest_bytes: float  # of build.json, an entry
    croissant_bytes: float  # of croissant.json, an entry
    croissant_config_bytes: float  # of its columns, a config


_MEASURED = Measured(252, 194, 385, 363, 216, 1_310_000, 620_000, 710_000, 259, 402, 9_100)


def figures(images: int) -> Mapping[str, float]:
    """What ``ROUNDS`` and ``SPECIALISTS`` take, and the last build, which holds them all."""
    made, runs = _MEASURED, ROUNDS + SPECIALISTS
    shards = ceil(images / SAMPLES_PER_SHARD)
    configs = 2 * (1 + runs) + 1  # with their rejects, whose rows count as captions here
    answers = images * runs * (1 + RETRY_SHARE)
    conversation = made.conversation_bytes + SPECIALISTS * made.text_bytes
    # A specialist's text shortens what a file holds by as much as it adds.
    conversation_rows = made.conversation_rows * made.conversation_bytes / conversation
    files = (
        ceil(images / made.original_rows)
        + runs * ceil(images / made.caption_rows)
        + ceil(images / conversation_rows)
    )
    return {
        "shards": shards,
        "files of the corpus": shards * FILES_PER_SHARD,
        "bytes of the corpus": images * BYTES_PER_IMAGE,
        "files of a run's ledger": shards + 1,
        "bytes of a run's ledger": images * made.ledger_bytes,
        "bytes of all ledgers": images * made.ledger_bytes * runs,
        "requests of a run": images * (1 + RETRY_SHARE),
        "requests of all": answers,
        "GPU-hours of all": answers / IMAGES_PER_GPU_S / 3600,
        "files of the last build": files,
        "bytes of the last build": images
        * (made.original_bytes + runs * made.caption_bytes + conversation),
        "bytes of its build.json": files * made.manifest_bytes,
        "bytes of its croissant.json": files * made.croissant_bytes
        + configs * made.croissant_config_bytes,
    }


def shown(value: float, *, is_bytes: bool) -> str:
    """Two significant figures or more, which is more than the assumptions are worth."""
    units = ["", "k", "M", "G", "T"] if is_bytes else [""]
    while is_bytes and value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    if is_bytes:
        return f"{value:,.2g} {units[0]}B" if value < 10 else f"{value:,.0f} {units[0]}B"
    return f"{value:,.0f}"


def lines(sizes: tuple[int, ...] = (25_000_000, 700_000_000)) -> Iterator[str]:
    """The table of docs/scale.md."""
    columns = [figures(images) for images in sizes]
    yield f"| images | {' | '.join(f'{images:,}' for images in sizes)} |"
    yield f"|---|{'---:|' * len(sizes)}"
    for name in columns[0]:
        cells = [shown(column[name], is_bytes=name.startswith("bytes")) for column in columns]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    print("\n".join(lines()))
