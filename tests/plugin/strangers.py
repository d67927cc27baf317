"""Makes what strangers send: tars with any members, images that lie."""

import io
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from vila2data.corpus.sources import SourceItem

Part = tuple[str, bytes] | tarfile.TarInfo
"""A member: name and content, or a header without content."""


def picture(number: int = 0, *, size: tuple[int, int] = (16, 12)) -> Image.Image:
    """A small picture, other pixels for other numbers."""
    return Image.linear_gradient("L").resize(size).rotate(number * 7).convert("RGB")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(number: int = 0, **options: object) -> bytes:
    """A small JPEG."""
    return encoded(picture(number), "JPEG", **options)


def huge_png(width: int = 50_000, height: int = 50_000) -> bytes:
    """A tiny file that says it is huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tar_of(path: Path, parts: Iterable[Part], *, format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of these members, whatever they are called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format, errors="surrogateescape") as tar:
        for part in parts:
            if isinstance(part, tarfile.TarInfo):
                tar.addfile(part)
            else:
                info = tarfile.TarInfo(part[0])
                info.size = len(part[1])
                tar.addfile(info, io.BytesIO(part[1]))
    return path


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    """The header of a link, a device or a pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sample(key: str, number: int = 0, text: str | bytes = "a text") -> list[Part]:
    """The members of a good sample."""
    content = text if isinstance(text, bytes) else text.encode()
    return [(f"{key}.jpg", jpeg(number)), (f"{key}.txt", content)]


def item(
    key: str, image: bytes | Path, text: str | bytes = "a text", **metadata: object
) -> SourceItem:
    """A sample to pack."""
    content = text if isinstance(text, bytes) else text.encode()
    return SourceItem(key, lambda: image, content, metadata)
