"""From the recipe to ``TrainingArguments`` and callbacks of transformers' trainer."""

from typing import Any

from vila2data.optional import require

from .hardware import Setup
from .processes import Processes
from .recipe import TrainRecipe

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def optimisation_arguments(recipe: TrainRecipe, steps: int) -> dict[str, Any]:
    """How weights change, what is logged, and when a checkpoint is written."""
    rules = recipe.optimisation
    return {
        "max_steps": steps,
        "learning_rate": rules.learning_rate,
        "lr_scheduler_type": _SCHEDULES[rules.schedule],
        "warmup_steps": rules.warmup_ratio,  # below 1 it is a ratio
        "weight_decay": rules.weight_decay,
        "adam_beta1": rules.betas[0],
        "adam_beta2": rules.betas[1],
        "adam_epsilon": rules.epsilon,
        "max_grad_norm": rules.max_grad_norm or 0.0,
        "seed": recipe.seed,
        "train_sampling_strategy": "sequential",
        "logging_steps": recipe.logging.every_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": recipe.checkpoints.every_steps,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }


def hardware_arguments(recipe: TrainRecipe, setup: Setup) -> dict[str, Any]:
    """How it is computed here."""
    hardware = recipe.hardware
    on_cpu = setup.device == "cpu"
    return {
        "per_device_train_batch_size": hardware.micro_batch,
        "gradient_accumulation_steps": setup.accumulation,
        "optim": "adamw_torch" if on_cpu else "adamw_torch_fused",
        "bf16": setup.precision == "bfloat16",
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and setup.processes > 1 else None,
        # A process whose samples have no images leaves tower and projector without gradients.
        "ddp_find_unused_parameters": True,
        "gradient_checkpointing": hardware.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_num_workers": hardware.workers,
        # Spawned, not forked: a forked process inherits locks of threads that it does not have.
        "dataloader_multiprocessing_context": "spawn" if hardware.workers else None,
        "dataloader_pin_memory": not on_cpu,
    }


def loggers(recipe: TrainRecipe, processes: Processes, step: int) -> list[Any]:
    """Callbacks that write elsewhere than to ``log.jsonl``, in the first process.

    Args:
        recipe: of the stage.
        processes: that train together.
        step: after which the run goes on; what a killed one logged later is hidden.

    Raises:
        MissingExtra: TensorBoard is not installed.
    """
    if not recipe.logging.tensorboard or not processes.is_first:
        return []
    tensorboard = require("torch.utils.tensorboard", extra="tensorboard")
    from transformers.integrations.integration_utils import TensorBoardCallback

    folder = str(recipe.out / "tensorboard")
    writer = tensorboard.SummaryWriter(folder, purge_step=step + 1)
    return [TensorBoardCallback(writer)]  # type: ignore[no-untyped-call]
