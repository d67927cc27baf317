"""The door to real benchmarks: lmms-eval, in a process of its own.

Nothing of it is imported: it brings its own versions of much. Its results file is all that is read.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from vila2data.errors import BadInput, MissingExtra, RunFailed
from vila2data.shown import nearest

_FILTER = "none"
_STDERR = 2  # its stdout is told on ours: that is for results


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How lmms-eval runs one benchmark, and which of its figures is reported.

    Attributes:
        name: as given to ``--benchmarks``.
        task: lmms-eval's name.
        metric: of the task.
        scale: times the metric is the papers' unit.
        prompt: id of the response format in the prompt catalogue, None where there is none.
        judge: a language model scores, over an API.
        note: what differs from the papers.
    """

    name: str
    title: str
    task: str
    metric: str
    scale: float
    prompt: str | None
    judge: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """A benchmark's figure, in the papers' unit; ``standard_error`` is None where lmms-eval tells
    none.
    """

    benchmark: str
    value: float
    standard_error: float | None


@cache
def _catalog() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(
        (files(__package__) / "lmms.yaml").read_text(encoding="utf-8")
    )
    return content


def load_benchmarks() -> dict[str, Benchmark]:
    """Every known benchmark by name."""
    return {name: Benchmark(name, **told) for name, told in _catalog()["benchmarks"].items()}


def benchmarks_of(names: str) -> list[Benchmark]:
    """The benchmarks of a list with commas, each once.

    Raises:
        BadInput: one is unknown, or there is none.
    """
    known = load_benchmarks()
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in known:
            raise BadInput(f"--benchmarks: there is no '{name}'{nearest(name, known)}")
    if not wanted:
        raise BadInput(f"--benchmarks: names none; known: {', '.join(known)}")
    return [known[name] for name in wanted]


def lmms_command(
    checkpoint: str, benchmarks: Sequence[Benchmark], folder: str, *, samples: int | None = None
) -> list[str]:
    """The command that runs benchmarks; its results appear under ``folder``.

    Args:
        checkpoint: folder, or name on the Hub, which is taken for a LLaVA.
        samples: the first so many of each benchmark; all where None.

    Raises:
        BadInput: lmms-eval could not tell the checkpoint's path from its own settings, or has no
            class for such a model.
    """
    if "," in checkpoint or "=" in checkpoint:
        raise BadInput(f"checkpoint: {checkpoint}: lmms-eval takes no path with ',' or '='")
    limit = [] if samples is None else ["--limit", str(samples)]
    return [
        *(sys.executable, "-m", "lmms_eval"),
        *("--model", _model_class(checkpoint)),
        *("--model_args", f"pretrained={checkpoint}"),
        *("--tasks", ",".join(benchmark.task for benchmark in benchmarks)),
        *("--batch_size", "1"),
        *limit,
        *("--output_path", folder),
    ]


def _model_class(checkpoint: str) -> str:
    config = Path(checkpoint) / "config.json"
    classes: Mapping[str, str] = _catalog()["models"]
    if not Path(checkpoint).is_dir():
        return classes["llava"]
    try:
        model_type = json.loads(config.read_text(encoding="utf-8"))["model_type"]
        return classes[model_type]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"checkpoint: {checkpoint} holds no config.json of a model") from error
    except KeyError as error:
        told = error.args[0]
        raise BadInput(
            f"checkpoint: {checkpoint}: no class of lmms-eval is known for model_type {told}; "
            f"known: {', '.join(classes)}"
        ) from error


def run_benchmarks(
    checkpoint: str, benchmarks: Sequence[Benchmark], *, samples: int | None = None
) -> list[Score]:
    """Runs lmms-eval and reads its results, in the order of ``benchmarks``.

    Raises:
        MissingExtra: lmms-eval is not installed.
        BadInput: see ``lmms_command``.
        RunFailed: it failed, or a figure is missing in its results.
    """
    if find_spec("lmms_eval") is None:
        raise MissingExtra(
            "lmms_eval is not installed; --benchmarks needs it: pip install lmms-eval"
        )
    with TemporaryDirectory(prefix="vila2data-lmms-") as folder:
        command = lmms_command(checkpoint, benchmarks, folder, samples=samples)
        done = subprocess.run(command, check=False, stdout=_STDERR)
        # It ends with 0 where a benchmark broke: only its results tell.
        found = sorted(Path(folder).rglob("*_results.json"))
        if done.returncode or not found:
            raise RunFailed(
                f"lmms-eval ended with status {done.returncode} and "
                f"{'' if found else 'no '}results; its own messages stand above"
            )
        results = _read(found[-1])
    return [_score(benchmark, results) for benchmark in benchmarks]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(f"{file.name}: holds no results of lmms-eval") from error
    return results if isinstance(results, dict) else {}


def _score(benchmark: Benchmark, results: Mapping[str, Any]) -> Score:
    of_task = results.get(benchmark.task)
    told = of_task if isinstance(of_task, dict) else {}
    value = _number(told.get(f"{benchmark.metric},{_FILTER}"))
    error = _number(told.get(f"{benchmark.metric}_stderr,{_FILTER}"))
    if value is None:
        raise RunFailed(
            f"lmms-eval's results have no {benchmark.metric} of task {benchmark.task} "
            f"(benchmark {benchmark.name})"
        )
    scaled = None if error is None else error * benchmark.scale
    return Score(benchmark.name, value * benchmark.scale, scaled)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]
