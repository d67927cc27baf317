"""The recaption command's pace with the engine `vllm` against plain ``LLM.generate`` on the same
images, already decoded in memory; and with the engine `transformers`.

The command reads tars, decodes, judges each caption and writes shards. Needs the environment of
`make test-vllm`, a corpus of several shards, and a checkpoint as `vila2data loop` leaves it; where
none is given, a LLaVA of 39M random weights is made, which takes 50 minutes for 512 images:
``VLLM_CPU_KVCACHE_SPACE=1 .venv-vllm/bin/python -m benchmarks.recaption CORPUS [CHECKPOINT]``
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from vila2data.corpus.images import ImageLimits, decode
from vila2data.corpus.read import read_corpus
from vila2data.engines import Captioner
from vila2data.engines.checkpoint import Chat
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.engines.vllm import VllmConfig, VllmEngine
from vila2data.prompts import prompt
from vila2data.recaption.run import run
from vila2data.recaption.spec import RecaptionSpec
from vila2data.training.tiny import make_tiny_llava

from .timing import seconds_in_turn, show

BATCH = 128
MAX_TOKENS = 160
ROUNDS = 3
THREADS = 2
PROMPT = "long-v1"
ENGINE_ARGS = {"max_model_len": 1024, "max_num_seqs": BATCH, "enforce_eager": True}


class Commands:
    """Runs of the command, each in a folder of its own; the engine is started before."""

    def __init__(self, corpus: Path, folder: Path, engines: Mapping[str, Captioner]) -> None:
        self.corpus, self.folder, self.engines = corpus, folder, engines
        self._numbers = count()

    def run(self, name: str) -> list[str]:
        """Captions in the order of the corpus."""
        engine = self.engines[name]
        settings: Any = engine.config  # type: ignore[attr-defined]
        spec = RecaptionSpec.model_validate(
            {
                "run": self.folder / str(next(self._numbers)),
                "round": 1,
                "prompts": {PROMPT: 1.0},
                "engine": settings,
                "sampling": {"temperature": 0.0, "max_tokens": MAX_TOKENS},
                "retry": {"times": 0},
            }
        )
        run(spec, self.corpus, seed=0, engine=engine)
        tables = (pq.read_table(file) for file in sorted((spec.run / "shards").glob("*.parquet")))
        return [text for table in tables for text in table["caption"].to_pylist()]


class Plain:
    """vLLM's own batch interface; every image is in memory."""

    def __init__(self, checkpoint: Path, images: Sequence[Any], config: VllmConfig) -> None:
        import vllm

        self._llm = vllm.LLM(
            model=str(checkpoint),
            dtype=config.dtype,
            mm_processor_cache_gb=0,
            limit_mm_per_prompt={"image": 1},
            generation_config="vllm",
            **config.engine_args,
        )
        chat = Chat.of(config, None)
        text = chat.text(prompt(PROMPT).text)
        ids = chat.tokenizer(text, **chat.special_tokens(text))["input_ids"]
        self._sampling = vllm.SamplingParams(
            temperature=0.0, max_tokens=MAX_TOKENS, stop_token_ids=list(chat.end_ids)
        )
        self._prompts = [
            {"prompt_token_ids": ids, "multi_modal_data": {"image": image}} for image in images
        ]

    def run(self) -> list[str]:
        outputs = self._llm.generate(self._prompts, self._sampling, use_tqdm=False)
        return [output.outputs[0].text.strip() for output in outputs]


def main(corpus: Path, checkpoint: Path | None = None) -> None:
    with TemporaryDirectory() as folder:
        if checkpoint is None:
            checkpoint = make_tiny_llava(Path(folder), width=512, layers=8, image_side_px=96)
        compare(corpus, checkpoint)


def compare(corpus: Path, checkpoint: Path) -> None:
    """Shows the paces, and how many captions are the same in all."""
    images = [decode(sample.image, ImageLimits()) for sample in read_corpus(corpus)]
    common: Any = {"model": str(checkpoint), "dtype": "float32"}
    vllm_config = VllmConfig(**common, engine_args=ENGINE_ARGS)
    engines: dict[str, Captioner] = {
        "vllm": VllmEngine(vllm_config),
        "transformers": TransformersEngine(
            TransformersConfig(**common, device="cpu", batch_size=BATCH, threads=THREADS)
        ),
    }
    plain = Plain(checkpoint, images, vllm_config)
    with TemporaryDirectory() as folder:
        commands = Commands(corpus, Path(folder), engines)
        work = {"LLM.generate": plain.run} | {
            f"recaption, {name}": partial(commands.run, name) for name in engines
        }
        texts = [[text.strip() for text in make()] for make in work.values()]
        same = sum(len(set(each)) == 1 for each in zip(*texts, strict=True))
        title = f"{same} of {len(images)} captions the same"
        seconds = seconds_in_turn(work, rounds=ROUNDS)
    show(title, len(images), "images", seconds, against="LLM.generate")
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
