"""The ``recaption:`` block of a recipe."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from vila2data.corpus.images import ImageLimits
from vila2data.corpus.read import ReadLimits
from vila2data.engines import EngineConfig, Sampling
from vila2data.executor import ExecutorSpec
from vila2data.keyed import keyed_choice, keyed_uniform, sample_seed
from vila2data.prompts import Prompt, load_prompts, load_templates
from vila2data.recipe import Block, RecipePlace

from .gate import GateRules

Task = Literal["general", "spatial", "grounding", "ocr"]

LONG_MIXTURE = {"long-v1": 1.0, "long-v2": 1.0, "long-v3": 1.0}


class SamplingRules(Block):
    """How texts are drawn."""

    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)


class RetryRules(Block):
    """What happens to a caption that the gate rejects: drawn again with another seed, so many
    times.
    """

    times: int = Field(2, ge=0, le=16)
    temperature: float | None = Field(None, gt=0, le=2)


class LimitRules(Block):
    """Images and texts beyond these are rejected before they are decoded."""

    max_image_bytes: int = Field(32 * 1024 * 1024, ge=1)
    max_image_pixels: int = Field(64_000_000, ge=1)
    max_text_bytes: int = Field(64 * 1024, ge=1)

    def reading(self) -> ReadLimits:
        """The limits as the corpus reader takes them."""
        return ReadLimits(
            image=ImageLimits(self.max_image_bytes, self.max_image_pixels),
            max_text_bytes=self.max_text_bytes,
        )


class WorkersSpec(ExecutorSpec):
    """Workers, each with an engine of its own."""

    gpus_per_worker: float = Field(0, ge=0, description="that Ray keeps free for a worker")
    cpus_per_worker: float = Field(1, ge=0, description="that Ray keeps free for a worker")


class RecaptionSpec(Block):
    """One round, or one specialist, over a corpus."""

    run: RecipePlace = Field(description="folder of the run's shards; interrupted runs go on there")
    round: int = Field(ge=1, description="1 is written by the model trained on the original texts")
    task: Task = "general"
    fraction: float = Field(1.0, gt=0, le=1, description="share of the samples, by keyed hash")
    prompts: Mapping[str, float] = Field(default_factory=lambda: dict(LONG_MIXTURE))
    own_prompts: Mapping[str, str] = Field(default_factory=dict)
    prompt_per: Literal["image", "round"] = "image"
    template: str = "concatenated"
    engine: SerializeAsAny[EngineConfig]
    sampling: SamplingRules = SamplingRules()
    retry: RetryRules = RetryRules()
    gate: GateRules = GateRules()
    limits: LimitRules = LimitRules()
    executor: WorkersSpec = WorkersSpec()

    @field_validator("engine", mode="plain")
    @classmethod
    def _engine_of_its_name(cls, content: Any) -> EngineConfig:
        if isinstance(content, EngineConfig):
            return content
        return EngineConfig.resolve(content).model_validate(content)

    @field_validator("template")
    @classmethod
    def _known_template(cls, name: str) -> str:
        if name not in load_templates():
            raise ValueError(f"must be one of {', '.join(load_templates())}")
        return name

    @model_validator(mode="after")
    def _prompts_exist(self) -> "RecaptionSpec":
        captions = [p.id for p in load_prompts().values() if p.use == "caption"]
        unknown = [p for p in self.prompts if p not in captions and p not in self.own_prompts]
        if unknown:
            raise ValueError(
                f"prompts {', '.join(unknown)} are not known; known: {', '.join(captions)}, "
                "and those of own_prompts"
            )
        taken = [p for p in self.own_prompts if p in load_prompts()]
        if taken:
            raise ValueError(f"own_prompts: {', '.join(taken)} is the id of a shipped prompt")
        if any(w < 0 for w in self.prompts.values()) or not any(self.prompts.values()):
            raise ValueError("prompts: weights must not be negative, and one must be positive")
        return self

    @model_validator(mode="after")
    def _retries_differ(self) -> "RecaptionSpec":
        if self.sampling.temperature == 0 and self.retry.times and self.retry.temperature is None:
            raise ValueError(
                "sampling.temperature 0 gives the same text at every retry: "
                "set retry.temperature above 0, or retry.times to 0"
            )
        return self

    @property
    def config(self) -> str:
        """The build's config that the captions become."""
        return f"round{self.round}" if self.task == "general" else self.task

    def prompt_for(self, key: str, *, seed: int) -> Prompt:
        """The prompt of a sample: the same in every round, unless ``prompt_per`` is ``round``."""
        drawn_for = self.round if self.prompt_per == "round" else 0
        chosen = keyed_choice(self.prompts, seed, key, drawn_for, self.task, "prompt")
        return self.prompt(chosen)

    def prompt(self, prompt_id: str) -> Prompt:
        """A shipped prompt or one of ``own_prompts``."""
        if prompt_id in self.own_prompts:
            return Prompt(prompt_id, self.own_prompts[prompt_id], "caption", self.task, "recipe")
        return load_prompts()[prompt_id]

    def takes(self, key: str, *, seed: int) -> bool:
        """Whether a sample belongs to the round's fraction; the same samples in every round."""
        return self.fraction >= 1 or keyed_uniform(seed, key, "fraction") < self.fraction

    def sampling_for(self, key: str, *, seed: int, attempt: int) -> Sampling:
        """How attempt ``attempt`` (0 is the first) at a sample is drawn."""
        retried = attempt > 0 and self.retry.temperature is not None
        temperature = self.retry.temperature if retried else self.sampling.temperature
        return Sampling(
            temperature=temperature or 0.0,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_tokens,
            seed=sample_seed(seed, key, round=self.round, task=self.task, attempt=attempt),
        )

    def shaping(self, *, seed: int) -> dict[str, Any]:
        """Everything that shapes the texts of a run; its hash is the run's fingerprint."""
        settings = self.model_dump(
            mode="json", exclude={"run", "executor", "engine", "own_prompts"}
        )
        settings["prompts"] = {
            name: {"weight": weight, "sha256": self.prompt(name).sha256}
            for name, weight in sorted(self.prompts.items())
        }
        return {"seed": seed, **settings, "engine": self.engine.shaping()}
