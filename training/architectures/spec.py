"""What a recipe says of the model that is trained: a checkpoint, or the parts of a new one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vila2data.recipe import Block, PathOrName

Architecture = Literal["llava", "llava_next", "vila"]
Part = PathOrName | Mapping[str, Any]


class ModelSpec(Block):
    """A checkpoint alone, or an assembly: vision tower + new projector + language model.

    A part is a folder or a Hub name (pretrained weights), or a transformers config with
    ``model_type`` (random weights).
    """

    checkpoint: PathOrName | None = Field(None, description="folder or Hub name; nothing beside it")
    architecture: Architecture | None = Field(None, description="how the parts are put together")
    vision: Part | None = Field(None, description="CLIP, SigLIP, SigLIP2 or InternViT tower")
    language: Part | None = Field(None, description="any causal language model")
    tokenizer: PathOrName | None = Field(None, description="default: the language model's")
    chat_template: str | None = Field(None, description="Jinja; default: the language model's")
    image_side_px: int | None = Field(None, ge=8, description="default: the tower's own")
    seed: int = Field(0, ge=0, description="of the weights that start random")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _one_way(self) -> "ModelSpec":
        parts = {
            name: getattr(self, name)
            for name in ("architecture", "vision", "language", "tokenizer", "image_side_px")
        }
        given = [name for name, value in parts.items() if value is not None]
        if self.checkpoint is not None:
            if given:
                raise ValueError(f"give checkpoint or its parts, not both; remove {given[0]}")
            return self
        missing = [n for n in ("architecture", "vision", "language") if parts[n] is None]
        if missing:
            raise ValueError(
                f"give checkpoint, or architecture, vision and language; missing: {missing[0]}"
            )
        if isinstance(self.language, Mapping) and self.tokenizer is None:
            raise ValueError("language is a config, which has no tokenizer: give tokenizer")
        return self

    @model_validator(mode="after")
    def _configs_name_their_type(self) -> "ModelSpec":
        for name in ("vision", "language"):
            part = getattr(self, name)
            if isinstance(part, Mapping) and not isinstance(part.get("model_type"), str):
                raise ValueError(f"{name} is a config without model_type")
        return self

    def problems(self) -> list[str]:
        """Paths that look local and are not there."""
        return [
            f"model.{name}: {value}: no such folder"
            for name in ("checkpoint", "vision", "language", "tokenizer")
            if isinstance(value := getattr(self, name), str) and _looks_local(value)
            if not Path(value).is_dir()
        ]


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1
