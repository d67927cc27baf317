"""What must hold in every ``scenes`` build.

Computed from the stored columns: texts are read back and boxes are projected again, so that a
mistake of what made them is not made twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from math import sqrt

import duckdb
from pydantic import ValidationError

from vila2data.build.manifest import Manifest

from ..recipe import ScenesRecipe
from .answers import balance_problems
from .geometry import geometry_problems
from .rows import Row, batches
from .rules import TEST, row_problems

_TRAIN = "train"
_SHOWN = 3
_SIGMAS, _FEW = 6, 4  # by chance more scenes are off a share in no build of a sound recipe


def problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Broken rules of a build, each once, with the number of rows and some of their keys.

    Args:
        connection: has a view per config.
        manifest: of the build; its recipe is what the rows are measured by.
    """
    try:
        recipe = ScenesRecipe.model_validate(dict(manifest.recipe))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return [f"recipe: {place}: {first['msg']}; no row could be checked"]
    wanted = {config: n for config, n in ((_TRAIN, recipe.train), (TEST, recipe.test)) if n}
    if set(manifest.configs) != set(wanted):
        told = ", ".join(manifest.configs)
        return [f"configs are {told}; the recipe asks for {', '.join(wanted)}"]
    found = _Found()
    for config, count in wanted.items():
        _check(connection, config, count, recipe, found)
    return found.lines()


class _Found:
    """Broken rules, each with the keys of the rows; and what only all rows together show."""

    def __init__(self) -> None:
        self._broken: dict[tuple[str, str], list[str]] = {}
        self._whole: list[str] = []
        self._keys: set[str] = set()
        self._images: dict[str, str] = {}
        self._answers: Counter[tuple[str, str]] = Counter()

    def add(self, config: str, rule: str, keys: Iterable[str]) -> None:
        self._broken.setdefault((config, rule), []).extend(keys)

    def add_whole(self, line: str) -> None:
        self._whole.append(line)

    def note(self, config: str, row: Row) -> Iterator[str]:
        """What is wrong with a row beside those before it."""
        if row.key in self._keys:
            yield "a key stands twice"
        self._keys.add(row.key)
        if self._images.setdefault(row.image_sha256, config) != config:
            yield "an image is also in the other config"
        self._answers.update((kind, answer) for _, answer, kind in row.questions)

    def lines(self) -> list[str]:
        told = [
            f"{config}: {rule}: {len(keys)} rows, such as {', '.join(keys[:_SHOWN])}"
            for (config, rule), keys in sorted(self._broken.items())
        ]
        return [*told, *self._whole, *balance_problems(self._answers)]


def _check(
    connection: duckdb.DuckDBPyConnection,
    config: str,
    count: int,
    recipe: ScenesRecipe,
    found: _Found,
) -> None:
    rows = described = asked = 0
    for batch, incomplete in batches(connection, config):
        if incomplete:
            found.add(config, "a column is missing, broken or not finite", incomplete)
        for rule, keys in geometry_problems(batch):
            found.add(config, rule, keys)
        for row in batch:
            broken = [*row_problems(row, config, recipe), *found.note(config, row)]
            for rule in dict.fromkeys(broken):
                found.add(config, rule, [row.key])
            described += row.reference is not None
            asked += bool(row.questions)
        rows += len(batch) + len(incomplete)
    if rows != count:
        found.add_whole(f"{config}: has {rows} rows, the recipe asks for {count}")
    if config == _TRAIN:
        _check_share(rows, described, recipe.reference.share, "references", found)
        _check_share(rows, asked, recipe.questions.share, "questions", found)


def _check_share(rows: int, having: int, share: float, what: str, found: _Found) -> None:
    """A share is drawn for each scene alone, so it is met but for chance."""
    sigma = sqrt(rows * share * (1 - share))
    if abs(having - share * rows) > (_SIGMAS * sigma + _FEW if sigma else 0):
        found.add_whole(
            f"{_TRAIN}: {having} of {rows} scenes have {what}, the recipe asks for a share of "
            f"{share}"
        )
