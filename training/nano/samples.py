"""Scenes as the foundation is trained on them."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vila2data.build.manifest import read_manifest
from vila2data.corpus.index import CorpusIndex
from vila2data.errors import BadInput
from vila2data.keyed import keyed_hash

from .patches import Names, PatchTargets, patch_targets
from .texts import Named, Piece, listed, looked_up, named

if TYPE_CHECKING:
    import torch

_LISTED = 0.4  # share of samples that list all objects
_TEXTS_KEPT = 1 << 18
_FACTS_KEPT = 1 << 15
_IGNORED = -100  # the label that no loss is taken of


@dataclass(frozen=True, slots=True)
class Sample:
    """One scene in one epoch."""

    image: Image.Image
    pieces: Sequence[Piece]
    targets: PatchTargets


def scene_rows(build: Path, config: str = "train") -> list[dict[str, Any]]:
    """The rows of a config of a build of ``scenes``.

    Raises:
        BadInput: it is another data set, or empty.
    """
    import pyarrow.parquet as pq

    manifest = read_manifest(build)
    if manifest.data_set != "scenes":
        raise BadInput(f"{build}: is a build of {manifest.data_set}, not of scenes")
    files = [build / file.path for file in manifest.files_of(config)]
    rows: list[dict[str, Any]] = [row for file in files for row in pq.read_table(file).to_pylist()]
    if not rows:
        raise BadInput(f"{build}: config '{config}' has no rows")
    return rows


class Samples:
    """Each scene once an epoch, in an order drawn for it, half of them mirrored.

    Every draw is keyed by seed and position, so that a run can go on anywhere.
    """

    def __init__(self, build: Path, corpus: Path, grid: int, config: str = "train") -> None:
        """Reads the rows; images are read when they are asked for. One epoch, seed 0.

        Raises:
            BadInput: the build is none of ``scenes``, or the corpus lacks an image of it.
        """
        self.rows = scene_rows(build, config)
        self._index = CorpusIndex(corpus)
        places = self._index.locate(row["key"] for row in self.rows)
        missing = next((row["key"] for row in self.rows if row["key"] not in places), None)
        if missing is not None:
            raise BadInput(f"{corpus}: has no image of the scene {missing} of {build}")
        self._places = {row["key"]: places[row["key"]][0] for row in self.rows}
        self.names = Names.of(self.rows)
        self._grid, self._count, self._seed = grid, len(self.rows), 0
        # A scene comes again epoch after epoch; what is known of it takes some kilobytes.
        self._facts = lru_cache(maxsize=_FACTS_KEPT)(self._computed)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def drawn(self, count: int, seed: int) -> "Samples":
        """The same scenes, ``count`` samples of them drawn by ``seed``."""
        other = copy(self)
        other._count, other._seed, other._epoch = count, seed, -1
        return other

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> Sample:
        epoch, place = divmod(position, len(self.rows))
        number = int(self._ordered(epoch)[place])
        rng = np.random.default_rng(keyed_hash(self._seed, position, "sample"))
        row, mirrored = self.rows[number], bool(rng.random() < 0.5)
        things, targets = self._facts(number, mirrored)
        pieces = listed(things) if rng.random() < _LISTED else looked_up(things, rng)
        image = self.image(row["key"])
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return Sample(image, pieces, targets)

    def _computed(self, number: int, mirrored: bool) -> tuple[list[Named], PatchTargets]:
        row = self.rows[number]
        targets = patch_targets(row, self.names, self._grid, mirrored=mirrored)
        return named(row, mirrored=mirrored), targets

    def image(self, key: str) -> Image.Image:
        """The image of a scene."""
        return Image.open(BytesIO(self._index.read(self._places[key]))).convert("RGB")

    def _ordered(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        if epoch != self._epoch:
            rng = np.random.default_rng(keyed_hash(self._seed, epoch, "order"))
            self._epoch, self._order = epoch, rng.permutation(len(self.rows))
        return self._order


class Collator:
    """Batches of samples as tensors; the text follows the image as in the form ``plain``."""

    def __init__(self, processor: Any) -> None:
        self._images, self._tokenizer = processor.image_processor, processor.tokenizer
        lead = processor(text=f"{processor.image_token}\n", images=Image.new("RGB", (8, 8)))
        self._lead = list(lead["input_ids"][0])
        self._ids = lru_cache(maxsize=_TEXTS_KEPT)(self._tokenized)  # names and boxes come again

    def __call__(self, samples: Sequence[Sample]) -> dict[str, "torch.Tensor"]:
        """``pixel_values``, ``input_ids``, ``attention_mask``, ``labels``; ``classes`` (b, g², 4),
        ``places`` (b, g², 5), ``surroundings`` (b, 2).
        """
        import torch

        texts = [self._encoded(sample.pieces) for sample in samples]
        end = self._tokenizer.eos_token_id
        told = {
            name: torch.from_numpy(np.stack([getattr(s.targets, name) for s in samples]))
            for name in ("classes", "places", "surroundings")
        }
        return {
            **self._inputs([s.image for s in samples], [[*ids, end] for ids, _ in texts]),
            "labels": _filled([[*labels, end] for _, labels in texts], _IGNORED),
            **told,
        }

    def prompts(
        self, images: Sequence[Image.Image], pieces: Sequence[Sequence[Piece]]
    ) -> dict[str, "torch.Tensor"]:
        """Images and texts to be gone on with, filled up on the left."""
        return self._inputs(images, [self._encoded(each)[0] for each in pieces], on_left=True)

    def _inputs(
        self,
        images: Sequence[Image.Image],
        ids: Sequence[Sequence[int]],
        *,
        on_left: bool = False,
    ) -> dict[str, "torch.Tensor"]:
        return {
            "pixel_values": self._images(list(images), return_tensors="pt")["pixel_values"],
            "input_ids": _filled(ids, self._tokenizer.pad_token_id, on_left=on_left),
            "attention_mask": _filled([[1] * len(each) for each in ids], 0, on_left=on_left),
        }

    def _encoded(self, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
        ids, labels = list(self._lead), [_IGNORED] * len(self._lead)
        for piece in pieces:
            own = self._ids(piece.text)
            ids += own
            labels += own if piece.is_learned else [_IGNORED] * len(own)
        return ids, labels

    def _tokenized(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _filled(rows: Sequence[Sequence[int]], filler: int, *, on_left: bool = False) -> "torch.Tensor":
    import torch

    length = max(map(len, rows))
    fill = [[filler] * (length - len(row)) for row in rows]
    return torch.tensor(
        [[*some, *row] if on_left else [*row, *some] for row, some in zip(rows, fill, strict=True)]
    )
