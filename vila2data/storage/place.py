"""What is asked of a file wherever it lies."""

from pathlib import Path
from typing import Any

from .remote import RemotePath

Place = Path | RemotePath
"""A local path, or a place that fsspec reaches."""


def size_of(file: Place) -> int:
    """Bytes of a file."""
    return file.status().size if isinstance(file, RemotePath) else file.stat().st_size


def stamp_of(file: Place) -> dict[str, int | str]:
    """Size of a file, and what changes with its content, under the names of the ledger."""
    if isinstance(file, RemotePath):
        told = file.status()
        return {"shard_bytes": told.size, "shard_stamp": told.stamp}
    status = file.stat()
    return {"shard_bytes": status.st_size, "shard_mtime_ns": status.st_mtime_ns}


def readable(file: Place) -> Any:
    """What pyarrow reads a file from."""
    return file.open("rb") if isinstance(file, RemotePath) else file
