"""`vila2data train` with FSDP on CPU processes: sharded_train.py RECIPE.

accelerate shards on GPUs alone; here it is told that gloo is the backend of some GPU, and that its
device is the CPU.
"""

import os
import sys

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

from accelerate.state import DistributedType, PartialState

from vila2data.cli import main
from vila2data.training import hardware

if __name__ == "__main__":
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_XPU)
    hardware._strategy = lambda *_: ("fsdp", "")
    sys.argv = ["vila2data", "train", sys.argv[1]]
    main()
