"""Does a nano model know where the objects are that a question names? A linear probe.

At the end of "Is the red cube to the left of or to the right of the blue ball" the states of the
layer before the last are regressed on the step from the one object to the other, on scenes of
`train`; printed is the share of pairs of scenes of `test` for which the sign is right, of pairs
that are clearly apart. Needs a build of `scenes`, its corpus and checkpoints:
``python -m benchmarks.binding BUILD CORPUS CHECKPOINT...``
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from vila2data.corpus.index import CorpusIndex
from vila2data.training.nano.samples import scene_rows
from vila2data.training.nano.texts import Named, named, step

SCENES = {"train": 1500, "test": 200}
PAIRS = 2  # of a scene
BATCH = 64
RIDGE = 10.0
APART = (0.1, 0.5 / 8.0)  # of the image's width; half a metre, in parts of 8 m

Floats = NDArray[np.float64]


def drawn_pairs(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Named, Named]]:
    rng = np.random.default_rng(0)
    for row in rows:
        things = named(row, mirrored=False)
        for _ in range(PAIRS):
            first, second = rng.permutation(len(things))[:2]
            yield row["key"], things[first], things[second]


def states_and_steps(
    model: Any, processor: Any, build: Path, corpus: Path, config: str
) -> tuple[Floats, Floats]:
    """(n, width) and (n, 2)."""
    rows = scene_rows(build, config)[: SCENES[config]]
    index = CorpusIndex(corpus / config)
    places = index.locate(row["key"] for row in rows)
    pairs = list(drawn_pairs(rows))
    states = []
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        images = [
            Image.open(BytesIO(index.read(places[key][0]))).convert("RGB") for key, _, _ in some
        ]
        texts = [
            f"USER: {processor.image_token}\nIs the {first.name} to the left of or to the right of "
            f"the {second.name}"
            for _, first, second in some
        ]
        inputs = processor(
            images=[[image] for image in images], text=texts, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            layers = model(**inputs, output_hidden_states=True).hidden_states
        last = inputs["attention_mask"].shape[1] - 1 - inputs["attention_mask"].flip(1).argmax(1)
        states.append(layers[-2][torch.arange(len(some)), last].double().numpy())
    steps = np.array([step(first, second) for _, first, second in pairs])
    return np.concatenate(states), steps


def probe(model: Any, processor: Any, build: Path, corpus: Path) -> list[float]:
    """Shares of signs that are right: to the right, and further away."""
    known, wanted = states_and_steps(model, processor, build, corpus, "train")
    middle, spread = known.mean(axis=0), known.std(axis=0) + 1e-6

    def columns(states: Floats) -> Floats:
        return np.column_stack([(states - middle) / spread, np.ones(len(states))])

    x = columns(known)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ wanted)
    asked, truth = states_and_steps(model, processor, build, corpus, "test")
    is_right = np.sign(columns(asked) @ weights) == np.sign(truth)
    return [
        float(is_right[np.abs(truth[:, axis]) >= apart, axis].mean())
        for axis, apart in enumerate(APART)
    ]


def main(build: Path, corpus: Path, checkpoints: Sequence[Path]) -> None:
    print("| checkpoint | left or right | nearer or further |\n|---|---:|---:|")
    for checkpoint in checkpoints:
        model: Any = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint)
        processor: Any = transformers.AutoProcessor.from_pretrained(checkpoint)
        side, depth = probe(model.eval(), processor, build, corpus)
        print(f"| {checkpoint} | {side:.2f} | {depth:.2f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(given) for given in sys.argv[3:]])
