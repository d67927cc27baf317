"""Command ``vila2data quickstart``: from nothing to a build, offline, on a CPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_PICTURES = 48
_SHOWN = 3


def command(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path(
        "quickstart"
    ),
) -> None:
    """Draws pictures, makes a tiny model, recaptions, builds, verifies, counts: offline, on a CPU.

    The model has random weights, so its captions are random words: this shows the way of the data,
    not its quality.
    """
    from vila2data.build.verify import verify
    from vila2data.build.views import connect
    from vila2data.commands import build_command, recaption_command, report_command, show_build
    from vila2data.console import say, show_table
    from vila2data.corpus.pack import pack
    from vila2data.corpus.sources import from_folder
    from vila2data.errors import RunFailed
    from vila2data.stats import run_sql, statistics

    from .pictures import draw_pictures
    from .tiny import make_tiny_llava

    captions = draw_pictures(out / "pictures", _PICTURES)
    model = make_tiny_llava(out / "tiny-llava")
    corpus = out / "corpus"
    pack(from_folder(out / "pictures", captions), corpus, samples_per_shard=16)
    overrides = [
        f"corpus={corpus}",
        f"out={out / 'builds'}",
        f"recaption.run={out / 'runs' / 'round1'}",
        f"recaption.engine.model={model}",
    ]
    recipe = "quickstart/round1"
    build = out / "builds" / "coyo-recap" / "1.0.0"
    if build.is_dir():
        show_build(build)
    else:
        recaption_command(recipe, overrides, dry_run=False)
        build_command(recipe, overrides, dry_run=False)
    problems = verify(build).problems
    if problems:
        raise RunFailed(f"{build}: " + "; ".join(problems))
    lengths = statistics(build)["length"]
    show_table(lengths.columns, lengths.rows, title="Caption length (random words)")
    before_after = f"SELECT key, original, caption FROM round1 ORDER BY key LIMIT {_SHOWN}"
    with connect(build) as connection:
        shown = run_sql(connection, before_after)
    show_table(["key", "before", "after"], shown.rows, title="Before and after")
    if find_spec("altair") is not None:
        report_command([build], out / "report.html", corpus=corpus, samples=12, keys=[], seed=0)
    query = "SELECT key, num_words, caption FROM round1 ORDER BY num_words DESC LIMIT 3"
    settings = f"--set corpus={corpus} --set recaption.engine.model={model}"
    say("\nThe model has random weights, so its captions are random words. Next:")
    load = f"from datasets import load_dataset; print(load_dataset('{build}')['train'][0])"
    say(f'  python -c "{load}"')
    say(f'  vila2data query {build} "{query}"')
    say(f"  vila2data recaption coyo_recap/round1 --dry-run {settings}")
