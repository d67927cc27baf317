"""The processes of a run: one, or as many as ``torchrun`` or ``accelerate launch`` started."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from vila2data.errors import BadInput, Vila2DataError
from vila2data.optional import require

Result = TypeVar("Result")

_PATIENCE = timedelta(days=7)
"""How long the others wait while the first plans: a collective's own time-out is too short."""


class Elsewhere(Vila2DataError):
    """The first process failed, and tells why; this one ends with its status, in silence."""

    def __init__(self, exit_status: int) -> None:
        super().__init__("the first process failed")
        self.exit_status = exit_status


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 is the first, which plans, prints and writes.
        count: of processes, on all machines.
        device: that this process computes on.
        group: over which the others wait, None where there are none.
    """

    rank: int
    count: int
    device: Literal["cpu", "cuda"]
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process plans, prints and writes."""
        return self.rank == 0

    def first(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns in the first process, in each of them; it must be picklable.

        Raises:
            Vila2DataError: what ``work`` raised, in the first process.
            Elsewhere: it raised, in the others.
        """
        if self.group is None:
            return work()
        outcome: list[Any] = [None, None]
        error: BaseException | None = None
        if self.is_first:
            try:
                outcome = [work(), None]
            except BaseException as raised:  # noqa: BLE001 - raised again below, once all know
                error, outcome = raised, [None, getattr(raised, "exit_status", 1)]
        self._tell(outcome)
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise Elsewhere(outcome[1])
        result: Result = outcome[0]
        return result

    def _tell(self, outcome: list[Any]) -> None:
        import torch.distributed

        torch.distributed.broadcast_object_list(outcome, src=0, group=self.group)


@contextmanager
def started(device: Literal["auto", "cpu", "cuda"]) -> Iterator[Processes]:
    """This run's processes, able to talk to each other.

    Raises:
        BadInput: a GPU is asked for and there is none, or the launcher shards in its own way.
        MissingExtra: torch is not installed.
    """
    torch = require("torch", extra="train")
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "").lower() in ("1", "true"):
            raise BadInput(f"{name} is set by the launcher; say it in hardware.sharding instead")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("hardware.device: cuda, but torch sees no GPU; give cpu or auto")
    kind: Literal["cpu", "cuda"] = (
        "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    )
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, kind)
        return
    distributed = require("torch.distributed", extra="train")
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    try:
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        yield Processes(distributed.get_rank(), distributed.get_world_size(), kind, group)
    finally:
        distributed.destroy_process_group()
