"""Reads the headers of a tar that is not trusted.

``tarfile`` ends without a word at a damaged header and at a missing end, reads extended headers of
any size into memory, and takes half of the time that reading a corpus may take; this reads what
image-text shards hold (ustar, GNU long names, pax) and says what is wrong with the rest.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_EXTENDED_BYTES = 1 << 20
_FOLDER, _SPARSE, _LONG_NAME, _LONG_LINK = b"5", b"S", b"L", b"K"
_PAX, _PAX_OF_ALL = (b"x", b"X"), b"g"
_WITHOUT_CONTENT = frozenset(b"123456")  # links, devices, folders: their size says nothing
_PLAIN = frozenset({b"0", b"\0", b"7"})
_GZIP = b"\x1f\x8b"


class TarDamaged(Exception):
    """The rest of a tar cannot be read. ``early`` where it just ends too early."""

    def __init__(self, detail: str, *, early: bool = False) -> None:
        super().__init__(detail)
        self.early = early


@dataclass(frozen=True, slots=True)
class Member:
    """One member; ``fault`` says why its content must not be read, "" where it may be.

    ``complete`` is False where the tar ends within the content.
    """

    name: str
    start: int
    size: int
    fault: str = ""
    complete: bool = True


def members_of(file: BinaryIO) -> Iterator[Member]:
    """Members in order, folders left out; the file's position may be moved between them.

    Raises:
        TarDamaged: after the last member that can be found, where the tar does not end as it
            should.
    """
    end = file.seek(0, os.SEEK_END)
    position = 0
    extended: dict[bytes, bytes] = {}
    of_all: dict[bytes, bytes] = {}
    while True:
        file.seek(position)
        header = file.read(_BLOCK)
        if header == _ZEROS:
            return
        _check_header(header, position)
        kind = header[156:157]
        size = 0 if kind[0] in _WITHOUT_CONTENT else _number(header[124:136], position)
        position += _BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX_OF_ALL, *_PAX):
            found = _extended(file, kind, size)
            (of_all if kind == _PAX_OF_ALL else extended).update(found)
        else:
            told = {**of_all, **extended}
            extended = {}
            if kind == _SPARSE:
                position = _after_sparse_map(file, header, position)
            if b"size" in told and kind[0] not in _WITHOUT_CONTENT:
                size = _pax_size(told[b"size"], position)
            member = Member(
                _name(header, told), position, size, _fault(kind, told), position + size <= end
            )
            if kind != _FOLDER and not (kind == b"\0" and member.name.endswith("/")):
                yield member
        position += -(-size // _BLOCK) * _BLOCK
        if position > end:
            raise TarDamaged(f"ends at byte {end}, within a member", early=True)


def _check_header(header: bytes, position: int) -> None:
    if position == 0 and header[:2] == _GZIP:
        raise TarDamaged("is compressed with gzip: unpack it first")
    if len(header) < _BLOCK:
        what = "is empty" if position == 0 and not header else "ends without an end mark"
        raise TarDamaged(f"{what}, at byte {position + len(header)}", early=True)
    # The checksum is taken with blanks in its own place.
    if _number(header[148:156], position) != sum(header) - sum(header[148:156]) + 8 * 32:
        raise TarDamaged(f"byte {position}: {'no header' if position else 'is no tar'}")


def _number(field: bytes, position: int) -> int:
    if field[0] == 0x80:  # GNU's form for sizes from 8 GiB
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    if not digits:
        return 0
    what = "a header with a broken number" if position else "is no tar"
    raise TarDamaged(f"byte {position}: {what}")


def _extended(file: BinaryIO, kind: bytes, size: int) -> dict[bytes, bytes]:
    """What an extended header says of the next member, or of all that follow, as pax records."""
    if size > _MAX_EXTENDED_BYTES:
        return {b"too large": b""}
    content = file.read(size)
    if kind == _LONG_NAME:
        return {b"path": content.partition(b"\0")[0]}
    return {} if kind == _LONG_LINK else _pax_records(content)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Records ``LENGTH KEY=VALUE`` and a line feed; what follows a broken one is left out, and
    said.
    """
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(content) and content[start]:
        blank = content.find(b" ", start, start + 12)
        digits = content[start:blank] if blank > 0 else b""
        stop = start + int(digits) if digits.isdigit() else 0
        key, equals, value = content[blank + 1 : stop].partition(b"=")
        if not equals or stop > len(content) or not value.endswith(b"\n"):
            return {**records, b"broken": b""}
        records[key] = value[:-1]
        start = stop
    return records


def _pax_size(value: bytes, position: int) -> int:
    if value.isdigit() and len(value) < 20:
        return int(value)
    raise TarDamaged(f"byte {position}: a pax header with a broken size")


def _after_sparse_map(file: BinaryIO, header: bytes, position: int) -> int:
    """Where the content of an old GNU sparse member starts: its map may go on in further blocks."""
    goes_on = header[482]
    while goes_on:
        file.seek(position)
        block = file.read(_BLOCK)
        position += _BLOCK
        goes_on = block[504] if len(block) == _BLOCK else 0
    return position


def _name(header: bytes, told: dict[bytes, bytes]) -> str:
    name = told.get(b"path")
    if name is None:
        name = header[:100].partition(b"\0")[0]
        prefix = header[345:500].partition(b"\0")[0]
        if prefix and header[257:263] == b"ustar\0":  # GNU's headers keep other things there
            name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _fault(kind: bytes, told: dict[bytes, bytes]) -> str:
    if kind not in _PLAIN:
        return "is sparse" if kind == _SPARSE else "is a link or a device"
    if not told:
        return ""
    if b"too large" in told or b"broken" in told:
        return "has a broken extended header"
    return "is sparse" if any(key.startswith(b"GNU.sparse") for key in told) else ""
