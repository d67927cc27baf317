"""LLaVA-1.5 and LLaVA-1.5-HD: every patch is a token, through a two-layer GELU MLP."""

from typing import Any

from vila2data.errors import BadInput
from vila2data.optional import require

from .language import IMAGE_TOKEN
from .parts import image_processor
from .towers import Tower

_FEATURE_LAYER = -2
_GRIDS = ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 2), (2, 3))
TOKENS = {"image_token": IMAGE_TOKEN}


def grid_pinpoints(side_px: int) -> list[list[int]]:
    """Resolutions of LLaVA-1.5-HD as (height, width) in px: up to six squares of the tower's side.

    Source: LLaVA-1.5, appendix A.1.1 (1x1 to 1x6, 2x2, 2x3, and their transposes).
    """
    grids = sorted({*_GRIDS, *((columns, rows) for rows, columns in _GRIDS)})
    return [[rows * side_px, columns * side_px] for rows, columns in grids]


def check_tower(tower: Tower, architecture: str) -> None:
    """Raises BadInput where the tower gives no fixed grid of patches."""
    if tower.family not in ("clip", "siglip"):
        raise BadInput(
            f"model.vision: {architecture} takes a CLIP or SigLIP tower, not {tower.family}; "
            "architecture 'vila' takes SigLIP, SigLIP2 and InternViT"
        )


def llava_config(tower: Tower, text_config: Any, image_token_id: int) -> Any:
    """Penultimate layer's features; CLIP's first token, which is no patch, is dropped."""
    transformers = require("transformers", extra="vlm")
    return transformers.LlavaConfig(
        image_seq_length=tower.grid**2,
        **_common_config(tower, text_config, image_token_id),
    )


def llava_next_config(tower: Tower, text_config: Any, image_token_id: int) -> Any:
    """As LLaVA's, with the resolutions of LLaVA-1.5-HD."""
    transformers = require("transformers", extra="vlm")
    return transformers.LlavaNextConfig(
        image_grid_pinpoints=grid_pinpoints(tower.side_px),
        **_common_config(tower, text_config, image_token_id),
    )


def _common_config(tower: Tower, text_config: Any, image_token_id: int) -> dict[str, Any]:
    return {
        "vision_config": tower.model.config,
        "text_config": text_config,
        "image_token_index": image_token_id,
        "vision_feature_layer": _FEATURE_LAYER,
        "vision_feature_select_strategy": _strategy(tower),
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": text_config.tie_word_embeddings,
    }


def _strategy(tower: Tower) -> str:
    return "default" if tower.family == "clip" else "full"


def llava_processor(tower: Tower, tokenizer: Any) -> Any:
    """Images are padded to squares with the mean colour, as LLaVA-1.5 does."""
    transformers = require("transformers", extra="vlm")
    images = image_processor("LlavaImageProcessor", do_pad=True, **_image_settings(tower))
    return transformers.LlavaProcessor(image_processor=images, **_settings(tower, tokenizer))


def llava_next_processor(tower: Tower, tokenizer: Any) -> Any:
    """Images are fitted into the best of the resolutions and cut into the tower's squares, and
    once more scaled to one square for the global context (scaled, where the paper pads).
    """
    transformers = require("transformers", extra="vlm")
    images = image_processor(
        "LlavaNextImageProcessor",
        image_grid_pinpoints=grid_pinpoints(tower.side_px),
        **_image_settings(tower),
    )
    return transformers.LlavaNextProcessor(image_processor=images, **_settings(tower, tokenizer))


def _image_settings(tower: Tower) -> dict[str, Any]:
    side = tower.side_px
    return {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
    }


def _settings(tower: Tower, tokenizer: Any) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer,
        "patch_size": tower.patch_px,
        "vision_feature_select_strategy": _strategy(tower),
        "num_additional_image_tokens": 1 if tower.family == "clip" else 0,
        "image_token": IMAGE_TOKEN,
        "chat_template": tokenizer.chat_template,
    }
