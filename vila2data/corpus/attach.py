"""Joins images to captions on demand: caption tables carry none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .images import ImageLimits, decode
from .index import CorpusIndex

DatasetType = TypeVar("DatasetType")


class _Attach:
    """Adds images to a batch of rows; sent to workers as it is."""

    def __init__(self, index: CorpusIndex, column: str, limits: ImageLimits) -> None:
        self.index = index
        self.column = column
        self.limits = limits

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        identities = zip(batch["key"], batch["image_sha256"], strict=True)
        images = [decode(self.index.image(key, sha), self.limits) for key, sha in identities]
        return {**batch, self.column: images}


def attach_images(
    dataset: DatasetType,
    corpus: str | Path,
    *,
    column: str = "image",
    limits: ImageLimits | None = None,
    cache: Path | None = None,
) -> DatasetType:
    """The data set with a column of images, read from the corpus when a row is read.

    Works on map-style and on streaming data sets; nothing is copied or decoded beforehand. Images
    come as PIL, RGB and upright. A small index of the corpus is made once and kept in the user's
    cache folder.

    Args:
        dataset: rows with ``key`` and ``image_sha256``, such as any config of ``coyo-recap``.
        corpus: folder of tars that the data set was made from.
        column: name of the new column.
        limits: images beyond them are refused.
        cache: where the index is kept.

    Raises:
        CorpusError: ``corpus`` is none; or, when a row is read, does not hold the row's image.
        ImageRefused: when a row is read whose image cannot be decoded.

    Example:
        >>> rows = load_dataset("builds/coyo-recap/1.0.0", split="train")  # doctest: +SKIP
        >>> attach_images(rows, "corpora/mine")[0]["image"].size  # doctest: +SKIP
        (640, 480)
    """
    attach = _Attach(CorpusIndex(Path(corpus), cache=cache), column, limits or ImageLimits())
    streaming: Any = dataset
    if hasattr(streaming, "with_transform"):
        attached: DatasetType = streaming.with_transform(attach)
    else:
        attached = streaming.map(attach, batched=True, batch_size=16)
    return attached
