"""What a loop consists of: stages, each a command, and the recipes that they are given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2data import registry
from vila2data.build.manifest import MANIFEST_FILE
from vila2data.errors import RecipeError
from vila2data.recipe import Recipe, RecipeType, parse_recipe

from ..recipe import TrainRecipe
from .recipe import StageSpec, StageSpecs

ALT_TEXT = "alt_text"
"""Column of the original captions, whose place recaptions take."""

SCENES, RECAPTIONS, SPATIAL = "scenes", "coyo-recap", "spatial-relation-qa"
DATA_SETS: Mapping[str, str] = {
    "scenes": SCENES,
    "align_scenes": SCENES,
    "specialist_scenes": SCENES,
    "round": RECAPTIONS,
    "spatial_relation_qa": SPATIAL,
}
"""What the stages make that end in a build; the others train."""

_ELSEWHERE = {"out", "corpus", "base", "runs", "executor", "recaption"}


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        name: among the stages of a seed: what it is for, and its kind.
        kind: whose recipe it is given, a field of ``StageSpecs``; None where it is given none.
        arguments: after ``vila2data``.
        build: what it makes, which appears whole and is never made twice; None where the command
            itself knows what is done.
    """

    name: str
    kind: str | None
    arguments: Sequence[str]
    build: Path | None = None

    @property
    def is_built(self) -> bool:
        """Whether the build that the stage makes is there."""
        return self.build is not None and (self.build / MANIFEST_FILE).is_file()


@dataclass(frozen=True, slots=True)
class Texts:
    """Captions that a model was trained on: a column of a build's config."""

    build: Path
    config: str
    column: str


@dataclass(frozen=True, slots=True)
class Round:
    """What leads to one evaluated model.

    Attributes:
        name: ``base``, ``VILA_0`` …, ``VILA_K-specialist``, ``VILA_K-specialist-asked``,
            ``VILA_K+spatial``, ``VILA_K+control``.
        stages: in order; the last one evaluates.
        checkpoint: the model.
        evaluation: file of its figures.
        texts: what is new in what it was trained on; None for the specialist, which learns none.
    """

    name: str
    stages: Sequence[Stage]
    checkpoint: Path
    evaluation: Path
    texts: Texts | None


@dataclass(frozen=True, slots=True)
class Source:
    """A source of a stage's feed, as its recipe names it.

    Attributes:
        number: position among the sources.
        data_set: the folder that the build's version lies in.
        corpus: the folder that the corpus's ``train`` lies in; None where it has none.
    """

    number: int
    data_set: str
    column: str | None
    corpus: str | None


class StageRecipes:
    """The recipes of all stages, with what the loop's recipe says differently."""

    def __init__(self, specs: StageSpecs) -> None:
        """Reads them.

        Raises:
            RecipeError: one holds a mistake, or cannot be part of a loop.
        """
        self._specs = specs
        self._parsed = {
            kind: parsed(kind, spec.recipe, spec.overrides())
            for kind, spec in ((name, self.spec(name)) for name in StageSpecs.model_fields)
        }
        if not any(source.column == ALT_TEXT for source in self.sources("pretrain")):
            raise RecipeError(
                f"stages.pretrain: {specs.pretrain.recipe} has no source of `{SCENES}` with column "
                f"{ALT_TEXT}, in whose place later rounds are trained on recaptions"
            )

    def spec(self, kind: str) -> StageSpec:
        """What the loop's recipe says of a stage."""
        spec: StageSpec = getattr(self._specs, kind)
        return spec

    def version(self, kind: str) -> str:
        """Of the build that a stage makes."""
        recipe: Any = self._parsed[kind]
        return str(recipe.version)

    def sources(self, kind: str) -> list[Source]:
        """What a stage trains on, as far as it comes from a build."""
        recipe: Any = self._parsed[kind]
        return [
            Source(
                number,
                source.build.parent.name,
                source.column,
                None if source.corpus is None else source.corpus.parent.name,
            )
            for number, source in enumerate(recipe.feed.sources)
            if source.build is not None
        ]

    def shaping(self) -> dict[str, Any]:
        """Everything in them that shapes what the stages leave."""
        return {kind: _shaping(recipe) for kind, recipe in self._parsed.items()}


def parsed(kind: str, name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of a stage; the folders that it names need not be there yet.

    Raises:
        RecipeError: it holds a mistake, or is for something else.
    """
    data_set = DATA_SETS.get(kind)
    model = registry.load("builders", data_set).RECIPE if data_set else TrainRecipe
    try:
        recipe: Any = parse_recipe(_without_places(model), name, overrides)
    except RecipeError as error:
        raise RecipeError(f"stages.{kind}: {error}") from error
    if data_set and recipe.builder != data_set:
        raise RecipeError(f"stages.{kind}: {name} makes {recipe.builder}, {data_set} is needed")
    found: Recipe = recipe
    return found


def check(stages: Iterable[Stage]) -> None:
    """Reads every recipe as its stage will, so that no mistake is found hours later.

    Raises:
        RecipeError: one holds a mistake.
    """
    for stage in stages:
        if stage.kind is not None:
            _, name, *settings = stage.arguments
            parsed(stage.kind, name, settings[1::2])


def _without_places(model: type[RecipeType]) -> type[RecipeType]:
    return type(model.__name__, (model,), {"problems": lambda self: [], "__module__": __name__})


def _shaping(recipe: Any) -> dict[str, Any]:
    if isinstance(recipe, TrainRecipe):
        return recipe.shaping(precision=recipe.hardware.precision)
    told: dict[str, Any] = recipe.model_dump(mode="json", exclude=_ELSEWHERE)
    if getattr(recipe, "recaption", None) is not None:
        told["recaption"] = recipe.recaption.shaping(seed=recipe.seed)
        for name in ("model", "revision"):  # filled in
            told["recaption"]["engine"].pop(name, None)
    return told
