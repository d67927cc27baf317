"""What each step of a loop changed: differences of two rounds' figures on the same scenes, with
their errors over scenes, by seed.

``python -m benchmarks.rounds runs/nano``, after `vila2data loop nano/loop`. The error of a
difference is the standard deviation over 1,000 draws of the scenes with replacement; both rounds
are given the same draw.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from vila2data.training.evaluation.answers import normalised
from vila2data.training.evaluation.captions import tally
from vila2data.training.evaluation.claims import ClaimReader
from vila2data.training.evaluation.scenes import Scene, read_scenes, read_vocabulary

DRAWS = 1_000
STEPS = (
    ("VILA_1", "VILA_0"),
    ("VILA_2", "VILA_1"),
    ("VILA_K", "VILA_0"),
    ("VILA_K-specialist", "VILA_K"),
    ("VILA_K-specialist-asked", "VILA_K"),
    ("VILA_K+spatial", "VILA_K"),
    ("VILA_K+control", "VILA_K"),
    ("VILA_K+spatial", "VILA_K+control"),
)
FIGURES = {
    "object_precision": "Objects P",
    "object_recall": "Objects R",
    "attribute_accuracy": "Attributes",
    "said_relation_accuracy": "Relations said",
    "vqa": "VQA",
    "chosen side": "Side asked",
    "chosen depth": "Depth asked",
}
_GENERATED = "generated "

Counts = Mapping[str, np.ndarray]
"""By name: right and all of each scene, (scenes, 2)."""


def counts_of(evaluation: Path, scenes: Sequence[Scene], reader: ClaimReader) -> Counts:
    """What the texts of an evaluation have right of each scene."""

    def rows(what: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = pq.read_table(f"{evaluation}-{what}.parquet").to_pylist()
        return found

    place = {scene.key: number for number, scene in enumerate(scenes)}
    found: dict[str, np.ndarray] = {}

    def count(name: str, key: str, right: float, of: float) -> None:
        found.setdefault(name, np.zeros((len(scenes), 2)))[place[key]] += (right, of)

    for row in rows("captions"):
        told = tally(reader.read(row["caption"]), scenes[place[row["key"]]])
        for name in FIGURES.keys() & told.keys():
            count(name, row["key"], *told[name])
    for row in rows("answers"):
        truth = normalised(row["answer"])
        for how in ("generated", "chosen"):
            if row[how] is not None:
                count(f"{how} {row['kind']}", row["key"], normalised(row[how]) == truth, 1)
    return found


def value(counts: Counts, name: str, drawn: np.ndarray) -> float:
    """A figure over some of the scenes; `vqa` is the mean over kinds of questions."""
    if name == "vqa":
        kinds = [kind for kind in counts if kind.startswith(_GENERATED)]
        return float(np.mean([value(counts, kind, drawn) for kind in kinds]))
    right, all_ = counts[name][drawn].sum(axis=0) if name in counts else (0.0, 0.0)
    return float(right / all_) if all_ else float("nan")


def differences(seed: Path) -> Iterator[tuple[tuple[str, str], str, float, float]]:
    """Step, figure, difference and error of one seed."""
    build = seed / "builds" / "scenes" / "1.0.0"
    scenes, _ = read_scenes(build, seed / "corpus" / "test")
    reader = ClaimReader(read_vocabulary(build))
    names = {file.stem for file in (seed / "evaluations").glob("*.json")}
    last = max((n for n in names if re.fullmatch(r"VILA_\d+", n)), key=lambda n: int(n[5:]))
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(scenes), (DRAWS, len(scenes)))
    everything = np.arange(len(scenes))
    for step in STEPS:
        rounds = [name.replace("VILA_K", last) for name in step]
        if not names.issuperset(rounds):
            continue
        after, before = (counts_of(seed / "evaluations" / n, scenes, reader) for n in rounds)
        for name in FIGURES:
            found = value(after, name, everything) - value(before, name, everything)
            drawn = [value(after, name, d) - value(before, name, d) for d in draws]
            if not np.isnan(found):
                yield step, name, found, float(np.nanstd(drawn))


def main(out: Path) -> None:
    found: dict[tuple[tuple[str, str], str], list[tuple[float, float]]] = {}
    for seed in sorted(out.glob("seed-*")):
        for step, name, difference, error in differences(seed):
            found.setdefault((step, name), []).append((difference, error))
    print(f"| | {' | '.join(FIGURES.values())} |\n|---|{'---:|' * len(FIGURES)}")
    for step in STEPS:
        cells = [_cell(found.get((step, name), [])) for name in FIGURES]
        if set(cells) != {"–"}:
            print(f"| {step[0]} − {step[1]} | {' | '.join(cells)} |")


def _cell(of_seeds: Sequence[tuple[float, float]]) -> str:
    """Mean over seeds ± its error over scenes, and each seed's own."""
    if not of_seeds:
        return "–"
    told, errors = zip(*of_seeds, strict=True)
    mean, error = np.mean(told), np.sqrt(np.square(errors).sum()) / len(errors)
    own = ", ".join(f"{100 * each:+.1f}" for each in told)
    return f"{100 * mean:+.1f} ± {100 * error:.1f} ({own})"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
