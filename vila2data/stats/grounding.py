"""Boxes in the captions of a grounding config: which are sound, and which meet reference boxes.

Captions are read one by one; memory does not grow with their number.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vila2data.boxes import Size

from .box_scales import AUTO, SCALES, Evidence, Scale, scale_of
from .box_text import boxes_in
from .categories import Categories
from .grounded import read_caption
from .matching import Reference, Written
from .references import Join, References, captions_of, join_of, load_references
from .tallies import Scores, Tally

if TYPE_CHECKING:
    import duckdb

OnCaptions = Callable[[int], None]

_ROWS_AT_ONCE = 1024


def grounding_tables(
    connection: "duckdb.DuckDBPyConnection",
    configs: Sequence[str],
    *,
    boxes: str = AUTO,
    references: Path | None = None,
    on_captions: OnCaptions,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables ``grounding`` and, where there are references, ``references``; one per
    config.

    Raises:
        BadInput: the convention is unknown, or the references cannot be used.
    """
    if boxes != AUTO:
        scale_of(boxes)
    read = load_references(connection, references) if references else None
    told = [
        grounding(connection, config, boxes=boxes, references=read, on_captions=on_captions)
        for config in configs
    ]
    tables = {"grounding": [row for row, _ in told]}
    return tables | ({"references": [row for _, row in told if row]} if read else {})


def grounding(
    connection: "duckdb.DuckDBPyConnection",
    config: str,
    *,
    boxes: str = AUTO,
    references: References | None = None,
    on_captions: OnCaptions,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The figures of one config, and those against ``references``, None where none are given.

    Args:
        connection: with the views of the build, and ``reference_images`` where there are
            references.
        config: of captions.
        boxes: a convention of ``vila2data.boxes``, or ``auto``.
        references: what ``load_references`` read.
        on_captions: told how many captions were read.

    Raises:
        BadInput: the convention is unknown.
    """
    scale = _likeliest_scale(connection, config, on_captions) if boxes == AUTO else scale_of(boxes)
    join = join_of(connection, config) if references else None
    categories = Categories(references.categories if references else ())
    tally, scores = Tally(), Scores()
    for caption, size, told in _captions(connection, config, join, on_captions):
        grounded = read_caption(caption, scale or SCALES["0-1"], size)
        tally.add(grounded)
        if told is not None:
            written = [Written(b, categories.named(p) if p else None) for b, p in grounded.boxes]
            scores.add(written, told)
    taken = {"config": config, "scale": scale.name if scale else "none", "convention": boxes}
    row = taken | tally.row()
    if join is None or references is None:
        return row, None
    counts = {
        "captions_with_references": scores.captions,
        "captions_without_references": join.without_references,
        "references_without_captions": join.without_captions,
        "ambiguous_references": join.ambiguous,
        "unusable_references": references.unusable,
    }
    return row, {"config": config, "images_by": join.way, **counts, **scores.row()}


def _likeliest_scale(
    connection: "duckdb.DuckDBPyConnection", config: str, on_captions: OnCaptions
) -> Scale | None:
    evidence = Evidence()
    for caption, size, _ in _captions(connection, config, None, on_captions):
        for box in boxes_in(caption):
            evidence.add(box, size)
    return evidence.scale()


def _captions(
    connection: "duckdb.DuckDBPyConnection",
    config: str,
    join: Join | None,
    on_captions: OnCaptions,
) -> Iterator[tuple[str, Size | None, list[Reference] | None]]:
    """Caption, size of the image and its references, None where there are none of it."""
    sql = f"SELECT caption, width, height, NULL, NULL, NULL FROM {captions_of(config)}"
    if join is not None:
        sql = f"""SELECT caption, c.width, c.height, r.boxes, r.categories, r.crowds
                  FROM {captions_of(config)} c LEFT JOIN {join.images} r ON {join.on}"""
    cursor = connection.execute(sql)
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        for caption, width, height, boxes, categories, crowds in rows:
            size = None if width is None or height is None else (width, height)
            told = None if boxes is None else _references(boxes, categories, crowds)
            yield caption or "", size, told
        on_captions(len(rows))


def _references(
    boxes: list[list[float]], categories: list[str], crowds: list[bool]
) -> list[Reference]:
    of_each = zip(boxes, categories, crowds, strict=True)
    return [Reference((b[0], b[1], b[2], b[3]), of, is_crowd) for b, of, is_crowd in of_each]
