"""What the recipes of all builders share."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from vila2data.recipe import BUILDER_MARK, VERSION_PATTERN, Recipe, RecipePath


class BuildRecipe(Recipe):
    """A recipe that ends in a build; ``builder`` names the entry point that it is for."""

    MARK: ClassVar[str | None] = BUILDER_MARK

    builder: str
    version: str = Field(pattern=VERSION_PATTERN, description="of the data set, as 1.0.0")
    out: RecipePath = Field(Path("builds"), description="the build is OUT/<data set>/<version>")
    seed: int = Field(
        0, ge=0, lt=2**63, description="of every draw, together with the sample's key"
    )
    license: str = Field(description="SPDX-like id for the card, as the Hub knows it")
    max_shard_size: str = Field("500MB", pattern=r"^\d+(KB|MB|GB)$")
