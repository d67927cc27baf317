"""Specifications of models small enough to be made, trained and saved in a test."""

from pathlib import Path
from typing import Any

from vila2data.training.architectures.spec import ModelSpec

SIDE_PX = 32
PATCH_PX = 8
WIDTH = 32
CONTEXT = 2048
TOWERS = {
    "llava": ("clip", "siglip"),
    "llava_next": ("clip", "siglip"),
    "vila": ("siglip", "siglip2", "internvit"),
}
COMBINATIONS = [(name, tower) for name, towers in TOWERS.items() for tower in towers]
_SIZE = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def tiny_vision(tower: str) -> dict[str, Any]:
    """Config of a tower with random weights."""
    if tower == "siglip2":
        grid = SIDE_PX // PATCH_PX
        return {
            "model_type": "siglip2_vision_model",
            **_SIZE,
            "num_patches": grid**2,
            "patch_size": PATCH_PX,
        }
    model_type = {
        "clip": "clip_vision_model",
        "siglip": "siglip_vision_model",
        "internvit": "internvl_vision",
    }[tower]
    return {"model_type": model_type, **_SIZE, "image_size": SIDE_PX, "patch_size": PATCH_PX}


def tiny_language() -> dict[str, Any]:
    """Config of a Llama with random weights; vLLM's attention on a CPU wants heads of 32."""
    return {
        "model_type": "llama",
        **_SIZE,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }


def tiny_spec(folder: Path, architecture: str, tower: str = "clip", seed: int = 0) -> ModelSpec:
    """A model of random weights: images of 32 px, patches of 8, width 32, 2 layers, context 2048.

    Args:
        folder: where a tokenizer of about a hundred words is written.
        architecture: ``llava``, ``llava_next`` or ``vila``.
        tower: ``clip`` or ``siglip``; for ``vila`` ``siglip``, ``siglip2`` or ``internvit``.
        seed: of the weights.
    """
    from vila2data.training.tiny import tiny_tokenizer

    if architecture == "vila" and tower == "clip":
        tower = "siglip"
    tokenizer = folder / "tokenizer"
    if not (tokenizer / "tokenizer.json").is_file():
        tiny_tokenizer().save_pretrained(tokenizer)
    return ModelSpec(
        architecture=architecture,
        vision=tiny_vision(tower),
        language=tiny_language(),
        tokenizer=str(tokenizer),
        seed=seed,
    )


def make_decisive_model(folder: Path, architecture: str, tower: str, language: str) -> Path:
    """A checkpoint whose best token leads by more than two engines' rounding differs, and whose
    tokens of an image outweigh those of the words.
    """
    import torch

    from vila2data.training.architectures.assemble import assemble
    from vila2data.training.architectures.save import save_checkpoint

    spec = tiny_spec(folder, architecture, tower)
    tied = {"model_type": language, "tie_word_embeddings": language == "qwen3"}
    spec = spec.model_copy(update={"language": {**tiny_language(), **tied}})
    model, processor = assemble(spec)
    generator = torch.Generator().manual_seed(0)
    vocabulary = processor.tokenizer
    unwritten = {*vocabulary.all_special_tokens, "USER", "ASSISTANT", ":"} - {vocabulary.eos_token}
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.45, generator=generator)
        model.lm_head.weight[vocabulary.convert_tokens_to_ids(sorted(unwritten))] = 0.0
        model.lm_head.weight[vocabulary.eos_token_id] *= 0.7  # longer texts
        for name, parameter in model.named_parameters():
            if "vision_tower" in name and parameter.dim() > 1:
                parameter.normal_(std=0.2, generator=generator)
        model.model.multi_modal_projector.linear_2.weight.mul_(4)
    save_checkpoint(model, processor, folder / "model")
    return folder / "model"
