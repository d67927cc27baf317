"""The ``feed:`` block of a training recipe."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from vila2data.corpus.images import ImageLimits
from vila2data.recipe import Block, RecipePath

Form = Literal["plain", "chat"]
Policy = Literal["refuse", "skip"]


class SourceSpec(Block):
    """One source of the mixture: a config of a build, or interleaved documents."""

    build: RecipePath | None = Field(None, description="folder of a build")
    config: str | None = Field(None, description="of the build; its default config where None")
    split: str = "train"
    column: str | None = Field(
        None,
        description="of the build, with captions, messages or questions; rows where it is null are "
        "left out; `messages`, or else `caption`, where None",
    )
    documents: RecipePath | None = Field(
        None, description="file or folder of interleaved documents in MMC4's JSONL layout"
    )
    corpus: RecipePath | None = Field(
        None, description="folder of tars with the images, where the rows hold none"
    )
    form: Form = Field(
        "chat",
        description="plain: text follows the image as it is; chat: the model's chat template",
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of the rows, by keyed hash")
    cap: int | None = Field(None, ge=1, description="at most so many rows, by keyed hash")
    weight: float = Field(1.0, gt=0, description="how often a row is seen in an epoch, on average")
    min_similarity: float = Field(
        0.0, ge=-1, le=1, description="documents: images that fit their text less are left out"
    )
    max_images: int = Field(6, ge=1, description="documents: the first so many images are kept")

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSpec":
        if (self.build is None) == (self.documents is None):
            raise ValueError("a source needs either build: or documents:")
        if self.documents is not None:
            for name in ("config", "column"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: belongs to a build, not to documents:")
            if self.corpus is None:
                raise ValueError("documents: need a corpus: that holds their images")
        return self

    @property
    def name(self) -> str:
        """Names the source to people; not unique."""
        if self.documents is not None:
            return self.documents.name
        assert self.build is not None
        return "/".join([*self.build.parts[-2:], *filter(None, [self.config, self.column])])

    def problems(self) -> list[str]:
        """Folders and files that are not there."""
        found = []
        if self.build is not None and not self.build.is_dir():
            found.append(f"build: {self.build}: no such build; `vila2data build` makes one")
        if self.documents is not None and not self.documents.exists():
            found.append(f"documents: {self.documents}: no such file or folder")
        if self.corpus is not None and not self.corpus.is_dir():
            found.append(
                f"corpus: {self.corpus}: no such folder; `vila2data corpus pack` makes one"
            )
        return found


class FeedSpec(Block):
    """What is trained on, and in which order and grouping."""

    sources: Sequence[SourceSpec] = Field(min_length=1)
    context_tokens: int = Field(
        4096, ge=8, description="of a sample, and of a pack; image tokens count"
    )
    too_long: Policy = Field("refuse", description="a sample longer than the context")
    missing_image: Policy = Field("refuse", description="a row whose image the corpus lacks")
    packing: bool = Field(False, description="several samples in one sequence of the context")
    single_modality: bool = Field(
        False, description="every batch has images in all of its samples, or in none"
    )
    shards_at_once: int = Field(
        16, ge=1, description="shards of a corpus whose samples are mixed with one another"
    )
    max_image_bytes: int = Field(32 * 1024 * 1024, ge=1)
    max_image_pixels: int = Field(64_000_000, ge=1)

    def limits(self) -> ImageLimits:
        """Images beyond these are skipped before they are decoded."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels)

    def problems(self) -> list[str]:
        """Folders and files that are not there, by source."""
        return [
            f"sources.{number}.{told}"
            for number, source in enumerate(self.sources)
            for told in source.problems()
        ]
