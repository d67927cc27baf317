"""Makes small rendered builds of `scenes`, and changes their rows."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vila2data.build.manifest import Manifest, read_manifest
from vila2data.build.write import write_build
from vila2data.builders.scenes.builder import Scenes
from vila2data.builders.scenes.recipe import ScenesRecipe
from vila2data.builders.scenes.words import Fact, Facts
from vila2data.builders.scenes.world import COLORS, FLOORS, MATERIALS, SHAPES, SIZES, WALLS
from vila2data.schema import SCENES

Rows = dict[str, list[dict[str, Any]]]


def scenes_recipe(root: Path, **changes: Any) -> ScenesRecipe:
    """A recipe of a few small scenes whose folders lie in ``root``."""
    content = {
        "builder": "scenes",
        "version": "1.0.0",
        "out": root / "builds",
        "corpus": root / "corpus",
        "image_side_px": 32,
        "train": 12,
        "test": 3,
        "reference": {"share": 0.5},
        "questions": {"share": 0.5},
    }
    return ScenesRecipe.model_validate(content | changes)


def build_scenes(root: Path, **changes: Any) -> Path:
    """A build of that recipe."""
    return write_build(Scenes, scenes_recipe(root, **changes))


def rows_in(build: Path) -> Rows:
    """Rows by config, in order."""
    manifest = read_manifest(build)
    return {
        config: [
            row
            for file in manifest.files_of(config)
            for row in pq.read_table(build / file.path).to_pylist()
        ]
        for config in manifest.configs
    }


def problems_of(rows: Rows, manifest: Manifest, **recipe: Any) -> list[str]:
    """What the data set's rules say of these rows; ``recipe`` changes what they are measured by.

    Counts of the recipe follow the rows, so that each change is told of alone.
    """
    counts = {config: len(of_config) for config, of_config in rows.items()}
    told = asdict(manifest)
    told["recipe"] = {**manifest.recipe, **counts, **recipe}
    told["files"] = [file for file in manifest.files if file.config in rows]
    with duckdb.connect() as connection:
        for config, of_config in rows.items():
            table = pa.Table.from_pylist(of_config, schema=SCENES.arrow_schema)
            connection.register(config, table)
        return Scenes.invariants(connection, Manifest(**told))


def changed(rows: Rows, config: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Changes the first row of a config that the change fits, which raises ``LookupError`` where it
    does not; returns its key.
    """
    for row in rows[config]:
        try:
            change(row)
        except LookupError:
            continue
        return str(row["key"])
    raise AssertionError("no row fits")


def at(side: float, depth_m: float) -> tuple[float, float, float]:
    """A place before the camera; ``side`` is x/z."""
    return side * depth_m, 0.0, depth_m


def drawn_facts(seed: int, count: int) -> Facts:
    """Any scene, from left to right, without one behind the other in the image."""
    rng = np.random.default_rng(seed)
    pairs = [(c, s) for c in COLORS for s in SHAPES]
    chosen = [pairs[n] for n in rng.permutation(len(pairs))[:count]]
    middles = np.sort(rng.uniform(0.1, 0.9, count))
    things = [
        Fact(
            shape=shape,
            color=color,
            size=str(rng.choice(SIZES)),
            material=str(rng.choice(MATERIALS)),
            center=at(float(middle - 0.5), float(rng.uniform(3, 7))),
            bbox=(middle - 0.1, 0.4, middle + 0.1, 0.6),
        )
        for (color, shape), middle in zip(chosen, middles.tolist(), strict=True)
    ]
    return Facts(things, str(rng.choice(FLOORS)), str(rng.choice(WALLS)))
