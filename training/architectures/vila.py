"""VILA: each 2x2 neighbouring patches become one token, through LayerNorm and a two-layer GELU MLP.

With a SigLIP or SigLIP2 tower this is transformers' ``Lfm2Vl``, with InternViT its ``InternVL``;
both take any language model by its config.
"""

from dataclasses import replace
from typing import Any

from vila2data.errors import BadInput
from vila2data.optional import require

from .language import IMAGE_TOKEN
from .towers import Tower

_FACTOR = 2  # patches along each side of a token
SIGLIP_TOKENS = {
    "image_token": IMAGE_TOKEN,
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
}
INTERNVIT_TOKENS = {
    "context_image_token": IMAGE_TOKEN,
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "video_token": "<video>",
}


def check_tower(tower: Tower) -> None:
    """Raises BadInput where the tower is none of VILA's, or its patches make no 2x2 squares."""
    if tower.family == "clip":
        raise BadInput(
            "model.vision: vila takes a SigLIP, SigLIP2 or InternViT tower, not clip; "
            "architecture 'llava' takes CLIP"
        )
    if tower.family == "internvit" and tower.grid % _FACTOR:
        raise BadInput(
            f"model.vision: {tower.grid} patches along a side make no squares of 2x2; give an "
            f"image_side_px that is a multiple of {_FACTOR * tower.patch_px}"
        )


def at_side(tower: Tower, side_px: int) -> Tower:
    """A SigLIP2 tower for images of about ``side_px``²: its positions are interpolated for each
    image, so that only the number of tokens changes.
    """
    return replace(tower, side_px=side_px // tower.patch_px * tower.patch_px)


def siglip_config(tower: Tower, text_config: Any, image_token_id: int) -> Any:
    """Features of the tower's last layer, tokens as many as a quarter of its patches at most."""
    transformers = require("transformers", extra="vlm")
    config = transformers.Lfm2VlConfig(
        vision_config=tower.model.config,
        text_config=text_config,
        image_token_id=image_token_id,
        projector_hidden_size=text_config.hidden_size,
        downsample_factor=_FACTOR,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    if not _is_recurrent(text_config):
        # vLLM's class keeps LFM2's convolution cache unless the outer config says here that every
        # layer is attention. The language model reads its own config.
        config.layer_types = ["full_attention"] * text_config.num_hidden_layers
    return config


def _is_recurrent(text_config: Any) -> bool:
    kinds = getattr(text_config, "layer_types", None) or []
    return any(kind == "linear_attention" or not kind.endswith("attention") for kind in kinds)


def siglip_processor(tower: Tower, tokenizer: Any) -> Any:
    """One tile per image, its aspect kept, scaled to at most the tower's own number of patches
    (an odd grid's rounded up: 27x27 patches give at most 196 tokens). An image whose long side
    is more than that many times its short one cannot be taken.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    require("torchvision", extra="train")
    transformers = require("transformers", extra="vlm")
    most = ((tower.grid + _FACTOR - 1) // _FACTOR) ** 2
    images = transformers.Lfm2VlImageProcessor(
        encoder_patch_size=tower.patch_px,
        downsample_factor=_FACTOR,
        do_image_splitting=False,
        min_tiles=1,
        max_tiles=1,
        use_thumbnail=False,
        tile_size=tower.side_px,
        min_image_tokens=max(1, most // 4),
        max_image_tokens=most,
        image_mean=list(tower.mean),
        image_std=list(tower.std),
    )
    return transformers.Lfm2VlProcessor(
        image_processor=images, tokenizer=tokenizer, chat_template=tokenizer.chat_template
    )


def internvit_config(tower: Tower, text_config: Any, image_token_id: int) -> Any:
    """Features of the tower's last layer, without its first token."""
    transformers = require("transformers", extra="vlm")
    return transformers.InternVLConfig(
        vision_config=tower.model.config,
        text_config=text_config,
        image_token_id=image_token_id,
        image_seq_length=(tower.grid // _FACTOR) ** 2,
        downsample_ratio=1 / _FACTOR,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def internvit_processor(tower: Tower, tokenizer: Any) -> Any:
    """One tile per image, scaled to the tower's square.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    require("torchvision", extra="train")
    transformers = require("transformers", extra="vlm")
    settings = {
        "size": {"height": tower.side_px, "width": tower.side_px},
        "image_mean": list(tower.mean),
        "image_std": list(tower.std),
    }
    images = transformers.GotOcr2ImageProcessor(
        crop_to_patches=False, min_patches=1, max_patches=1, **settings
    )
    return transformers.InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(**settings),
        image_seq_length=(tower.grid // _FACTOR) ** 2,
        chat_template=tokenizer.chat_template,
    )
