"""Scenes as the foundation is trained on them."""

from collections.abc import Mapping, Sequence
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
from .texts import Named, Piece, listed, looked_up, mentioned, named, read, step

if TYPE_CHECKING:
    import torch

_READ = 0.2  # share of samples that are language alone
_LISTED, _MENTIONED = 0.35, 0.25  # shares of the others; what is left looks objects up
_TEXTS_KEPT = 1 << 18
_FACTS_KEPT = 1 << 15
_IGNORED = -100  # the label that no loss is taken of


@dataclass(frozen=True, slots=True)
class Sample:
    """One scene in one epoch.

    Attributes:
        is_shown: whether the image stands before the text, or only the tower is asked about it.
    """

    image: Image.Image
    pieces: Sequence[Piece]
    targets: PatchTargets
    is_shown: bool = True


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

    def __init__(
        self, build: Path, corpus: Path, grid: int, words: Sequence[str], config: str = "train"
    ) -> None:
        """Reads the rows; images are read when they are asked for. One epoch, seed 0.

        ``words`` mean nothing: they stand between names.

        Raises:
            BadInput: the build is none of ``scenes``, none of its scenes has a reference and
                questions, or the corpus lacks an image.
        """
        self._words = words
        self.rows = scene_rows(build, config)
        self._told = [row for row in self.rows if row["reference"] and row["questions"]]
        if not self._told:
            raise BadInput(f"{build}: no scene has a reference and questions")
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
        if rng.random() < _READ:
            other = self._told[int(rng.integers(len(self._told)))]
            return Sample(self._image_of(row, mirrored), read(other, rng), targets, is_shown=False)
        pieces = self._text(things, rng)
        return Sample(self._image_of(row, mirrored), pieces, targets)

    def _image_of(self, row: Mapping[str, Any], mirrored: bool) -> Image.Image:
        image = self.image(row["key"])
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image

    def _text(self, things: Sequence[Named], rng: np.random.Generator) -> list[Piece]:
        task = rng.random()
        if task < _LISTED:
            return listed(things)
        if task < _LISTED + _MENTIONED:
            return mentioned(things, self._words, rng)
        return looked_up(things, rng)

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


@dataclass(frozen=True, slots=True)
class _Text:
    """Tokens, what is learned of them, and what is asked at which of them."""

    ids: list[int]
    labels: list[int]
    places: dict[int, Sequence[float]]
    steps: dict[int, Sequence[float]]


class Collator:
    """Batches of samples as tensors; the text follows the image as in the form ``plain``."""

    def __init__(self, processor: Any) -> None:
        self._images, self._tokenizer = processor.image_processor, processor.tokenizer
        lead = processor(text=f"{processor.image_token}\n", images=Image.new("RGB", (8, 8)))
        self._lead = list(lead["input_ids"][0])
        self._ids = lru_cache(maxsize=_TEXTS_KEPT)(self._tokenized)  # names and boxes come again

    def __call__(self, samples: Sequence[Sample]) -> dict[str, "torch.Tensor"]:
        """A batch of b texts of up to t tokens, as ``FoundationModel.forward`` takes it."""
        import torch

        texts = [
            self._encoded(sample.pieces, self._lead if sample.is_shown else [])
            for sample in samples
        ]
        end = self._tokenizer.eos_token_id
        told = {
            name: torch.from_numpy(np.stack([getattr(s.targets, name) for s in samples]))
            for name in ("classes", "places", "surroundings")
        }
        inputs = self._inputs([s.image for s in samples], [[*text.ids, end] for text in texts])
        length = inputs["input_ids"].shape[1]
        return {
            **inputs,
            "labels": _filled([[*text.labels, end] for text in texts], _IGNORED),
            "named_places": _asked([text.places for text in texts], length, 5),
            "named_steps": _asked([text.steps for text in texts], length, 2),
            **told,
        }

    def prompts(
        self, images: Sequence[Image.Image], pieces: Sequence[Sequence[Piece]]
    ) -> dict[str, "torch.Tensor"]:
        """Images and texts to be gone on with, filled up on the left."""
        return self._inputs(
            images, [self._encoded(each, self._lead).ids for each in pieces], on_left=True
        )

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

    def _encoded(self, pieces: Sequence[Piece], lead: Sequence[int]) -> "_Text":
        text = _Text(list(lead), [_IGNORED] * len(lead), {}, {})
        for piece in pieces:
            own = self._ids(piece.text)
            text.ids.extend(own)
            text.labels.extend(own if piece.is_learned else [_IGNORED] * len(own))
            last = len(text.ids) - 1
            if piece.names is not None:
                text.places[last] = piece.names.place
            if piece.pair is not None:
                text.steps[last] = step(*piece.pair)
        return text

    def _tokenized(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _asked(texts: Sequence[Mapping[int, Sequence[float]]], length: int, n: int) -> "torch.Tensor":
    """(b, ``length``, ``n``), NaN where a text asks nothing."""
    import torch

    wanted = np.full((len(texts), length, n), np.nan, np.float32)
    for number, text in enumerate(texts):
        for position, values in text.items():
            wanted[number, position] = values
    return torch.from_numpy(wanted)


def _filled(rows: Sequence[Sequence[int]], filler: int, *, on_left: bool = False) -> "torch.Tensor":
    import torch

    length = max(map(len, rows))
    fill = [[filler] * (length - len(row)) for row in rows]
    return torch.tensor(
        [[*some, *row] if on_left else [*row, *some] for row, some in zip(rows, fill, strict=True)]
    )
