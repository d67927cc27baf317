"""Reads the plan's samples with their images, and makes batches of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vila2data.corpus.images import ImageLimits, ImageRefused, decode

from .images import ImageStore, Place
from .pictures import PictureProcessor
from .plan import ITEMS_FILE, SAMPLES_FILE, Plan

if TYPE_CHECKING:
    import torch

COUNTS = ("samples", "images", "tokens", "trained_tokens", "skipped")
"""What ``feed_counts`` of a batch counts, in this order."""

_BLANK_SIDE_PX = 64
_IGNORED = -100  # what a loss of transformers leaves out


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with its pictures.

    Attributes:
        key: in its source.
        input_ids: (n,) int32, each image one token.
        trained: start and end of each run of trained tokens.
        pictures: RGB and upright.
    """

    key: str
    input_ids: "np.ndarray[Any, np.dtype[np.int32]]"
    trained: Sequence[int]
    pictures: Sequence[Image.Image]


@dataclass(frozen=True, slots=True)
class Item:
    """One sequence: a sample, a pack of some, or none; and how many were skipped, by reason."""

    samples: Sequence[Sample]
    skipped: Mapping[str, int] = field(default_factory=dict)


class Feed:
    """The sequences of a plan by position, for a ``DataLoader`` that does not shuffle.

    A sample with a broken image is left out and counted; nothing takes its place.
    """

    def __init__(self, plan: Plan, limits: ImageLimits | None = None) -> None:
        self.plan = plan
        self.limits = limits or ImageLimits()

    def __getstate__(self) -> dict[str, Any]:
        return {"plan": self.plan, "limits": self.limits}  # workers open the files themselves

    def __len__(self) -> int:
        return self.plan.items

    def __getitem__(self, position: int) -> Item:
        start, end = int(self._starts[position]), int(self._starts[position + 1])
        samples: list[Sample] = []
        skipped: Counter[str] = Counter()
        for record in self._rows[start:end].to_pylist() if end > start else []:
            try:
                samples.append(self._sample(record))
            except ImageRefused as refused:
                skipped[refused.problem.reason] += 1
        return Item(samples, dict(skipped))

    @cached_property
    def _starts(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        return np.memmap(self.plan.folder / ITEMS_FILE, np.int64, mode="r")

    @cached_property
    def _rows(self) -> Any:
        import datasets

        samples = datasets.Dataset.from_file(str(self.plan.folder / SAMPLES_FILE))
        return samples.with_format("arrow")

    @cached_property
    def _stores(self) -> list[ImageStore]:
        return [self.plan.open_store(number) for number in range(len(self.plan.stores))]

    def _sample(self, record: Mapping[str, Any]) -> Sample:
        store = self._stores[record["source"]]
        numbers, hashes = record["places"], record["hashes"]
        each = zip(numbers[::3], numbers[1::3], numbers[2::3], hashes, strict=True)
        places = [Place(*place) for place in each]
        pictures = [decode(store.read(place), self.limits) for place in places]
        ids = np.asarray(record["input_ids"], np.int32)
        return Sample(record["key"], ids, record["trained"], pictures)


class Collator:
    """Makes a model's inputs of items.

    Padded, each item is a row of the batch; an item without samples is a row without a loss. With
    ``packing`` all samples stand in one row, one after the other, each with positions from 0 on, by
    which attention tells them apart.
    """

    def __init__(
        self,
        processor: Any,
        *,
        context_tokens: int,
        packing: bool = False,
        always_images: bool = False,
    ) -> None:
        """See ``FeedSpec`` for most.

        Args:
            processor: of the model.
            context_tokens: longer samples are skipped.
            packing: see the class.
            always_images: a batch without images gets a blank one in a row without a loss. Where a
                model's parts are spread over processes, all of them must use the same parts.
        """
        self.pictures = PictureProcessor(processor)
        self.context_tokens = context_tokens
        self.packing = packing
        self.always_images = always_images
        tokenizer = processor.tokenizer
        self._image_id = int(tokenizer.convert_tokens_to_ids(processor.image_token))
        pad = tokenizer.pad_token_id
        self._pad_id = int(pad if pad is not None else tokenizer.eos_token_id)

    def __call__(self, items: Sequence[Item]) -> dict[str, "torch.Tensor"]:
        """``input_ids``, ``labels``, ``attention_mask`` or ``position_ids``, what the pictures
        become, and ``feed_counts`` (5,), see ``COUNTS``.
        """
        import torch

        inputs, rows, skipped = self._expanded(items)
        samples = [sample for row in rows for sample in row]
        counts = [
            len(samples),
            sum(s.images for s in samples),
            sum(len(s.ids) for s in samples),
            sum(int((s.labels != _IGNORED).sum()) for s in samples),
            skipped,
        ]
        if self.always_images and not inputs:
            blank = Image.new("RGB", (_BLANK_SIDE_PX, _BLANK_SIDE_PX))
            ids = np.array(self.pictures.tokens_of(*blank.size), np.int64)
            rows = [*rows, [_Expanded(ids, np.full_like(ids, _IGNORED), 1)]]
            inputs = self.pictures([blank])
        texts = self._packed(rows) if self.packing else self._padded(rows)
        return {**texts, **inputs, "feed_counts": torch.tensor(counts)}

    def _expanded(
        self, items: Sequence[Item]
    ) -> tuple[dict[str, "torch.Tensor"], list[list["_Expanded"]], int]:
        """Model inputs of the pictures, samples with every image token, and how many were
        skipped.
        """
        skipped = sum(sum(item.skipped.values()) for item in items)
        rows: list[list[_Expanded]] = [[] for _ in items]
        pictures: list[Image.Image] = []
        for row, item in zip(rows, items, strict=True):
            for sample in item.samples:
                expanded = self._expand(sample)
                if expanded is None:
                    skipped += 1
                else:
                    row.append(expanded)
                    pictures += sample.pictures
        return self.pictures(pictures) if pictures else {}, rows, skipped

    def _expand(self, sample: Sample) -> "_Expanded | None":
        """None where a picture is of another size than its row says, so that the sample does not
        fit, or the processor cannot take it.
        """
        try:
            runs = [self.pictures.tokens_of(p.width, p.height) for p in sample.pictures]
        except ImageRefused:
            return None
        if len(sample.input_ids) + sum(map(len, runs)) - len(runs) > self.context_tokens:
            return None
        trained = np.zeros(len(sample.input_ids), bool)
        for start, end in zip(sample.trained[::2], sample.trained[1::2], strict=True):
            trained[start:end] = True
        repeats = np.ones(len(trained), np.int64)
        at = np.flatnonzero(sample.input_ids == self._image_id)
        repeats[at] = [len(run) for run in runs]
        ids = np.repeat(sample.input_ids.astype(np.int64), repeats)
        for start, run in zip(np.cumsum(repeats)[at] - repeats[at], runs, strict=True):
            ids[start : start + len(run)] = run
        labels = np.where(np.repeat(trained, repeats), ids, _IGNORED)
        return _Expanded(ids, labels, len(runs))

    def _padded(self, rows: Sequence[Sequence["_Expanded"]]) -> dict[str, "torch.Tensor"]:
        import torch

        shape = (len(rows), max([1, *(len(s.ids) for row in rows for s in row)]))
        ids = np.full(shape, self._pad_id, np.int64)  # (items, tokens)
        labels = np.full(shape, _IGNORED, np.int64)
        mask = np.zeros(shape, np.int64)
        mask[:, 0] = 1  # a row in which nothing may be seen has no attention
        for number, row in enumerate(rows):
            for sample in row:
                length = len(sample.ids)
                ids[number, :length], labels[number, :length] = sample.ids, sample.labels
                mask[number, :length] = 1
        named = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {name: torch.from_numpy(values) for name, values in named.items()}

    def _packed(self, rows: Sequence[Sequence["_Expanded"]]) -> dict[str, "torch.Tensor"]:
        import torch

        samples = [sample for row in rows for sample in row]
        nothing = _Expanded(np.array([self._pad_id]), np.array([_IGNORED]), 0)
        samples = samples or [nothing]
        named = {
            "input_ids": [s.ids for s in samples],
            "labels": [s.labels for s in samples],
            "position_ids": [np.arange(len(s.ids)) for s in samples],
        }
        joined = {name: np.concatenate(parts)[None] for name, parts in named.items()}
        return {name: torch.from_numpy(values) for name, values in joined.items()}  # (1, tokens)


@dataclass(frozen=True, slots=True)
class _Expanded:
    """(n,) tokens with every image token, and (n,) labels."""

    ids: "np.ndarray[Any, np.dtype[np.int64]]"
    labels: "np.ndarray[Any, np.dtype[np.int64]]"
    images: int
