"""Sampling in a batch, each row by its own seed. Imported only where torch is there."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from .protocol import Sampling


class PerRequestSampling(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token by the row's own generator, and leaves only that token possible.

    ``generate`` then picks it greedily. Its own sampling draws all rows from one global generator,
    which would make a row depend on its neighbours. A row draws one uniform number per token and
    reads it off the cumulative distribution of its tokens in order of probability.
    """

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self._samplings = samplings
        self._generators = [torch.Generator().manual_seed(s.seed) for s in samplings]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Masks all but the drawn token of each row with a positive temperature.

        Args:
            input_ids: (batch, tokens so far).
            scores: (batch, vocabulary) float.
        """
        drawn = [row for row, s in enumerate(self._samplings) if s.temperature > 0]
        if not drawn:
            return scores
        temperature = scores.new_tensor([[self._samplings[row].temperature] for row in drawn])
        top_p = scores.new_tensor([[self._samplings[row].top_p] for row in drawn])
        point = scores.new_tensor(
            [[torch.rand((), generator=self._generators[row]).item()] for row in drawn]
        )
        # Shape (drawn, vocabulary) from here on.
        probabilities = torch.softmax(scores[drawn].float() / temperature, dim=-1)
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
        reached = ranked.cumsum(dim=-1)
        # A token belongs to the nucleus when the more probable ones do not fill top_p yet; the
        # first always does.
        inside = reached - ranked < top_p
        mass = torch.where(inside, ranked, 0.0).sum(dim=-1, keepdim=True)
        rank = (reached < point * mass).sum(dim=-1, keepdim=True)
        rank = rank.minimum(inside.sum(dim=-1, keepdim=True) - 1)
        token = order.gather(-1, rank)  # (drawn, 1)
        chosen = torch.full_like(scores[drawn], -torch.inf).scatter(-1, token, 0.0)
        scores = scores.clone()
        scores[drawn] = chosen
        return scores
