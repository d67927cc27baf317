"""The recipe of a loop: how far it goes, and the recipes of its stages."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field, field_validator, model_validator

from vila2data.recipe import LOOP_MARK, Block, Recipe, RecipePath

from ..evaluation.gate import GateRules
from ..nano import foundation_folder

_FILLED = re.compile(
    r"out|corpus|base|runs|model\.(checkpoint|vision|language)|feed\.sources\.\d+\.(build|corpus)"
    r"|sources\.\d+\.(path|corpus)|recaption\.(run|round|task|engine\.(model|captioner))"
)


class PlateauRules(Block):
    """The rounds stop where both grew by less than this since the round before."""

    min_words_growth: float = Field(
        0.03, description="of the mean length of the captions that a round is trained on, a share"
    )
    min_score_growth: float = Field(0.005, description="of the mean of the scores")
    scores: Sequence[str] = Field(
        ("object_precision", "object_recall", "attribute_accuracy", "vqa", "relation_accuracy"),
        min_length=1,
        description="figures of the evaluation that the mean is taken of",
    )


class LoopSpec(Block):
    """How far the loop goes. None of it shapes a stage: it may change while a loop is under way."""

    max_rounds: int = Field(3, ge=1)
    plateau: PlateauRules = PlateauRules()
    gate: GateRules = GateRules()
    specialist: bool = Field(True, description="whether a spatial specialist follows the rounds")
    control: bool = Field(
        True, description="whether a model is trained on as many turns that are general captions"
    )


class EvaluationSpec(Block):
    """How every model is evaluated on the scenes' config `test`."""

    samples: int | None = Field(None, ge=2, description="the first so many scenes; null: all")
    batch_size: int = Field(64, ge=1)
    prompt: str = Field("long-v1", description="id of the captions' prompt")
    max_tokens: int = Field(160, ge=1, description="of a caption")


class StageSpec(Block):
    """The recipe of a stage, and what it says differently here."""

    recipe: str = Field(description="a file, or a shipped recipe's name")
    set: Mapping[str, Any] = Field(default_factory=dict, description="value by key.path")

    @field_validator("set")
    @classmethod
    def _leaves_what_is_filled_in(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        for key in values:
            if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
                raise ValueError(f"'{key}' must have the form key.path")
            if _FILLED.fullmatch(key):
                raise ValueError(f"'{key}' is filled in by the loop")
        return values

    def overrides(self) -> list[str]:
        """As ``--set`` takes them."""
        return [setting(key, value) for key, value in self.set.items()]


class StageSpecs(Block):
    """The recipes of all stages; places and seeds are filled in by the loop."""

    scenes: StageSpec = Field(description="what is recaptioned, fine-tuned on and evaluated")
    align_scenes: StageSpec = Field(description="other scenes, with lists of names and boxes")
    align: StageSpec
    pretrain: StageSpec = Field(
        description="sources of `scenes` with column alt_text become the newest recaptions"
    )
    sft: StageSpec
    round: StageSpec = Field(description="recaptions and their build")
    spatial_relation_qa: StageSpec
    specialist_scenes: StageSpec = Field(
        description="other scenes, with answers to the prompts that ask for spatial captions"
    )
    specialist: StageSpec

    @model_validator(mode="after")
    def _versions_are_the_loop_s(self) -> "StageSpecs":
        if "version" in self.round.set:
            raise ValueError("round: 'version' is filled in by the loop")
        return self


class LoopRecipe(Recipe):
    """Recipe of a loop, run once for each seed."""

    MARK: ClassVar[str | None] = LOOP_MARK

    loop: LoopSpec
    seeds: Sequence[int] = Field((0,), min_length=1, description="one loop for each")
    at_once: int = Field(1, ge=1, description="seeds that run side by side")
    threads: int | None = Field(None, ge=1, description="CPU threads of each; null: torch's choice")
    out: RecipePath = Field(description="folder; a loop that was stopped goes on there")
    foundation: RecipePath = Field(
        default_factory=foundation_folder,
        description="folder with vision/ and language/; null: the shipped one",
    )
    evaluation: EvaluationSpec = EvaluationSpec()
    stages: StageSpecs

    @field_validator("foundation", mode="before")
    @classmethod
    def _shipped_by_default(cls, folder: Any) -> Any:
        return foundation_folder() if folder is None else folder

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: Sequence[int]) -> Sequence[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("names a seed twice")
        if not all(0 <= seed < 2**31 for seed in seeds):
            raise ValueError("must lie in 0 to 2147483647")
        return seeds

    def problems(self) -> list[str]:
        """A foundation that is not there."""
        missing = [name for name in ("vision", "language") if not (self.foundation / name).is_dir()]
        remedy = "`vila2data foundation nano/foundation` makes one"
        return [f"foundation: {self.foundation}: has no folder {n}/; {remedy}" for n in missing]


def setting(key: str, value: Any) -> str:
    """``key=value``, the value as YAML on one line."""
    told = value.as_posix() if isinstance(value, Path) else value
    text = yaml.safe_dump(told, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return f"{key}={text.strip().removesuffix('...').strip()}"
