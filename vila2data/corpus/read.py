"""Streams a corpus: WebDataset tars in img2dataset's layout, sample by sample, in order.

Nothing in a tar is trusted. Members that are no plain files, whose names leave the folder, or that
are too large are never read; a sample with such a member comes out with a problem instead of an
exception.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, BinaryIO, TypeVar

from vila2data.errors import CorpusError
from vila2data.storage import Place

from .images import ImageHeader, ImageLimits, ImageRefused, Problem, read_header
from .names import IMAGE_SUFFIXES, key_fault, leaves_folder, printable, split_name
from .tar import Member, TarDamaged, members_of

PlaceType = TypeVar("PlaceType", bound=Place)

_INT64_MAX = 2**63 - 1
_MAX_URL_CHARS = 8192
_BUFFER_BYTES = 1 << 18
_USED_SUFFIXES = IMAGE_SUFFIXES | {"txt", "json"}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")  # not those that count as white space


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on what is read of one sample."""

    image: ImageLimits = field(default_factory=ImageLimits)
    max_text_bytes: int = 64 * 1024
    max_metadata_bytes: int = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """One image with its text.

    ``problem`` says why the sample cannot be used (``image`` is then empty, or what could be read
    of it), ``text_problem`` why the text cannot (``text`` is then ""), ``metadata_problem`` why
    the metadata cannot (``metadata`` is then empty). ``index`` counts the samples of a shard from
    0.
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
    metadata_problem: Problem | None = None

    @cached_property
    def image_sha256(self) -> str | None:
        """Identity of the image: hash of its bytes as stored; None where they could not be read."""
        return sha256(self.image).hexdigest() if self.image else None

    @property
    def url(self) -> str | None:
        """Where the image came from, as its metadata says."""
        return url_in(self.metadata)

    @property
    def id(self) -> int | None:
        """The COYO id, where the metadata has one that fits 64 bits."""
        return id_in(self.metadata)


def url_in(metadata: Mapping[str, Any]) -> str | None:
    """The address that metadata tells; None where it is none, or cannot be written down."""
    url = metadata.get("url")
    is_url = isinstance(url, str) and len(url) <= _MAX_URL_CHARS and _is_unicode(url)
    return url if is_url else None


def id_in(metadata: Mapping[str, Any]) -> int | None:
    """The COYO id that metadata tells; None where it has none that fits 64 bits."""
    value = metadata.get("id")
    is_id = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INT64_MAX
    return value if is_id else None


def list_shards(corpus: PlaceType) -> list[PlaceType]:
    """The tars of a corpus, in order of name.

    Raises:
        CorpusError: the folder does not exist or holds no tar.
    """
    found: Iterator[Any] = corpus.glob("*.tar")
    shards: list[PlaceType] = sorted(
        path for path in found if not path.name.startswith(".") and path.is_file()
    )
    if shards:
        return shards
    what = "holds no .tar shards" if corpus.is_dir() else "no such folder"
    raise CorpusError(f"{corpus}: {what}; `vila2data corpus pack` makes a corpus")


def read_corpus(
    corpus: Place, *, shards: Sequence[int] | None = None, limits: ReadLimits | None = None
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


def read_shard(
    shard: Place, *, limits: ReadLimits | None = None, only: Container[int] | None = None
) -> Iterator[Sample]:
    """Samples of one tar in order.

    Members of one key stand side by side, as WebDataset demands; a key that comes back later is a
    sample of its own, for the duplicate check to find. A tar that ends early, or is damaged, gives
    a last sample, keyed by the shard's name, whose problem is ``shard_truncated`` or
    ``shard_damaged``.

    Args:
        shard: the tar.
        limits: bounds on each sample; the defaults where None.
        only: the ``index`` of each sample that is wanted, all where None; the others cost little.
    """
    limits = limits or ReadLimits()
    group: _Group | None = None
    index = 0
    with shard.open("rb", buffering=_BUFFER_BYTES) as file:
        for key, suffix, content in _contents(file, shard, limits):
            if group is not None and (group.key != key or suffix in group.parts):
                if only is None or index in only:
                    yield group.sample(shard.name, index, limits)
                index += 1
                group = None
            group = group or _Group(key)
            group.parts[suffix] = content
    if group is not None and (only is None or index in only):
        yield group.sample(shard.name, index, limits)


def _contents(
    file: BinaryIO, shard: Place, limits: ReadLimits
) -> Iterator[tuple[str, str, bytes | Problem]]:
    """(key, suffix, content or problem) of each member."""
    try:
        for member in members_of(file):
            key, suffix = split_name(member.name)
            problem = member_problem(member, suffix, limits)
            if problem is not None:
                yield key, suffix, problem
            elif suffix in _USED_SUFFIXES:
                file.seek(member.start)
                yield key, suffix, file.read(member.size)
            else:
                yield key, suffix, b""
    except TarDamaged as damage:
        reason = "shard_truncated" if damage.early else "shard_damaged"
        yield shard.name, "", Problem(reason, str(damage))


def member_problem(member: Member, suffix: str, limits: ReadLimits) -> Problem | None:
    """Why a member of a tar must not be read, judged by its header alone."""
    if member.fault:
        return Problem("member_not_a_file", f"{member.name} {member.fault}")
    if (".." in member.name or member.name[:1] in "/\\") and leaves_folder(member.name):
        return Problem("member_name_unsafe", member.name)
    if not member.complete:
        return Problem("shard_truncated", f"ends within {member.name}")
    if suffix in IMAGE_SUFFIXES:
        most, reason = limits.image.max_bytes, "image_too_many_bytes"
    elif suffix == "json":
        most, reason = limits.max_metadata_bytes, "metadata_too_long"
    else:
        most, reason = limits.max_text_bytes, "text_too_long"
    return Problem(reason, f"{member.size} bytes, at most {most}") if member.size > most else None


@dataclass(slots=True)
class _Group:
    """The members of one key, in the order they came."""

    key: str
    parts: dict[str, bytes | Problem] = field(default_factory=dict)

    def sample(self, shard: str, index: int, limits: ReadLimits) -> Sample:
        metadata, metadata_problem = self._metadata()
        text, text_problem = self._text(metadata, limits)
        suffix, image, header, problem = self._image(limits)
        fault = key_fault(self.key)
        if fault is not None and problem is None:
            problem = Problem("key_unusable", f"the key {fault}")
        return Sample(
            key=printable(self.key) if fault else self.key,
            shard=shard,
            index=index,
            image=image,
            suffix=suffix,
            text=text,
            metadata=metadata,
            header=header,
            problem=problem,
            text_problem=text_problem,
            metadata_problem=metadata_problem,
        )

    def _image(self, limits: ReadLimits) -> tuple[str, bytes, ImageHeader | None, Problem | None]:
        suffix = next((s for s in self.parts if s in IMAGE_SUFFIXES), "")
        content = self.parts.get(suffix)
        if suffix == "":
            others = (part for part in self.parts.values() if isinstance(part, Problem))
            problem = next(others, Problem("image_missing", "no image member"))
            return "", b"", None, problem
        if not isinstance(content, bytes):
            return suffix, b"", None, content
        try:
            return suffix, content, read_header(content, limits.image), None
        except ImageRefused as refused:
            return suffix, content, None, refused.problem

    def _metadata(self) -> tuple[dict[str, Any], Problem | None]:
        content = self.parts.get("json")
        if not isinstance(content, bytes):
            return {}, content
        try:
            metadata = json.loads(content)
        except (ValueError, RecursionError) as error:
            return {}, Problem("metadata_unreadable", f"{type(error).__name__}: {error}")
        if not isinstance(metadata, dict):
            return {}, Problem("metadata_unreadable", "is no JSON object")
        return metadata, None

    def _text(self, metadata: dict[str, Any], limits: ReadLimits) -> tuple[str, Problem | None]:
        content = self.parts.get("txt")
        if self.parts.keys() == {""}:
            return "", None  # what is wrong here is no missing text: a damaged shard, a stray link
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
    if found := _CONTROL.search(text):
        return "", Problem("text_control_characters", f"{found.group()!r} at {found.start()}")
    return (text, None) if text else ("", Problem("text_missing", "no text"))


def _is_unicode(text: str) -> bool:
    """Whether ``text`` can be encoded; JSON can spell halves of surrogate pairs, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
