"""A file or folder that fsspec reaches, with the calls of ``pathlib.Path`` that the core uses.

Every call is one request where the storage allows it, and is repeated where the storage fails. What
a listing told travels with the paths it gave, so that nothing is asked twice.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from vila2data.errors import BadInput, MissingExtra

from .attempts import persistently

BLOCK_BYTES = 8 * 1024 * 1024
"""Read by one request of a file that is streamed, and held in memory."""

_LOCAL = frozenset({"", "file", "local"})
_EXTRAS = {"s3": "s3", "s3a": "s3"}
# Their objects appear with the last byte or not at all; elsewhere a file is renamed at its end.
_WHOLE = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "obs", "oci", "r2", "memory"}
)
_STAMPS = ("ETag", "etag", "md5", "md5Hash", "crc32c", "content_settings_md5")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a storage told of a file: its size, and what changes with its content."""

    size: int
    stamp: str
    is_file: bool


@dataclass(frozen=True, order=True, slots=True)
class RemotePath:
    """A place that fsspec reaches, by its URL."""

    url: str
    listed: Listed | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    def as_posix(self) -> str:
        """The URL."""
        return self.url

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> "RemotePath":
        """What stands before the last slash."""
        return RemotePath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Another one in the same folder."""
        return self.parent / name

    @property
    def protocol(self) -> str:
        """What stands before ``://``."""
        return self.url.partition("://")[0]

    def system(self) -> tuple[Any, str]:
        """The file system of fsspec, and the name of this place there.

        Found anew at each call: it must not be carried to another process or over a fork, which
        fsspec sees to.

        Raises:
            MissingExtra: a package is missing.
            BadInput: fsspec knows no such storage.
        """
        import fsspec

        try:
            # A listing that is kept would hide what other processes wrote.
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            raise MissingExtra(f"{self.url}: {_missing(self.protocol, error)}") from error
        except ValueError as error:
            raise BadInput(f"{self.url}: {error}") from error
        return found

    def status(self) -> Listed:
        """Size and stamp: as it was listed, else by a request.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if self.listed is not None:
            return self.listed
        system, path = self.system()
        return _listed(persistently(self, lambda: system.info(path)))

    def is_file(self) -> bool:
        """Whether there is a file; without a request where it was listed."""
        try:
            return self.status().is_file
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether there is a folder; on an object storage, whether something is in it."""
        system, path = self.system()
        return bool(persistently(self, lambda: system.isdir(path)))

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """What a folder holds under such names, by one listing; nothing where there is none."""
        system, path = self.system()
        try:
            entries = persistently(self, lambda: system.ls(path, detail=True))
        except FileNotFoundError:
            return
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if fnmatchcase(name, pattern):
                yield RemotePath(f"{self.url}/{name}", _listed(entry))

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """For reading, by requests of ``BLOCK_BYTES``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if mode != "rb":
            raise ValueError(f"{self.url}: is opened for reading bytes alone, not '{mode}'")
        return cast(BinaryIO, io.BufferedReader(_Blocks(self, self.status().size), BLOCK_BYTES))

    def read_bytes(self, *, tries: int | None = None) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: there is no such file.
        """
        system, path = self.system()
        return bytes(persistently(self, lambda: system.cat_file(path), tries=tries))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes, *, tries: int | None = None) -> None:
        """Writes a small file, over one that is there."""
        system, path = self.system()
        self._in_folder(lambda: system.pipe_file(path, content), tries=tries)

    def create(self, content: bytes) -> bool:
        """Writes a small file where there is none; whether it is there now with this content.

        Where the answer to a write was lost, the content tells who wrote.
        """
        try:
            self._create(content)
        except FileExistsError:
            try:
                return self.read_bytes() == content
            except FileNotFoundError:
                return False
        return True

    def is_kept(self, content: bytes) -> bool:
        """Whether a second ``create`` of this file, which is there with ``content``, is refused:
        some storages ignore the condition.
        """
        try:
            self._create(content)
        except FileExistsError:
            return True
        return False

    def _create(self, content: bytes) -> None:
        system, path = self.system()

        def write() -> None:
            try:
                system.pipe_file(path, content, mode="create")
            except (NotImplementedError, TypeError):
                if system.exists(path):
                    raise FileExistsError(path) from None
                system.pipe_file(path, content)

        self._in_folder(write)

    def upload(self, file: Path) -> None:
        """Puts the content of a local file here; it appears whole."""
        system, path = self.system()
        if self.protocol in _WHOLE:
            self._in_folder(lambda: system.put_file(str(file), path))
            return
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.{name}.partial"

        def put() -> None:
            system.put_file(str(file), partial)
            system.mv(partial, path)

        self._in_folder(put)

    def unlink(self, *, missing_ok: bool = False, tries: int | None = None) -> None:
        """Removes a file.

        Raises:
            FileNotFoundError: there is none, and it must not be missing.
        """
        system, path = self.system()
        try:
            persistently(self, lambda: system.rm_file(path), tries=tries)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _in_folder(self, write: Any, *, tries: int | None = None) -> None:
        try:
            persistently(self, write, tries=tries)
        except FileNotFoundError as error:
            if self.protocol in _WHOLE - {"memory"}:
                raise BadInput(f"{self.url}: no such bucket: {error}") from error
            system, path = self.system()
            persistently(self, lambda: system.makedirs(path.rpartition("/")[0], exist_ok=True))
            persistently(self, write, tries=tries)


class _Blocks(io.RawIOBase):
    """Reads ranges of a file."""

    def __init__(self, place: RemotePath, size: int) -> None:
        super().__init__()
        self._place = place
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        start, stop = self._position, min(self._position + len(buffer), self._size)
        if start >= stop:
            return 0
        system, path = self._place.system()

        def ask() -> bytes:
            found = bytes(system.cat_file(path, start=start, end=stop))
            if len(found) != stop - start:
                raise OSError(f"gave {len(found)} bytes of {stop - start}")
            return found

        content = persistently(self._place, ask)
        buffer[: len(content)] = content
        self._position = stop
        return len(content)


def place_of(text: str) -> Path | RemotePath:
    """The place that a text names: a URL that fsspec knows, else a local path.

    Raises:
        BadInput: the URL cannot be used.
        MissingExtra: a package for it is missing.
    """
    protocol, separator, rest = text.partition("://")
    if not separator or protocol in _LOCAL:
        return Path(rest if separator else text)
    if "::" in text:
        raise BadInput(f"{text}: URLs within URLs are not read; give the inner one")
    if "@" in urlsplit(text).netloc and ":" in urlsplit(text).netloc.partition("@")[0]:
        raise BadInput(f"{protocol}://: holds a password: credentials come from the environment")
    if not rest.strip("/") or ".." in rest.split("/"):
        raise BadInput(f"{text}: must name a folder, without '..'")
    import fsspec

    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise MissingExtra(f"{text}: {_missing(protocol, error)}") from error
    except ValueError as error:
        raise BadInput(f"{text}: {error}") from error
    return RemotePath(text.rstrip("/"))


def _missing(protocol: str, error: ImportError) -> str:
    extra = _EXTRAS.get(protocol)
    return f"pip install 'vila2data[{extra}]'" if extra else str(error)


def _listed(entry: dict[str, Any]) -> Listed:
    told = next((entry[name] for name in (*_STAMPS, *_TIMES) if entry.get(name)), "")
    stamp = told.isoformat() if hasattr(told, "isoformat") else str(told).strip('"')
    return Listed(int(entry.get("size") or 0), stamp, entry.get("type") == "file")
