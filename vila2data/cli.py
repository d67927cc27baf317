"""The command ``vila2data``. Commands import what they need when they run, so that ``--help`` is
quick.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__, registry
from .corpus_command import app as corpus_app
from .errors import Vila2DataError
from .options import (
    BuildArgument,
    CsvOption,
    DryRunOption,
    JsonOption,
    RecipeArgument,
    SetOption,
)


class _Commands(TyperGroup):
    """The commands below and those that installed packages register."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + [name for name in registry.names("commands") if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in registry.names("commands"):
            return own
        added = typer.Typer()
        added.command(cmd_name)(registry.load("commands", cmd_name))
        return typer.main.get_command(added)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Versioned Hugging Face data sets for visual language models, by the VILA² recipe.",
    epilog="Exit status: 0 done, 1 the run or check failed, 2 bad input.",
)
app.add_typer(corpus_app, name="corpus")


def main() -> None:
    """Runs the command line; the package's own errors become one message and an exit status."""
    try:
        app()
    except Vila2DataError as error:
        from .console import complain

        complain(str(error))
        sys.exit(error.exit_status)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vila2data {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    pass


@app.command()
def recaption(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    shard_index: Annotated[
        int,
        typer.Option(help="This command's part of the shards, from 0: of a Slurm array, its task."),
    ] = 0,
    num_shards: Annotated[
        int, typer.Option(help="Parts that the shards are dealt out to, one command each.", min=1)
    ] = 1,
    dry_run: DryRunOption = False,
    calibrate: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="With --dry-run: captions this many images, stores nothing, and estimates time, "
            "tokens and cost of the run.",
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="With --calibrate: devices that share the run.")
    ] = 1,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="With --calibrate: of one device.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --calibrate: JSON in place of tables.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serves the run's figures to Prometheus there."),
    ] = None,
) -> None:
    """Writes one round, or one specialist, of captions over a corpus; goes on where it stopped."""
    from .commands import recaption_command
    from .errors import BadInput
    from .recaption.calibrate import Calibration
    from .recaption.run import Part

    if calibrate is not None and not dry_run:
        raise BadInput("--calibrate goes with --dry-run; leave both out to run")
    if calibrate is None and (devices > 1 or price_per_hour is not None or as_json):
        raise BadInput("--devices, --price-per-hour and --json go with --dry-run --calibrate")
    wanted = None
    if calibrate is not None:
        wanted = Calibration(calibrate, devices, price_per_hour, as_json)
    recaption_command(
        recipe,
        overrides or [],
        part=Part(shard_index, num_shards),
        dry_run=dry_run,
        calibration=wanted,
        metrics_port=metrics_port,
    )


@app.command()
def serve(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    logs: Annotated[Path, typer.Option(help="Folder of what the servers print.")] = Path("logs"),
    dry_run: DryRunOption = False,
) -> None:
    """Starts `vllm serve` for each address of engine openai on this machine, says when all are
    ready, restarts those that die, and ends them with itself.
    """
    from .commands import serve_command

    serve_command(recipe, overrides or [], logs=logs, dry_run=dry_run)


