"""The recipe of a training stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from vila2data.build.manifest import MANIFEST_FILE
from vila2data.recipe import FEED_MARK, Block, Recipe, RecipePath

from .architectures.spec import ModelSpec
from .feed.spec import FeedSpec
from .presets import load_presets, with_preset

Part = Literal["vision", "projector", "language"]
Sharding = Literal["deepspeed-stage2", "deepspeed-stage3", "fsdp"]

_NOT_SHAPING = {"preset", "model", "hardware", "checkpoints", "logging", "out"}
_WEIGHTS = {"checkpoint", "vision", "language"}  # told by their revisions, wherever they lie


class OptimisationSpec(Block):
    """How weights change; the presets hold the papers' numbers."""

    learning_rate: float = Field(gt=0, description="the highest, after the warm-up")
    batch: int = Field(ge=1, description="sequences in a step, of all processes together")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(1, ge=1)
    optimizer: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float | None = Field(1.0, gt=0, description="null: gradients are not clipped")


class HardwareSpec(Block):
    """Where it runs. But for ``precision``, this changes speed and memory, and the result by no
    more than rounding.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch: int = Field(8, ge=1, description="sequences at once in one process")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the computation, weights stay float32; auto: bfloat16 on a GPU"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for more computation")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    workers: int = Field(0, ge=0, description="processes that read images, for each process")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: torch's own choice")
    sharding: Sharding | RecipePath | None = Field(
        None,
        description="used where several processes run on GPUs, and not elsewhere; a DeepSpeed "
        "config (.json) with one process, too",
    )

    @field_validator("sharding")
    @classmethod
    def _known_sharding(cls, value: Sharding | Path | None) -> Sharding | Path | None:
        if isinstance(value, Path) and value.suffix != ".json":
            raise ValueError(
                "must be deepspeed-stage2, deepspeed-stage3, fsdp, null or a DeepSpeed config "
                "(.json)"
            )
        return value


class CheckpointSpec(Block):
    """Where an interrupted run can go on."""

    every_steps: int = Field(500, ge=1)
    keep: int = Field(2, ge=1, description="the newest so many; older ones are removed")


class LoggingSpec(Block):
    """What is written about the run, beside the model."""

    every_steps: int = Field(1, ge=1, description="steps that a line of log.jsonl stands for")
    tensorboard: bool = Field(False, description="also OUT/tensorboard")


class TrainRecipe(Recipe):
    """Recipe of one stage: which model, on what, which of its parts, how."""

    MARK: ClassVar[str | None] = FEED_MARK

    preset: str | None = Field(None, description="a paper's stage; the recipe's own keys win")
    model: ModelSpec
    feed: FeedSpec
    trains: Sequence[Part] = Field(description="parts that change; the others are frozen")
    optimisation: OptimisationSpec
    hardware: HardwareSpec = HardwareSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    logging: LoggingSpec = LoggingSpec()
    out: RecipePath = Field(description="folder of the run; interrupted runs go on there")
    seed: int = Field(0, ge=0, lt=2**32, description="of the order, and of weights that are new")

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, content: Any) -> Any:
        name = content.get("preset") if isinstance(content, dict) else None
        is_known = isinstance(name, str) and name in load_presets()
        return with_preset(content, str(name)) if is_known else content

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str | None) -> str | None:
        if name is not None and name not in load_presets():
            raise ValueError(f"must be one of {', '.join(load_presets())}")
        return name

    @field_validator("trains")
    @classmethod
    def _trains_something(cls, parts: Sequence[Part]) -> Sequence[Part]:
        if not parts:
            raise ValueError("freezes everything; name some of vision, projector, language")
        if len(set(parts)) < len(parts):
            raise ValueError("names a part twice")
        return parts

    def problems(self) -> list[str]:
        """What is not there, and a batch that cannot be divided."""
        found = self.model.problems()
        found += [f"feed.{told}" for told in self.feed.problems()]
        batch, micro_batch = self.optimisation.batch, self.hardware.micro_batch
        if batch % micro_batch:
            found.append(
                f"hardware.micro_batch: {micro_batch} does not divide optimisation.batch {batch}"
            )
        build = next((p for p in self.out.parents if (p / MANIFEST_FILE).is_file()), self.out)
        if (build / MANIFEST_FILE).is_file():
            found.append(f"out: {self.out}: lies in the build {build}, and versions never change")
        sharding = self.hardware.sharding
        if isinstance(sharding, Path) and not sharding.is_file():
            found.append(f"hardware.sharding: {sharding}: no such file")
        return found

    def shaping(self, *, precision: str) -> dict[str, Any]:
        """Everything here that shapes the result, but for the weights that it begins with."""
        told = self.model_dump(mode="json", exclude=_NOT_SHAPING)
        model = self.model.model_dump(mode="json", exclude=_WEIGHTS)
        return {**told, "model": model, "precision": precision}
