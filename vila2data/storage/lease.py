"""Who works on a run that lies on a storage without locks: leases, which are renewed while held.

    locks/run.000003      the third holder of the whole run; locks/0-of-8.000001 of a part
    claims/00007          the shard 00007 is worked on by the holder of the lease that stands in it

A lease is a small file that is made where there is none, which storages decide among several, and
whose holder writes it anew all the time. Who finds one looks at it again and again: one that
changes is held; one that does not for as long as it promised is dead, and the next number may be
made. No clock is compared with another's. The file of the highest number stays, so that the numbers
never begin again.
"""

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from uuid import uuid4

from vila2data.errors import BadInput, RunFailed, RunRefused, Vila2DataError

from .remote import RemotePath

LEASE_VARIABLE = "VILA2DATA_LEASE_S"
_LEASE_S = 60.0
_RENEWALS = 4  # in the time of a lease
_LOOKS = 8  # in the time of a lease
_LOG = logging.getLogger(__name__)

Sleep = Callable[[float], object]


@dataclass(slots=True)
class Lease:
    """A run, or a part of it, that this process holds.

    Attributes:
        folder: of the run.
        name: of the part.
        number: how many held it before, and this one.
        duration_s: without a renewal, after which others take it to be dead.
    """

    folder: RemotePath
    name: str
    number: int
    duration_s: float
    token: str = field(default_factory=lambda: uuid4().hex)
    is_lost: bool = False
    _renewals: int = 0

    @property
    def path(self) -> RemotePath:
        """Its file."""
        return _file(self.folder, self.name, self.number)

    def content(self, *, is_released: bool = False) -> bytes:
        """What stands in it."""
        told = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "renewals": self._renewals,
            "duration_s": self.duration_s,
            "is_released": is_released,
        }
        return json.dumps(told).encode()

    def check(self) -> None:
        """Nothing, as long as it is held.

        Raises:
            RunFailed: another process has taken it over.
        """
        if self.is_lost:
            raise RunFailed(
                f"{self.folder}: another process took the run over, since this one did not say for "
                f"{self.duration_s:g} s that it lives; finished shards are kept"
            )

    def renew(self) -> None:
        """Says once that this process lives."""
        self._renewals += 1
        self.path.write_bytes(self.content(), tries=1)
        if newest_number(self.folder, self.name) > self.number:
            self.is_lost = True

    def keep(self, ended: Event) -> None:
        """Renews until ``ended`` is set, or another process has it; what fails is tried again."""
        while not self.is_lost and not ended.wait(self.duration_s / _RENEWALS):
            try:
                self.renew()
            except (OSError, Vila2DataError) as error:
                _LOG.debug("%s: not renewed: %s", self.path, error)

    def release(self) -> None:
        """Says that nobody holds it."""
        try:
            if not self.is_lost:
                self.path.write_bytes(self.content(is_released=True), tries=1)
        except (OSError, Vila2DataError) as error:
            _LOG.debug("%s: not released: %s", self.path, error)


@contextmanager
def leased(
    folder: RemotePath, name: str = "", *, duration_s: float | None = None
) -> Iterator[Lease]:
    """Keeps a second process off a run, or off a part of it, as long as the block lasts.

    Args:
        folder: of the run.
        name: of the part; empty: the run.
        duration_s: None: that of the environment.

    Raises:
        RunRefused: another process holds it.
    """
    lease = _acquired(folder, name or "run", duration_s or duration_of_environment())
    ended = Event()
    thread = Thread(target=lease.keep, args=(ended,), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join(lease.duration_s)
        lease.release()


def duration_of_environment() -> float:
    """Seconds without a renewal after which a process is taken to be dead.

    Raises:
        BadInput: the variable is no number above 0.
    """
    told = os.environ.get(LEASE_VARIABLE, str(_LEASE_S))
    try:
        duration_s = float(told)
    except ValueError:
        duration_s = 0.0
    if not 0 < duration_s < float("inf"):
        raise BadInput(f"{LEASE_VARIABLE}: must be a number of seconds above 0, not '{told}'")
    return duration_s


def _acquired(folder: RemotePath, name: str, duration_s: float) -> Lease:
    what = "this run" if name == "run" else f"part {name} of this run"
    refused = RunRefused(f"{folder}: another process works on {what}")
    newest = newest_number(folder, name)
    if newest and is_held(folder, name, newest):
        raise refused
    lease = Lease(folder, name, newest + 1, duration_s)
    content = lease.content()
    if not lease.path.create(content):
        raise refused
    if not lease.path.is_kept(content):
        _LOG.warning(
            "%s: this storage does not keep two commands from beginning at the same moment; they "
            "would do shards twice, and lose none",
            folder,
        )
    for number in range(max(1, newest - 1), newest + 1):  # others were removed by those before
        _file(folder, name, number).unlink(missing_ok=True)
    return lease


def is_held(folder: RemotePath, name: str, number: int, *, sleep: Sleep | None = None) -> bool:
    """Whether the holder of a lease lives; takes as long as a renewal, or as the lease where there
    is none.

    Args:
        folder: of the run.
        name: of the part.
        number: of the holder.
        sleep: takes seconds.
    """
    file = _file(folder, name, number)
    first = _content(file)
    if first is None or _is_released(first):
        return False
    duration_s = _duration_s(first)
    _LOG.warning("%s: looking for up to %g s whether its holder lives", file, duration_s)
    # Looks are counted rather than seconds: a process that was stopped meanwhile has seen nothing.
    for _ in range(_LOOKS + 1):
        (sleep or Event().wait)(duration_s / _LOOKS)
        now = _content(file)
        if now != first:
            return now is not None and not _is_released(now)
    return False


def newest_number(folder: RemotePath, name: str) -> int:
    """The number of the last holder of a part, 0 where there was none."""
    found = (file.name.rpartition(".")[2] for file in (folder / "locks").glob(f"{name}.*"))
    return max((int(number) for number in found if number.isdecimal()), default=0)


def _file(folder: RemotePath, name: str, number: int) -> RemotePath:
    return folder / "locks" / f"{name}.{number:06d}"


def _content(file: RemotePath) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _is_released(content: bytes) -> bool:
    return bool(json.loads(content)["is_released"])


def _duration_s(content: bytes) -> float:
    return float(json.loads(content)["duration_s"])