@app.command()
def build(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Makes the build of a recipe: builds/<data set>/<version>."""
    from .commands import build_command

    build_command(recipe, overrides or [], dry_run=dry_run)


@app.command()
def verify(build: BuildArgument, as_json: JsonOption = False) -> None:
    """Recomputes hashes, counts, columns and the data set's rules; exit status 1 and a list where
    they fail.
    """
    from .build.verify import verify as verify_build
    from .console import say, show_json

    found = verify_build(build)
    if as_json:
        show_json({"checked": found.checked, "problems": found.problems})
    else:
        for problem in found.problems:
            say(problem)
        checked = ", ".join(f"{count} {what}" for what, count in found.checked.items())
        verdict = f"{len(found.problems)} problems" if found.problems else "ok"
        say(f"{build}: {verdict} (checked {checked})")
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def stats(
    builds: Annotated[list[Path], typer.Argument(help="Folders of builds.")],
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE_OR_BUILD",
            help="Boxes to compare a grounding config's with: COCO's instances.json, or a build "
            "of scenes.",
        ),
    ] = None,
    boxes: Annotated[
        str,
        typer.Option(
            metavar="CONVENTION",
            help="How a grounding config's boxes are written, such as vila or pixels; auto: what "
            "all its numbers together look like.",
        ),
    ] = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Caption length (the paper's Table 1), quality signals and rejects, by config; the boxes in
    the captions of a grounding config, and how many of them are right.
    """
    from functools import partial

    from .console import progress, show_csv, show_json, show_table
    from .errors import BadInput
    from .stats import by_config, statistics, upright
    from .stats.run import GROUNDING_TABLES, TABLES

    bar = partial(progress, "reading boxes", total=None, unit="captions")
    tables = {
        str(build): statistics(build, boxes=boxes, references=references, progress=bar)
        for build in builds
    }
    if (references or boxes != "auto") and not any("grounding" in t for t in tables.values()):
        raise BadInput("--references and --boxes: no build has a config of task grounding")
    if as_json:
        show_json(
            {b: {name: t.dicts() for name, t in found.items()} for b, found in tables.items()}
        )
        return
    if as_csv:
        columns, rows = by_config(tables)
        show_csv(columns, rows)
        return
    for build, found in tables.items():
        shown = [(TABLES[name], table) for name, table in found.items() if name in TABLES]
        for name, title in GROUNDING_TABLES.items():
            shown += upright(title, found[name]) if name in found else ()
        for title, table in shown:
            if table.rows:
                show_table(table.columns, table.rows, title=f"{build}: {title}")


@app.command()
def query(
    build: BuildArgument,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="A DuckDB query.")],
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Runs a DuckDB query over the build's views: one per config, and for captions `captions` and
    `rejects`.
    """
    from .build.views import connect
    from .console import show_csv, show_json, show_table
    from .stats import run_sql

    with connect(build) as connection:
        result = run_sql(connection, statement)
    if as_json:
        show_json(result.dicts())
    elif as_csv:
        show_csv(result.columns, result.rows)
    else:
        show_table(result.columns, result.rows)


@app.command()
def sql(build: BuildArgument) -> None:
    """Prints the statements that create the build's views, for DuckDB's own shell."""
    from .build.views import view_statements
    from .console import say

    for statement in view_statements(build):
        say(statement)


@app.command()
def report(
    builds: Annotated[list[Path], typer.Argument(help="Folders of builds.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    corpus: Annotated[Path | None, typer.Option(help="Corpus that holds the images.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="How many images are shown.")] = 24,
    keys: Annotated[str, typer.Option(help="Keys to show, with commas between.")] = "",
    seed: Annotated[int, typer.Option(help="Draws the images that are shown.")] = 0,
) -> None:
    """Writes one self-contained page: facts, tables, length distributions, and images with their
    captions.
    """
    from .console import say
    from .report import write_report

    chosen = [key for key in keys.split(",") if key]
    write_report(builds, out, corpus=corpus, samples=samples, keys=chosen, seed=seed)
    say(f"wrote {out}")


@app.command()
def export(
    build: BuildArgument,
    out: Annotated[Path, typer.Option(help="Folder; must not exist, or be empty.")],
    format: Annotated[str, typer.Option(help="llava, sharegpt, messages or webdataset.")],
    config: Annotated[str | None, typer.Option(help="The default one where none is given.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the build's paths of images are below.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Corpus that holds the images.")] = None,
    upright: Annotated[bool, typer.Option(help="Turns images as their EXIF says.")] = False,
    verbatim: Annotated[
        bool, typer.Option(help="llava: the source's own text, where it was made safe.")
    ] = False,
) -> None:
    """Writes the conversations of a build as LLaVA, LLaMA-Factory, TRL or Megatron-Energon read
    them, with their images.
    """
    from .export.command import export_command

    export_command(
        build,
        config=config,
        format=format,
        out=out,
        images=images,
        corpus=corpus,
        upright=upright,
        verbatim=verbatim,
    )


@app.command()
def overlap(
    build: BuildArgument,
    others: Annotated[
        list[Path] | None, typer.Argument(help="Builds to compare it with; itself without any.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A page with the pairs.")] = None,
    config: Annotated[
        str | None, typer.Option(help="The default ones where none is given.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the builds' paths of images are below.")
    ] = None,
    max_distance: Annotated[
        int, typer.Option(min=0, max=16, help="Bits between hashes of images that are compared.")
    ] = 8,
    bytes_only: Annotated[
        bool, typer.Option(help="Images are the same where their bytes are.")
    ] = False,
    min_words: Annotated[int, typer.Option(min=1, help="How much text must be the same.")] = 10,
    samples: Annotated[int, typer.Option(min=0, help="Pairs of each kind on the page.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Finds rows that builds have in common: the same image, a copy of it, the same text."""
    from .overlap.command import overlap_command

    overlap_command(
        build,
        others or (),
        out=out,
        config=config,
        images=images,
        max_distance=None if bytes_only else max_distance,
        min_words=min_words,
        samples=samples,
        as_json=as_json,
    )


@app.command()
def sources(
    names: Annotated[list[str] | None, typer.Argument(help="Ids; all without any.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the sources that blends are made of: licence, rows, where they are, what to know."""
    from dataclasses import asdict

    from .blend.listing import rows
    from .console import show_json, show_table

    listed = rows(names or ())
    if as_json:
        show_json([asdict(row) for row in listed])
    elif names:
        for row in listed:
            show_table(["", ""], asdict(row).items(), title=row.id)
    else:
        columns = ["source", "task", "licence", "rows", "status", "tested on"]
        cells = [
            (r.id, r.task, r.license, r.records_published, r.status, r.tested_on) for r in listed
        ]
        show_table(columns, cells)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Says what is installed, which engines and device would be used, and how to get what is
    missing.
    """
    from .console import show_json, show_table
    from .doctor import examine

    found = examine()
    if as_json:
        show_json([{"what": w, "found": f, "remedy": r} for w, f, r in found])
    else:
        show_table(["", "found", "how to get it"], found, title="vila2data doctor")
