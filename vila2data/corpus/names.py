"""Names from strangers: what a member of a tar, or a file, may be called."""

import re
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
"""Suffixes of members and files that are taken for images."""

_MAX_KEY_CHARS = 1000
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: the suffix starts at the first dot of the base name, as in
    WebDataset.

    Example:
        >>> split_name("00000/000000042.seg.png")
        ('00000/000000042', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def key_of(name: str) -> str:
    """The corpus key of an image's relative path: without suffix, folders and dots joined by
    underscores.

    Example:
        >>> key_of("train/000000000790.v2.jpg")
        'train_000000000790_v2'
    """
    stem = name.rpartition(".")[0] if name.rpartition(".")[2].lower() in IMAGE_SUFFIXES else name
    return stem.replace("\\", "/").strip("/").replace("/", "_").replace(".", "_")


def printable(text: str, *, max_chars: int = _MAX_KEY_CHARS) -> str:
    r"""``text`` in one line that any terminal and any table takes, cut where it is very long.

    Bytes that were no UTF-8, and control characters, stand as escapes.

    Example:
        >>> printable("a\x00b")
        'a\\x00b'
    """
    if len(text) <= max_chars and text.isascii() and text.isprintable():
        return text
    escaped = _UNPRINTABLE.sub(_escape, text[:max_chars])
    return escaped[: max_chars - 1] + "…" if len(text) > max_chars else escaped[:max_chars]


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


def key_fault(key: str) -> str | None:
    """Why ``key`` cannot name a sample, None where it can."""
    if key.isascii() and key.isprintable() and 0 < len(key) <= _MAX_KEY_CHARS:
        return None  # the common case, without a regular expression
    if not key:
        return "is empty"
    if len(key) > _MAX_KEY_CHARS:
        return f"has {len(key)} characters, at most {_MAX_KEY_CHARS}"
    return "holds control characters or is no UTF-8" if _UNPRINTABLE.search(key) else None


def leaves_folder(name: str) -> bool:
    """Whether a path is absolute or climbs, in the spelling of any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
