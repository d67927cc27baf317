"""How well a foundation reads images: on scenes that it was not trained on."""

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from vila2data.boxes import CONVENTIONS, Box

from .samples import Collator, Samples
from .texts import DEPTH_UNIT_M, Named, Piece, named, step, written

_BATCH = 64
_NAME_TOKENS, _BOX_TOKENS = 4, 12
_IOU = 0.5
_SIDE_MARGIN, _DEPTH_MARGIN_M = 0.1, 0.5  # of pairs that are asked about; of the image's width


def measure(llava: Any, processor: Any, samples: Samples) -> dict[str, float]:
    """Shares of right answers to questions about every object of ``samples``.

    Returns:
        ``name_of_box``: colour and shape of what lies in a box; ``color_of_box``: its colour;
        ``box_of_name``: the box overlaps the object's own with an IoU of at least 0.5;
        ``objects``: how many were asked for.
    """
    asked = [(row, thing) for row in samples.rows for thing in named(row, mirrored=False)]
    names = _answers(llava, processor, samples, asked, lambda t: written(t.bbox), _NAME_TOKENS)
    boxes = _answers(llava, processor, samples, asked, lambda t: t.name, _BOX_TOKENS)
    things = [thing for _, thing in asked]
    found = zip(boxes, things, strict=True)
    return {
        "objects": len(asked),
        "name_of_box": _share(n == t.name for n, t in zip(names, things, strict=True)),
        "color_of_box": _share(
            n.split(" ")[0] == t.name.split(" ")[0] for n, t in zip(names, things, strict=True)
        ),
        "box_of_name": _share(_iou(CONVENTIONS["norm2"].read(b), t.bbox) >= _IOU for b, t in found),
    }


def measure_pairs(llava: Any, step_head: Any, processor: Any, samples: Samples) -> dict[str, float]:
    """How well the language model knows, where two objects were named, how the second lies.

    Returns:
        ``side_of_pair``, ``depth_of_pair``: shares of the ordered pairs of each scene, apart by a
        tenth of the image's width or by half a metre, of which ``step_head`` tells rightly
        whether the second is further right, or further away.
    """
    import torch

    collator = Collator(processor)
    asked = [
        (row, pair) for row in samples.rows for pair in permutations(named(row, mirrored=False), 2)
    ]
    told: list[list[float]] = []
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        images = [samples.image(row["key"]) for row, _ in some]
        texts = [[Piece(f" {thing.name}", False) for thing in pair] for _, pair in some]
        with torch.inference_mode():
            states = llava.eval()(
                **collator.prompts(images, texts), output_hidden_states=True
            ).hidden_states[-2]
            told += step_head(states[:, -1]).tolist()
    wanted = np.array([step(*pair) for _, pair in asked])
    is_right = np.sign(told) == np.sign(wanted)
    margins = (_SIDE_MARGIN, _DEPTH_MARGIN_M / DEPTH_UNIT_M)
    is_apart = np.abs(wanted) >= margins
    return {
        name: _share(is_right[is_apart[:, axis], axis])
        for axis, name in enumerate(("side_of_pair", "depth_of_pair"))
    }


def _share(outcomes: Any) -> float:
    return round(float(np.mean(list(outcomes))), 4)


def _answers(
    llava: Any,
    processor: Any,
    samples: Samples,
    asked: Sequence[tuple[Mapping[str, Any], Named]],
    question: Callable[[Named], str],
    max_tokens: int,
) -> list[str]:
    import torch

    collator, tokenizer = Collator(processor), processor.tokenizer
    texts: list[str] = []
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        prompts = [[Piece(f"{question(thing)}:", False)] for _, thing in some]
        images = [samples.image(row["key"]) for row, _ in some]
        inputs = collator.prompts(images, prompts)
        with torch.inference_mode():
            made = llava.eval().generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        written_ids = made[:, inputs["input_ids"].shape[1] :]  # fewer where all ended before
        answers = tokenizer.batch_decode(written_ids, skip_special_tokens=True)
        texts += [answer.split("\n")[0].strip() for answer in answers]
    return texts


def _iou(box: Box | None, other: Box) -> float:
    if box is None:
        return 0.0
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (_area(box) + _area(other) - both)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
