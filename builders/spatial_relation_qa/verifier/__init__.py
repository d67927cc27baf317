"""What must hold in every ``spatial-relation-qa`` build.

Written from the semantics that docs/spatial.md tells and from the stored columns alone: it shares
no code with what chose the questions, so that one mistake is not made twice.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
from pydantic import ValidationError

from vila2data.build.manifest import Manifest

from ..recipe import BoxRules, Questions, Semantics
from .geometry import distances_m, faults
from .relations import CAMERA, Distances, Meaning, Thresholds, category_holds
from .rows import Batch, Row, batches
from .words import Words, message_problems

_DEFAULT = "default"
_REJECTS = "default-rejects"
_SIDES = ("left_of", "right_of", "left", "right")
_SHOWN = 3
_ROUNDING = 1e-5  # numbers are stored as float32

_SQL_RULES = {  # config and rule, and the ids that break it
    (_DEFAULT, "an id stands twice"): 'SELECT id FROM "default" GROUP BY id HAVING count(*) > 1',
    (_DEFAULT, "an id does not begin with its source"): (
        "SELECT id FROM \"default\" WHERE NOT coalesce(starts_with(id, source || '/'), false)"
    ),
    (_REJECTS, "a reject has no reason"): (
        "SELECT id FROM \"default-rejects\" WHERE trim(coalesce(reject_reason, '')) = ''"
    ),
    (_REJECTS, "an object has a negative number"): (
        'SELECT id FROM "default-rejects" WHERE object < 0'
    ),
    (_REJECTS, "a rejected scene is a row all the same"): (
        'SELECT DISTINCT id FROM "default-rejects" WHERE object IS NULL '
        'AND id IN (SELECT id FROM "default")'
    ),
}


class _Found:
    """Broken rules, each with the number of rows and the first of their ids."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, list[str]]] = {}

    def add(self, rule: str, row_id: str) -> None:
        count, ids = self._rows.get(rule, (0, []))
        self._rows[rule] = count + 1, [*ids, row_id][:_SHOWN]

    def lines(self) -> list[str]:
        return [
            _line(_DEFAULT, rule, count, ids) for rule, (count, ids) in sorted(self._rows.items())
        ]


def problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Broken rules of a build, each once, with the number of rows and some of their ids.

    Args:
        connection: has a view per config.
        manifest: of the build; its recipe and the thresholds of its sources are what the rows are
            measured by.
    """
    missing = [name for name in (_DEFAULT, _REJECTS) if name not in manifest.configs]
    if missing:
        return [f"{name}: the config is missing" for name in missing]
    found = _sql_problems(connection)
    try:
        relations = Semantics.model_validate(manifest.recipe.get("relations", {}))
        questions = Questions.model_validate(manifest.recipe.get("questions", {}))
        objects = BoxRules.model_validate(manifest.recipe.get("objects", {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return [*found, f"recipe: {place}: {first['msg']}; no row could be checked"]
    words = Words(questions, relations)
    rules = _Rules(relations, words, objects, _thresholds(manifest.sources))
    broken = _Found()
    for batch in batches(connection, _DEFAULT):
        _check(batch, rules, broken)
    return found + broken.lines()


def _sql_problems(connection: duckdb.DuckDBPyConnection) -> list[str]:
    parts = [
        f"SELECT {number} AS rule, id FROM ({query}) AS broken(id)"
        for number, query in enumerate(_SQL_RULES.values())
    ]
    query = (
        f"SELECT rule, count(*), list(id ORDER BY id)[:{_SHOWN}] "
        f"FROM ({' UNION ALL '.join(parts)}) GROUP BY rule ORDER BY rule"
    )
    names = list(_SQL_RULES)
    found = connection.execute(query).fetchall()
    return [_line(names[n][0], names[n][1], count, ids) for n, count, ids in found]


def _line(config: str, rule: str, count: int, ids: Sequence[object]) -> str:
    return f"{config}: {rule}: {count} rows, such as {', '.join(map(str, ids))}"


def _thresholds(sources: Iterable[Mapping[str, Any]]) -> Thresholds:
    """Of each source that tells both."""
    found = {}
    for told in sources:
        close, far = told.get("close_below_m"), told.get("far_above_m")
        if "source" in told and isinstance(close, int | float) and isinstance(far, int | float):
            found[str(told["source"])] = (float(close), float(far))
    return found


class _Rules:
    """What the rows of one build are measured by."""

    def __init__(
        self, relations: Semantics, words: Words, objects: BoxRules, thresholds: Thresholds
    ) -> None:
        self.meaning = Meaning(relations, thresholds)
        self.words = words
        self.objects = objects
        self.by_gap = relations.closest_by == "gap"


def _check(batch: Batch, rules: _Rules, found: _Found) -> None:
    for number in np.flatnonzero(~batch.sound).tolist():
        found.add("an id, source, size, camera or box is missing or not finite", batch.ids[number])
    for rule, numbers in _geometry_problems(batch):
        for number in numbers:
            found.add(rule, batch.ids[number])
    rows = list(batch.rows())
    distances = _distances(batch, rows) if rules.by_gap else {}
    for row in rows:
        for rule in dict.fromkeys(_row_problems(row, rules, distances)):
            found.add(rule, row.id)


def _geometry_problems(batch: Batch) -> Iterator[tuple[str, list[int]]]:
    """Each broken rule of the camera and the boxes, with the numbers of the rows."""
    whole = batch.sound[batch.row_of]
    row_of, boxes = batch.row_of[whole], batch.boxes.only(whole)
    for rule, flags in faults(boxes):
        yield rule, np.unique(row_of[flags]).tolist()


def _distances(batch: Batch, rows: Iterable[Row]) -> Distances:
    """How far every candidate for the closest is from its anchor."""
    pairs = {
        (row.first + candidate, row.first + each.anchor)
        for row in rows
        for each in row.asked or ()
        if each.name == "object_object.closest"
        for candidate in each.candidates
        if 0 <= candidate < len(row.categories) and 0 <= each.anchor < len(row.categories)
    }
    ordered = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    apart = distances_m(batch.boxes, ordered[:, 0], ordered[:, 1])
    return {
        (candidate, anchor): apart_m
        for (candidate, anchor), apart_m in zip(ordered.tolist(), apart.tolist(), strict=True)
    }


def _row_problems(row: Row, rules: _Rules, distances: Distances) -> Iterator[str]:
    if not row.asked or row.messages is None:
        yield "a relation or a message is missing"
        return
    if row.flip_safe is not all(each.relation not in _SIDES for each in row.asked):
        yield "flip_safe is not what the relations say"
    yield from message_problems(row)
    yield from rules.words.recipe_problems(row)
    if not all(rules.words.is_safe(row, content) for _, content in row.messages):
        yield "a special token or role label was left in"
    for number, asked in enumerate(row.asked):
        wrong = list(category_holds(row, asked))
        yield from wrong
        if wrong:
            continue
        yield from rules.meaning.broken(row, asked, distances)
        for box in {asked.target, asked.anchor} - {CAMERA}:
            yield from _unclear(row, box, rules.objects)
        if len(row.messages) >= 2 * number + 2:
            question, answer = row.messages[2 * number][1], row.messages[2 * number + 1][1]
            yield from rules.words.broken(row, asked, question, answer)


def _unclear(row: Row, box: int, rules: BoxRules) -> Iterator[str]:
    """Why a question may not be about a box, as far as the row alone shows it."""
    x1, y1, x2, y2 = row.bbox_norm[box]
    if x2 - x1 < rules.min_width - _ROUNDING or y2 - y1 < rules.min_height - _ROUNDING:
        yield "a question is about a box that is too small"
    for other in row.classes[row.categories[box]]:
        u1, v1, u2, v2 = row.bbox_norm[other]
        shared = max(min(x2, u2) - max(x1, u1), 0.0) * max(min(y2, v2) - max(y1, v1), 0.0)
        union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
        if other != box and shared > (rules.max_same_class_iou + _ROUNDING) * union:
            yield "a question is about a box that another of its class covers"
