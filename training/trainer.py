"""The trainer of transformers over the feed's plan. Importing this module needs the extra `train`.

    OUT/checkpoint-N   model, optimizer, schedule, random states after step N, and training.json
    OUT/.unfinished    what is being written; removed by the next start

A checkpoint is written in ``.unfinished`` and renamed, so one that is there is whole.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from vila2data.files import sync, write_text

from .architectures.save import save_checkpoint
from .feed.feed import COUNTS
from .log import Log
from .manifest import TRAINING_FILE, TrainingManifest

UNFINISHED = ".unfinished"
_PREFIX = "checkpoint-"


def checkpoints_in(out: Path) -> list[Path]:
    """The whole checkpoints of a run, the newest first."""
    found = [p for p in out.glob(f"{_PREFIX}*") if p.name.removeprefix(_PREFIX).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def appear(partial: Path, target: Path, manifest: TrainingManifest) -> None:
    """Finishes a checkpoint: manifest, sync, rename.

    Raises:
        RunFailed: the disk is full.
    """
    write_text(partial / TRAINING_FILE, manifest.to_json())
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    if target.exists():
        remove(target)
    partial.replace(target)
    sync(target.parent)


def remove(checkpoint: Path) -> None:
    """Removes a checkpoint in such a way that a part of it can never be taken for the whole."""
    hidden = checkpoint.parent / UNFINISHED / f"old-{checkpoint.name}"
    hidden.parent.mkdir(exist_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How checkpoints are kept.

    Attributes:
        out: folder of the run.
        keep: so many of the newest.
        manifest: of the step that was just done.
    """

    out: Path
    keep: int
    manifest: Callable[[], TrainingManifest]


class StageTrainer(Trainer):
    """Trains on the feed in its order: step s consumes items s·batch … (s+1)·batch, for any number
    of processes and of micro-batches; the loss is the mean over the step's trained tokens.

    Differs from its base in what it does with the feed's counts and byte pixels, and in how
    checkpoints are written.
    """

    def __init__(
        self,
        *,
        processor: Any,
        finish: Callable[[Mapping[str, Any]], dict[str, Any]],
        log: Log,
        keeping: Keeping,
        **arguments: Any,
    ) -> None:
        self._own_class = type(arguments["model"])
        self._own_cache = vars(arguments["model"].config).get("use_cache")
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        self.add_callback(_LogBeforeSave())
        self._processor = processor
        self._finish = finish
        self._log = log
        self._keeping = keeping
        self._counts = torch.zeros(len(COUNTS), dtype=torch.int64, device=self.args.device)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, without the feed's counts, which are added up, and the
        number of trained tokens in all processes; 1 where there is none, for a loss of 0.
        """
        batches, trained = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self._counts += batch.pop("feed_counts").to(self._counts.device)
        return batches, torch.as_tensor(trained, device=device).clamp(min=1)

    def _prepare_inputs(self, inputs: Any) -> Any:
        # Once more after the pixels became floats: DeepSpeed wants them in its own precision.
        finished = super()._prepare_inputs(self._finish(super()._prepare_inputs(inputs)))
        # With a cache, attention would not look at where packed samples begin.
        return {**finished, "use_cache": False}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds a row to the log; keeps none in memory."""
        if "loss" not in logs:
            return
        counts = self.accelerator.reduce(self._counts, "sum").tolist()
        self._counts.zero_()
        row = self._log.add(self.state.global_step, logs, counts)
        arguments = (self.args, self.state, self.control, row)
        self.control = self.callback_handler.on_log(*arguments)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"{_PREFIX}{self.state.global_step}"
            out = self._keeping.out
            appear(Path(str(self.args.output_dir)) / name, out / name, self._keeping.manifest())
            for old in checkpoints_in(out)[self._keeping.keep :]:
                remove(old)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model = self._unsharded(self.accelerator.unwrap_model(self.model))
        with _attribute(model.config, "use_cache", self._own_cache):  # off for training alone
            folder = Path(str(output_dir))
            save_checkpoint(model, self._processor, folder, state_dict=state_dict)

    def _unsharded(self, model: Any) -> Any:
        """The model; an empty one of its class where FSDP made it another: transformers names the
        weights in a file by the class.
        """
        if type(model) is self._own_class:
            return model
        with torch.device("meta"):
            plain = self._own_class(model.config)
        plain.generation_config = model.generation_config
        return plain

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the model was loaded from the checkpoint already, by the names of its files."""


class _LogBeforeSave(TrainerCallback):
    """Ends a row of the log with every checkpoint, and with the last step: a resumed run then makes
    the same rows.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the trainer's flag; see the class."""
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True


@contextmanager
def _attribute(target: Any, name: str, value: Any) -> Iterator[None]:
    """``target.name`` is ``value`` for a while; absent where that is None."""
    held = vars(target).get(name)
    try:
        _set(target, name, value)
        yield
    finally:
        _set(target, name, held)


def _set(target: Any, name: str, value: Any) -> None:
    if value is not None:
        setattr(target, name, value)
    elif name in vars(target):
        delattr(target, name)
