"""Streams a corpus: WebDataset tars in img2dataset's layout, sample by sample, in order.

Nothing in a tar is trusted. Members that are no plain files, whose names leave the folder, or that
are too large are never read; a sample with such a member comes out with a problem instead of an
exception.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from vila2data.errors import CorpusError

from .images import ImageHeader, ImageLimits, ImageRefused, Problem, read_header

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on what is read of one sample."""

    image: ImageLimits = field(default_factory=ImageLimits)
    max_text_bytes: int = 64 * 1024


@dataclass(frozen=True)
class Sample:
    """One image with its text.

    ``problem`` says why the image cannot be used (``image`` is then empty), ``text_problem`` why
    the text cannot (``text`` is then ""). ``index`` counts the samples of a shard from 0.
    """

    key: str
    shard: str
    index: int
    image: bytes = b""
    suffix: str = ""
    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    header: ImageHeader | None = None
    problem: Problem | None = None
    text_problem: Problem | None = None

    @cached_property
    def image_sha256(self) -> str | None:
        """Identity of the image: hash of its bytes as stored; None where they could not be read."""
        return sha256(self.image).hexdigest() if self.image else None

    @property
    def url(self) -> str | None:
        """Where the image came from, as its metadata says."""
        url = self.metadata.get("url")
        return url if isinstance(url, str) else None

    @property
    def id(self) -> int | None:
        """The COYO id, where the metadata has one that fits 64 bits."""
        value = self.metadata.get("id")
        is_id = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INT64_MAX
        return value if is_id else None


def list_shards(corpus: Path) -> list[Path]:
    """The tars of a corpus, in order of name.

    Raises:
        CorpusError: the folder does not exist or holds no tar.
    """
    if not corpus.is_dir():
        raise CorpusError(f"{corpus}: no such folder; `vila2data corpus pack` makes a corpus")
    shards = sorted(corpus.glob("*.tar"))
    if not shards:
        raise CorpusError(f"{corpus}: holds no .tar shards; `vila2data corpus pack` makes a corpus")
    return shards


def read_corpus(
    corpus: Path, *, shards: Sequence[int] | None = None, limits: ReadLimits | None = None
) -> Iterator[Sample]:
    """Samples of a corpus in order, one in memory at a time.

    Args:
        corpus: folder of tars.
        shards: positions in ``list_shards``; all where None.
        limits: bounds on each sample; the defaults where None.
    """
    found = list_shards(corpus)
    for position in range(len(found)) if shards is None else shards:
        yield from read_shard(found[position], limits=limits)


def read_shard(shard: Path, *, limits: ReadLimits | None = None) -> Iterator[Sample]:
    """Samples of one tar in order.

    Members of one key stand side by side, as WebDataset demands; a key that comes back later is a
    sample of its own, for the duplicate check to find. A tar that ends early gives a last sample,
    keyed by the shard's name, whose problem is ``shard_truncated``.
    """
    limits = limits or ReadLimits()
    group: _Group | None = None
    index = 0
    for key, suffix, content in _members(shard, limits):
        if group is not None and (group.key != key or suffix in group.parts):
            yield group.sample(shard.name, index, limits)
            index += 1
            group = None
        group = group or _Group(key)
        group.parts[suffix] = content
    if group is not None:
        yield group.sample(shard.name, index, limits)


def _members(shard: Path, limits: ReadLimits) -> Iterator[tuple[str, str, bytes | Problem]]:
    """(key, suffix, content or problem) of each member."""
    try:
        with tarfile.open(shard, "r:") as tar, shard.open("rb") as raw:
            for member in tar:
                # The list of members that tarfile keeps would grow with the shard.
                tar.members.clear()  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                key, suffix = split_name(member.name)
                yield key, suffix, _content(raw, member, suffix, limits)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the tar's
        yield shard.name, "", Problem("shard_truncated", str(error))


def _content(raw: Any, member: tarfile.TarInfo, suffix: str, limits: ReadLimits) -> bytes | Problem:
    problem = member_problem(member, suffix, limits)
    if problem is not None:
        return problem
    raw.seek(member.offset_data)
    content: bytes = raw.read(member.size)
    if len(content) < member.size:
        return Problem("shard_truncated", f"{len(content)} of {member.size} bytes of {member.name}")
    return content


def member_problem(member: tarfile.TarInfo, suffix: str, limits: ReadLimits) -> Problem | None:
    """Why a member of a tar must not be read, judged by its header alone."""
    if not member.isreg():
        return Problem("member_not_a_file", f"{member.name} is a link or a device")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return Problem("member_name_unsafe", member.name)
    if suffix in IMAGE_SUFFIXES and member.size > limits.image.max_bytes:
        detail = f"{member.size} bytes, at most {limits.image.max_bytes}"
        return Problem("image_too_many_bytes", detail)
    if suffix not in IMAGE_SUFFIXES and member.size > limits.max_text_bytes:
        return Problem("text_too_long", f"{member.size} bytes, at most {limits.max_text_bytes}")
    return None


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


@dataclass(slots=True)
class _Group:
    """The members of one key, in the order they came."""

    key: str
    parts: dict[str, bytes | Problem] = field(default_factory=dict)

    def sample(self, shard: str, index: int, limits: ReadLimits) -> Sample:
        metadata = self._metadata()
        text, text_problem = self._text(metadata, limits)
        suffix, image, header, problem = self._image(limits)
        return Sample(
            key=self.key,
            shard=shard,
            index=index,
            image=image,
            suffix=suffix,
            text=text,
            metadata=metadata,
            header=header,
            problem=problem,
            text_problem=text_problem,
        )

    def _image(self, limits: ReadLimits) -> tuple[str, bytes, ImageHeader | None, Problem | None]:
        suffix = next((s for s in self.parts if s in IMAGE_SUFFIXES), "")
        content = self.parts.get(suffix)
        if content is None:
            return "", b"", None, Problem("image_missing", "no image member")
        if isinstance(content, Problem):
            return suffix, b"", None, content
        try:
            return suffix, content, read_header(content, limits.image), None
        except ImageRefused as refused:
            return suffix, content, None, refused.problem

    def _metadata(self) -> dict[str, Any]:
        content = self.parts.get("json")
        if not isinstance(content, bytes):
            return {}
        try:
            metadata = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return metadata if isinstance(metadata, dict) else {}

    def _text(self, metadata: dict[str, Any], limits: ReadLimits) -> tuple[str, Problem | None]:
        content = self.parts.get("txt")
        if content is None:
            caption = metadata.get("caption")
            content = caption.encode("utf-8", "surrogatepass") if isinstance(caption, str) else b""
        if isinstance(content, Problem):
            return "", content
        return checked_text(content, limits)


def checked_text(content: bytes, limits: ReadLimits) -> tuple[str, Problem | None]:
    """The text of a sample, or "" and why it cannot be used."""
    if len(content) > limits.max_text_bytes:
        detail = f"{len(content)} bytes, at most {limits.max_text_bytes}"
        return "", Problem("text_too_long", detail)
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        return "", Problem("text_not_utf8", f"byte {error.start}: {error.reason}")
    return (text, None) if text else ("", Problem("text_missing", "no text"))
