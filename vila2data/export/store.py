"""Images as files of an export, each content once."""

import errno
from hashlib import sha256
from pathlib import Path, PurePosixPath

from vila2data.corpus.names import key_fault, leaves_folder
from vila2data.files import inside, link_or_copy

from .row import Picture

_BY_CONTENT = "sha256"
_OF_OTHER_SYSTEMS = frozenset("\\:")  # a folder, a drive or a stream
_CANNOT_NAME = frozenset(
    {errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}
)


class ImageStore:
    """A folder of images; no name that a row holds leads out of it."""

    def __init__(self, folder: Path) -> None:
        """``folder``: is made with the first image."""
        self._folder = folder
        self.written = 0

    def place(self, picture: Picture) -> str:
        """The name of the picture below the folder, where its file then is.

        It is the source's name, or one made of the content's hash: where the source has none, where
        its name cannot be a file's below the folder, or is another image's already.
        """
        if picture.content is None:
            return str(picture.name)
        if picture.name is not None and self._put_by_name(picture.name, picture):
            return picture.name
        digest = sha256(picture.content).hexdigest()
        name = f"{_BY_CONTENT}/{digest[:2]}/{digest}.{picture.suffix}"
        if not (self._folder / name).is_file():
            self._write(self._folder / name, picture)
        return name

    def _put_by_name(self, name: str, picture: Picture) -> bool:
        """Whether ``name`` is now, or was already, the name of a file with that content."""
        target = inside(self._folder, name) if _is_plain(name) else None
        if target is None:
            return False
        try:
            if target.exists():
                return target.read_bytes() == picture.content
            self._write(target, picture)
        except OSError as error:
            if error.errno not in _CANNOT_NAME:
                raise
            return False
        return True

    def _write(self, target: Path, picture: Picture) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if picture.file is not None:
            link_or_copy(picture.file.resolve(), target)
        else:
            target.write_bytes(picture.content or b"")
        self.written += 1


def _is_plain(name: str) -> bool:
    """Whether any system takes the name for one and the same file below a folder."""
    spelled_out = name != "." and PurePosixPath(name).as_posix() == name
    ours = name.partition("/")[0] == _BY_CONTENT
    portable = key_fault(name) is None and _OF_OTHER_SYSTEMS.isdisjoint(name)
    return portable and spelled_out and not leaves_folder(name) and not ours
