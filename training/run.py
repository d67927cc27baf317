"""The folder of a run: begun, gone on with, or finished.

OUT/run.json          what the run is bound to
OUT/plan              every sample in the order of training
OUT/checkpoint-N      where an interrupted run goes on
OUT/log.jsonl         loss, rate, gradient norm, counts and seconds, by step
OUT/model             the end: a transformers checkpoint with training.json, which appears whole
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vila2data.errors import BadInput, RunRefused
from vila2data.optional import require
from vila2data.runfolder import locked, read_shaping, refuse_differences, write_shaping

from .architectures.assemble import load
from .architectures.spec import ModelSpec
from .feed.packing import check_packing
from .feed.plan import Plan, load_plan
from .feed.planning import make_plan
from .freeze import PartSize, freeze
from .hardware import PLAIN, Setup, set_up
from .manifest import initial_model, read_training
from .processes import Processes
from .recipe import TrainRecipe
from .stage import MODEL_FOLDER, Stage

_PLAN_FOLDER = "plan"
_REMEDY = "Set them back, or give another `out`"


@contextmanager
def opened(
    recipe: TrainRecipe,
    processes: Processes,
    *,
    on_rows: Callable[[int], None] = lambda count: None,
) -> Iterator[Stage | None]:
    """A stage that is ready to train, its folder kept from other runs; None where it is finished.

    Raises:
        BadInput: the model or the data cannot be used; nothing was written.
        RunRefused: ``out`` belongs to other settings, or another run works there.
    """
    require("accelerate", extra="train")
    setup = set_up(recipe, processes)
    torch = require("torch", extra="train")
    if recipe.hardware.threads is not None:
        torch.set_num_threads(recipe.hardware.threads)
    with ExitStack() as stack:
        processes.first(lambda: _enter(stack, recipe.out))
        initial, shaping, checkpoint = processes.first(lambda: _begun(recipe, setup))
        if (recipe.out / MODEL_FOLDER).is_dir():
            yield None
            return
        model, processor, sizes = _frozen(recipe, checkpoint)
        plan_folder = recipe.out / _PLAN_FOLDER
        bound = processes.first(lambda: _planned(recipe, processor, shaping, on_rows))
        plan = load_plan(plan_folder)
        yield Stage(
            recipe, processes, setup, initial, model, processor, sizes, plan, bound, checkpoint
        )


@contextmanager
def rehearsed(
    recipe: TrainRecipe,
    processes: Processes,
    *,
    on_rows: Callable[[int], None] = lambda count: None,
) -> Iterator[Stage]:
    """A stage whose plan is made in a temporary folder: to look at, nothing else is written.

    Raises:
        BadInput: the model or the data cannot be used.
    """
    setup = set_up(recipe, processes)
    model, processor, sizes = _frozen(recipe, None)
    with TemporaryDirectory(prefix="vila2data-plan-") as folder:
        plan = plan_of(recipe, processor, Path(folder) / _PLAN_FOLDER, on_rows)
        yield Stage(recipe, processes, setup, {}, model, processor, sizes, plan, {})


def _enter(stack: ExitStack, out: Path) -> None:
    stack.enter_context(locked(out))  # the lock stays here: it cannot be told to other processes


Begun = tuple[dict[str, dict[str, Any]], dict[str, Any], Path | None]


def _begun(recipe: TrainRecipe, setup: Setup) -> Begun:
    """The initial model, what shapes the run but for the plan, and the newest checkpoint.

    Raises:
        RunRefused: the folder's run was begun with other settings.
    """
    from .trainer import UNFINISHED, checkpoints_in

    initial = initial_model(recipe.model)
    shaping = {**recipe.shaping(precision=setup.precision), "initial": _revisions(initial)}
    begun = read_shaping(recipe.out)
    if begun is None:
        foreign = [
            p for p in (recipe.out / MODEL_FOLDER, *checkpoints_in(recipe.out)) if p.exists()
        ]
        if foreign:
            raise RunRefused(f"{foreign[0]}: is of no run that is known; give another `out`")
        return initial, shaping, None
    if "plan" not in begun:
        raise RunRefused(
            f"{recipe.out}: is the folder of a run of another kind; give another `out`"
        )
    known = {name: value for name, value in begun.items() if name != "plan"}
    refuse_differences(recipe.out, known, shaping, remedy=_REMEDY)
    shutil.rmtree(recipe.out / UNFINISHED, ignore_errors=True)
    found = checkpoints_in(recipe.out)
    checkpoint = found[0] if found else None
    if checkpoint is not None:
        _refuse_other_strategy(checkpoint, setup)
    return initial, shaping, checkpoint


def _revisions(initial: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in part.items() if key in ("revision", "config")}
        | ({"name": part["name"]} if part["revision"] is None else {})
        for name, part in initial.items()
    }


def _refuse_other_strategy(checkpoint: Path, setup: Setup) -> None:
    """Optimizer states of DeepSpeed and FSDP are read by the strategy that wrote them alone, and
    DeepSpeed's by as many processes.
    """
    wrote = read_training(checkpoint).setup
    then, now = str(wrote["strategy"]), setup.strategy
    if then != now and not {then, now} <= PLAIN:
        raise RunRefused(
            f"{checkpoint} was written with strategy '{then}', this would go on with '{now}'; "
            "launch it as before"
        )
    if now.startswith("deepspeed") and wrote["processes"] != setup.processes:
        raise RunRefused(
            f"{checkpoint} was written by {wrote['processes']} processes with DeepSpeed, which "
            f"cannot go on with {setup.processes}; launch as many as before"
        )


def _frozen(recipe: TrainRecipe, checkpoint: Path | None) -> tuple[Any, Any, list[PartSize]]:
    """Model, processor, and what is trained."""
    spec = recipe.model
    if checkpoint is not None:
        own = {"dtype": spec.dtype, "chat_template": spec.chat_template}
        spec = ModelSpec(checkpoint=str(checkpoint), **own)
    model, processor = load(spec)
    if recipe.hardware.attention != "auto":
        model.set_attn_implementation(recipe.hardware.attention)
    if recipe.feed.packing and recipe.hardware.attention != "flash_attention_2":  # which has no CPU
        check_packing(model)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and recipe.feed.context_tokens > positions:
        raise BadInput(
            f"feed.context_tokens: {recipe.feed.context_tokens}, but the model takes sequences of "
            f"at most {positions} tokens"
        )
    return model, processor, freeze(model, recipe.trains)


def _planned(
    recipe: TrainRecipe,
    processor: Any,
    shaping: Mapping[str, Any],
    on_rows: Callable[[int], None],
) -> dict[str, Any]:
    """Makes the plan and binds the run to it, where that is not done; what the run is bound to."""
    folder = recipe.out / _PLAN_FOLDER
    begun = read_shaping(recipe.out)
    if begun is None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before it was bound
        plan = plan_of(recipe, processor, folder, on_rows)
        bound = {**shaping, "plan": plan.fingerprint}
        write_shaping(recipe.out, bound)
        return bound
    if load_plan(folder).fingerprint != begun["plan"]:
        raise RunRefused(f"{folder}: is not the plan that the run was begun with; {_REMEDY}")
    return dict(begun)


def plan_of(
    recipe: TrainRecipe, processor: Any, folder: Path, on_rows: Callable[[int], None]
) -> Plan:
    """Makes the plan of a recipe in ``folder``."""
    rules = recipe.optimisation
    return make_plan(
        recipe.feed,
        processor,
        folder,
        seed=recipe.seed,
        batch=rules.batch,
        epochs=rules.epochs,
        workers=recipe.hardware.workers,
        on_rows=on_rows,
    )
