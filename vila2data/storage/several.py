"""Many files at a time: object storages answer requests side by side."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from .attempts import persistently
from .place import Place
from .remote import RemotePath

_RANGES_AT_A_TIME = 128
_FILES_AT_A_TIME = 16


def read_each(files: Sequence[Place]) -> Iterator[bytes]:
    """The content of small files, in their order.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    remote = [file for file in files if isinstance(file, RemotePath)]
    if len(remote) < len(files):
        yield from (file.read_bytes() for file in files)
    else:
        yield from _ranges([(file, 0, file.status().size) for file in remote])


def tails(files: Sequence[RemotePath], count: int) -> Iterator[bytes]:
    """The last ``count`` bytes of each file, or all where it is shorter, in their order."""
    sizes = [(file, file.status().size) for file in files]
    yield from _ranges([(file, max(0, size - count), size) for file, size in sizes])


def _ranges(wanted: Sequence[tuple[RemotePath, int, int]]) -> Iterator[bytes]:
    for some in _in_parts(wanted, _RANGES_AT_A_TIME):
        paths = [file.system()[1] for file, _, _ in some]
        starts, ends = [start for _, start, _ in some], [end for _, _, end in some]
        system = some[0][0].system()[0]

        def ask(
            system: Any = system, paths: Any = paths, starts: Any = starts, ends: Any = ends
        ) -> list[bytes]:
            found = system.cat_ranges(paths, starts, ends, on_error="raise")
            return [_whole(bytes(f), e - s) for f, s, e in zip(found, starts, ends, strict=True)]

        yield from persistently(some[0][0].parent, ask)


def _whole(content: bytes, count: int) -> bytes:
    if len(content) != count:
        raise OSError(f"gave {len(content)} bytes of {count}")
    return content


def download(files: Sequence[RemotePath], folder: Path) -> list[Path]:
    """Copies files into a local folder, over those that are there; returns the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for some in _in_parts(files, _FILES_AT_A_TIME):
        targets = [folder / file.name for file in some]
        copies += targets

        def get(some: Sequence[RemotePath] = some, targets: Sequence[Path] = targets) -> None:
            system = some[0].system()[0]
            system.get([file.system()[1] for file in some], [str(path) for path in targets])
            for file, target in zip(some, targets, strict=True):
                size = target.stat().st_size
                if size != file.status().size:
                    raise OSError(f"gave {size} bytes of {file.status().size} of {file.name}")

        persistently(some[0].parent, get)
    return copies


def _in_parts(files: Sequence[Any], count: int) -> Iterator[list[Any]]:
    left = iter(files)
    while some := list(islice(left, count)):
        yield some
