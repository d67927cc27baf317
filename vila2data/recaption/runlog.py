"""The log of a run: its account as lines of JSON, for people, scripts and log shippers."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, Protocol

from vila2data.errors import Vila2DataError
from vila2data.storage import Place, RemotePath

from .observe import Account, Figures, Pace

LOG_FILE = "log.jsonl"
LOG_EVERY_S = 10.0
REMOTE_EVERY_S = 300.0
"""Until a remote log gets its next file."""

_REMOTE_TRIES = 2
_LOG = logging.getLogger(__name__)

State = Literal["running", "done", "failed"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Sink(Protocol):
    """Where lines go."""

    def append(self, content: bytes, *, is_last: bool) -> int:
        """Takes bytes and returns how many; an error where it takes none."""
        ...


class _File:
    """One file for all processes: a line is one write to a file opened for appending, so that lines
    do not mix.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, content: bytes, *, is_last: bool) -> int:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            return os.write(descriptor, content)
        finally:
            os.close(descriptor)


class _Segments:
    """Small files of this process, in a folder beside the place of the file, since a storage cannot
    append. What could not be written goes with the next.
    """

    def __init__(self, path: RemotePath, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = path.parent / path.stem
        self._lines: list[bytes] = []
        self._clock = clock
        self._written_s = clock()

    def append(self, content: bytes, *, is_last: bool) -> int:
        self._lines.append(content)
        if is_last or self._clock() - self._written_s >= REMOTE_EVERY_S:
            self._written_s = self._clock()
            began = json.loads(self._lines[0])["time"].replace(":", "")
            name = f"{began}-{socket.gethostname()}-{os.getpid()}.jsonl"
            (self._folder / name).write_bytes(b"".join(self._lines), tries=_REMOTE_TRIES)
            self._lines.clear()
        return len(content)


class RunLog:
    """Appends an account to a file that several processes may write to, or to files of a folder
    where the run is remote.

    The log never stops a run: what cannot be written is left out, with one warning.

    Args:
        path: the file; made where it is not there.
        account: what is told.
        config: the build's config that the captions become.
        now: the wall clock; only the lines' ``time`` is taken from it.
    """

    def __init__(
        self,
        path: Place,
        account: Account,
        *,
        config: str,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.path = path
        self._sink: Sink = _Segments(path) if isinstance(path, RemotePath) else _File(path)
        self._account = account
        self._writer = {"host": socket.gethostname(), "pid": os.getpid(), "config": config}
        self._now = now
        self._before = Figures()
        self._before_s = account.elapsed_s
        self._has_warned = False
        self._is_torn = False  # the last line has no end

    def write(self, state: State) -> None:
        """Appends one line."""
        line = json.dumps(self._line(state)) + "\n"
        content = ("\n" if self._is_torn else "").encode() + line.encode()
        try:
            written = self._sink.append(content, is_last=state != "running")
        except (OSError, Vila2DataError) as error:
            self._warn(str(error), state)
            return
        self._is_torn = written < len(content) and (written > 0 or self._is_torn)
        if written < len(content):
            self._warn("no space left", state)

    def _line(self, state: State) -> dict[str, Any]:
        figures, elapsed_s = self._account.figures(), self._account.elapsed_s
        duration_s = elapsed_s - self._before_s
        lately = Pace.between(self._before, figures, duration_s=duration_s)
        self._before, self._before_s = figures, elapsed_s
        content = {
            "time": self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "elapsed_s": elapsed_s,
            **self._writer,
            "state": state,
            "images": figures.images,
            **asdict(figures),
            "kept_share": figures.kept_share,
            **asdict(self._account.pace()),
            "lately": {"duration_s": duration_s, **asdict(lately)},
        }
        rounded: dict[str, Any] = _rounded(content)
        return rounded

    def _warn(self, told: str, state: State) -> None:
        # A run that failed has said why, which is often the same.
        if not self._has_warned and state != "failed":
            _LOG.warning("%s: the log is not written: %s; the run goes on", self.path, told)
        self._has_warned = True


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 3) if isinstance(value, float) else value


@contextmanager
def logged(
    account: Account, path: Place, *, config: str, every_s: float = LOG_EVERY_S
) -> Iterator[None]:
    """Logs an account every ``every_s`` seconds and at the end, from a thread of its own: an engine
    may be silent for longer.
    """
    log = RunLog(path, account, config=config)
    ended = Event()

    def work() -> None:
        while not ended.wait(every_s):
            log.write("running")

    thread = Thread(target=work, daemon=True)
    thread.start()
    state: State = "failed"
    try:
        yield
        state = "done"
    finally:
        ended.set()
        thread.join()
        log.write(state)
