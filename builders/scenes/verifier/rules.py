"""What must hold in one row, by the recipe."""

from collections.abc import Iterator

import numpy as np

from vila2data.prompts import prompt

from ..recipe import ScenesRecipe
from ..world import COLORS, FLOORS, MATERIALS, SHAPES, SIZES, WALLS
from .answers import question_problems
from .rows import Row
from .sentences import detailed_problems, located_problems, spatial_problems

TEST = "test"
_PROMPTS = {
    "detailed": ("long-v1", "long-v2", "long-v3"),
    "spatial": ("spatial-v1", "spatial-v2"),
    "located": (),
}
_READERS = {
    "detailed": detailed_problems,
    "spatial": spatial_problems,
    "located": located_problems,
}
_A_PROMPT = "a prompt that asks for the reference"
_IMAGE = "<image>\n"
_MAX_ALT_TEXT_CHARS = 200


def row_problems(row: Row, config: str, recipe: ScenesRecipe) -> Iterator[str]:
    """What is wrong with a row; a rule may be named more than once."""
    if not row.key.startswith(f"{config}-"):
        yield "a key is not one of the config"
    if row.size_px != (recipe.image_side_px, recipe.image_side_px):
        yield "an image has another size than the recipe says"
    yield from _object_problems(row, recipe)
    if not recipe.objects.min <= len(row.things) <= recipe.objects.max:
        return  # what texts say of such a scene was not meant to be said
    yield from _text_problems(row, config, recipe)
    if _turns(row, recipe) != _expected_turns(row, recipe):
        yield "messages are not the reference and the questions"


def _object_problems(row: Row, recipe: ScenesRecipe) -> Iterator[str]:
    if not recipe.objects.min <= len(row.things) <= recipe.objects.max:
        yield "a scene has another number of objects than the recipe allows"
    if row.floor not in FLOORS or row.wall not in WALLS:
        yield "a floor or wall is unknown"
    names = [thing.name for thing in row.things]
    if len(set(names)) < len(names):
        yield "two objects have the same colour and shape"
    middles = [thing.bbox[0] + thing.bbox[2] for thing in row.things]
    if middles != sorted(middles):
        yield "objects do not stand from left to right"
    least = float(np.float32(recipe.min_visibility))
    for thing in row.things:
        known = thing.shape in SHAPES and thing.color in COLORS
        if not (known and thing.size in SIZES and thing.material in MATERIALS):
            yield "an attribute is unknown"
        if thing.category != thing.shape:
            yield "a category is not the shape"
        if not least <= thing.visibility <= 1:
            yield "an object is hidden more than the recipe allows"


def _text_problems(row: Row, config: str, recipe: ScenesRecipe) -> Iterator[str]:
    is_located, is_test = recipe.reference.style == "located", config == TEST
    if not row.alt_text.strip() or len(row.alt_text) > _MAX_ALT_TEXT_CHARS:
        yield "an alt-text is blank or too long"
    if not (row.alt_text.isascii() and row.alt_text.isprintable()):
        yield "an alt-text holds other characters than printable ASCII"
    if row.reference is not None:
        yield from _READERS[recipe.reference.style](row, row.reference)
    elif is_test:
        yield "a scene of the config test has no reference"
    if row.questions:
        yield from question_problems(row, None if is_test else recipe.questions.kinds)
    if is_located and row.questions:
        yield "a scene has questions where the style is located"
    if is_test and not is_located and not row.questions:
        yield "a scene of the config test has no questions"


def _turns(row: Row, recipe: ScenesRecipe) -> list[tuple[str, str]]:
    """Messages, with one name for the prompts that may stand before a reference."""
    turns, prompts = list(row.messages or ()), _PROMPTS[recipe.reference.style]
    if turns and turns[0] in {("user", _IMAGE + prompt(name).text) for name in prompts}:
        turns[0] = ("user", _IMAGE + _A_PROMPT)
    return turns


def _expected_turns(row: Row, recipe: ScenesRecipe) -> list[tuple[str, str]]:
    if recipe.reference.style == "located":
        return []
    turns = [] if row.reference is None else [("user", _A_PROMPT), ("assistant", row.reference)]
    for question, answer, _ in row.questions:
        turns += [("user", question), ("assistant", answer)]
    return [("user", _IMAGE + turns[0][1]), *turns[1:]] if turns else []
