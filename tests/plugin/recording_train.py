"""`vila2data train`, noting which sequences each process takes for each step.

Run by torchrun or accelerate launch: recording_train.py RECIPE NOTES [STOP_AFTER_STEP]
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from vila2data.training import stage, trainer


class TaggedFeed(stage.Feed):
    def __getitem__(self, position: int) -> Any:
        return position, super().__getitem__(position)


class TaggedCollator(stage.Collator):
    def __call__(self, items: Any) -> Any:
        import torch

        batch = super().__call__([item for _, item in items])
        return {**batch, "positions": torch.tensor([position for position, _ in items])}


class RecordingTrainer(trainer.StageTrainer):
    def get_batch_samples(self, *arguments: Any) -> Any:
        batches, trained = super().get_batch_samples(*arguments)
        if stop_after is not None and self.state.global_step == stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        taken = [p for batch in batches for p in batch.pop("positions").tolist()]
        row = {"step": self.state.global_step, "rank": self.args.process_index, "taken": taken}
        with notes.with_suffix(f".{self.args.process_index}").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return batches, trained


if __name__ == "__main__":
    from vila2data.cli import main

    recipe, notes = sys.argv[1], Path(sys.argv[2])
    stop_after = int(sys.argv[3]) if len(sys.argv) > 3 else None
    stage.Feed, stage.Collator = TaggedFeed, TaggedCollator
    trainer.StageTrainer = RecordingTrainer
    sys.argv = ["vila2data", "train", recipe]
    main()
