"""Writes a corpus: WebDataset tars in img2dataset's layout, each shard whole or not there."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.errors import CorpusError, RunRefused
from vila2data.files import appearing, file_sha256, link_or_copy, write_text

from .images import ImageLimits, ImageRefused, Problem, as_stored, read_header
from .names import key_fault, printable
from .read import ReadLimits, checked_text, id_in, list_shards, read_shard, url_in
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
        RunRefused: ``out`` was begun with another ``samples_per_shard`` or other limits, or from
            other items.
        RunFailed: the disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    limits = limits or ImageLimits()
    options = {
        "samples_per_shard": samples_per_shard,
        "max_image_bytes": limits.max_bytes,
        "max_image_pixels": limits.max_pixels,
    }
    _bind_options(out, options)
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


def _chunks(items: Iterable[SourceItem], size: int) -> Iterator[Iterator[SourceItem]]:
    """``items`` by ``size``; one at a time is in memory, so each chunk must be used up."""
    iterator = iter(items)
    for first in iterator:
        yield chain([first], islice(iterator, size - 1))


def _pack_shard(
    items: Iterator[SourceItem],
    tar: Path,
    limits: ImageLimits,
    on_item: Callable[[], None],
) -> dict[str, int]:
    """Writes one shard, the counts last: a shard with counts is finished."""
    stats = tar.with_name(f"{tar.stem}_stats.json")
    if stats.exists():
        _check_same_items(items, tar.with_suffix(".parquet"), on_item)
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


def _check_same_items(
    items: Iterator[SourceItem], table: Path, on_item: Callable[[], None]
) -> None:
    """Goes past the items of a finished shard.

    Raises:
        RunRefused: they are not those that it was packed from.
    """
    packed = pq.read_table(table, columns=["key"])["key"].to_pylist()
    found = []
    for item in items:
        found.append(printable(item.key))
        on_item()
    if found != packed:
        raise RunRefused(
            f"{table} was packed from other items: the source has changed since; use another --out"
        )


def _write_tar(
    items: Iterator[SourceItem],
    tar: Path,
    limits: ImageLimits,
    on_item: Callable[[], None],
) -> list[dict[str, Any]]:
    from webdataset import TarWriter

    rows = []
    # A fixed time and owner, so that the same items give the same bytes.
    made = {"mtime": 0, "user": "vila2data", "group": "vila2data"}
    with (
        appearing(tar) as temporary,
        temporary.open("wb") as file,
        TarWriter(file, encoder=False, **made) as writer,
    ):
        for item in items:
            row, members = _packed(item, limits)
            if members:
                writer.write({"__key__": item.key, **members})
            rows.append(row)
            on_item()
    return rows


def _packed(item: SourceItem, limits: ImageLimits) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An item's row in the shard's table, and its members; no members where it is rejected."""
    row: dict[str, Any] = {"key": printable(item.key), "status": _SUCCESS}
    try:
        if fault := key_fault(item.key):
            raise ImageRefused(Problem("key_unusable" if item.key else "key_missing", fault))
        suffix, image = as_stored(_read(item.load(), limits), limits)
    except ImageRefused as refused:
        return {
            **row,
            "status": refused.problem.reason,
            "error_message": refused.problem.detail,
        }, {}
    header = read_header(image, limits)
    text, text_problem = checked_text(item.text, ReadLimits())
    row |= {
        "id": id_in(item.metadata),
        "url": url_in(item.metadata),
        "caption": text,
        "width": header.width,
        "height": header.height,
        "sha256": sha256(image).hexdigest(),
        "error_message": text_problem.reason if text_problem else None,
    }
    told = {k: v for k, v in row.items() if v is not None}
    members = {suffix: image, "json": _json(told, item.metadata)}
    if item.text:
        members["txt"] = item.text  # as it came; the reader judges it
    return row, members


def _read(source: bytes | Path, limits: ImageLimits) -> bytes:
    """The bytes of an image, of a file no more than what shows that they are too many."""
    if isinstance(source, bytes):
        return source
    try:
        if not source.is_file():  # nor is a pipe, which would be waited for
            raise ImageRefused(Problem("image_missing", f"{source} is no file"))
        with source.open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ImageRefused(Problem("image_missing", f"{type(error).__name__}: {error}")) from error


def _json(told: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """``told``, and of the source's own columns what strict JSON can say and a reader will take."""
    said = {k: v for k, v in metadata.items() if k not in told and _can_say(v)}
    content = json.dumps({**said, **told}, default=str, sort_keys=True).encode()
    if len(content) > ReadLimits().max_metadata_bytes:
        content = json.dumps(told, sort_keys=True).encode()
    return content


def _can_say(value: Any) -> bool:
    """Not NaN, and not nested too deep."""
    try:
        json.dumps(value, default=str, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def adopt(source: Path, out: Path) -> PackSummary:
    """Makes an img2dataset output, which is a corpus as it is, available as ``out`` without copying
    where links work. Counts are img2dataset's own, or else the shards' samples.

    Raises:
        CorpusError: ``source`` holds no tars, or ``out`` holds other files of the same names.
    """
    shards = list_shards(source)
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    for tar in shards:
        for file in (tar, tar.with_suffix(".parquet"), tar.with_name(f"{tar.stem}_stats.json")):
            if file.is_file():
                _adopt_file(file, out / file.name)
        counts.update(_counts_of(tar))
    written = counts.pop(_SUCCESS, 0)
    rejected = dict(sorted(counts.items()))
    return PackSummary(len(shards), written + sum(rejected.values()), written, rejected)


def _counts_of(tar: Path) -> dict[str, int]:
    """Samples by status."""
    stats = tar.with_name(f"{tar.stem}_stats.json")
    try:
        found = json.loads(stats.read_text(encoding="utf-8"))["status_dict"]
        return {str(status): int(count) for status, count in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {_SUCCESS: sum(1 for _ in read_shard(tar))}


def _adopt_file(source: Path, target: Path) -> None:
    if target.exists():
        if not target.samefile(source) and file_sha256(target) != file_sha256(source):
            raise CorpusError(f"{target} exists and differs from {source}: choose an empty --out")
        return
    with appearing(target) as temporary:
        temporary.unlink(missing_ok=True)
        link_or_copy(source.resolve(), temporary)
