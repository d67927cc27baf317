"""The shards that a process works on, so that others leave them alone."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Protocol

import pyarrow as pa
from filelock import FileLock, Timeout

from vila2data.counts import Counts
from vila2data.storage import Lease, Place, RemotePath, is_held, newest_number

from .ledger import Ledger

_TRIES = 3  # at a claim that comes and goes


class Claims(Protocol):
    """What a run asks of them."""

    def of(self, shards: Iterable[Place]) -> Iterator[Place]:
        """Those that are neither finished nor claimed by another process when they are drawn."""
        ...

    def finish(self, shard: Place, table: pa.Table, counts: Counts) -> None:
        """Writes a claimed shard to the ledger.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the disk is full, or the storage failed.
        """
        ...

    def sweep(self, finished: Iterable[Place]) -> None:
        """Removes the claims on finished shards, whose processes were killed before they did."""
        ...


def claims_of(ledger: Ledger, lease: Lease | None) -> Claims:
    """Claims of a process on the shards of a run.

    Args:
        ledger: of the run.
        lease: that the process holds, where the run is remote.
    """
    return FileClaims(ledger) if lease is None else LeaseClaims(ledger, lease)


class FileClaims:
    """A lock on a file for each shard, which goes with the process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._locks: dict[Place, FileLock] = {}

    def of(self, shards: Iterable[Place]) -> Iterator[Place]:
        """Those that are neither finished nor claimed by another process when they are drawn."""
        return filter(self._take, shards)

    def _take(self, shard: Place) -> bool:
        lock = _lock_on(self._file(shard))
        try:
            lock.acquire()
        except Timeout:
            return False
        if self._ledger.path(shard).is_file():  # finished a moment ago
            self._release(lock)
            return False
        self._locks[shard] = lock
        return True

    def finish(self, shard: Place, table: pa.Table, counts: Counts) -> None:
        """Writes a claimed shard to the ledger.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the disk is full.
        """
        self._ledger.write(shard, table, counts)
        self._release(self._locks.pop(shard))

    def sweep(self, finished: Iterable[Place]) -> None:
        """Removes the locks' files of finished shards, whose processes were killed before they
        did.
        """
        files = {self._file(shard) for shard in finished}
        for file in files & set((self._ledger.folder / "shards").glob(".*.lock")):
            lock = _lock_on(file)
            with suppress(Timeout):  # its process is about to
                lock.acquire()
                self._release(lock)

    def _file(self, shard: Place) -> Place:
        path = self._ledger.path(shard)
        return path.with_name(f".{path.stem}.lock")

    @staticmethod
    def _release(lock: FileLock) -> None:
        # Whoever opened the file before it goes finds the shard finished.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _lock_on(file: Place) -> FileLock:
    # An engine may draw in a thread of its own.
    return FileLock(str(file), timeout=0, thread_local=False)


class LeaseClaims:
    """A small file for each shard, which holds as long as the lease of its writer does. Two that
    find a dead one's at the same moment may both do its shard, with the same rows.
    """

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self._ledger = ledger
        self._lease = lease
        self._dead: set[tuple[str, int]] = set()
        self._alive_until_s: dict[tuple[str, int], float] = {}
        told = {"name": lease.name, "number": lease.number, "token": lease.token}
        self._content = json.dumps(told).encode()

    def of(self, shards: Iterable[Place]) -> Iterator[Place]:
        """Those that are neither finished nor claimed by another process when they are drawn."""
        return filter(self._take, shards)

    def _take(self, shard: Place) -> bool:
        self._lease.check()
        claim = self._file(shard)
        if not self._claim(claim):
            return False
        if self._ledger.path(shard).is_file():  # finished a moment ago
            claim.unlink(missing_ok=True)
            return False
        return True

    def _claim(self, claim: RemotePath) -> bool:
        """Whether it is ours now; that of a dead process is removed first."""
        for _ in range(_TRIES):
            if claim.create(self._content):
                return True
            try:
                told = json.loads(claim.read_bytes())
            except FileNotFoundError:
                continue  # a moment ago
            if self._lives(told["name"], told["number"]):
                return False
            claim.unlink(missing_ok=True)
        return False

    def _lives(self, name: str, number: int) -> bool:
        """Whether the holder of a lease does; one that did a moment ago is not looked at again."""
        holder = name, number
        if holder in self._dead:
            return False
        if monotonic() < self._alive_until_s.get(holder, 0.0):
            return True
        folder = self._lease.folder
        newest = self._lease.number if name == self._lease.name else newest_number(folder, name)
        if number == newest and is_held(folder, name, number):
            self._alive_until_s[holder] = monotonic() + self._lease.duration_s
            return True
        self._dead.add(holder)
        return False

    def finish(self, shard: Place, table: pa.Table, counts: Counts) -> None:
        """Writes a claimed shard to the ledger.

        Raises:
            CountsDoNotBalance: rows were lost or invented.
            RunFailed: the storage failed, or another process took the run over.
        """
        self._lease.check()
        self._ledger.write(shard, table, counts)
        self._file(shard).unlink(missing_ok=True)

    def sweep(self, finished: Iterable[Place]) -> None:
        """Removes the claims on finished shards, whose processes were killed before they did."""
        stems = {shard.stem for shard in finished}
        for claim in (self._lease.folder / "claims").glob("*"):
            if claim.name in stems:
                claim.unlink(missing_ok=True)

    def _file(self, shard: Place) -> RemotePath:
        return self._lease.folder / "claims" / shard.stem
