"""Checkpoints that transformers and vLLM load alike."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vila2data.optional import require

# transformers writes a tower's weights as `vision_tower.encoder…` and reads that and the older
# `vision_tower.vision_model.encoder…`; vLLM reads the older name alone. InternViT has one name.
_TOWER = re.compile(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)")
_RENAMED = ("llava", "llava_next", "lfm2_vl")
_INDEX = "model.safetensors.index.json"


def save_checkpoint(
    model: Any,
    processor: Any,
    folder: Path,
    *,
    state_dict: Mapping[str, Any] | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Writes model, generation settings, processor, tokenizer and chat template.

    Args:
        model: an assembled or loaded model.
        processor: its processor.
        folder: is made; files of a checkpoint that is there are replaced.
        state_dict: the weights, where they are not the model's own (a sharded training run).
        max_shard_size: of a file of weights.
    """
    weights = None if state_dict is None else dict(state_dict)
    model.save_pretrained(folder, state_dict=weights, max_shard_size=max_shard_size)
    if model.config.model_type in _RENAMED:
        _rename_tower(folder)
    side = processor.tokenizer.padding_side
    processor.tokenizer.padding_side = "right"
    try:
        processor.save_pretrained(folder)
    finally:
        processor.tokenizer.padding_side = side


def _rename_tower(folder: Path) -> None:
    """Gives the tower's weights their older names, a file at a time."""
    torch_files = require("safetensors.torch", extra="vlm")
    for path in sorted(folder.glob("model*.safetensors")):
        weights = torch_files.load_file(path)
        path.unlink()  # the tensors may be mapped from it: never written in place
        torch_files.save_file(
            {_older_name(name): weight for name, weight in weights.items()},
            path,
            metadata={"format": "pt"},
        )
    index = folder / _INDEX
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        places = content["weight_map"].items()
        content["weight_map"] = {_older_name(name): place for name, place in places}
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _older_name(name: str) -> str:
    return _TOWER.sub(r"\1vision_model.", name)
