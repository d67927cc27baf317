"""What the rows of each source are measured by: the catalogue, and what the recipe changes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vila2data.prompts import prompt

from .. import catalog
from ..layouts import LAYOUTS, regions
from ..recipe import Entry
from ..source import Rules, Source


@dataclass(frozen=True, slots=True)
class Measure:
    """Of one source.

    Attributes:
        source: of the catalogue; None where the catalogue does not have it.
        form: the sentence that asks for a form of answer; None where there is none.
        is_worded: questions stand as the source asks them, with its own markers.
        has_boxes: questions are about regions.
        max_tokens: None too where a tokenizer counted that is not here.
    """

    source: Source | None
    rules: Rules
    weight: float
    cap: int | None
    form: str | None
    is_worded: bool
    has_boxes: bool
    max_tokens: int | None

    @property
    def copies(self) -> tuple[int, int]:
        """How often a row stands at least, and at most."""
        return math.floor(self.weight), math.ceil(self.weight)


@dataclass(frozen=True, slots=True)
class Measures:
    """Of a whole blend; ``of`` a source that the recipe names."""

    of: Mapping[str, Measure]
    config: str
    are_paths: bool
    is_commercial: bool

    @classmethod
    def read(cls, recipe: Mapping[str, Any]) -> "Measures":
        """Those of a manifest's recipe.

        Raises:
            ValueError: a block is none of a recipe, or names a prompt that does not exist.
            BadInput: a form names no prompt.
        """
        entries = recipe.get("sources")
        if not isinstance(entries, Mapping):
            raise ValueError("sources: are missing")
        defined = recipe.get("define") or {}
        if not isinstance(defined, Mapping):
            raise ValueError("define: is no mapping")
        known = {**catalog.sources(), **{n: Source.model_validate(d) for n, d in defined.items()}}
        is_counted = recipe.get("tokenizer") is None
        return cls(
            {n: _measure(known.get(n), entry, is_counted) for n, entry in entries.items()},
            str(recipe.get("config", "default")),
            recipe.get("images", "embed") == "paths",
            bool(recipe.get("commercial_only", False)),
        )


def _measure(source: Source | None, told: object, is_counted: bool) -> Measure:
    entry = Entry.model_validate(told)
    plain = {} if source is None else source.rules.model_dump()
    rules = Rules.model_validate({**plain, **entry.rules})
    name_of_layout = "" if source is None else source.layout or ""
    layout = LAYOUTS.get(name_of_layout)
    return Measure(
        source,
        rules,
        entry.weight,
        entry.cap,
        None if rules.form is None else prompt(rules.form).text,
        layout is not None and layout.worded,
        name_of_layout in regions.LAYOUTS,
        rules.max_tokens if is_counted else None,
    )
