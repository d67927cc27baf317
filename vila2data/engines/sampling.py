"""Sampling in a batch, each row by its own seed. Imported only where torch is there."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from .protocol import Sampling


class PerRequestSampling(LogitsProcessor):
    """Draws each row's next token by the row's own generator, and leaves only that token possible.

    ``generate`` then picks it greedily. Its own sampling draws all rows from one global generator,
    which would make a row depend on its neighbours. A row draws one uniform number per token and
    reads it off the cumulative distribution of its nucleus in order of token id: in order of
    probability, two tokens that rounding makes change places would change the draw.
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
        settings = torch.tensor(
            [
                (sampling.temperature, sampling.top_p, torch.rand((), generator=generator).item())
                for sampling, generator in zip(self._samplings, self._generators, strict=True)
                if sampling.temperature > 0
            ],
            device=scores.device,
        )
        temperature, top_p, point = settings[:, :1], settings[:, 1:2], settings[:, 2:]  # (drawn, 1)
        # Shape (drawn, vocabulary) from here on.
        probabilities = torch.softmax(scores[drawn].float() / temperature, dim=-1)
        kept = torch.where(_nucleus(probabilities, top_p), probabilities, 0.0)
        reached = kept.cumsum(dim=-1)
        # The first token whose reach is beyond the point; a token without mass adds no reach.
        token = (reached <= point * reached[:, -1:]).sum(dim=-1, keepdim=True)  # (drawn, 1)
        # Rounding may put the point at the end: the last token that has mass.
        token = token.minimum((reached < reached[:, -1:]).sum(dim=-1, keepdim=True))
        chosen = torch.full_like(scores[drawn], -torch.inf).scatter(-1, token, 0.0)
        scores = scores.clone()
        scores[drawn] = chosen
        return scores


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Which tokens are kept: the most probable ones until they fill ``top_p``, at least one."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked
    inside = (before < top_p) | (top_p >= 1)
    return torch.zeros_like(inside).scatter(-1, order, inside)
