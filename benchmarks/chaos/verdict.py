"""Whether the build of a run is the right one."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.corpus.read import read_corpus
from vila2data.recipe import load_recipe
from vila2data.storage import Place

from .trial import Trial


def built(trial: Trial) -> Path:
    """The build of a run that is done."""
    return write_build(CoyoRecap, load_recipe(trial.recipe()))


@dataclass(frozen=True, slots=True)
class Expected:
    """What every build must be: the tables of an undisturbed run, and each sample once."""

    hashes: dict[str, str]
    keys: Counter[str]

    @classmethod
    def of(cls, build: Path, corpus: Place) -> "Expected":
        return cls(_hashes(build), Counter(sample.key for sample in read_corpus(corpus)))

    def check(self, build: Path) -> None:
        assert _hashes(build) == self.hashes, f"{build} is another"
        found = Counter[str]()
        for config in ("round1", "round1-rejects"):  # kept or rejected
            folder = build / "data" / config
            if folder.is_dir():
                found.update(ds.dataset(folder).to_table(["key"])["key"].to_pylist())
        assert found == self.keys, f"{build} lost or doubled rows"


def _hashes(build: Path) -> dict[str, str]:
    return {
        file.relative_to(build).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(build.rglob("*.parquet"))
    }
