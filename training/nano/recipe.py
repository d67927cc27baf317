"""The recipe of a foundation: the tower and the language model that a nano loop begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from vila2data.build.manifest import MANIFEST_FILE
from vila2data.recipe import FOUNDATION_MARK, Block, Recipe, RecipePath


class TowerShape(Block):
    """A SigLIP tower; heads are 32 wide, since vLLM's attention on a CPU wants that."""

    image_side_px: int = Field(96, ge=16)
    patch_side_px: int = Field(12, ge=4)
    width: int = Field(128, ge=32, multiple_of=32)
    layers: int = Field(4, ge=2)


class LanguageShape(Block):
    """A Llama with tied embeddings."""

    vocabulary: int = Field(1024, ge=300, description="at most so many tokens, bytes among them")
    width: int = Field(128, ge=32, multiple_of=32)
    layers: int = Field(4, ge=3)
    positions: int = Field(1024, ge=128, description="longest sequence, in tokens")


class Phase(Block):
    """One of the two parts of the training."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="the highest, after the warm-up")


class Schedule(Block):
    """How both are trained: first the tower alone, then all together."""

    tower: Phase
    joint: Phase
    warmup_steps: int = Field(100, ge=0, description="of each part")
    weight_decay: float = Field(0.05, ge=0)
    patch_loss: float = Field(
        1.0, ge=0, description="weight of what the tower says of each patch, beside the texts"
    )


class FoundationSpec(Block):
    """What is trained, on what."""

    scenes: RecipePath = Field(description="build of the data set `scenes`, used by nothing else")
    corpus: RecipePath = Field(description="folder of its images: train/ and test/")
    vocabulary_of: RecipePath = Field(
        description="build of `scenes` whose texts the tokenizer is made of"
    )
    vision: TowerShape = TowerShape()
    language: LanguageShape = LanguageShape()
    schedule: Schedule


class FoundationRecipe(Recipe):
    """Recipe of ``vila2data foundation``."""

    MARK: ClassVar[str | None] = FOUNDATION_MARK

    foundation: FoundationSpec
    out: RecipePath = Field(description="folder of vision/, language/ and foundation.json")
    run: RecipePath = Field(description="folder of the run; an interrupted one goes on there")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: torch's own choice")
    every_steps: int = Field(250, ge=1, description="steps between places where a run goes on")
    seed: int = Field(0, ge=0, lt=2**32)

    def problems(self) -> list[str]:
        """Builds and corpora that are not there."""
        spec = self.foundation
        found = []
        for name in ("scenes", "vocabulary_of"):
            build: Path = getattr(spec, name)
            if not (build / MANIFEST_FILE).is_file():
                found.append(f"foundation.{name}: {build}: no such build; `vila2data build`")
        if not spec.corpus.is_dir():
            found.append(f"foundation.corpus: {spec.corpus}: no such folder")
        return found

    def shaping(self) -> Mapping[str, Any]:
        """Everything here that shapes the weights."""
        told = self.model_dump(mode="json", include={"foundation", "seed"})
        return {**told["foundation"], "seed": told["seed"]}
