"""Writes a corpus: WebDataset tars in img2dataset's layout, each shard whole or not there."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.errors import CorpusError, RunRefused
from vila2data.files import appearing, link_or_copy, write_text

from .images import ImageLimits, ImageRefused, Problem, as_stored, read_header
from .read import ReadLimits, checked_text, list_shards
from .sources import SourceItem

_SUCCESS = "success"
_OPTIONS_FILE = "pack.json"
_SHARD_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "id": pa.int64(),
        "url": pa.string(),
        "caption": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "sha256": pa.string(),
        "status": pa.string(),
        "error_message": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class PackSummary:
    """Counts of a finished corpus; ``read`` equals ``written`` plus the sum of ``rejected``."""

    shards: int
    read: int
    written: int
    rejected: dict[str, int]


def pack(
    items: Iterable[SourceItem],
    out: Path,
    *,
    samples_per_shard: int = 10_000,
    limits: ImageLimits | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> PackSummary:
    """Packs ``items``, in order, into ``out``; what an earlier, interrupted call finished is kept.

    Beside ``NNNNN.tar`` stand ``NNNNN.parquet``, a row per item with its status, and
    ``NNNNN_stats.json``, the counts, as img2dataset writes them. Shard n holds items n *
    samples_per_shard onwards, so the split does not depend on which of them could be read. The same
    items give the same bytes.

    Args:
        items: in an order that does not change from call to call.
        samples_per_shard: items, rejected ones included.
        limits: images beyond them are rejected.
        on_item: called after each item, for a progress bar.

    Raises:
        RunRefused: ``out`` was begun with another ``samples_per_shard``.
        RunFailed: the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    _bind_options(out, {"samples_per_shard": samples_per_shard})
    limits = limits or ImageLimits()
    counts: Counter[str] = Counter()
    shard = 0
    for chunk in _chunks(items, samples_per_shard):
        counts.update(_pack_shard(chunk, out / f"{shard:05d}.tar", limits, on_item))
        shard += 1
    written = counts.pop(_SUCCESS, 0)
    rejected = dict(sorted(counts.items()))
    return PackSummary(shard, written + sum(rejected.values()), written, rejected)


def _bind_options(out: Path, options: dict[str, Any]) -> None:
    file = out / _OPTIONS_FILE
    if not file.exists():
        write_text(file, json.dumps(options) + "\n")
    elif (begun := json.loads(file.read_text(encoding="utf-8"))) != options:
        raise RunRefused(
            f"{out} was begun with {begun}, now asked for {options}: "
            "use the same options, or another --out"
        )


def _chunks(items: Iterable[SourceItem], size: int) -> Iterator[list[SourceItem]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _pack_shard(
    items: list[SourceItem],
    tar: Path,
    limits: ImageLimits,
    on_item: Callable[[], None],
) -> dict[str, int]:
    """Writes one shard, the counts last: a shard with counts is finished."""
    stats = tar.with_name(f"{tar.stem}_stats.json")
    if stats.exists():
        for _ in items:
            on_item()
        found: dict[str, int] = json.loads(stats.read_text(encoding="utf-8"))["status_dict"]
        return found
    rows = _write_tar(items, tar, limits, on_item)
    with appearing(tar.with_suffix(".parquet")) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, _SHARD_SCHEMA), temporary)
    counts = Counter(row["status"] for row in rows)
    written = counts.get(_SUCCESS, 0)
    content = {
        "count": len(rows),
        "successes": written,
        "failed_to_download": 0,
        "failed_to_resize": len(rows) - written,
        "status_dict": dict(sorted(counts.items())),
    }
    write_text(stats, json.dumps(content, indent=2) + "\n")
    return dict(counts)


def _write_tar(
    items: list[SourceItem],
    tar: Path,
    limits: ImageLimits,
    on_item: Callable[[], None],
) -> list[dict[str, Any]]:
    from webdataset import TarWriter

    rows = []
    with appearing(tar) as temporary, temporary.open("wb") as file:
        # A fixed mtime and owner, so that the same items give the same bytes.
        writer = TarWriter(file, encoder=False, mtime=0, user="vila2data", group="vila2data")
        for item in items:
            row, members = _packed(item, limits)
            if members:
                writer.write({"__key__": item.key, **members})
            rows.append(row)
            on_item()
        writer.close()
    return rows


def _packed(item: SourceItem, limits: ImageLimits) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An item's row in the shard's table, and its members; no members where it is rejected."""
    row: dict[str, Any] = {"key": item.key, "status": _SUCCESS}
    try:
        if not item.key:
            raise ImageRefused(Problem("key_missing", "the row has no key"))
        suffix, image = as_stored(item.load(), limits)
    except ImageRefused as refused:
        return {
            **row,
            "status": refused.problem.reason,
            "error_message": refused.problem.detail,
        }, {}
    header = read_header(image, limits)
    text, text_problem = checked_text(item.text, ReadLimits())
    row |= {
        "id": _coyo_id(item),
        "url": item.metadata.get("url"),
        "caption": text,
        "width": header.width,
        "height": header.height,
        "sha256": sha256(image).hexdigest(),
        "error_message": text_problem.reason if text_problem else None,
    }
    described = dict(item.metadata) | {k: v for k, v in row.items() if v is not None}
    members = {suffix: image, "json": json.dumps(described, default=str, sort_keys=True).encode()}
    if item.text:
        members["txt"] = item.text  # as it came; the reader judges it
    return row, members


def _coyo_id(item: SourceItem) -> int | None:
    value = item.metadata.get("id")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def adopt(source: Path, out: Path) -> PackSummary:
    """Makes an img2dataset output, which is a corpus as it is, available as ``out`` without copying
    where links work.

    Raises:
        CorpusError: ``source`` holds no tars, or ``out`` holds other files of the same names.
    """
    shards = list_shards(source)
    out.mkdir(parents=True, exist_ok=True)
    written = 0
    for tar in shards:
        for file in (tar, tar.with_suffix(".parquet"), tar.with_name(f"{tar.stem}_stats.json")):
            if file.is_file():
                _adopt_file(file, out / file.name)
        stats = tar.with_name(f"{tar.stem}_stats.json")
        if stats.is_file():
            written += int(json.loads(stats.read_text(encoding="utf-8")).get("successes", 0))
    return PackSummary(len(shards), written, written, {})


def _adopt_file(source: Path, target: Path) -> None:
    if target.exists():
        if target.stat().st_size != source.stat().st_size:
            raise CorpusError(f"{target} exists and differs from {source}: choose an empty --out")
        return
    with appearing(target) as temporary:
        temporary.unlink(missing_ok=True)
        link_or_copy(source, temporary)
