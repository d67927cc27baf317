"""The ledger of a run: which shards are finished, bound to what shaped their texts.

    run.json               the fingerprint, and everything it is a hash of
    shards/00000.parquet   every row of a corpus shard, kept and rejected, with its counts in the
                           file's own metadata

A shard's file appears whole by one rename, so the ledger needs no journal: what is there is
finished.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from vila2data.corpus.images import ImageLimits
from vila2data.corpus.read import ReadLimits, read_shard
from vila2data.counts import Counts
from vila2data.errors import CorpusError, RunRefused
from vila2data.files import appearing, raise_if_full
from vila2data.runfolder import (
    fingerprint_of,
    locked,
    read_shaping,
    refuse_differences,
    write_shaping,
)

_COUNTS_KEY = b"vila2data.counts"
_BEGINNING_S = 60.0  # until the file that binds a run is written


def storable(text: str) -> str:
    """``text`` with a question mark for what is not Unicode, such as a name's stray bytes."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The finished shards of a run."""

    folder: Path
    shaping: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """The ledger of a run that exists.

        Raises:
            RunRefused: the folder holds none.
        """
        shaping = read_shaping(folder)
        if shaping is None:
            raise RunRefused(f"{folder}: holds no run; `vila2data recaption RECIPE` makes one")
        return cls(folder, shaping)

    @classmethod
    def create(cls, folder: Path, shaping: Mapping[str, Any]) -> "Ledger":
        """A new ledger, or the one that is there where it is bound to the same ``shaping``.

        Raises:
            RunRefused: the folder's run has another fingerprint; each difference is named.
        """
        if read_shaping(folder) is None:
            # Processes of one run may begin at the same time: the second one waits for the first.
            with cls(folder, shaping).locked("begin", timeout_s=_BEGINNING_S):
                if read_shaping(folder) is None:  # another process may have been faster
                    write_shaping(folder, shaping)
        begun = cls.open(folder)
        remedy = "Set them back, or give another run folder"
        refuse_differences(folder, begun.shaping, shaping, remedy=remedy)
        return begun

    @contextmanager
    def locked(self, part: str = "", *, timeout_s: float = 0) -> Iterator[None]:
        """Keeps a second process off the run, or off a part of it; the lock goes with its process.

        Args:
            part: its name; empty: the run.
            timeout_s: how long another process may hold it still.

        Raises:
            RunRefused: another process holds it.
            RunFailed: the disk is full.
        """
        with locked(self.folder, part, timeout_s=timeout_s):
            try:
                (self.folder / "shards").mkdir(exist_ok=True)
            except OSError as error:
                raise_if_full(error, self.folder)
                raise
            yield

    @property
    def fingerprint(self) -> str:
        """Hash of ``shaping``."""
        return fingerprint_of(self.shaping)

    def path(self, shard: Path) -> Path:
        """Where the rows of a corpus shard stand once it is finished."""
        return self.folder / "shards" / f"{shard.stem}.parquet"

    def counts(self, shard: Path) -> Counts | None:
        """Counts of a finished corpus shard, None where it is not finished.

        Raises:
            CorpusError: the shard is not the file that was read then.
        """
        path = self.path(shard)
        if not path.is_file():
            return None
        stored = json.loads(pq.read_metadata(path).metadata[_COUNTS_KEY])
        size, mtime_ns = stored.pop("shard_bytes"), stored.pop("shard_mtime_ns")
        now = shard.stat()
        if size != now.st_size or (mtime_ns != now.st_mtime_ns and not self._holds(shard, path)):
            raise CorpusError(
                f"{shard}: has changed since {path} was written: give another run folder"
            )
        return Counts(**stored)

    def _holds(self, shard: Path, path: Path) -> bool:
        """Whether a shard still has the samples whose rows are in ``path``, in their order.

        A copied corpus has new times; tars are padded, so that another one may have the same size.
        """
        limits = self.shaping.get("limits", self.shaping)
        image = ImageLimits(limits["max_image_bytes"], limits["max_image_pixels"])
        columns = ["key", "image_sha256", "original"]
        rows = iter(pq.read_table(path, columns=columns).to_pylist())
        row = next(rows, None)
        for sample in read_shard(shard, limits=ReadLimits(image, limits["max_text_bytes"])):
            found = (storable(sample.key), sample.image_sha256, sample.text)
            if row is not None and found == tuple(row[name] for name in columns):
                row = next(rows, None)
        return row is None

    def write(self, shard: Path, table: pa.Table, counts: Counts) -> None:
        """Finishes a corpus shard.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the disk is full.
        """
        counts.check(str(shard))
        now = shard.stat()
        seen = {"shard_bytes": now.st_size, "shard_mtime_ns": now.st_mtime_ns}
        stored = json.dumps(asdict(counts) | seen, sort_keys=True)
        metadata = {**(table.schema.metadata or {}), _COUNTS_KEY: stored.encode()}
        with appearing(self.path(shard)) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")

    def total(self, shards: list[Path]) -> Counts:
        """Counts of all ``shards``.

        Raises:
            CorpusError: a finished shard changed, or is not there any more.
            RunRefused: some are not finished.
        """
        left = {path.stem for path in (self.folder / "shards").glob("*.parquet")}
        left -= {shard.stem for shard in shards}
        if left:
            raise CorpusError(
                f"{self.folder}: holds shards that the corpus does not: {', '.join(sorted(left))}"
            )
        found = [self.counts(shard) for shard in shards]
        missing = found.count(None)
        if missing:
            raise RunRefused(
                f"{self.folder}: {missing} of {len(shards)} shards are not finished; "
                "run `vila2data recaption` again"
            )
        return sum((counts for counts in found if counts is not None), Counts())


class Claims:
    """The shards that this process works on, so that others leave them alone: a lock on a file for
    each, which goes with the process.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._locks: dict[Path, FileLock] = {}

    def of(self, shards: Iterable[Path]) -> Iterator[Path]:
        """Those that are neither finished nor claimed by another process when they are drawn."""
        return filter(self._take, shards)

    def _take(self, shard: Path) -> bool:
        path = self._ledger.path(shard)
        # An engine may draw in a thread of its own.
        lock = FileLock(path.with_name(f".{path.stem}.lock"), timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return False
        if path.is_file():  # finished a moment ago
            self._release(lock)
            return False
        self._locks[shard] = lock
        return True

    def finish(self, shard: Path, table: pa.Table, counts: Counts) -> None:
        """Writes a claimed shard to the ledger.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the disk is full.
        """
        self._ledger.write(shard, table, counts)
        self._release(self._locks.pop(shard))

    @staticmethod
    def _release(lock: FileLock) -> None:
        # Whoever opened the file before it goes finds the shard finished.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
