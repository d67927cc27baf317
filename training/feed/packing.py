"""Whether a model keeps packed samples apart."""

from typing import Any

from vila2data.errors import BadInput

_TOKENS = 12
_MOST = 0.05  # of the logits' spread; bfloat16 rounds by about a hundredth of it


def check_packing(model: Any) -> None:
    """Compares two short texts in one packed sequence with the second of them alone.

    Positions that start again tell attention where a sample ends. Not every attention heeds them,
    and a language model with state beside its attention (convolutions, recurrence) may not either.

    Raises:
        BadInput: the first text is seen from the second.
    """
    import torch

    device = next(model.parameters()).device
    size = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    forbidden = getattr(model.config, "image_token_id", None)
    ids = torch.randint(0, size, (1, 2 * _TOKENS), generator=generator)
    ids[ids == forbidden] = 0 if forbidden else 1
    positions = torch.arange(_TOKENS).repeat(2)[None]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            both = model(
                input_ids=ids.to(device), position_ids=positions.to(device), use_cache=False
            ).logits
            alone = model(input_ids=ids[:, _TOKENS:].to(device), use_cache=False).logits
    finally:
        model.train(was_training)
    apart = (both[:, _TOKENS:] - alone).float().abs().mean()
    if not apart <= _MOST * alone.float().std():
        raise BadInput(
            "feed.packing: this model's language part mixes packed samples with its attention "
            f"'{model.config._attn_implementation}'; set feed.packing: false, or another attention"
        )
