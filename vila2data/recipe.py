"""Recipes: one YAML file, one tree of frozen models, every mistake reported at once."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from . import registry
from .errors import BadInput, RecipeError
from .shown import nearest
from .storage import Place, RemotePath, place_of

Location = tuple[str | int, ...]
RecipeType = TypeVar("RecipeType", bound="Recipe")

VERSION_PATTERN = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$"

BUILDER_MARK = "builder"
FEED_MARK = "feed"
FOUNDATION_MARK = "foundation"
LOOP_MARK = "loop"
_COMMANDS = {
    BUILDER_MARK: "`vila2data build`",
    FEED_MARK: "`vila2data train`",
    LOOP_MARK: "`vila2data loop`",  # before the next: a loop names its foundation
    FOUNDATION_MARK: "`vila2data foundation`",
}


def _stays(path: Path) -> Path:
    if not path.is_absolute() and ".." in path.parts:
        raise ValueError("leaves the working folder; give an absolute path where that is meant")
    return path


def _portable(path: Path) -> str:
    """How a manifest tells a path: as typed where relative; an absolute one speaks of one machine,
    so its name alone.
    """
    return path.name if path.is_absolute() else path.as_posix()


RecipePath = Annotated[
    Path, AfterValidator(_stays), PlainSerializer(_portable, return_type=str, when_used="json")
]
"""A path in a recipe: relative to the working folder and inside it, or absolute."""


def _place_in_recipe(value: Any) -> Place:
    if isinstance(value, RemotePath):
        return value
    if not isinstance(value, str | Path):
        raise ValueError("must be a path or a URL")
    try:
        place = place_of(value) if isinstance(value, str) else value
    except BadInput as error:
        raise ValueError(str(error)) from error
    return _stays(place) if isinstance(place, Path) else place


def _portable_place(place: Place) -> str:
    return place.name if isinstance(place, RemotePath) else _portable(place)


RecipePlace = Annotated[
    Place,
    PlainValidator(_place_in_recipe),
    PlainSerializer(_portable_place, return_type=str, when_used="json"),
]
"""As ``RecipePath``, or the URL of a place that fsspec reaches, which a manifest tells by its name
alone.
"""


PathOrName = Annotated[
    str,
    PlainSerializer(lambda value: _portable(Path(value)), return_type=str, when_used="json"),
]
"""A folder, or a name that is looked up elsewhere; told in a manifest as a path is."""


class Block(BaseModel):
    """Base of every part of a recipe: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Block):
    """Base of a whole recipe."""

    MARK: ClassVar[str | None] = None
    """Key that recipes of this kind have and others do not."""

    def problems(self) -> list[str]:
        """What keeps the recipe from starting that its text alone does not show, such as a missing
        folder.
        """
        return []


@dataclass(frozen=True, slots=True)
class _Parsed:
    content: dict[str, Any]
    places: dict[Location, str]  # where each key was given: file and line, or --set
    mistakes: list[str]


def find_recipe(name: str | Path) -> Path:
    """The file ``name``, or the shipped recipe of that name (``coyo_recap/round1``, with or without
    ``.yaml``).

    Raises:
        RecipeError: neither exists; the message lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = Path(str(files("vila2data.recipes")))
    relative = PurePath(str(name).removeprefix("recipes/")).with_suffix(".yaml")
    candidate = shipped / relative
    if ".." not in relative.parts and not relative.is_absolute() and candidate.is_file():
        return candidate
    raise RecipeError(
        f"{name}: no such recipe file; shipped recipes: {', '.join(shipped_recipes())}"
    )


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = Path(str(files("vila2data.recipes")))
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Reads, overrides and checks a recipe of any builder.

    Args:
        name: a file, or a shipped recipe's name.
        overrides: ``key.path=value``, the value as YAML.

    Returns:
        The builder's own recipe model.

    Raises:
        RecipeError: with every mistake, each with file, line and key path.
    """
    file = find_recipe(name)
    parsed = _parse(file, overrides)
    _refuse_other_kinds(file, parsed, BUILDER_MARK)
    builder = parsed.content.get("builder")
    known = registry.names("builders")
    if builder not in known:
        told = nearest(str(builder), known) if builder else f"; known: {', '.join(known)}"
        line = _place(file, parsed.places, ("builder",))
        what = f"'{builder}' is no builder" if builder else "is missing"
        raise RecipeError(_report(file, [*parsed.mistakes, f"{line}: builder: {what}{told}"]))
    return _validated(registry.load("builders", str(builder)).RECIPE, file, parsed)


