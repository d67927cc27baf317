"""Where a sample's images lie, and their bytes."""

from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vila2data.corpus.images import ImageRefused, Problem
from vila2data.corpus.read import list_shards

ROW_IMAGES = -1
"""In place of a shard: the image stands in a row of the build itself."""


class Place(NamedTuple):
    """Where an image lies.

    Attributes:
        shard: position of the tar among the corpus's, or ``ROW_IMAGES``.
        start: first byte in the tar; or the row's number.
        size: bytes; or the image's position in the row.
        sha256: of the bytes, where the row tells it.
        width: in pixels, where the row tells it.
        height: in pixels, where the row tells it.
    """

    shard: int
    start: int
    size: int
    sha256: str | None = None
    width: int | None = None
    height: int | None = None


class ImageStore(Protocol):
    """Bytes of the images of one source."""

    def read(self, place: Place) -> bytes:
        """The image at ``place``.

        Raises:
            ImageRefused: the corpus holds other bytes there than when the build was made, or the
                row holds none.
        """


class CorpusStore:
    """Images in the tars of a corpus."""

    def __init__(self, corpus: Path) -> None:
        self._shards = list_shards(corpus)

    def read(self, place: Place) -> bytes:
        """The image at ``place``; see ``ImageStore``."""
        with self._shards[place.shard].open("rb") as file:
            file.seek(place.start)
            content = file.read(place.size)
        if place.sha256 is not None and sha256(content).hexdigest() != place.sha256:
            raise ImageRefused(
                Problem("image_changed", "is not the image that the row was made of")
            )
        return content


class RowStore:
    """Images in the rows of a build, read through the cache of `datasets`."""

    def __init__(self, build: Path, config: str, split: str) -> None:
        self._build, self._config, self._split = build, config, split

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k.startswith("_")}

    @cached_property
    def rows(self) -> Any:
        """The column of images, undecoded."""
        import datasets

        loaded = datasets.load_dataset(str(self._build), self._config, split=self._split)
        column = "images" if "images" in loaded.column_names else "image"
        kind = datasets.Image(decode=False)
        feature = datasets.List(kind) if column == "images" else kind
        return loaded.select_columns([column]).cast_column(column, feature)

    def read(self, place: Place) -> bytes:
        """The image at ``place``; see ``ImageStore``."""
        row = self.rows[place.start]
        held = row["images"][place.size] if "images" in row else row["image"]
        if held is None or held["bytes"] is None:
            raise ImageRefused(Problem("image_missing", f"row {place.start} holds no image"))
        content: bytes = held["bytes"]
        return content
