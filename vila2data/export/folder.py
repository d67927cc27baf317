"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vila2data.errors import BadInput
from vila2data.files import raise_if_full_within, sync


@contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """Gives a hidden folder beside ``path``; what was written there is synced and renamed at the
    end.

    What an earlier, killed process left there is removed. On an error nothing appears.

    Raises:
        BadInput: ``path`` is there and no empty folder, or another process writes it.
        RunFailed: the disk is full.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.partial")
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BadInput(f"{path}: another process is writing it") from error
    try:
        refuse_filled(path)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        yield hidden
        os.sync()  # one call: an export may be a million files
        hidden.rename(path)
        sync(path.parent)
    except BaseException as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise_if_full_within(error, path)
        raise
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def refuse_filled(path: Path) -> None:
    """Raises ``BadInput`` where anything but an empty folder is at ``path``."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise BadInput(f"{path}: is there and no empty folder; give --out another place")
