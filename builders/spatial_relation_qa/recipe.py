"""Recipe of ``spatial-relation-qa``: sources, what is left out, what the relations mean, what is
asked.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from vila2data.boxes import CONVENTIONS
from vila2data.build.recipe import BuildRecipe
from vila2data.executor import ExecutorSpec
from vila2data.recipe import Block

from .names import FORMS, RELATIONS, Form
from .sources import AnySource


class SceneRules(Block):
    """When a scene is not used at all."""

    min_projection_iou: float = Field(
        0.3, ge=0, le=1, description="mean IoU of the projected boxes with the source's 2D boxes"
    )
    max_objects: int = Field(1000, ge=1, description="time and memory grow with its square")
    check_images: bool = Field(True, description="that each is there and has the stated size")


class BoxRules(Block):
    """Which boxes a question may be about. Those that are seen too badly stay in the scene as
    rivals: they can make an answer doubtful, and be none.

    Source: the quality limits of Omni3D's evaluation, where they have one.
    """

    min_visibility: float = Field(0.33, ge=0, le=1, description="visible share")
    unknown_visibility: Literal["cast", "pass", "reject"] = Field(
        "cast", description="cast: estimated from the other boxes; pass: taken as visible"
    )
    rays: int = Field(8, ge=1, le=64, description="along each side of a box's picture, for cast")
    max_truncation: float = Field(0.33, ge=0, le=1, description="share outside the image, as told")
    min_inside: float = Field(
        0.5, ge=0, le=1, description="share of the projected box in the image"
    )
    min_height: float = Field(
        0.05, ge=0, le=1, description="of the picture of the box, in the image's"
    )
    min_width: float = Field(
        0.01, ge=0, le=1, description="of the picture of the box, in the image's"
    )
    min_points: int = Field(1, ge=0, description="lidar or depth points, where they were counted")
    max_depth_error_m: float = Field(0.5, gt=0)
    min_iou: float = Field(
        0.1, ge=0, le=1, description="of the projected box with the source's 2D box, for each box"
    )
    max_same_class_iou: float = Field(
        0.8, gt=0, le=1, description="boxes of one class that overlap more cannot be told apart"
    )


class Semantics(Block):
    """What each relation means, in the camera's frame."""

    mode: Literal["strict", "lenient"] = Field(
        "strict", description="strict: extents must be disjoint, and no rival may come near"
    )
    closest_by: Literal["center", "gap"] = Field(
        "center", description="distance of the centres, or of the boxes' nearest points"
    )
    min_gap_m: float = Field(0.2, ge=0, description="by which a closest or farthest box must win")
    min_gap_share: float = Field(0.1, ge=0, lt=1, description="the same, of the greater distance")
    lateral_margin_m: float = Field(0.2, gt=0, description="left_of, right_of: of the centres")
    depth_margin_m: float = Field(0.2, gt=0, description="in_front_of, behind: of the centres")
    dead_zone: float = Field(
        0.05, gt=0, lt=0.5, description="left, right of the camera: of the image's width around cx"
    )
    close_percentile: float = Field(25, gt=0, lt=100, description="of depth in the source")
    far_percentile: float = Field(75, gt=0, lt=100, description="of depth in the source")
    min_superlative_candidates: int = Field(2, ge=1)
    anchors: Literal["box", "unique"] = Field(
        "box", description="named by class and box, or by a class of which there is but one"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Semantics":
        if self.close_percentile > self.far_percentile:
            raise ValueError("close_percentile must not exceed far_percentile")
        return self


class Questions(Block):
    """What is asked, and how."""

    per_image: int = Field(6, ge=1, le=100, description="question-answer pairs in a conversation")
    balance: Mapping[str, float] = Field(
        default_factory=lambda: dict.fromkeys(RELATIONS, 1.0),
        description="share of each relation; 0 leaves it out",
    )
    forms: Mapping[Form, float] = Field(
        default_factory=lambda: dict(zip(FORMS, (1.0, 0.0, 0.0), strict=True)),
        description="share of each form of answer",
    )
    boxes: str = Field("norm3", description="how boxes are written; see vila2data.boxes")

    @field_validator("balance")
    @classmethod
    def _relations(cls, balance: Mapping[str, float]) -> Mapping[str, float]:
        return _weights({**dict.fromkeys(RELATIONS, 0.0), **balance}, RELATIONS)

    @field_validator("forms")
    @classmethod
    def _forms(cls, forms: Mapping[str, float]) -> Mapping[str, float]:
        return _weights({**dict.fromkeys(FORMS, 0.0), **forms}, FORMS)

    @field_validator("boxes")
    @classmethod
    def _known(cls, boxes: str) -> str:
        if boxes not in CONVENTIONS:
            raise ValueError(f"must be one of {', '.join(CONVENTIONS)}")
        return boxes


def _weights(weights: Mapping[str, float], known: Sequence[str]) -> Mapping[str, float]:
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown; known: {', '.join(known)}")
    if min(weights.values()) < 0 or max(weights.values()) <= 0:
        raise ValueError("weights must not be negative, and one must be positive")
    return {name: weights[name] for name in known}


class SpatialRelationQARecipe(BuildRecipe):
    """Recipe of ``spatial-relation-qa``."""

    sources: Sequence[AnySource] = Field(min_length=1)
    images: Literal["embed", "path"] = Field(
        "embed", description="embed: column `image`; path: column `image_path`, relative"
    )
    scenes: SceneRules = SceneRules()
    objects: BoxRules = BoxRules()
    relations: Semantics = Semantics()
    questions: Questions = Questions()
    executor: ExecutorSpec = ExecutorSpec()

    @model_validator(mode="after")
    def _names_differ(self) -> "SpatialRelationQARecipe":
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: the name {', '.join(twice)} stands twice")
        return self

    def problems(self) -> list[str]:
        """What is missing of the sources, and of what the executor needs."""
        found = [
            f"sources.{n}.{problem}"
            for n, source in enumerate(self.sources)
            for problem in source.problems()
        ]
        return found + [f"executor.{problem}" for problem in self.executor.problems()]
