"""What Megatron-Energon wants beside WebDataset tars, so that nobody has to prepare them.

Its ``energon prepare`` writes the same: which tars are there and how many samples each has, where
each sample and each member starts, and how samples are to be read.
"""

import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import yaml

from vila2data.corpus.names import split_name
from vila2data.corpus.tar import members_of

from .writer import Target

FOLDER = ".nv-meta"
LAYOUT = "7.4.1"
"""The release of energon whose files these are like."""

_HEADER_BYTES = 512  # of a member in a tar without extended headers
_TABLES = """
CREATE TABLE samples (
    tar_file_id INTEGER NOT NULL,
    sample_key TEXT NOT NULL UNIQUE,
    sample_index INTEGER NOT NULL,
    byte_offset INTEGER,
    byte_size INTEGER
);
CREATE TABLE sample_parts (
    tar_file_id INTEGER,
    sample_index INTEGER,
    part_name TEXT,
    content_byte_offset INTEGER,
    content_byte_size INTEGER
);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples (tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq
    ON sample_parts (tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts
    (tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""

Sample = tuple[str, int, list[tuple[str, int, int]]]
"""Key, first byte, and (suffix, first byte, bytes) of each member."""


def write_energon(target: Target, tars: Sequence[Path]) -> None:
    """Writes ``.nv-meta`` and an index beside each tar; samples are crude: a dictionary of members,
    which the user's cooker makes a sample of.
    """
    folder = target.folder / FOLDER
    folder.mkdir()
    counts = _write_index(folder / "index.sqlite", tars)
    listed = "\n".join(f"{tar.name} {tar.stat().st_size}" for tar in tars)
    identity = uuid5(NAMESPACE_URL, f"{target.identity}\n{listed}")
    (folder / "index.uuid").write_text(str(identity), encoding="utf-8")
    info = {"energon_version": LAYOUT, "shard_counts": counts}
    (folder / ".info.json").write_text(json.dumps(info, indent=2), encoding="utf-8")
    parts: dict[str, list[str]] = {"train": list(counts), "val": [], "test": []}
    _write_yaml(folder / "split.yaml", {"split_parts": parts, "exclude": []})
    kind = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    told = {"subflavors": {"data_set": target.name, "version": target.version}}
    _write_yaml(folder / "dataset.yaml", kind | told)


def _write_index(path: Path, tars: Sequence[Path]) -> dict[str, int]:
    """Writes where everything is; samples by tar."""
    counts = {}
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = OFF")  # half an index is thrown away
        connection.executescript(_TABLES)
        for number, tar in enumerate(tars):
            counts[tar.name] = _index_tar(connection, number, tar)
        connection.executescript(_INDEXES)
    return counts


def _index_tar(connection: sqlite3.Connection, number: int, tar: Path) -> int:
    """Writes the index of one tar; its samples."""
    count, end = 0, 0
    with tar.with_suffix(".tar.idx").open("wb") as offsets:
        for count, (key, start, parts) in enumerate(samples_of(tar), start=1):
            _, last, size = parts[-1]
            end = last + -(-size // _HEADER_BYTES) * _HEADER_BYTES
            offsets.write(struct.pack("Q", start))
            connection.execute(
                "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
                (number, key, count - 1, start, end - start),
            )
            rows = ((number, count - 1, *part) for part in parts)
            connection.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", rows)
        offsets.write(struct.pack("Q", end))
    return count


def samples_of(tar: Path) -> Iterator[Sample]:
    """The samples of a tar whose members stand side by side, each with one header."""
    sample: Sample | None = None
    with tar.open("rb") as file:
        for member in members_of(file):
            key, suffix = split_name(member.name)
            if sample is None or sample[0] != key:
                if sample is not None:
                    yield sample
                sample = (key, member.start - _HEADER_BYTES, [])
            sample[2].append((suffix, member.start, member.size))
    if sample is not None:
        yield sample


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
