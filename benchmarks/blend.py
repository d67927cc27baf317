"""Blends: the whole build against a plain `datasets.map` pipeline that gives the same rows.

``python -m benchmarks.blend --rows 1000000`` for another size than the quick one.
"""

import argparse
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets

from tests.plugin.making import make_picture
from vila2data.blend.images import look
from vila2data.blend.recipe import BlendRecipe
from vila2data.build.write import write_build
from vila2data.builders.ocr_blend import OcrBlend
from vila2data.commands import quiet_libraries
from vila2data.conversation import neutralise
from vila2data.prompts import load_prompts
from vila2data.schema import INSTRUCT_PATHS

from .peaks import watched
from .timing import seconds_in_turn, show

ROWS = 20_000
FILES = 4
IMAGES = 1_000
WORKERS = 2
ROUNDS = 1

_SOURCE = "chartqa_json"
_FORM = load_prompts()["format-short-answer"].text


def write_source(folder: Path, rows: int) -> None:
    """Questions about charts in ChartQA's own layout, with tiny pictures."""
    source = folder / _SOURCE
    source.mkdir()
    for number in range(IMAGES):
        (source / f"{number}.jpg").write_bytes(make_picture(number % 50))
    for part in range(FILES):
        numbers = range(part * rows // FILES, (part + 1) * rows // FILES)
        records = [
            {
                "imgname": f"{number % IMAGES}.jpg",
                "query": f"What is the value of bar {number} in the chart of exports by country?",
                "label": f"{number % 977}.{number % 10}",
            }
            for number in numbers
        ]
        (source / f"train_{part}.json").write_text(json.dumps(records))


def build(folder: Path) -> Path:
    """The build, without merging: a row for each question."""
    recipe = BlendRecipe.model_validate(
        {
            "builder": "ocr-blend",
            "version": "1.0.0",
            "license": "other",
            "out": folder / "builds",
            "root": folder,
            "images": "paths",
            "sources": {_SOURCE: {"rules": {"merge": False}}},
            "executor": {"workers": WORKERS},
        }
    )
    shutil.rmtree(folder / "builds", ignore_errors=True)
    return write_build(OcrBlend, recipe)


def mapped(folder: Path) -> None:
    """The same rows by `datasets`, without counts, rejects, resume and verification."""
    files = sorted(str(path) for path in (folder / _SOURCE).glob("*.json"))
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    rows = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(cache))
    made = rows.map(
        _row,
        with_indices=True,
        num_proc=WORKERS,
        fn_kwargs={"folder": str(folder / _SOURCE)},
        remove_columns=rows.column_names,
        features=INSTRUCT_PATHS,
    )
    made.to_parquet(str(folder / "mapped.parquet"))


def _row(record: dict[str, Any], number: int, folder: str) -> dict[str, Any]:
    name = record["imgname"]
    _looked(folder, name)
    return {
        "id": f"{_SOURCE}/train-{number}",
        "source": _SOURCE,
        "task": "chart",
        "license": "gpl-3.0",
        "image_paths": [name],
        "messages": [
            {"role": "user", "content": f"<image>\n{neutralise(record['query'])}\n{_FORM}"},
            {"role": "assistant", "content": neutralise(record["label"])},
        ],
        "origin": None,
    }


@lru_cache(maxsize=IMAGES)
def _looked(folder: str, name: str) -> object:
    return look(Path(folder, name).read_bytes(), name)


def main(rows: int = ROWS) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder, rows)
        work = {
            "vila2data build": lambda: build(folder),
            "datasets.map": lambda: mapped(folder),
        }
        seconds = seconds_in_turn(work, rounds=ROUNDS)
        show(f"A blend of {rows:,} rows", rows, "rows", seconds, against="datasets.map")
        shutil.rmtree(folder / "builds")
        peaks = watched("-m", "benchmarks.blend", "--build", name)
        print(f"\nPeak of the build: driver {peaks.driver_mib:.0f} MiB, ", end="")
        print(f"workers {peaks.worker_mib:.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--build", type=Path, help="makes the build of a folder, and stops")
    chosen = parser.parse_args()
    quiet_libraries()
    if chosen.build is not None:
        build(chosen.build)
    else:
        main(chosen.rows)
