"""Many files at a time: object storages answer requests side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .attempts import persistently
from .place import Place
from .remote import RemotePath

_RANGES_AT_A_TIME = 128
_BYTES_AT_A_TIME = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Range:
    """Bytes of a file."""

    file: RemotePath
    start: int
    end: int


def read_each(files: Sequence[Place]) -> Iterator[bytes]:
    """The content of files, in their order; several are in memory at a time.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    remote = [file for file in files if isinstance(file, RemotePath)]
    if len(remote) < len(files):
        yield from (file.read_bytes() for file in files)
    else:
        yield from _contents([_Range(file, 0, file.status().size) for file in remote])


def tails(files: Sequence[RemotePath], count: int) -> Iterator[bytes]:
    """The last ``count`` bytes of each file, or all where it is shorter, in their order."""
    sizes = [(file, file.status().size) for file in files]
    yield from _contents([_Range(file, max(0, size - count), size) for file, size in sizes])


def download(files: Sequence[RemotePath], folder: Path) -> list[Path]:
    """Copies files into a local folder, over those that are there; returns the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / file.name for file in files]
    for copy, content in zip(copies, read_each(files), strict=True):
        copy.write_bytes(content)
    return copies


def _contents(wanted: Sequence[_Range]) -> Iterator[bytes]:
    for some in _in_parts(wanted):
        asking = _Asking(some)
        persistently(some[0].file.parent, asking.ask)
        yield from asking.found.values()


class _Asking:
    """Requests side by side; what failed is asked again, the others are not."""

    def __init__(self, wanted: Sequence[_Range]) -> None:
        self._wanted = wanted
        self.found: dict[int, bytes] = dict.fromkeys(range(len(wanted)), b"")
        self._left = [n for n, part in enumerate(wanted) if part.end > part.start]

    def ask(self) -> None:
        """Tries once; raises what one of those that failed failed with."""
        left = [self._wanted[n] for n in self._left]
        if not left:
            return
        system = left[0].file.system()[0]
        answers = system.cat_ranges(
            [part.file.system()[1] for part in left],
            [part.start for part in left],
            [part.end for part in left],
            on_error="return",
        )
        failure: Exception | None = None
        missing = []
        for number, part, answer in zip(self._left, left, answers, strict=True):
            if isinstance(answer, Exception):
                failure = answer
            elif len(answer) != part.end - part.start:
                failure = OSError(f"gave {len(answer)} bytes of {part.end - part.start}")
            else:
                self.found[number] = bytes(answer)
                continue
            missing.append(number)
        self._left = missing
        if failure is not None:
            raise failure


def _in_parts(wanted: Sequence[_Range]) -> Iterator[list[_Range]]:
    some: list[_Range] = []
    held = 0
    for part in wanted:
        size = part.end - part.start
        if some and (len(some) == _RANGES_AT_A_TIME or held + size > _BYTES_AT_A_TIME):
            yield some
            some, held = [], 0
        some.append(part)
        held += size
    if some:
        yield some
