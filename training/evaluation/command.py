"""Command ``vila2data evaluate``: what a checkpoint sees, on rendered scenes or real benchmarks."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila2data.console import progress, say, show_json, show_table
from vila2data.errors import BadInput
from vila2data.options import DryRunOption, JsonOption

if TYPE_CHECKING:
    from .evaluation import Evaluation
    from .lmms import Benchmark, Score


def command(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its Hub name.")],
    scenes: Annotated[
        Path | None, typer.Option(help="A build of `scenes`; its config test is used.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder of the tars of test images.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="The first so many scenes, or of each benchmark.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, on a CPU.")] = None,
    prompt: Annotated[str, typer.Option(help="Id of the caption's prompt.")] = "long-v1",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a caption.")] = 256,
    benchmarks: Annotated[
        str | None, typer.Option(help="Real ones through lmms-eval, such as vqav2,gqa,pope.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File NAME.json for the figures.")] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Captions, answers and likelihoods of a checkpoint against the truth of rendered scenes.

    With --benchmarks lmms-eval runs real ones, where it is installed.
    """
    from .lmms import benchmarks_of

    if (scenes is None) != (corpus is None) or (scenes is None and benchmarks is None):
        raise BadInput("give --scenes and --corpus, or --benchmarks, or all three")
    wanted = benchmarks_of(benchmarks) if benchmarks is not None else []
    found: dict[str, Any] = {}
    if dry_run:
        _rehearse(checkpoint, scenes, wanted, samples)
        return
    if scenes is not None and corpus is not None:
        evaluation = _evaluated(
            checkpoint,
            scenes,
            corpus,
            samples=samples,
            batch_size=batch_size,
            threads=threads,
            prompt=prompt,
            max_tokens=max_tokens,
            out=out,
        )
        found |= _told(evaluation, title=f"{checkpoint} on {scenes}", quiet=as_json)
    if wanted:
        found["benchmarks"] = _benchmarked(checkpoint, wanted, samples, out, quiet=as_json)
    if as_json:
        show_json(found)


def _rehearse(
    checkpoint: str, scenes: Path | None, wanted: Sequence["Benchmark"], samples: int | None
) -> None:
    from .lmms import lmms_command
    from .scenes import CONFIG, manifest_of

    if scenes is not None:
        rows = manifest_of(scenes).rows_of(CONFIG)
        say(f"would caption and question {min(rows, samples or rows):,} scenes of {scenes}")
    if wanted:
        say(shlex.join(lmms_command(checkpoint, wanted, "FOLDER", samples=samples)))


def _evaluated(checkpoint: str, scenes: Path, corpus: Path, **settings: Any) -> "Evaluation":
    from vila2data.commands import quiet_libraries

    from .run import evaluate

    quiet_libraries()
    with progress("evaluating", total=None, unit="texts") as done:
        return evaluate(checkpoint, scenes, corpus, **settings, on_text=done)


def _told(evaluation: "Evaluation", *, title: str, quiet: bool) -> dict[str, Any]:
    """The evaluation as JSON; shown as one table unless ``quiet``."""
    import json

    if not quiet:
        figures = evaluation.figures
        rows = [
            (
                name,
                figure.value,
                figure.standard_error,
                figures[f"blind_{name}"].value if f"blind_{name}" in figures else None,
                figure.count,
            )
            for name, figure in figures.items()
            if not name.startswith("blind_")
        ]
        columns = ["figure", "value", "standard error", "blind", "of"]
        show_table(columns, rows, title=f"{title}: {evaluation.scenes:,} scenes")
        if evaluation.rejected:
            show_table(["rejected", "count"], list(evaluation.rejected.items()))
    content: dict[str, Any] = json.loads(evaluation.to_json())
    return content


def _benchmarked(
    checkpoint: str,
    wanted: Sequence["Benchmark"],
    samples: int | None,
    out: Path | None,
    *,
    quiet: bool,
) -> list[dict[str, Any]]:
    """Scores as JSON, also written beside ``out``; shown as one table unless ``quiet``."""
    import json
    from dataclasses import asdict

    from vila2data.files import write_text

    from .lmms import run_benchmarks

    scores = run_benchmarks(checkpoint, wanted, samples=samples)
    found = [asdict(score) for score in scores]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.with_name(f"{out.stem}-benchmarks.json")
        write_text(file, json.dumps(found, indent=2) + "\n")
    if not quiet:
        rows = [_score_row(*each) for each in zip(wanted, scores, strict=True)]
        show_table(["benchmark", "value", "standard error", "task", "note"], rows)
    return found


def _score_row(benchmark: "Benchmark", score: "Score") -> tuple[Any, ...]:
    return benchmark.title, score.value, score.standard_error, benchmark.task, benchmark.note
