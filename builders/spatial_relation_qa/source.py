"""What a reader of a source's files is: a block of the recipe that can read what it names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from vila2data.files import inside
from vila2data.recipe import Block, RecipePath

from .scene import Scene, Unread


class SourceBlock(Block):
    """What the recipe says of every source; each layout adds its own keys and its ``layout``."""

    name: str = Field(
        pattern=r"^[\w.-]+$", description="the column `source`, and the start of each row's id"
    )
    path: RecipePath = Field(description="file or folder of the annotations")


class Source(Protocol):
    """One source. The docstring of each class states its files' dimension order, origin and frame,
    and how they become the camera's.
    """

    @property
    def name(self) -> str:
        """The column ``source``."""
        ...

    @property
    def layout(self) -> str:
        """What a recipe chooses it by."""
        ...

    def problems(self) -> list[str]:
        """What keeps it from being read that the recipe's text does not show, such as a missing
        file; each begins with the key: ``path: FILE: no such file``.
        """
        ...

    def scenes(self, work: Path) -> Iterator[Scene | Unread]:
        """Every scene once, in an order that depends on the files alone, in bounded memory.

        One bad scene is an ``Unread``, one bad number a NaN; neither ends the reading.

        Args:
            work: an empty folder for what does not fit into memory; gone afterwards.

        Raises:
            BadInput: a file as a whole cannot be read; in one line, with the file and the place.
        """
        ...

    def image(self, name: str) -> bytes | None:
        """The bytes of ``Scene.image``; None where there is no such image."""
        ...

    def fingerprint(self) -> Mapping[str, Any]:
        """What the manifest says of the files: how many, how many bytes, and a hash."""
        ...


def image_in(folder: Path, name: str) -> bytes | None:
    """The bytes of the file ``name`` in ``folder``; None where it is not there or leaves it."""
    file = inside(folder, name)
    try:
        return file.read_bytes() if file is not None else None
    except (OSError, ValueError):  # none there, a folder, a name that can be none
        return None
