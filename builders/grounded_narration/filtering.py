"""Runs ``filter.sql`` over rows of one part."""

from functools import cache
from importlib.resources import files

import duckdb

from vila2data.build.views import sql_list
from vila2data.nouns import irregular_nouns

from .recipe import GroundedNarrationRecipe

ITEM_REASONS = (
    "malformed_span",
    "malformed_box",
    "thin_box",
    "low_score",
    "large_box",
)
"""In the order of their numbers in ``filter.sql``, from 1."""

ROW_REASONS = (
    "no_caption",
    "caption_too_long",
    "low_clip_similarity",
    "no_boxes",
    "malformed",
    "large_box",
    "no_box_left",
    "crowded",
)
"""In the order of their numbers in ``filter.sql``, from 1."""


def prepare(
    connection: duckdb.DuckDBPyConnection, recipe: GroundedNarrationRecipe, source_sql: str
) -> None:
    """Makes the views ``source``, ``filtered`` and ``narratable`` of ``filter.sql``."""
    # The statistics of a parquet file leave NaN out, and DuckDB would take isnan for false by them.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    for name, value in _variables(recipe).items():
        connection.execute(f"SET VARIABLE {name} = {value}")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW source AS {source_sql}")
    connection.execute(_text())


def _variables(recipe: GroundedNarrationRecipe) -> dict[str, str]:
    """Each variable as SQL."""
    boxes, rows = recipe.boxes, recipe.rows
    nouns = irregular_nouns()
    return {
        "min_side": _double(boxes.min_side),
        "min_score": _double(boxes.min_score),
        "max_area": _double(boxes.max_area),
        "large_drops_image": str(boxes.large == "drop_image"),
        "malformed_drops_image": str(boxes.malformed == "drop_image"),
        "max_instances": str(rows.max_instances),
        "same_instance_iou": _double(rows.same_instance_iou),
        "max_caption_chars": str(rows.max_caption_chars),
        "min_clip_similarity_vitb32": _double(rows.min_clip_similarity_vitb32),
        "min_clip_similarity_vitl14": _double(rows.min_clip_similarity_vitl14),
        "plurals": sql_list(nouns),
        "singulars": sql_list(nouns.values()),
    }


def _double(value: float | None) -> str:
    return "NULL::DOUBLE" if value is None else f"{value!r}::DOUBLE"


@cache
def _text() -> str:
    return (files(__package__ or "") / "filter.sql").read_text(encoding="utf-8")
