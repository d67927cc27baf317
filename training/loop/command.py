"""Command ``vila2data loop``: train, recaption, train anew, for each seed."""

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from vila2data.console import say, show_table
from vila2data.errors import BadInput
from vila2data.options import DryRunOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from .plan import Planner
    from .recipe import LoopRecipe
    from .results import Summary

PAGE_FILE = "results.md"


def command(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    seed: Annotated[int | None, typer.Option(help="This one of the recipe's seeds alone.")] = None,
    results: Annotated[
        bool, typer.Option("--results", help="Only writes the results anew, as far as they go.")
    ] = False,
) -> None:
    """Runs the self-augmentation loop of VILA²: VILA_0, rounds of recaptions, the specialist.

    A loop that was stopped goes on when the same command is given again.
    """
    from vila2data.recipe import parse_recipe

    from .plan import Planner
    from .recipe import LoopRecipe
    from .seeds import reread_seed, run_seeds
    from .stages import check

    parsed = parse_recipe(LoopRecipe, recipe, overrides or [])
    seeds = list(parsed.seeds) if seed is None else [seed]
    if seeds[0] not in parsed.seeds:
        told = ", ".join(map(str, parsed.seeds))
        raise BadInput(f"--seed {seed}: is none of the recipe's seeds; they are {told}")
    planner = Planner(parsed, seeds[0])
    check(stage for round_ in planner.all_rounds() for stage in round_.stages)
    if dry_run:
        _show_plan(planner, seeds)
        return
    if results:
        for one in seeds:
            reread_seed(parsed, one)
        show_results(parsed)
        return
    try:
        run_seeds(parsed, seeds)
    finally:
        show_results(parsed)


def _show_plan(planner: "Planner", seeds: Sequence[int]) -> None:
    spec = planner.recipe.loop
    for round_ in planner.all_rounds():
        say(f"\n{round_.name}")
        for stage in round_.stages:
            say(f"$ {shlex.join(['vila2data', *stage.arguments])}")
    told = "the rounds end earlier where their length and scores do not grow"
    others = f"; the same for seeds {', '.join(map(str, seeds[1:]))}" if seeds[1:] else ""
    say(f"\nat most {spec.max_rounds} rounds: {told}{others}")


def show_results(recipe: "LoopRecipe") -> None:
    """Writes the results over all seeds that have come to any, and shows what they are.

    Raises:
        BadInput: a seed's results cannot be read.
    """
    from vila2data.files import write_text

    from .charts import write_charts
    from .results import write_results
    from .rows import read_rows
    from .tables import page

    read = {seed: read_rows(recipe.out / f"seed-{seed}") for seed in recipe.seeds}
    by_seed = {seed: rows for seed, rows in read.items() if rows}
    if not by_seed:
        return
    found = write_results(recipe.out, by_seed)
    drawn = find_spec("altair") is not None and find_spec("vl_convert") is not None
    pictures = write_charts(recipe.out, found) if drawn else []
    write_text(recipe.out / PAGE_FILE, page(found, seeds=len(by_seed), pictures=pictures))
    _show_summaries(recipe, found)


def _show_summaries(recipe: "LoopRecipe", found: Sequence["Summary"]) -> None:
    from .tables import MAIN_SCORES, SCORES, cell

    columns = ["model", "words", *(SCORES[name] for name in MAIN_SCORES), "seconds"]
    rows = [
        [
            summary.round,
            None if summary.words is None else round(summary.words.mean, 1),
            *(cell(summary.figures.get(name)) for name in MAIN_SCORES),
            round(summary.seconds.mean),
        ]
        for summary in found
    ]
    show_table(columns, rows, title=f"{recipe.out / PAGE_FILE}")
