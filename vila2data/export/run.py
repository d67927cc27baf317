"""Writes a config of a build in one of the formats."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vila2data import __version__
from vila2data.build.manifest import MANIFEST_FILE
from vila2data.corpus.images import Problem
from vila2data.errors import BadInput, RunFailed
from vila2data.files import file_sha256

from .folder import appearing_folder, refuse_filled
from .llava import write_llava
from .messages import write_messages
from .row import Row
from .rows import Conversations, open_conversations
from .sharegpt import write_sharegpt
from .webdataset import write_webdataset
from .writer import Target, Writer, WriteRow

EXPORT_FILE = "export.json"
LEFT_OUT_FILE = "left_out.jsonl"
MAX_SHARD_BYTES = 512 * 1024 * 1024

FORMATS: Mapping[str, Writer] = MappingProxyType(
    {
        "llava": write_llava,
        "sharegpt": write_sharegpt,
        "messages": write_messages,
        "webdataset": write_webdataset,
    }
)
_NAMES_SUFFICE = ("llava", "sharegpt")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """Counts of an export: ``read`` = ``written`` + the sum of ``left_out``.

    Attributes:
        read: rows of the build.
        written: rows.
        images: files, or members and cells, that were written.
        lying: images among them whose pixels need a turn, by their EXIF.
        left_out: rows by reason.
    """

    read: int
    written: int
    images: int
    lying: int
    left_out: Mapping[str, int] = field(default_factory=dict)


def export(
    build: Path,
    out: Path,
    *,
    format: str,
    config: str | None = None,
    images: Path | None = None,
    corpus: Path | None = None,
    upright: bool = False,
    verbatim: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_row: Callable[[int], object] = lambda _: None,
) -> Exported:
    """Writes the conversations of a build into a folder that appears whole.

    Rows stand in the build's order. One that no trainer could use, such as one whose image is not
    to be had, is left out; ``left_out.jsonl`` says which and why. The same build gives the same
    bytes.

    Args:
        build: folder.
        out: folder; must not be there, or be empty.
        format: one of ``FORMATS``.
        config: the build's default one where None.
        images: folder below which the images are that rows name.
        corpus: that holds the images of rows that have neither images nor names.
        upright: turn images that are stored lying; else every image keeps its bytes.
        verbatim: format ``llava`` gives the source's own texts back, where what acts as a special
            token was made inert.
        max_shard_bytes: of tars and parquet files.
        on_row: told of rows that were read.

    Raises:
        BadInput: the format or the config is unknown, there is nothing to export, ``out`` is
            filled, or images cannot be had with what is given.
        BuildError: ``build`` is none, or is damaged.
        RunFailed: no row can be used, or the disk is full.
    """
    _refuse_unknown(format, verbatim)
    refuse_filled(out.resolve())
    found = open_conversations(build, config=config, images=images, corpus=corpus)
    if not len(found):
        raise BadInput(f"{build}, config '{found.config}': holds no rows to export")
    if found.names_alone and format not in _NAMES_SUFFICE:
        raise BadInput(
            f"{build}: names its images by file; --format {format} needs them: --images DIR"
        )
    with appearing_folder(out) as folder:
        target = _target(found, folder, max_shard_bytes, verbatim)
        rows = found.rows(upright=upright)
        with FORMATS[format](target) as write:
            read, lying, left_out = _write_rows(rows, write, folder / LEFT_OUT_FILE, on_row)
        done = Exported(read, read - sum(left_out.values()), target.images, lying, left_out)
        if not done.written:
            raise RunFailed(f"{build}: no row could be exported: {_told(left_out)}")
        _describe(found, target, format, done)
    _log.info("%s: %d rows read, %d written, left out: %s", out, read, done.written, dict(left_out))
    return done


def _refuse_unknown(format: str, verbatim: bool) -> None:
    if format not in FORMATS:
        raise BadInput(f"--format: '{format}' is unknown; known: {', '.join(FORMATS)}")
    if verbatim and format != "llava":
        raise BadInput(f"--verbatim: is for --format llava alone, not {format}")


def _write_rows(
    rows: Iterable[tuple[str, Row | Problem]],
    write: WriteRow,
    left_out_file: Path,
    on_row: Callable[[int], object],
) -> tuple[int, int, Counter[str]]:
    """Rows read, images that lie, rows left out by reason."""
    read, lying = 0, 0
    left_out: Counter[str] = Counter()
    with left_out_file.open("w", encoding="ascii") as problems:
        for name, row in rows:
            read += 1
            if isinstance(row, Problem):
                left_out[row.reason] += 1
                told = {"id": name, "reason": row.reason, "detail": row.detail}
                problems.write(json.dumps(told) + "\n")
            else:
                lying += sum(not picture.upright for picture in row.pictures)
                write(row)
            on_row(1)
    return read, lying, left_out


def _target(found: Conversations, folder: Path, max_shard_bytes: int, verbatim: bool) -> Target:
    digest = sha256(file_sha256(found.build / MANIFEST_FILE).encode())
    digest.update(found.config.encode())
    name = "_".join([found.manifest.data_set, found.config]).replace("-", "_").replace(".", "_")
    return Target(
        folder, name, found.manifest.version, digest.hexdigest(), max_shard_bytes, verbatim
    )


def _describe(found: Conversations, target: Target, format: str, done: Exported) -> None:
    """What the export is of, for people."""
    told: dict[str, Any] = {
        "format": format,
        "data_set": found.manifest.data_set,
        "version": found.manifest.version,
        "config": found.config,
        "license": found.manifest.license,
        "manifest_sha256": file_sha256(found.build / MANIFEST_FILE),
        "vila2data": __version__,
        "rows": done.written,
        "images": done.images,
        "images_lying": done.lying,
        "left_out": dict(sorted(done.left_out.items())),
    }
    if target.members:
        told["members"] = sorted(target.members)
    (target.folder / EXPORT_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if not done.left_out:
        (target.folder / LEFT_OUT_FILE).unlink()


def _told(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