def parse_recipe(
    model: type[RecipeType], name: str | Path, overrides: Sequence[str] = ()
) -> RecipeType:
    """As ``load_recipe``, for a given model.

    Raises:
        RecipeError: with every mistake, each with file, line and key path.
    """
    file = find_recipe(name)
    parsed = _parse(file, overrides)
    _refuse_other_kinds(file, parsed, model.MARK)
    return _validated(model, file, parsed)


def _refuse_other_kinds(file: Path, parsed: _Parsed, wanted: str | None) -> None:
    if wanted is None or wanted in parsed.content:
        return
    for mark, command in _COMMANDS.items():
        if mark in parsed.content:
            raise RecipeError(
                f"{file}: is a recipe for {command}: it has the key '{mark}' and no '{wanted}'"
            )


def _validated(model: type[RecipeType], file: Path, parsed: _Parsed) -> RecipeType:
    mistakes = list(parsed.mistakes)
    try:
        recipe = model.model_validate(parsed.content)
    except ValidationError as error:
        mistakes += [_mistake(file, parsed, model, e) for e in error.errors()]
    else:
        mistakes += [f"{file}: {problem}" for problem in recipe.problems()]
    if mistakes:
        raise RecipeError(_report(file, mistakes))
    return recipe


def _report(file: Path, mistakes: list[str]) -> str:
    count = "one mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return "\n  ".join([f"{file} has {count}:", *mistakes])


def _parse(file: Path, overrides: Sequence[str]) -> _Parsed:
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{file}: must hold keys and values; see the shipped recipes")
    places: dict[Location, str] = {}
    mistakes: list[str] = []
    for location, line, repeated in _walk(node, ()):
        if repeated:
            mistakes.append(f"{file}:{line}: {_dotted(location)}: the key stands twice")
        places[location] = f"{file}:{line}"
    try:
        content = _Constructor().construct_document(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: {' '.join(str(error).split())}") from error
    for override in overrides:
        mistakes += _override(content, override)
        keys = override.partition("=")[0].split(".")
        places[tuple(int(key) if key.isdecimal() else key for key in keys)] = f"--set {override}"
    return _Parsed(content, places, mistakes)


class _Constructor(yaml.constructor.SafeConstructor):
    """Makes plain objects of nodes; no tag can name a Python type."""


def _walk(node: yaml.Node, location: Location) -> Iterator[tuple[Location, int, bool]]:
    """(location, line, whether the key was there already) of each key and item."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*location, str(key.value))
            yield here, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield (*location, position), item.start_mark.line + 1, False
            yield from _walk(item, (*location, position))


def _override(content: dict[str, Any], override: str) -> list[str]:
    """Sets one ``key.path=value`` in ``content``; returns what was wrong with it."""
    path, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", path):
        return [f"--set {override}: must have the form key.path=value"]
    *parents, last = path.split(".")
    block: Any = content
    for name in parents:
        if isinstance(block, list):
            block = block[int(name)] if _is_item(block, name) else None
        else:
            block = block.setdefault(name, {})
        if not isinstance(block, dict | list):
            return [f"--set {override}: '{name}' is a value, not a block"]
    if isinstance(block, list) and not _is_item(block, last):
        return [f"--set {override}: '{last}' is no item of the list; it has {len(block)}, from 0"]
    try:
        block[int(last) if isinstance(block, list) else last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        return [f"--set {override}: {' '.join(str(error).split())}"]
    return []


def _is_item(items: list[Any], name: str) -> bool:
    return name.isdecimal() and int(name) < len(items)


def _mistake(file: Path, parsed: _Parsed, model: type[BaseModel], error: Any) -> str:
    location: Location = error["loc"]
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        block = _model_at(model, parsed.content, location[:-1])
        message = "is no key here" + nearest(
            str(location[-1]), list(block.model_fields) if block else []
        )
    elif error["type"] == "missing":
        message = "is missing"
    elif not isinstance(error["input"], dict | list):
        message = f"{message[0].lower()}{message[1:]}, not {error['input']!r}"
    return f"{_place(file, parsed.places, location)}: {_dotted(location)}: {message}"


def _model_at(model: type[BaseModel], content: Any, location: Location) -> type[BaseModel] | None:
    """The model of the block at ``location``; one that a registry decides is resolved by the
    block's own content.
    """
    for name in location:
        content = content.get(name) if isinstance(content, dict) else None
        field = model.model_fields.get(str(name))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        blocks = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if not blocks:
            return None
        resolve = getattr(blocks[0], "resolve", None)
        model = resolve(content) if resolve else blocks[0]
    return model


def _place(file: Path, places: Mapping[Location, str], location: Location) -> str:
    """Where the key at a location was given, or the nearest block around it."""
    for length in range(len(location), 0, -1):
        if location[:length] in places:
            return places[location[:length]]
    return str(file)


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "recipe"
