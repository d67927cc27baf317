"""Where each image of a corpus lies: an index on disk, so that memory does not grow with the
corpus.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from vila2data.errors import CorpusError, RunFailed

from .names import IMAGE_SUFFIXES, key_fault, split_name
from .read import ReadLimits, list_shards, member_problem
from .tar import TarDamaged, members_of

_SCHEMA = "CREATE TABLE images (key TEXT, shard INTEGER, start INTEGER, bytes INTEGER)"
_INDEX = "CREATE INDEX by_key ON images (key)"
_VERSION = 2
_KEYS_PER_QUERY = 1000


class Location(NamedTuple):
    """Where an image lies: position of its tar, first byte, number of bytes."""

    shard: int
    start: int
    bytes: int


def cache_folder() -> Path:
    """Where indexes are kept: ``$XDG_CACHE_HOME/vila2data``, or ``~/.cache/vila2data``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vila2data"


class CorpusIndex:
    """Images of a corpus by key. Opened lazily, so that it can be sent to worker processes."""

    def __init__(self, corpus: Path, *, cache: Path | None = None) -> None:
        """Finds the index in ``cache``, or makes it by reading the headers of the tars once.

        Raises:
            CorpusError: ``corpus`` is none.
        """
        self.shards = list_shards(corpus)
        folder = cache or cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{_identity(self.shards)}.sqlite"
        if not self._file.is_file():
            _make(self.shards, self._file)
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_connection": None}

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            # A connection must not be carried over a fork, as data loaders make them. The threads
            # of a data loader share one; sqlite serialises them.
            self._process = os.getpid()
            self._connection = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
        return self._connection

    def locate(self, keys: Iterable[str]) -> dict[str, list[Location]]:
        """Where the images of many keys lie, in order of the shards; keys without one are left
        out.
        """
        found: dict[str, list[Location]] = {}
        waiting = iter(keys)
        while some := list(islice(waiting, _KEYS_PER_QUERY)):
            marks = ", ".join("?" * len(some))
            rows = self._opened().execute(
                f"SELECT key, shard, start, bytes FROM images WHERE key IN ({marks}) "
                "ORDER BY shard, start",
                some,
            )
            for key, shard, start, count in rows:
                found.setdefault(key, []).append(Location(shard, start, count))
        return found

    def read(self, location: Location) -> bytes:
        """The bytes at a location."""
        with self.shards[location.shard].open("rb") as file:
            file.seek(location.start)
            return file.read(location.bytes)

    def images(self, key: str) -> Iterator[bytes]:
        """Bytes of each image with that key, in order of the shards; most keys have one."""
        for location in self.locate([key]).get(key, []):
            yield self.read(location)

    def image(self, key: str, image_sha256: str) -> bytes:
        """The image with that key and hash.

        Raises:
            CorpusError: the corpus does not hold it.
        """
        found = False
        for image in self.images(key):
            found = True
            if sha256(image).hexdigest() == image_sha256:
                return image
        what = "holds another image under" if found else "has no image"
        raise CorpusError(
            f"{self.shards[0].parent}: {what} key '{key}': is it the corpus of this build?"
        )


def _identity(shards: Iterable[Path]) -> str:
    digest = sha256(f"{_VERSION}".encode())
    for shard in shards:
        status = shard.stat()
        digest.update(f"{shard.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _make(shards: list[Path], file: Path) -> None:
    """Made in a folder of its own, so that two processes may make the same index."""
    try:
        with TemporaryDirectory(dir=file.parent, prefix=".index-") as folder:
            temporary = Path(folder) / file.name
            with closing(sqlite3.connect(temporary)) as connection, connection:
                connection.execute("PRAGMA journal_mode = OFF")  # half an index is thrown away
                connection.execute(_SCHEMA)
                for number, shard in enumerate(shards):
                    rows = ((key, number, start, count) for key, start, count in _images(shard))
                    connection.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", rows)
                connection.execute(_INDEX)
            temporary.replace(file)
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise RunFailed(
            f"no space left while writing {file}: free some, or set XDG_CACHE_HOME"
        ) from error


def _images(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(key, start, bytes) of each image that may be read."""
    limits = ReadLimits()
    with shard.open("rb") as file, suppress(TarDamaged):  # whose samples the reader reports
        for member in members_of(file):
            key, suffix = split_name(member.name)
            readable = suffix in IMAGE_SUFFIXES and key_fault(key) is None
            if readable and member_problem(member, suffix, limits) is None:
                yield key, member.start, member.size
