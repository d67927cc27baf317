"""Captions of a nano loop's checkpoints by the engines `vllm` and `transformers`: are they the
same, and how fast are they.

Needs the environment of `make test-vllm`, a corpus and checkpoints as `vila2data loop` leaves them:
``VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m benchmarks.nano CORPUS CHECKPOINT...``
"""

import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from vila2data.corpus.images import ImageLimits, decode
from vila2data.corpus.read import read_corpus
from vila2data.engines import Captioner, Request, Sampling
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.engines.vllm import VllmConfig, VllmEngine
from vila2data.prompts import prompt

from .timing import seconds_in_turn, show

IMAGES = 256
BATCH = 64
MAX_TOKENS = 160
ROUNDS = 3
THREADS = 2


def engines(checkpoint: Path) -> dict[str, Captioner]:
    common: Any = {"model": str(checkpoint), "dtype": "float32"}
    return {
        "transformers": TransformersEngine(
            TransformersConfig(**common, device="cpu", batch_size=BATCH, threads=THREADS)
        ),
        "vllm": VllmEngine(
            VllmConfig(
                **common,
                engine_args={"max_model_len": 1024, "max_num_seqs": BATCH, "enforce_eager": True},
            )
        ),
    }


def compare(checkpoint: Path, images: Sequence[Image.Image]) -> None:
    question = prompt("long-v1").text
    greedy = Sampling(temperature=0.0, max_tokens=MAX_TOKENS, seed=0)
    requests = [Request(n, image, question, greedy, str(n)) for n, image in enumerate(images)]
    ways = engines(checkpoint)
    texts, tokens = {}, 0
    for name, engine in ways.items():
        results = sorted(engine.generate(requests), key=lambda result: result.index)
        texts[name] = [result.text for result in results]
        tokens = sum(result.num_tokens or 0 for result in results)
    same = sum(len(set(each)) == 1 for each in zip(*texts.values(), strict=True))
    title = f"{checkpoint}: {same} of {len(images)} captions the same, {tokens} tokens"
    work = {name: partial(_drained, engine, requests) for name, engine in ways.items()}
    show(title, tokens, "tokens", seconds_in_turn(work, rounds=ROUNDS), against="transformers")
    for engine in ways.values():
        engine.close()


def _drained(engine: Captioner, requests: Sequence[Request]) -> None:
    deque(engine.generate(requests), maxlen=0)


def main(corpus: Path, checkpoints: Sequence[Path]) -> None:
    samples = islice(read_corpus(corpus), IMAGES)
    images = [decode(sample.image, ImageLimits()) for sample in samples]
    for checkpoint in checkpoints:
        compare(checkpoint, images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(given) for given in sys.argv[2:]])
