"""Command ``vila2data train``: one stage by its recipe."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from vila2data.console import progress, say, show_table
from vila2data.errors import Vila2DataError
from vila2data.optional import require
from vila2data.options import DryRunOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from .manifest import Metrics
    from .processes import Processes
    from .recipe import TrainRecipe
    from .stage import Stage

_HEAD_START_S = 5.0


def command(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Trains one stage; goes on where it stopped.

    Several processes: `torchrun --nproc-per-node 8 -m vila2data train RECIPE`, or the same with
    `accelerate launch`.
    """
    from vila2data.commands import quiet_libraries
    from vila2data.recipe import parse_recipe

    from .processes import started
    from .recipe import TrainRecipe

    with _one_voice():
        parsed = parse_recipe(TrainRecipe, recipe, overrides or [])
        quiet_libraries()
        require("transformers", extra="train").logging.set_verbosity_error()
        with started(parsed.hardware.device) as processes:
            if not dry_run:
                _train(parsed, processes)
            elif processes.is_first:
                _rehearse(parsed, processes)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Lets the first process tell what went wrong. The others wait: a launcher ends them as soon as
    the first has ended; who is still there tells what it alone knows.
    """
    from .processes import Elsewhere

    try:
        yield
    except Vila2DataError as error:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(_HEAD_START_S)
        if isinstance(error, Elsewhere):
            raise typer.Exit(error.exit_status) from error
        raise


def _train(recipe: "TrainRecipe", processes: "Processes") -> None:
    from .run import opened
    from .stage import MODEL_FOLDER

    with ExitStack() as bar:
        on_rows: Callable[[int], None] = lambda count: None  # noqa: E731 - one bar, not one each
        if processes.is_first:
            on_rows = bar.enter_context(progress("planning", total=None, unit="rows"))
        with opened(recipe, processes, on_rows=on_rows) as stage:
            bar.close()
            if stage is not None and processes.is_first:
                _train_and_tell(stage)
            elif stage is not None:
                stage.train()
            elif processes.is_first:
                say(f"{recipe.out / MODEL_FOLDER}: is finished, nothing is left to do")


def _train_and_tell(stage: "Stage") -> None:
    before = stage.log.metrics, stage.log.step
    show_table(["plan", ""], _plan_rows(stage))
    with progress("training", total=stage.steps, unit=None, begun=stage.log.step) as advance:
        metrics = stage.train(lambda row, steps: advance(steps, _told(row)))
    show_table(["", "value"], _summary_rows(stage, metrics, *before), title=_title(stage))
    show_table(*_funnel(stage), title="Where the rows went")
    say(f"next: caption with it: --set recaption.engine.model={_model(stage)}")


def _model(stage: "Stage") -> str:
    from .stage import MODEL_FOLDER

    return (stage.recipe.out / MODEL_FOLDER).as_posix()


def _title(stage: "Stage") -> str:
    return f"{_model(stage)}: {stage.log.seconds:,.1f} s"


def _told(row: Mapping[str, Any]) -> str:
    seconds = row["seconds"] or 1e-9
    tokens, samples = row["tokens"] / seconds, row["samples"] / seconds
    return f"loss {row['loss']:.4f} {tokens:,.0f} tokens/s {samples:,.1f} samples/s"


def _plan_rows(stage: "Stage") -> list[tuple[str, Any]]:
    recipe, setup, plan = stage.recipe, stage.setup, stage.plan
    sizes = [f"{size.part} {size.trained:,} of {size.parameters:,}" for size in stage.sizes]
    batch = recipe.optimisation.batch
    divided = (
        f"{batch} = {recipe.hardware.micro_batch} × {setup.accumulation} micro-batches "
        f"× {setup.processes} processes"
    )
    begun = [("goes on after step", stage.log.step)] if stage.checkpoint else []
    return [
        ("preset", recipe.preset or "none"),
        ("trained parameters", "; ".join(sizes)),
        ("samples", f"{plan.samples:,}, {plan.images:,} images in {plan.items:,} sequences"),
        ("tokens", f"{plan.tokens:,}, of which {plan.trained_tokens:,} are trained"),
        ("steps", stage.steps),
        *begun,
        ("batch", divided),
        ("computed on", f"{setup.device}, {setup.precision}"),
        ("strategy", f"{setup.strategy}{f' ({setup.note})' if setup.note else ''}"),
        ("out", str(recipe.out)),
    ]


def _summary_rows(
    stage: "Stage", metrics: "Metrics", before: "Metrics", steps_before: int
) -> list[tuple[str, Any]]:
    seconds = stage.log.seconds
    rates = [
        (f"{name}/s", round((getattr(metrics, name) - getattr(before, name)) / seconds, 1))
        for name in ("tokens", "samples")
        if seconds > 0
    ]
    earlier = [("of these in earlier runs", steps_before)] if steps_before else []
    return [
        ("steps", stage.steps),
        *earlier,
        ("samples", metrics.samples),
        ("images", metrics.images),
        ("tokens", metrics.tokens),
        ("trained tokens", metrics.trained_tokens),
        ("skipped: image cannot be used", metrics.skipped),
        ("first loss", metrics.first_loss),
        ("last loss", metrics.last_loss),
        *rates,
    ]


def _funnel(stage: "Stage") -> tuple[list[str], list[tuple[Any, ...]]]:
    rows = [
        (
            step.step,
            step.read,
            step.written,
            ", ".join(f"{reason} {count:,}" for reason, count in step.rejected.items()) or "none",
            step.not_sampled,
        )
        for step in stage.plan.funnel
    ]
    return ["step", "read", "trained on", "rejected", "not sampled"], rows


def _rehearse(recipe: "TrainRecipe", processes: "Processes") -> None:
    """Shows the resolved recipe, the plan, and the first sample as the model will see it."""
    import yaml

    from .run import rehearsed

    say(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    with ExitStack() as bar:
        on_rows = bar.enter_context(progress("planning", total=None, unit="rows"))
        with rehearsed(recipe, processes, on_rows=on_rows) as stage:
            bar.close()
            show_table(["plan", ""], _plan_rows(stage))
            show_table(*_funnel(stage), title="Where the rows went")
            say("\nThe first sequence; what is trained stands in ⟦ ⟧:")
            say(_first_sequence(stage))


def _first_sequence(stage: "Stage") -> str:
    from .feed.feed import Collator, Feed

    spec = stage.recipe.feed
    collator = Collator(stage.processor, context_tokens=spec.context_tokens, packing=spec.packing)
    batch = collator([Feed(stage.plan, spec.limits())[0]])
    length = int(batch["attention_mask"][0].sum()) if "attention_mask" in batch else None
    ids, labels = batch["input_ids"][0, :length].tolist(), batch["labels"][0, :length].tolist()
    return marked(
        ids, [label == one for one, label in zip(ids, labels, strict=True)], stage.processor
    )


def marked(ids: Sequence[int], trained: Sequence[bool], processor: Any) -> str:
    """Tokens as text: trained ones in ⟦ ⟧, a run of image tokens told by its length."""
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    kinds = [(one == image_id, told) for one, told in zip(ids, trained, strict=True)]
    pieces = []
    start = 0
    for (is_image, is_trained), run in groupby(kinds):
        length = sum(1 for _ in run)
        told = ids[start : start + length]
        text = (
            processor.image_token + f"×{length} " if is_image else processor.tokenizer.decode(told)
        )
        pieces.append(f"⟦{text}⟧" if is_trained else text)
        start += length
    return "".join(pieces)
