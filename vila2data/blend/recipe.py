"""Recipe of a data set that is made of many sources."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from vila2data.build.recipe import BuildRecipe
from vila2data.errors import BadInput
from vila2data.executor import ExecutorSpec
from vila2data.prompts import load_prompts
from vila2data.recipe import Block, RecipePath
from vila2data.shown import nearest

from .catalog import sources
from .layouts import LAYOUTS
from .source import Rules, Source

_ID = re.compile(r"[a-z0-9_]+")

OnLeak = Literal["fail", "drop", "warn"]


class Entry(Block):
    """A source of the blend: where it is, how much of it, and what differs from its catalogue."""

    path: RecipePath | None = Field(
        None, description="its folder or file; else ROOT/<id>, else the Hub"
    )
    images: RecipePath | None = Field(None, description="folder that image names are below")
    files: str | None = Field(None, description="glob below its folder, in the catalogue's place")
    revision: str | None = Field(None, description="commit on the Hub")
    groups: RecipePath | None = Field(
        None, description="file of the groups to take, such as names of images, one a line"
    )
    weight: float = Field(1.0, gt=0, description="rows are repeated, or drawn, in this proportion")
    cap: int | None = Field(None, ge=1, description="rows at most, drawn by keyed hash")
    wanted: int | None = Field(None, ge=0, description="rows that a publication names")
    rules: Mapping[str, object] = Field(
        default_factory=dict, description="in the place of the catalogue's"
    )

    @field_validator("rules")
    @classmethod
    def _known(cls, rules: Mapping[str, object]) -> Mapping[str, object]:
        Rules.model_validate(dict(rules))
        return rules


class NearRules(Block):
    """Which images are copies of one another."""

    max_distance: int = Field(8, ge=0, le=16, description="bits of 64 between perceptual hashes")


class OverlapRules(Block):
    """What is compared, and what follows."""

    evaluation: tuple[str, ...] = Field((), description="catalogue ids of evaluation sets")
    leakage: OnLeak = Field("fail", description="of a row that repeats an evaluation set")
    near: NearRules | None = Field(NearRules(), description="None compares bytes and texts alone")
    text: bool = Field(True, description="question and answer, on the same image or another")
    copies: Literal["drop", "keep"] = Field(
        "drop", description="rows of a source that repeats another one of the blend"
    )


class BlendRecipe(BuildRecipe):
    """Recipe of ``ocr-blend``, ``llava-instruct`` and ``sft-blend``."""

    config: str = Field("default", pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]*$")
    base: RecipePath | None = Field(
        None, description="an earlier version, whose other configs this one takes over"
    )
    root: RecipePath | None = Field(None, description="folder of sources: ROOT/<id>")
    define: Mapping[str, Source] = Field(
        default_factory=dict, description="sources that the catalogue does not have, by id"
    )
    sources: Mapping[str, Entry] = Field(
        min_length=1, description="by id of the catalogue, or of define"
    )
    evaluation_sources: Mapping[str, Entry] = Field(
        default_factory=dict, description="where evaluation sets are"
    )
    missing: Literal["fail", "skip"] = Field(
        "fail", description="of a source that is neither here nor on the Hub"
    )
    images: Literal["embed", "paths"] = "embed"
    commercial_only: bool = Field(False, description="refuse sources that are non-commercial")
    tokenizer: RecipePath | None = Field(
        None, description="folder of the tokenizer that counts; else an estimate"
    )
    overlap: OverlapRules = OverlapRules()
    rejects_per_reason: int = Field(1000, ge=0, description="rows of <config>-rejects, per source")
    executor: ExecutorSpec = ExecutorSpec()

    @field_validator("define")
    @classmethod
    def _new(cls, defined: Mapping[str, Source]) -> Mapping[str, Source]:
        for name, source in defined.items():
            if name in sources():
                raise ValueError(f"{name}: is in the catalogue already")
            if _ID.fullmatch(name) is None:
                raise ValueError(f"{name}: must be small letters, digits and underscores")
            if source.layout is not None and source.layout not in LAYOUTS:
                raise ValueError(f"{name}.layout: {source.layout}{nearest(source.layout, LAYOUTS)}")
        return defined

    @field_validator("sources")
    @classmethod
    def _known(cls, entries: Mapping[str, Entry], info: ValidationInfo) -> Mapping[str, Entry]:
        known = [*sources(), *info.data.get("define", {})]
        told = [f"{name}{nearest(name, known)}" for name in entries if name not in known]
        if told:
            raise ValueError(f"not in the catalogue of sources: {', '.join(told)}")
        return entries

    def known(self, name: str) -> Source | None:
        """The entry of the catalogue, or of this recipe; None where there is none."""
        return self.define.get(name) or sources().get(name)

    def entry(self, name: str) -> Entry:
        """What this recipe says of a source."""
        return self.sources.get(name) or self.evaluation_sources.get(name) or Entry()

    def source(self, name: str) -> Source:
        """The catalogue's entry with what this recipe changes of it."""
        source, entry = self._entry_of(name), self.entry(name)
        rules = source.rules.model_copy(update=dict(entry.rules))
        return source.model_copy(
            update={
                "rules": rules,
                "files": entry.files or source.files,
                "revision": entry.revision or source.revision,
            }
        )

    def _entry_of(self, name: str) -> Source:
        found = self.known(name)
        if found is None:
            raise BadInput(f"{name}: not in the catalogue of sources")
        return found

    def folder(self, name: str) -> Path | None:
        """Where the source is on this machine; None where it is to be read from the Hub."""
        entry = self.entry(name)
        if entry.path is not None:
            return entry.path
        below = None if self.root is None else self.root / name
        return below if below is not None and below.exists() else None

    def problems(self) -> list[str]:
        """Sources that cannot be had or must not be trained on, and what the executor lacks."""
        found = [p for name in self.sources for p in self._problems_of(name)]
        for name in self.overlap.evaluation:
            if self.known(name) is None:
                found.append(f"overlap.evaluation: {name} is not in the catalogue of sources")
        if self.base is not None and not self.base.is_dir():
            found.append(f"base: {self.base}: no such build")
        if self.tokenizer is not None and not self.tokenizer.is_dir():
            found.append(f"tokenizer: {self.tokenizer} is no folder")
        return found + [f"executor.{problem}" for problem in self.executor.problems()]

    def _problems_of(self, name: str) -> Iterator[str]:
        source, groups = self._entry_of(name), self.entry(name).groups
        if groups is not None and not groups.is_file():
            yield f"sources.{name}.groups: there is no file {groups}"
        instead = f"; use {source.substitute}" if source.substitute else ""
        if source.split == "evaluation":
            yield f"sources.{name}: has no rows to train on: {source.note}{instead}"
        if not source.can_be_had:
            yield f"sources.{name}: {source.status.replace('_', ' ')}: {source.note}{instead}"
        if source.non_commercial and self.commercial_only:
            yield f"sources.{name}: its licence, {source.license}, forbids commercial use"
        form = self.source(name).rules.form
        if form is not None and form not in load_prompts():
            yield f"sources.{name}.rules.form: there is no prompt '{form}'"
