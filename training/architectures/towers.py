"""Vision towers: CLIP, SigLIP, SigLIP2 and InternViT, out of a folder, the Hub or a config."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from vila2data.errors import BadInput
from vila2data.optional import require

from .parts import LOADING_ERRORS, config_of, reason

Family = Literal["clip", "siglip", "siglip2", "internvit"]
_MODELS: dict[str, tuple[Family, str]] = {
    "clip": ("clip", "CLIPVisionModel"),
    "clip_vision_model": ("clip", "CLIPVisionModel"),
    "siglip": ("siglip", "SiglipVisionModel"),
    "siglip_vision_model": ("siglip", "SiglipVisionModel"),
    "siglip2": ("siglip2", "Siglip2VisionModel"),
    "siglip2_vision_model": ("siglip2", "Siglip2VisionModel"),
    "internvl_vision": ("internvit", "InternVLVisionModel"),
}
_WITH_LANGUAGE = ("internvl", "llava", "llava_next", "lfm2_vl")  # their tower is taken out
ACCEPTED = ", ".join([*_MODELS, *_WITH_LANGUAGE])


@dataclass(frozen=True, slots=True)
class Tower:
    """A tower and what its images must be like."""

    model: Any
    family: Family
    side_px: int
    patch_px: int
    mean: tuple[float, ...]  # per channel, of values in 0..1
    std: tuple[float, ...]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side_px // self.patch_px


def load_tower(part: str | Mapping[str, Any], dtype: str) -> Tower:
    """The tower of a recipe, without a pooling head.

    Args:
        part: a config (random weights), or a folder or Hub name.
        dtype: of the weights, such as ``float32``.

    Raises:
        BadInput: it cannot be loaded, or is none of the towers known here.
    """
    torch = require("torch", extra="vlm")
    if isinstance(part, str):
        model = _pretrained(part, dtype)
    else:
        _, name = _known(str(part["model_type"]), "vision")
        config = config_of(part, "vision")
        model = getattr(require("transformers", extra="vlm"), name)(config)
    model = model.to(getattr(torch, dtype))
    family, _ = _known(model.config.model_type, "vision")
    if getattr(model, "use_head", False):  # neither LLaVA nor VILA reads the pooled vector
        model.use_head = model.config.vision_use_head = False
        del model.head
    side, patch = _sides_px(model.config, family)
    mean, std = _normalization(part, family)
    return Tower(model, family, side, patch, mean, std)


def _known(model_type: str, where: str) -> tuple[Family, str]:
    if model_type not in _MODELS:
        raise BadInput(f"model.{where}: '{model_type}' is no tower known here; known: {ACCEPTED}")
    return _MODELS[model_type]


def _pretrained(name: str, dtype: str) -> Any:
    transformers = require("transformers", extra="vlm")
    try:
        model_type = transformers.AutoConfig.from_pretrained(name).model_type
        if model_type in _WITH_LANGUAGE:
            whole = transformers.AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
            return whole.model.vision_tower
        _, class_name = _known(model_type, "vision")
        model, told = getattr(transformers, class_name).from_pretrained(
            name, dtype=dtype, output_loading_info=True
        )
    except LOADING_ERRORS as error:
        raise BadInput(f"model.vision: {name} cannot be loaded: {reason(error)}") from error
    missing = sorted(key for key in told["missing_keys"] if not key.startswith("head."))
    if missing:
        raise BadInput(
            f"model.vision: {name} lacks {len(missing)} weights of its tower, such as {missing[0]}"
        )
    return model


def _sides_px(config: Any, family: Family) -> tuple[int, int]:
    """Sides of the image and of a patch."""
    if family == "siglip2":
        return math.isqrt(config.num_patches) * config.patch_size, config.patch_size
    sides = []
    for value in (config.image_size, config.patch_size):
        pair = value if isinstance(value, list | tuple) else (value, value)
        if pair[0] != pair[1]:
            raise BadInput(f"model.vision: images and patches must be square, not {tuple(pair)}")
        sides.append(pair[0])
    return sides[0], sides[1]


def _normalization(
    part: str | Mapping[str, Any], family: Family
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that the tower was trained with; its family's where it does not say."""
    image_utils = require("transformers.image_utils", extra="vlm")
    processing: Any = require("transformers.image_processing_base", extra="vlm")
    mean, std = {
        "clip": (image_utils.OPENAI_CLIP_MEAN, image_utils.OPENAI_CLIP_STD),
        "internvit": (image_utils.IMAGENET_DEFAULT_MEAN, image_utils.IMAGENET_DEFAULT_STD),
    }.get(family, (image_utils.IMAGENET_STANDARD_MEAN, image_utils.IMAGENET_STANDARD_STD))
    if isinstance(part, str):
        try:
            told, _ = processing.ImageProcessingMixin.get_image_processor_dict(part)
        except OSError:
            told = {}  # a folder of weights alone
        mean, std = told.get("image_mean", mean), told.get("image_std", std)
    return tuple(mean), tuple(std)


def with_side(tower: Tower, side_px: int) -> Tower:
    """The tower for images of another side: its position table is interpolated (bicubic).

    Raises:
        BadInput: the side is no multiple of the patch.
    """
    import torch
    from torch.nn.functional import interpolate

    if side_px % tower.patch_px:
        raise BadInput(
            f"model.image_side_px: {side_px} is no multiple of the tower's patch, {tower.patch_px}"
        )
    if side_px == tower.side_px:
        return tower
    config = deepcopy(tower.model.config)
    pair = isinstance(config.image_size, list | tuple)
    config.image_size = (side_px, side_px) if pair else side_px
    state = tower.model.state_dict()
    name = next(n for n in state if n.endswith(("position_embedding.weight", "_embeddings")))
    table = state[name]
    flat = table.reshape(-1, table.shape[-1])  # (first tokens + grid², width)
    first = flat.shape[0] - tower.grid**2
    squares = flat[first:].reshape(1, tower.grid, tower.grid, -1).permute(0, 3, 1, 2)
    grid = side_px // tower.patch_px
    resized = interpolate(squares.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    resized = resized.permute(0, 2, 3, 1).reshape(grid**2, -1).to(table.dtype)
    table = torch.cat([flat[:first], resized]).reshape(*table.shape[:-2], -1, table.shape[-1])
    model = type(tower.model)(config).to(table.dtype)
    model.load_state_dict({**state, name: table})
    return Tower(model, tower.family, side_px, tower.patch_px, tower.mean, tower.std)


def as_siglip2(tower: Tower) -> Tower:
    """A SigLIP tower in SigLIP2's form, which takes images of any number of patches.

    The convolution over patches becomes the same product with patches laid out flat, and the
    position table stays as it is, so that an image of the old grid gives the old features.
    """
    transformers = require("transformers", extra="vlm")
    old = tower.model.config
    names = (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_channels", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout"),
    )
    config = transformers.Siglip2VisionConfig(
        num_patches=tower.grid**2,
        vision_use_head=False,
        **{name: getattr(old, name) for name in names},
    )
    state = tower.model.state_dict()
    name = "embeddings.patch_embedding.weight"
    kernel = state[name]  # (width, channels, patch, patch)
    state[name] = kernel.permute(0, 2, 3, 1).reshape(kernel.shape[0], -1).contiguous()
    model = transformers.Siglip2VisionModel(config).to(kernel.dtype)
    model.load_state_dict(state)
    side = tower.grid * tower.patch_px
    return Tower(model, "siglip2", side, tower.patch_px, tower.mean, tower.std)
