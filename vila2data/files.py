"""Files that appear whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from .errors import BadInput, RunFailed
from .storage import Place, RemotePath

_CHUNK_BYTES = 1 << 20
_FULL_SIGNS = ("No space left", "Not enough disk space")


@contextmanager
def appearing(path: Place) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; what was written there is synced and renamed at the
    end. Of a remote ``path`` it is a local one, which is uploaded at the end.

    A temporary file that an earlier, killed process left is overwritten. On an error nothing
    appears.

    Raises:
        RunFailed: the disk is full, or the storage failed.
    """
    if isinstance(path, RemotePath):
        with TemporaryDirectory(prefix="vila2data-") as folder:
            yield from _uploaded(Path(folder) / path.name, path)
        return
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise_if_full(error, path)
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _uploaded(temporary: Path, path: RemotePath) -> Iterator[Path]:
    try:
        yield temporary
        path.upload(temporary)
    except OSError as error:
        raise_if_full(error, temporary.parent)
        raise


def raise_if_full(error: OSError, path: Place) -> None:
    """Raises ``RunFailed`` with what to do where ``error`` means that no space is left."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise RunFailed(
            f"no space left while writing {path}; nothing finished is lost: "
            "free some space and run the same command again"
        ) from error


def raise_if_full_within(error: BaseException, target: Path) -> None:
    """Raises ``RunFailed`` where the disk was full: libraries wrap what the system said."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            raise_if_full(cause, target)
        if any(sign in str(cause) for sign in _FULL_SIGNS):
            raise_if_full(OSError(errno.ENOSPC, str(cause)), target)
        cause = cause.__cause__ or cause.__context__


def write_text(path: Place, text: str) -> None:
    """Writes a text file that appears whole."""
    with appearing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal, in constant memory."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Makes ``target`` another name of ``source``'s bytes, or a copy where the file system cannot
    link.
    """
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)


def inside(folder: Path, name: str) -> Path | None:
    """``folder / name`` where that stays in ``folder``, links followed; None where it leaves, or
    can be no path.
    """
    path = folder / name
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, NUL, no Unicode
        return None
    return path if stays and not PurePath(name).is_absolute() else None


def existing_folder(path: Path, what: str) -> Path:
    """``path``, checked to be a folder.

    Raises:
        BadInput: it is not.
    """
    if not path.is_dir():
        raise BadInput(f"{what}: {path} is no folder")
    return path
