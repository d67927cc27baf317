"""The ledger of a run: which shards are finished, bound to what shaped their texts.

    run.json               the fingerprint, and everything it is a hash of
    shards/00000.parquet   every row of a corpus shard, kept and rejected, with its counts in the
                           file's own metadata

A shard's file appears whole by one rename, so the ledger needs no journal: what is there is
finished.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
from vila2data.storage import Lease, Place, RemotePath, readable, stamp_of, tails

_COUNTS_KEY = b"vila2data.counts"
_COUNTS = tuple(field.name for field in fields(Counts))
_FOOT_BYTES = 64 * 1024  # a foot has about 10 kB
_BEGINNING_S = 60.0  # until the file that binds a run is written


def storable(text: str) -> str:
    """``text`` with a question mark for what is not Unicode, such as a name's stray bytes."""
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The finished shards of a run."""

    folder: Place
    shaping: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Place) -> "Ledger":
        """The ledger of a run that exists.

        Raises:
            RunRefused: the folder holds none.
        """
        shaping = read_shaping(folder)
        if shaping is None:
            raise RunRefused(f"{folder}: holds no run; `vila2data recaption RECIPE` makes one")
        return cls(folder, shaping)

    @classmethod
    def create(cls, folder: Place, shaping: Mapping[str, Any]) -> "Ledger":
        """A new ledger, or the one that is there where it is bound to the same ``shaping``.

        Raises:
            RunRefused: the folder's run has another fingerprint; each difference is named.
        """
        if isinstance(folder, RemotePath):
            if read_shaping(folder) is None:
                write_shaping(folder, shaping)
        elif read_shaping(folder) is None:
            # Processes of one run may begin at the same time: the second one waits for the first.
            with cls(folder, shaping).locked("begin", timeout_s=_BEGINNING_S):
                if read_shaping(folder) is None:  # another process may have been faster
                    write_shaping(folder, shaping)
        begun = cls.open(folder)
        remedy = "Set them back, or give another run folder"
        refuse_differences(folder, begun.shaping, shaping, remedy=remedy)
        return begun

    @contextmanager
    def locked(self, part: str = "", *, timeout_s: float = 0) -> Iterator[Lease | None]:
        """Keeps a second process off the run, or off a part of it; the lock goes with its process.
        A remote run has a lease in its place, which is given.

        Args:
            part: its name; empty: the run.
            timeout_s: how long another process may hold it still.

        Raises:
            RunRefused: another process holds it.
            RunFailed: the disk is full.
        """
        with locked(self.folder, part, timeout_s=timeout_s) as lease:
            if not isinstance(self.folder, RemotePath):
                try:
                    (self.folder / "shards").mkdir(exist_ok=True)
                except OSError as error:
                    raise_if_full(error, self.folder)
                    raise
            yield lease

    @property
    def fingerprint(self) -> str:
        """Hash of ``shaping``."""
        return fingerprint_of(self.shaping)

    def path(self, shard: Place) -> Place:
        """Where the rows of a corpus shard stand once it is finished."""
        return self.folder / "shards" / f"{shard.stem}.parquet"

    def shard_files(self) -> Iterator[Place]:
        """The files of the finished shards, in no order."""
        return (self.folder / "shards").glob("*.parquet")

    def finished(self, shards: Sequence[Place]) -> dict[Place, Counts]:
        """Counts of those corpus shards that are finished.

        Raises:
            CorpusError: a shard is not the file that was read then.
        """
        if isinstance(self.folder, RemotePath):
            return self._finished_remotely(shards)
        written = ((shard, self.path(shard)) for shard in shards)
        return {
            shard: self._counts(shard, path, pq.read_metadata(path))
            for shard, path in written
            if path.is_file()
        }

    def _finished_remotely(self, shards: Sequence[Place]) -> dict[Place, Counts]:
        """By one listing, and the ends of the files."""
        listed = {path.stem: path for path in self.shard_files()}
        done = [shard for shard in shards if shard.stem in listed]
        paths: Any = [listed[shard.stem] for shard in done]
        ends = tails(paths, _FOOT_BYTES)
        return {
            shard: self._counts(shard, path, _foot(path, end))
            for shard, path, end in zip(done, paths, ends, strict=True)
        }

    def _counts(self, shard: Place, path: Place, foot: pq.FileMetaData) -> Counts:
        stored = json.loads(foot.metadata[_COUNTS_KEY])
        counts = Counts(**{name: stored.pop(name) for name in _COUNTS})
        now = stamp_of(shard)
        same_size = stored["shard_bytes"] == now["shard_bytes"]
        if not same_size or (stored != now and not self._holds(shard, path)):
            raise CorpusError(
                f"{shard}: has changed since {path} was written: give another run folder"
            )
        return counts

    def _holds(self, shard: Place, path: Place) -> bool:
        """Whether a shard still has the samples whose rows are in ``path``, in their order.

        A copied corpus has new times; tars are padded, so that another one may have the same size.
        """
        limits = self.shaping.get("limits", self.shaping)
        image = ImageLimits(limits["max_image_bytes"], limits["max_image_pixels"])
        columns = ["key", "image_sha256", "original"]
        rows = iter(pq.read_table(readable(path), columns=columns).to_pylist())
        row = next(rows, None)
        for sample in read_shard(shard, limits=ReadLimits(image, limits["max_text_bytes"])):
            found = (storable(sample.key), sample.image_sha256, sample.text)
            if row is not None and found == tuple(row[name] for name in columns):
                row = next(rows, None)
        return row is None

    def write(self, shard: Place, table: pa.Table, counts: Counts) -> None:
        """Finishes a corpus shard.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the disk is full.
        """
        counts.check(str(shard))
        stored = json.dumps(asdict(counts) | stamp_of(shard), sort_keys=True)
        metadata = {**(table.schema.metadata or {}), _COUNTS_KEY: stored.encode()}
        with appearing(self.path(shard)) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")

    def total(self, shards: Sequence[Place]) -> Counts:
        """Counts of all ``shards``.

        Raises:
            CorpusError: a finished shard changed, or is not there any more.
            RunRefused: some are not finished.
        """
        left = {path.stem for path in self.shard_files()}
        left -= {shard.stem for shard in shards}
        if left:
            raise CorpusError(
                f"{self.folder}: holds shards that the corpus does not: {', '.join(sorted(left))}"
            )
        found = self.finished(shards)
        missing = len(shards) - len(found)
        if missing:
            raise RunRefused(
                f"{self.folder}: {missing} of {len(shards)} shards are not finished; "
                "run `vila2data recaption` again"
            )
        return sum(found.values(), Counts())


def _foot(path: Place, end: bytes) -> pq.FileMetaData:
    """The metadata that a parquet file ends with."""
    length = int.from_bytes(end[-8:-4], "little")
    return pq.read_metadata(pa.BufferReader(end) if length + 8 <= len(end) else readable(path))
