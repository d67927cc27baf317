"""What a format is to the rest of the package."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from .row import Row

FROM = {"user": "human", "assistant": "gpt"}
"""Who speaks, as LLaVA's files and those of ShareGPT call it."""

WriteRow = Callable[[Row], None]


@dataclass(slots=True)
class Target:
    """Where a format writes, and what it tells of that.

    Attributes:
        folder: is there, and empty.
        name: of data set and config, in letters that any file and any YAML key takes.
        version: of the build.
        identity: hash of the build's manifest and the config.
        max_shard_bytes: of files that come in several.
        verbatim: the source's own texts, where what acts as a special token was made inert.
        images: that were written, told at the end.
        members: suffixes of the members that samples in tars have, told at the end.
    """

    folder: Path
    name: str
    version: str
    identity: str
    max_shard_bytes: int
    verbatim: bool = False
    images: int = 0
    members: set[str] = field(default_factory=set)


Writer = Callable[[Target], AbstractContextManager[WriteRow]]
"""Opens the files of a format; they are whole when the context ends without an error."""


def turns_of(row: Row) -> list[dict[str, str]]:
    """The turns as LLaVA and ShareGPT spell them."""
    return [{"from": FROM[m["role"]], "value": m["content"]} for m in row.messages]
