"""The folder of a run: bound to what shapes its result, and to one process at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from filelock import FileLock, Timeout

from .errors import RunRefused
from .files import raise_if_full, write_text
from .storage import Lease, Place, RemotePath, leased

RUN_FILE = "run.json"
_LOCK_FILE = ".lock"


def fingerprint_of(shaping: Mapping[str, Any]) -> str:
    """Hash of everything that shapes the result of a run."""
    return sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def read_shaping(folder: Place) -> Mapping[str, Any] | None:
    """What the run in ``folder`` is bound to, None where no run was begun there."""
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    shaping: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))["shaping"]
    return shaping


def write_shaping(folder: Place, shaping: Mapping[str, Any]) -> None:
    """Binds a new run to ``shaping``.

    Raises:
        RunFailed: the disk is full.
    """
    content = {"fingerprint": fingerprint_of(shaping), "shaping": shaping}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    if isinstance(folder, RemotePath):
        (folder / RUN_FILE).create(text.encode())  # another process may have been faster
    else:
        write_text(folder / RUN_FILE, text)


def refuse_differences(
    folder: Place, begun: Mapping[str, Any], asked: Mapping[str, Any], *, remedy: str
) -> None:
    """Raises ``RunRefused`` where a run was begun with other settings; each is named."""
    old, new = dict(_flat(begun)), dict(_flat(json.loads(json.dumps(asked))))
    differences = [
        f"{name}: {old.get(name, 'not set')} in the run, {new.get(name, 'not set')} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise RunRefused(
            f"{folder} was begun with other settings: {'; '.join(differences)}. {remedy}"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def locked(folder: Place, name: str = "", *, timeout_s: float = 0) -> Iterator[Lease | None]:
    """Keeps a second process off the run, or off a part of it; the lock goes with its process. A
    folder in which nothing was written is removed again.

    A remote folder has a lease in place of a lock, which is given and outlives its process by some
    time.

    Args:
        folder: of the run.
        name: of the part; empty: the run.
        timeout_s: how long another process may hold it still.

    Raises:
        RunRefused: another process holds it, or there can be no such folder.
        RunFailed: the disk is full.
    """
    if isinstance(folder, RemotePath):
        with leased(folder, name) as lease:
            yield lease
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_if_full(error, folder)
        raise RunRefused(f"{folder}: cannot be made a folder: {error.strerror}") from error
    lock_file = folder / f"{_LOCK_FILE}{name and '-'}{name}"
    lock = FileLock(lock_file, timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as error:
        what = f"part {name} of this run" if name else "this run"
        raise RunRefused(f"{folder}: another process works on {what}") from error
    try:
        yield None
    finally:
        if list(folder.iterdir()) == [lock_file]:
            lock_file.unlink()
            folder.rmdir()
        lock.release()
