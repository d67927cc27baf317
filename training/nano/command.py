"""Command ``vila2data foundation``: what a nano loop begins with."""

from collections.abc import Mapping

from vila2data.console import progress, say, show_table
from vila2data.options import DryRunOption, RecipeArgument, SetOption


def command(
    recipe: RecipeArgument, overrides: SetOption = None, dry_run: DryRunOption = False
) -> None:
    """Trains tower and language model of the nano setting; goes on where it stopped."""
    from vila2data.commands import quiet_libraries
    from vila2data.recipe import parse_recipe

    from .recipe import FoundationRecipe

    parsed = parse_recipe(FoundationRecipe, recipe, overrides or [])
    quiet_libraries()
    from .train import new_model, read_record, train_foundation

    if dry_run:
        llava, processor = new_model(parsed)
        parts = {
            "tower": llava.model.vision_tower,
            "language model": llava.model.language_model,
        }
        rows = [(name, sum(p.numel() for p in part.parameters())) for name, part in parts.items()]
        show_table(["", "value"], [*rows, ("tokens", len(processor.tokenizer))])
        return
    before = 0
    schedule = parsed.foundation.schedule
    total = schedule.tower.steps + schedule.joint.steps
    with progress("training", total=total, unit=None) as advance:

        def told(step: int, losses: Mapping[str, float]) -> None:
            nonlocal before
            advance(step - before, f"loss {losses['loss']:.3f}")
            before = step

        out = train_foundation(parsed, told)
    show_table(["on held-out scenes", "value"], list(read_record(out)["held_out"].items()))
    say(f"{out}: vision/ and language/")
