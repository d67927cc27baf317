"""From the recipe's ``hardware:`` to what the trainer is given."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2data.errors import BadInput
from vila2data.optional import require

from .processes import Processes
from .recipe import HardwareSpec, TrainRecipe

PLAIN = {"none", "ddp"}
"""Strategies that keep the whole model in every process."""

_STAGES = {"deepspeed-stage2": 2, "deepspeed-stage3": 3}


@dataclass(frozen=True, slots=True)
class Setup:
    """How a run is computed, here and now.

    Attributes:
        device: ``cpu`` or ``cuda``.
        processes: on all machines.
        precision: of the computation.
        accumulation: micro-batches of one process in a step.
        strategy: ``none``, ``ddp``, ``fsdp``, or ``deepspeed`` with its stage or file.
        note: why the recipe's sharding is not used; empty where it is.
    """

    device: str
    processes: int
    precision: str
    accumulation: int
    strategy: str
    note: str = ""


def set_up(recipe: TrainRecipe, processes: Processes) -> Setup:
    """How the recipe is computed by these processes.

    Raises:
        BadInput: the batch cannot be divided among them.
    """
    hardware, batch = recipe.hardware, recipe.optimisation.batch
    at_once = hardware.micro_batch * processes.count
    if batch % at_once:
        fitting = [n for n in range(1, batch + 1) if batch % (n * processes.count) == 0]
        told = f"fitting: {', '.join(map(str, fitting[-8:]))}" if fitting else "none fits"
        raise BadInput(
            f"hardware.micro_batch: {hardware.micro_batch} × {processes.count} processes do not "
            f"divide optimisation.batch {batch}; {told}"
        )
    precision = hardware.precision
    if precision == "auto":
        precision = "bfloat16" if processes.device == "cuda" else "float32"
    strategy, note = _strategy(hardware, processes)
    return Setup(processes.device, processes.count, precision, batch // at_once, strategy, note)


def _strategy(hardware: HardwareSpec, processes: Processes) -> tuple[str, str]:
    plain = "ddp" if processes.count > 1 else "none"
    wanted = hardware.sharding
    if wanted is None:
        return plain, ""
    name = f"deepspeed {wanted.name}" if isinstance(wanted, Path) else wanted.replace("-", " ")
    if processes.device == "cpu":
        return plain, f"{name} not used: no GPU"
    if processes.count == 1 and not isinstance(wanted, Path):
        return plain, f"{name} not used: one process"
    return name, ""


def deepspeed_config(stage: int) -> dict[str, Any]:
    """A DeepSpeed config of ZeRO stage 2 or 3; ``auto`` is filled in from the trainer's arguments.

    Source: LLaVA ``scripts/zero2.json``, ``scripts/zero3.json``.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
    }
    if stage == 3:
        zero |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "bf16": {"enabled": "auto"},
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
    }


def fsdp_config(model: Any) -> dict[str, Any]:
    """Shards every layer that transformers says must not be split; saves whole weights."""
    layers = sorted(getattr(model, "_no_split_modules", None) or [])
    present = {type(module).__name__ for module in model.modules()}
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": [name for name in layers if name in present],
        "state_dict_type": "FULL_STATE_DICT",
    }


def sharding_arguments(recipe: TrainRecipe, setup: Setup, model: Any) -> Mapping[str, Any]:
    """Arguments of ``TrainingArguments`` for the setup's strategy.

    Raises:
        BadInput: the DeepSpeed config is no JSON.
        MissingExtra: DeepSpeed is not installed.
    """
    wanted = recipe.hardware.sharding
    if setup.strategy == "fsdp":
        return {"fsdp": True, "fsdp_config": fsdp_config(model)}
    if not setup.strategy.startswith("deepspeed"):
        return {}
    require("deepspeed", extra="deepspeed")
    if not isinstance(wanted, Path):
        return {"deepspeed": deepspeed_config(_STAGES[str(wanted)])}
    try:
        return {"deepspeed": json.loads(wanted.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise BadInput(f"hardware.sharding: {wanted}: is not JSON: {error}") from error
