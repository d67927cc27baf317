"""How likely a model finds texts: given another scene's image, and one answer beside another.

Samples are encoded, padded and scaled as those that are trained on, with the model's chat template.
Importing this module needs the extra `train`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.corpus.images import ImageLimits, decode

from ..architectures.assemble import load
from ..architectures.spec import ModelSpec
from ..feed.encode import Encoded, Encoder
from ..feed.feed import Collator, Item, Sample
from ..feed.pictures import scaled
from ..feed.rows import Row
from .answers import normalised
from .figures import Figure, ratio
from .scenes import Question, Scene, Vocabulary

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Said:
    """An answer to a question about an image, which is that of a file."""

    image: bytes
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of an answer with its end token: ``loss`` is the sum of its tokens' negative log-likelihood,
    in nats.
    """

    loss: float
    tokens: int


class Scorer:
    """Scores texts by one checkpoint, on the GPU where there is one."""

    def __init__(self, checkpoint: str, *, batch_size: int) -> None:
        """Loads the checkpoint.

        Raises:
            BadInput: it cannot be loaded, or its chat template cannot be trained with.
            MissingExtra: transformers or torchvision is not installed.
        """
        model, processor = load(ModelSpec(checkpoint=checkpoint))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._encoder = Encoder(processor)
        self._encoder.check_template()
        context_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", 1 << 20)
        self._collate = Collator(processor, context_tokens=context_tokens)
        self._batch_size = batch_size

    def score(self, texts: Iterable[Said]) -> Iterator[Likelihood | None]:
        """One for each text, in order; None where a text cannot be encoded or is longer than the
        model's context.
        """
        waiting = iter(texts)
        while chunk := list(islice(waiting, self._batch_size)):
            yield from self._score_batch(chunk)

    def inputs(self, texts: Sequence[Said]) -> dict[str, Any]:
        """What the model's forward takes of texts, a row each, with ``labels``: the tokens of the
        answers, -100 elsewhere.
        """
        batch = self._collate([Item(self._samples(said)) for said in texts])
        del batch["feed_counts"]
        on_device = {name: value.to(self._device) for name, value in batch.items()}
        return scaled(on_device, self._collate.pictures.late_scale)

    def _samples(self, said: Said) -> list[Sample]:
        """One, or none where the text cannot be encoded."""
        turns = [
            {"role": "user", "content": f"{IMAGE_MARKER}\n{said.question}"},
            {"role": "assistant", "content": said.answer},
        ]
        encoded = self._encoder.encode([Row("", [None], turns)], "chat")[0]
        if not isinstance(encoded, Encoded):
            return []
        edges = np.flatnonzero(np.diff(np.pad(encoded.trained.astype(np.int8), 1)))
        picture = decode(said.image, ImageLimits())
        return [Sample("", encoded.input_ids, edges.tolist(), [picture])]

    @torch.inference_mode()
    def _score_batch(self, chunk: Sequence[Said]) -> Iterator[Likelihood | None]:
        inputs = self.inputs(chunk)
        labels = inputs.pop("labels")[:, 1:]  # (b, n - 1), what each token but the last predicts
        logits = self._model(**inputs, use_cache=False).logits[:, :-1]  # (b, n - 1, vocabulary)
        told = labels != _IGNORED
        losses = torch.zeros(labels.shape, dtype=torch.float64, device=self._device)
        losses[told] = cross_entropy(logits[told].float(), labels[told], reduction="none").double()
        for loss, tokens in zip(losses.sum(1).tolist(), told.sum(1).tolist(), strict=True):
            yield Likelihood(loss, tokens) if tokens else None


def reference_losses(
    scorer: Scorer, scenes: Sequence[Scene], images: Sequence[int], prompt: str
) -> list[Likelihood | None]:
    """The loss of each scene's reference, as an answer to ``prompt``, given the image of another
    scene or its own; None where there is no reference.

    Args:
        images: for each scene, the position of that whose image is given.
    """
    texts = [
        None if scene.reference is None else Said(scenes[other].image, prompt, scene.reference)
        for scene, other in zip(scenes, images, strict=True)
    ]
    scored = scorer.score(text for text in texts if text is not None)
    return [None if text is None else next(scored) for text in texts]


def loss_figures(
    right: Sequence[Likelihood | None], shuffled: Sequence[Likelihood | None]
) -> dict[str, Figure]:
    """Mean loss of a token given the right image, another one, and the paired difference."""
    both = [(a, b) for a, b in zip(right, shuffled, strict=True) if a is not None and b is not None]
    return {
        "loss": ratio((a.loss, a.tokens) for a, _ in both),
        "loss_shuffled": ratio((b.loss, b.tokens) for _, b in both),
        "loss_margin": ratio((b.loss - a.loss, a.tokens) for a, b in both),
    }


def candidates_of(asked: Question, vocabulary: Vocabulary) -> list[str]:
    """The texts among which the answer to a question is chosen, sorted: yes and no where it is one
    of them; those that the question itself offers; or all answers to its kind in the build.
    """
    known = vocabulary.answers.get(asked.kind, ())
    truth = normalised(asked.answer)
    if truth in _YES_OR_NO:
        return sorted(answer for answer in known if normalised(answer) in _YES_OR_NO)
    open_answers = sorted(answer for answer in known if normalised(answer) not in _YES_OR_NO)
    words = f" {normalised(asked.question)} "
    offered = [answer for answer in open_answers if f" {normalised(answer)} " in words]
    told = len(offered) > 1 and truth in map(normalised, offered)
    return offered if told else open_answers


_YES_OR_NO = frozenset({"yes", "no"})


def choose(
    scorer: Scorer,
    scenes: Sequence[Scene],
    vocabulary: Vocabulary,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[list[str | None]]:
    """Of each scene's questions the candidate that the model finds likeliest, the first of equals;
    None where a question is of a kind that is not chosen, has fewer than two candidates, or cannot
    be scored.

    Args:
        on_scored: told of each question that was put.
    """
    offered = [
        [candidates_of(q, vocabulary) if q.kind in vocabulary.answers else [] for q in s.questions]
        for s in scenes
    ]
    scored = scorer.score(
        Said(scene.image, asked.question, candidate)
        for scene, choices in zip(scenes, offered, strict=True)
        for asked, candidates in zip(scene.questions, choices, strict=True)
        if len(candidates) > 1
        for candidate in candidates
    )
    chosen: list[list[str | None]] = []
    for choices in offered:
        chosen.append([])
        for candidates in choices:
            asked_for = candidates if len(candidates) > 1 else []
            chosen[-1].append(_likeliest(asked_for, list(islice(scored, len(asked_for)))))
            on_scored(bool(asked_for))
    return chosen


def _likeliest(candidates: Sequence[str], found: Sequence[Likelihood | None]) -> str | None:
    losses = [one.loss for one in found if one is not None]
    if not candidates or len(losses) < len(candidates):
        return None
    return candidates[losses.index(min(losses))]
