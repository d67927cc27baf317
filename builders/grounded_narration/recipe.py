"""Recipe of ``grounded-narration``: where the rows are, which are kept, what is written of them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vila2data.boxes import CONVENTIONS, Convention
from vila2data.build.recipe import BuildRecipe
from vila2data.executor import ExecutorSpec
from vila2data.prompts import load_prompts
from vila2data.recipe import Block, RecipePath

NARRATION_TASK = "grounding"

OnImage = Literal["keep", "reject"]


class BoxRules(Block):
    """Which boxes are left out."""

    max_area: float = Field(0.7, gt=0, le=1, description="share of the image")
    min_side: float = Field(
        0.001,
        ge=1e-6,  # what is stored, with 32 bits, must still be a box
        lt=1,
        description="share of the image's width or height",
    )
    min_score: float | None = Field(None, ge=0, le=1, description="the detector's confidence")
    large: Literal["drop_box", "drop_image"] = Field(
        "drop_box", description="of a box above max_area"
    )
    malformed: Literal["drop_box", "drop_image"] = Field(
        "drop_box", description="of a box or span that cannot be one"
    )


class RowRules(Block):
    """Which rows are left out."""

    max_instances: int = Field(3, ge=1, description="of one category")
    same_instance_iou: float = Field(
        0.9, gt=0, le=1, description="boxes of a category that overlap so much are one instance"
    )
    max_caption_chars: int = Field(5000, ge=1)
    min_clip_similarity_vitb32: float | None = None
    min_clip_similarity_vitl14: float | None = None


class PhraseRules(Block):
    """Which text a box stands behind."""

    text: Literal["ref_exp", "noun_chunk"] = Field(
        "ref_exp", description="ref_exp: the referring expression, where that costs no box"
    )


def _narration_questions() -> dict[str, float]:
    prompts = load_prompts().values()
    return {p.id: 1.0 for p in prompts if p.task == NARRATION_TASK}


class Questions(Block):
    """What is asked, and how boxes are written."""

    boxes: str = Field("vila", description="how boxes are written; see vila2data.boxes")
    narration: Mapping[str, float] = Field(
        default_factory=_narration_questions, description="prompt ids and their shares"
    )
    refer: int = Field(0, ge=0, le=100, description="further turns from a phrase to its boxes")
    describe: int = Field(0, ge=0, le=100, description="further turns from a box to its phrase")

    @field_validator("boxes")
    @classmethod
    def _known(cls, boxes: str) -> str:
        if boxes not in CONVENTIONS:
            raise ValueError(f"must be one of {', '.join(CONVENTIONS)}")
        return boxes

    @field_validator("narration")
    @classmethod
    def _prompts(cls, narration: Mapping[str, float]) -> Mapping[str, float]:
        known = _narration_questions()
        unknown = [name for name in narration if name not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown; known: {', '.join(known)}")
        if min(narration.values(), default=0) < 0 or max(narration.values(), default=0) <= 0:
            raise ValueError("shares must not be negative, and one must be positive")
        return narration

    @cached_property
    def convention(self) -> Convention:
        """How boxes are written."""
        return CONVENTIONS[self.boxes]


class Density(Block):
    """How densely a caption is grounded: first by phrases, then by words."""

    phrases: int = Field(ge=0, description="grounded phrases")
    words: int = Field(0, ge=0, description="of the caption")


class Split(Block):
    """Which rows are long; where ``long_from`` is given it decides alone."""

    long_share: float = Field(0.218, ge=0, le=1)
    long_from: Density | None = None


class ImageRules(Block):
    """Where the images are, and what to do with rows whose image is none or another."""

    corpus: RecipePath
    missing: OnImage = "keep"
    size_differs: OnImage = "keep"
    phash_differs: OnImage = "keep"
    max_aspect_difference: float = Field(
        0.02, ge=0, lt=1, description="of width/height of image and row, as a share"
    )
    max_phash_distance: int = Field(10, ge=0, le=64, description="bits of 64")


class GroundedNarrationRecipe(BuildRecipe):
    """Recipe of ``grounded-narration``."""

    path: RecipePath = Field(description="GRIT's parts: a folder of .parquet or .jsonl, or a file")
    boxes: BoxRules = BoxRules()
    rows: RowRules = RowRules()
    phrases: PhraseRules = PhraseRules()
    questions: Questions = Questions()
    split: Split = Split()
    images: ImageRules | None = None
    rejects_per_reason: int = Field(1000, ge=0, description="rows of pool-rejects")
    executor: ExecutorSpec = ExecutorSpec()

    @model_validator(mode="after")
    def _sides(self) -> "GroundedNarrationRecipe":
        if self.boxes.min_side**2 > self.boxes.max_area:
            raise ValueError("boxes: min_side leaves no box below max_area")
        return self

    def problems(self) -> list[str]:
        """What is missing of the parts, the corpus, and of what the executor needs."""
        found = [] if self.path.exists() else [f"path: {self.path} does not exist"]
        if self.images is not None and not self.images.corpus.is_dir():
            found.append(f"images.corpus: {self.images.corpus} is no folder")
        return found + [f"executor.{problem}" for problem in self.executor.problems()]
