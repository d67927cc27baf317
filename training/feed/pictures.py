"""From pictures to what a model's forward takes: by the model's own processor, in one call a batch.

The processor resizes, crops and tiles; its last two steps, scaling to 0-1 and normalising, are left
to the device that trains. Pixels then travel as bytes, a quarter of the size, and the slowest part
of a processor on a CPU is no longer done there. Whether a processor lends itself to that is found
out by trying: where the result is not the same, it does all of its steps itself.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vila2data.corpus.images import ImageRefused, Problem, refuse_narrow
from vila2data.optional import require

if TYPE_CHECKING:
    import torch

_LATE = {"do_rescale": False, "do_normalize": False}
_TOLERANCE = 1e-5
_USUAL = (64, 64)
_PROBED = (_USUAL, (500, 375), (97, 1201), (1333, 800))

_MAX_SIDE_PX = 16_384


@dataclass(frozen=True, slots=True)
class Scale:
    """What turns bytes into the model's pixels: ``value * factor + shift``, by channel.

    Attributes:
        factor: (3,) or (1,) where all channels agree.
        shift: as ``factor``.
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]

    def apply(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Float pixels of byte pixels, of the same shape: (…, 3, height, width), or any where all
        channels agree.
        """
        import torch

        factor = torch.tensor(self.factor, device=pixels.device)
        shift = torch.tensor(self.shift, device=pixels.device)
        if len(self.factor) > 1:
            factor, shift = factor.view(-1, 1, 1), shift.view(-1, 1, 1)
        return pixels.float().mul_(factor).add_(shift)


class PictureProcessor:
    """Model inputs and placeholder tokens of pictures."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        if processor.tokenizer.pad_token is None:
            self._processor = deepcopy(processor)  # the given one is saved with the model
            self._processor.tokenizer.pad_token = processor.tokenizer.eos_token
        self._image_token = str(processor.image_token)
        self.counts_by_size = not _has_fixed_size(processor)
        probe, inputs = self._whole([Image.new("RGB", _USUAL)])
        self._usual_tokens, self._names = probe[0], set(inputs)
        self._counts_alone = self._can_count_alone()
        self.late_scale = self._late_scale()

    def __call__(self, pictures: Sequence[Image.Image]) -> dict[str, "torch.Tensor"]:
        """The model's inputs for pictures: ``pixel_values`` and what else its forward takes."""
        return self._inputs(pictures, _LATE if self.late_scale else {})

    def tokens_of(self, width: int, height: int) -> list[int]:
        """The tokens that stand for a picture of that size, in pixels.

        Raises:
            ImageRefused: ``image_too_narrow``; ``image_too_many_pixels``, since some processors pad
                to a square; or ``image_unprocessable`` where the processor cannot take that size,
                alone or beside others.
        """
        refuse_narrow(width, height)
        if max(width, height) > _MAX_SIDE_PX:
            detail = f"{width} x {height}, at most {_MAX_SIDE_PX} px a side"
            raise ImageRefused(Problem("image_too_many_pixels", detail))
        return self._tokens_of(*((width, height) if self.counts_by_size else _USUAL))

    def _can_count_alone(self) -> bool:
        """Whether the processor can count the tokens of a size without a picture, as it counts
        those of pictures.
        """
        try:
            return all(
                self._counted(*size) == self._whole([Image.new("RGB", size)])[0][0]
                for size in _PROBED
            )
        except Exception:  # noqa: BLE001 - it is no part of what every processor has
            return False

    def _counted(self, width: int, height: int) -> list[int]:
        """The tokens of a size by the processor's own count, laid out as those of the usual
        size.
        """
        found = self._processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        usual = self._usual_tokens
        image_id = max(set(usual), key=usual.count)
        start, stop = usual.index(image_id), len(usual) - usual[::-1].index(image_id)
        inner = int(found["num_image_tokens"][0]) - start - (len(usual) - stop)
        return [*usual[:start], *[image_id] * inner, *usual[stop:]]

    @lru_cache(maxsize=1 << 14)  # noqa: B019 - one processor lives as long as its run
    def _tokens_of(self, width: int, height: int) -> list[int]:
        if self._counts_alone:
            return self._counted(width, height)
        pictures = [Image.new("RGB", size) for size in ((width, height), _USUAL)]
        try:
            return self._whole(pictures)[0][0]
        except Exception as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ImageRefused(Problem("image_unprocessable", told)) from error

    def _whole(
        self, pictures: Sequence[Image.Image]
    ) -> tuple[list[list[int]], dict[str, "torch.Tensor"]]:
        """What the whole processor makes of pictures, each in a text of its own."""
        inputs = self._processor(
            images=[[picture] for picture in pictures],
            text=[self._image_token] * len(pictures),
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
        )
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask").bool()
        inputs.pop("token_type_ids", None)
        return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)], dict(inputs)

    def _inputs(
        self, pictures: Sequence[Image.Image], options: Mapping[str, Any]
    ) -> dict[str, "torch.Tensor"]:
        """The model's inputs by the image processor alone: the text's share of a processor's work
        is known beforehand.
        """
        images = [[picture] for picture in pictures]
        found = self._processor.image_processor(images, return_tensors="pt", **options)
        return {name: value.contiguous() for name, value in found.items() if name in self._names}

    def _late_scale(self) -> Scale | None:
        """How to scale what comes out unscaled; None where that is not the same."""
        torch = require("torch", extra="train")
        images = self._processor.image_processor
        mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
        if not mean or not std or not getattr(images, "do_normalize", False):
            return None
        factor = tuple(images.rescale_factor / s for s in std)
        shift = tuple(-m / s for m, s in zip(mean, std, strict=True))
        if len({*zip(factor, shift, strict=True)}) == 1:
            factor, shift = factor[:1], shift[:1]
        scale = Scale(factor, shift)
        noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
        probe = [Image.fromarray(noise)]
        _, whole = self._whole(probe)
        try:
            late = self._inputs(probe, _LATE)
            same = torch.allclose(
                scale.apply(late["pixel_values"]), whole["pixel_values"], atol=_TOLERANCE
            )
        except (TypeError, ValueError, RuntimeError):  # a processor that has no such steps
            return None
        return scale if same and late["pixel_values"].dtype == torch.uint8 else None


def _has_fixed_size(processor: Any) -> bool:
    """Whether every picture becomes as many tokens: a LLaVA crops or stretches all to one size."""
    transformers = require("transformers", extra="train")
    return isinstance(processor, transformers.LlavaProcessor)


def scaled(batch: Mapping[str, Any], scale: Scale | None) -> dict[str, Any]:
    """The batch with float pixels, made on the device where its tensors are."""
    pixels = batch.get("pixel_values")
    if scale is None or pixels is None:
        return dict(batch)
    return {**batch, "pixel_values": scale.apply(pixels)}
