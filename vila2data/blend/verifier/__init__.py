"""What must hold in every build of a blend.

Written from the semantics that docs/blends.md tells and from the stored columns alone: it shares no
code with what composed the rows, so that one mistake is not made twice.

What the rows do not show is not checked: what a source had beside them, which rows a draw should
have taken, which rows overlap, and that every reject deserved its reason.
"""

from collections.abc import Mapping
from typing import Any

import duckdb

from vila2data.build.manifest import REJECTS_SUFFIX, Manifest
from vila2data.errors import BadInput

from .found import Found
from .measures import Measures
from .rotations import Rotations
from .rows import batches, columns_of
from .tables import reject_problems, source_problems, table_problems
from .turns import row_problems


def problems(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> list[str]:
    """Broken rules of a build, each once, with the number of rows and some of their ids.

    Args:
        connection: has a view per config.
        manifest: of the build; its recipe and the catalogue's entries of its sources are what the
            rows are measured by, and its table of sources what they are counted against.
    """
    try:
        measures = Measures.read(manifest.recipe)
    except (ValueError, BadInput) as error:  # pydantic's errors are of several lines
        told = " ".join(str(error).split())
        return [f"recipe: {told}; no row could be checked"]
    config = measures.config
    missing = [c for c in (config, config + REJECTS_SUFFIX) if c not in manifest.configs]
    if missing:
        return [f"{name}: the config is missing" for name in missing]
    wanted = "image_paths" if measures.are_paths else "images"
    if wanted not in columns_of(connection, config):
        return [f"{config}: has no column {wanted}, which the recipe asks for"]
    found = Found(config)
    counts = source_problems(connection, measures, found)
    table_problems(connection, measures, found)
    _check_rows(connection, measures, found)
    return [
        *found.lines(),
        *_count_problems(counts, measures, manifest.stats),
        *reject_problems(connection, measures),
    ]


def _check_rows(connection: duckdb.DuckDBPyConnection, measures: Measures, found: Found) -> None:
    rotations = Rotations()
    for batch in batches(connection, measures):
        found.add("an image is missing, empty or of no known kind", batch.with_bad_images)
        found.add("a special token or role label was left in", batch.with_special())
        for row in batch.rows():
            measure = measures.of.get(row.source)
            for rule in dict.fromkeys(row_problems(row, measure)):
                found.add(rule, [row.id])
            if measure is not None and measure.rules.permute_choices:
                rotations.add(row, measure)
    for rule, row_id in rotations.problems():
        found.add(rule, [row_id])


def _count_problems(
    counts: Mapping[str, int], measures: Measures, stats: Mapping[str, Any]
) -> list[str]:
    config = measures.config
    lines = [
        f"{config}: {name}: {count} rows, more than the cap of {measures.of[name].cap}"
        for name, count in counts.items()
        if name in measures.of and count > (measures.of[name].cap or count)
    ]
    told = stats.get("sources")
    if told is None:
        return lines
    listed = {
        str(row.get("source")): row.get("rows")
        for row in (told if isinstance(told, list) else [])
        if isinstance(row, Mapping)
    }
    return lines + [
        f"{config}: {name}: {counts.get(name, 0)} rows, the table of sources says "
        f"{listed.get(name, 'nothing')}"
        for name in sorted({*counts, *listed})
        if counts.get(name, 0) != listed.get(name, 0)
    ]
