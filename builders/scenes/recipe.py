"""Recipe of ``scenes``: how many there are, what they show, which texts they have."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vila2data.build.recipe import BuildRecipe
from vila2data.executor import ExecutorSpec
from vila2data.recipe import Block, RecipePath

from .words import EVERYWHERE, KINDS, NUMBERS

Share = Annotated[float, Field(ge=0, le=1)]
Style = Literal["detailed", "spatial", "located"]


class ObjectRules(Block):
    """How many objects a scene has; as many at most as there is room for."""

    min: int = Field(2, ge=2, le=len(NUMBERS) - 1)
    max: int = Field(5, ge=2, le=len(NUMBERS) - 1)

    @model_validator(mode="after")
    def _ordered(self) -> "ObjectRules":
        if self.min > self.max:
            raise ValueError("min must not exceed max")
        return self


class References(Block):
    """The scenes of `train` that have a true description; those of `test` all have one."""

    share: float = Field(0.1, ge=0, le=1)
    style: Style = Field(
        "detailed",
        description="spatial: names and relations; located: names and boxes, and nothing is asked",
    )


class Questions(Block):
    """The scenes of `train` that have questions; those of `test` all have them."""

    share: float = Field(0.3, ge=0, le=1)
    kinds: Mapping[str, Share] | None = Field(
        None,
        description="of those scenes, which are asked a kind; null: all, whatever they allow",
    )

    @field_validator("kinds")
    @classmethod
    def _are_kinds(cls, kinds: Mapping[str, float] | None) -> Mapping[str, float] | None:
        for kind in sorted(set(kinds or ()) - set(KINDS)):
            raise ValueError(f"'{kind}' is none; there are {', '.join(KINDS)}")
        if kinds is not None and not any(kinds.get(kind) == 1 for kind in EVERYWHERE):
            told = ", ".join(EVERYWHERE)
            raise ValueError(f"one of {told} needs a share of 1, that no scene is left without")
        return kinds

    def share_of(self, kind: str) -> float:
        """Of the scenes that have questions, as far as they allow the kind."""
        return 1.0 if self.kinds is None else self.kinds.get(kind, 0.0)


class ScenesRecipe(BuildRecipe):
    """Recipe of ``scenes``."""

    license: str = Field("cc0-1.0", description="SPDX-like id for the card, as the Hub knows it")
    corpus: RecipePath = Field(description="folder that is written: CORPUS/train and CORPUS/test")
    image_side_px: int = Field(96, ge=16, le=2048, description="of the square images")
    train: int = Field(ge=1, le=1_000_000, description="number of scenes")
    test: int = Field(ge=0, le=1_000_000, description="number of scenes; 0: no config `test`")
    objects: ObjectRules = ObjectRules()
    min_visibility: float = Field(
        0.35, gt=0, le=1, description="share of each object's outline; below, a scene is redrawn"
    )
    reference: References = References()
    questions: Questions = Questions()
    executor: ExecutorSpec = ExecutorSpec()

    @model_validator(mode="after")
    def _style_fits(self) -> "ScenesRecipe":
        if self.reference.style == "located" and self.questions.share > 0:
            raise ValueError("questions.share: must be 0 where reference.style is located")
        return self

    def problems(self) -> list[str]:
        """What rendering, and the executor, lack."""
        found = [f"executor.{problem}" for problem in self.executor.problems()]
        if find_spec("open3d") is None:
            found.append("open3d is not installed; pip install 'vila2data[spatial]'")
        return found
