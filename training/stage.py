"""One stage, ready to train: its steps, its checkpoints, its final model."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vila2data.errors import RunFailed
from vila2data.files import raise_if_full
from vila2data.runfolder import fingerprint_of

from .arguments import hardware_arguments, loggers, optimisation_arguments
from .feed.feed import Collator, Feed
from .feed.pictures import scaled
from .feed.plan import Plan
from .freeze import PartSize
from .hardware import PLAIN, Setup, sharding_arguments
from .log import LOG_FILE, Log
from .manifest import Metrics, TrainingManifest, packages, read_training
from .processes import Processes
from .recipe import TrainRecipe

MODEL_FOLDER = "model"

OnRow = Callable[[Mapping[str, Any], int], None]


@dataclass
class Stage:
    """A stage that is ready to train.

    Attributes:
        recipe: of the stage.
        processes: that train together.
        setup: how it is computed here.
        initial: the model that the run began with; see ``manifest.initial_model``.
        model: with its parts frozen.
        processor: of the model.
        sizes: of the model's parts.
        plan: what is trained on.
        shaping: what the run is bound to.
        checkpoint: where the run goes on, None at its beginning.
    """

    recipe: TrainRecipe
    processes: Processes
    setup: Setup
    initial: Mapping[str, Mapping[str, Any]]
    model: Any
    processor: Any
    sizes: list[PartSize]
    plan: Plan
    shaping: Mapping[str, Any]
    checkpoint: Path | None = None
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.log = Log(self.recipe.out / LOG_FILE, writes=self.processes.is_first)
        if self.checkpoint is not None:
            begun = read_training(self.checkpoint)
            self.log.metrics, self.log.step = begun.metrics, begun.step

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.plan.items // self.recipe.optimisation.batch

    def manifest(self) -> TrainingManifest:
        """Of the step that was just done."""
        plan = asdict(self.plan)
        sources = plan.pop("sources")
        for name in ("folder", "stores"):
            plan.pop(name)
        setup = asdict(self.setup)
        setup.pop("note")
        return TrainingManifest(
            step=self.log.step,
            steps=self.steps,
            recipe=self.recipe.model_dump(mode="json", exclude={"out"}),
            fingerprint=fingerprint_of(self.shaping),
            initial=self.initial,
            plan=plan,
            sources=sources,
            setup=setup,
            packages=packages(),
            metrics=self.log.metrics,
        )

    def train(self, on_row: OnRow = lambda row, steps: None) -> Metrics:
        """Trains to the end, and writes the model.

        Raises:
            RunFailed: the loss is no number, memory or disk is full; finished checkpoints stay.
        """
        import torch

        from .trainer import UNFINISHED, appear

        self.log.on_row = on_row
        trainer = self._trainer()
        self.log.begin()
        try:
            trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
            partial = self.recipe.out / UNFINISHED / MODEL_FOLDER
            trainer.save_model(str(partial))
            if self.processes.is_first:
                appear(partial, self.recipe.out / MODEL_FOLDER, self.manifest())
                shutil.rmtree(partial.parent)
            trainer.accelerator.wait_for_everyone()
        except OSError as error:
            raise_if_full(error, self.recipe.out)
            raise
        except torch.OutOfMemoryError as error:
            raise RunFailed(
                "the GPU's memory is full; finished checkpoints stay: run the same command again "
                "with a smaller hardware.micro_batch, or hardware.gradient_checkpointing=true"
            ) from error
        return self.log.metrics

    def _trainer(self) -> Any:
        from transformers import TrainingArguments

        from .trainer import UNFINISHED, Keeping, StageTrainer

        spec, out = self.recipe.feed, self.recipe.out
        collator = Collator(
            self.processor,
            context_tokens=spec.context_tokens,
            packing=spec.packing,
            always_images=self.setup.strategy not in PLAIN,
        )
        arguments = TrainingArguments(
            output_dir=str(out / UNFINISHED),
            **optimisation_arguments(self.recipe, self.steps),
            **hardware_arguments(self.recipe, self.setup),
            **sharding_arguments(self.recipe, self.setup, self.model),
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # one GPU a process: never DataParallel
        arguments.mixed_precision = "bf16" if self.setup.precision == "bfloat16" else "no"
        trainer = StageTrainer(
            model=self.model,
            args=arguments,
            train_dataset=Feed(self.plan, spec.limits()),
            data_collator=collator,
            callbacks=loggers(self.recipe, self.processes, self.log.step),
            processor=self.processor,
            finish=lambda batch: scaled(batch, collator.pictures.late_scale),
            log=self.log,
            keeping=Keeping(out, self.recipe.checkpoints.keep, self.manifest),
        )
        shards = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if shards == (self.setup.strategy in PLAIN):
            raise RunFailed(f"hardware.sharding: accelerate does not do {self.setup.strategy} here")
        return trainer
