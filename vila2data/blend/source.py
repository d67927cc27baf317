"""What is known of a source: where it is, whose it is, how its rows are read."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from vila2data.recipe import Block

Status = Literal["available", "manual", "gone", "never_public", "evaluation"]
"""available: on the Hub. manual: to be got by hand from ``url``. gone: was public once.
never_public. evaluation: has no rows to train on.
"""

TASKS = (
    "captioning",
    "chart",
    "conversation",
    "document",
    "grounding",
    "knowledge",
    "math",
    "ocr",
    "reasoning",
    "region",
    "screen",
    "table",
    "text",
    "video",
    "vqa",
)


class Join(Block):
    """A second file whose records complete those of the first, such as questions and answers.

    It is held in memory while the source is read.
    """

    files: str = Field(description="glob below the source's folder")
    records: str = Field("", description="as of the source")
    key: str = Field(description="the column that both have")
    other: str | None = Field(None, description="what the second file calls that column")


class Rules(Block):
    """How annotations become conversations."""

    merge: bool = Field(False, description="rows of the same image become one conversation")
    form: str | None = Field(None, description="id of the prompt that fixes the form of answers")
    form_in: Literal["first", "every"] = Field("first", description="question of a conversation")
    boxes_in: Literal["image", "square"] = Field(
        "image", description="square: the image padded to one, as LLaVA's processor does"
    )
    permute_choices: bool = Field(
        False, description="a row for each rotation of the choices (LLaVA-1.5 A.2, rule 3)"
    )
    max_exchanges: int | None = Field(
        None, ge=1, description="of a conversation; more are drawn from (rule 5)"
    )
    segment: int | None = Field(
        None, ge=1, description="exchanges from which the next row begins (rule 6)"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="of a conversation; cut at whole exchanges (rule 2)"
    )


class Source(Block):
    """An entry of the catalogue."""

    title: str
    task: Literal[TASKS]  # type: ignore[valid-type]
    license: str = Field(description="SPDX-like id, or unknown")
    non_commercial: bool = False
    status: Status = "available"
    note: str = Field("", description="what to know before using it; why it cannot be had")
    substitute: str | None = Field(None, description="entry to use where this one cannot be had")

    hub: str | None = Field(None, description="id on the Hub")
    revision: str | None = Field(None, description="commit on the Hub")
    url: str | None = Field(None, description="where people get it")
    files: str = Field("**/*.parquet", description="glob below the source's folder or repository")
    format: Literal["parquet", "json", "jsonl"] = "parquet"
    records: str = Field(
        "",
        description="where a json file has its records: the key of an array, or empty where the "
        "file is one array, or * where it is an object of records by id (their column _key)",
    )
    join: Join | None = None

    layout: str | None = Field(None, description="how a record is read; see blend.layouts")
    columns: Mapping[str, str] = Field(
        default_factory=dict, description="the source's name of each of the layout's columns"
    )
    rules: Rules = Rules()
    split: Literal["train", "evaluation"] = "train"
    copies: str | None = Field(None, description="entry whose rows this one repeats")
    records_published: int | None = Field(None, description="rows as the publisher counts them")
    tested_on: Literal["real rows", "rows of the same shape", "not tested"] = "not tested"

    @model_validator(mode="after")
    def _complete(self) -> "Source":
        if self.can_be_had and self.layout is None:
            raise ValueError("layout: is missing")
        if not self.can_be_had and not self.note:
            raise ValueError("note: must say why it cannot be had")
        if self.status == "available" and self.hub is None:
            raise ValueError("hub: is missing")
        return self

    @property
    def can_be_had(self) -> bool:
        """Whether anyone can have its rows."""
        return self.status not in ("gone", "never_public")
