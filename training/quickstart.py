"""Command ``vila2data quickstart``: one round of the loop, offline, on a CPU, and its results."""

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vila2data.console import say, show_table

if TYPE_CHECKING:
    from .loop.plan import Planner

_RECIPE = "quickstart/loop"
_SCENES_SHOWN = 3
_AGAINST_BLIND = ("object_precision", "object_recall")


def command(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path(
        "quickstart"
    ),
) -> None:
    """Renders scenes, trains VILA_0 on their alt-texts, recaptions, builds, trains VILA_1: offline,
    on a CPU, in minutes.

    A call that was stopped is gone on with by the next.
    """
    from vila2data.recipe import parse_recipe

    from .loop.plan import Planner
    from .loop.recipe import LoopRecipe, setting

    place = setting("out", out)
    recipe = parse_recipe(LoopRecipe, _RECIPE, [place])
    planner = Planner(recipe, recipe.seeds[0])
    _run("loop", _RECIPE, "--set", place)
    texts = planner.vila(recipe.loop.max_rounds).texts
    assert texts is not None  # rounds have captions
    _run("verify", texts.build)
    _run("stats", texts.build)
    _show_captions(planner)
    _show_against_blind(planner)
    if find_spec("altair") is not None:
        corpus, page = planner.folder / "corpus" / "train", out / "report.html"
        _run("report", texts.build, "--corpus", corpus, "--samples", "12", "--out", page)
    _say_what_next(texts.build, out)


def _run(*arguments: str | Path) -> None:
    """Runs a command of ``vila2data``, and shows it: what quickstart does, a user can do."""
    from .loop.calls import call_here

    words = [str(argument) for argument in arguments]
    say(f"\n$ {shlex.join(['vila2data', *words])}")
    call_here(words)


def _show_captions(planner: "Planner") -> None:
    """Of some held-out scenes, the text they were found with, and what each model writes."""
    models = [planner.vila(number) for number in range(planner.recipe.loop.max_rounds + 1)]
    written = {
        model.name: _column(model.evaluation.with_name(f"{model.name}-captions.parquet"))
        for model in models
    }
    alt_texts = _alt_texts(planner)
    for key in sorted(alt_texts)[:_SCENES_SHOWN]:
        texts = [(name, captions.get(key)) for name, captions in written.items()]
        rows = [("alt-text", alt_texts[key]), *texts]
        show_table(["", "text"], rows, title=f"Held-out scene {key}")


def _alt_texts(planner: "Planner") -> dict[str, str]:
    from vila2data.build.views import connect, readable

    texts = planner.vila(0).texts
    assert texts is not None
    with connect(texts.build) as connection, readable(texts.build):
        rows = connection.execute(f"SELECT key, {texts.column} FROM test").fetchall()
    return {str(key): text for key, text in rows}


def _column(file: Path) -> dict[str, Any]:
    """Captions of an evaluation by key."""
    import pyarrow.parquet as pq

    found = pq.read_table(file, columns=["key", "caption"]).to_pydict()
    return dict(zip(found["key"], found["caption"], strict=True))


def _show_against_blind(planner: "Planner") -> None:
    """Objects that captions name, beside what captions of other scenes would get."""
    from .loop.rows import read_rows

    rows: list[Sequence[Any]] = [
        [row.round, *(_rounded(row.value(n)) for f in _AGAINST_BLIND for n in (f, f"blind_{f}"))]
        for row in read_rows(planner.folder)
    ]
    columns = ["model", *(n for f in ("precision", "recall") for n in (f, f"{f} of the blind"))]
    title = "Objects in captions of held-out scenes; blind: the captions of other scenes"
    show_table(columns, rows, title=title)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _say_what_next(build: Path, out: Path) -> None:
    longest = "SELECT key, num_words, caption FROM round1 ORDER BY num_words DESC LIMIT 3"
    load = f"from datasets import load_dataset; print(load_dataset('{build}')['train'][0])"
    say(f"\nThe build: {build}\nThe results: {out / 'results.md'}")
    say("One small run shows that every stage works; what a round is worth takes several seeds.")
    say("Next:")
    say(f'  python -c "{load}"')
    say(f'  vila2data query {build} "{longest}"')
    say("  vila2data loop nano/loop --dry-run")
    say("  vila2data corpus pack YOUR_IMAGES --out corpora/mine")
    own = "--set corpus=corpora/mine --set recaption.engine.model=MODEL"
    say(f"  vila2data recaption coyo_recap/round1 {own}")
