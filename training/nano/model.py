"""The model in training: a LLaVA, and heads that are thrown away."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

_BACKGROUND = 0.15  # weight of patches without an object, which are most
_WEIGHTS = (1.0, 1.0, 0.5, 0.5)  # of shape, colour, size, material
_PLACE_WEIGHT, _SURROUNDINGS_WEIGHT, _LAST_WEIGHT = 5.0, 0.3, 0.5


class FoundationModel(nn.Module):
    """Loss of the texts, and of what the tower says of each patch.

    The patches are asked of the layer before the last, which LLaVA reads, and of the last, which
    VILA reads.
    """

    _keys_to_ignore_on_save = ("llava.lm_head.weight",)  # transformers' trainer asks for it

    def __init__(
        self, llava: Any, sizes: Sequence[int], surroundings: Sequence[int], patch_loss: float
    ) -> None:
        """Adds the heads.

        Args:
            llava: a ``LlavaForConditionalGeneration``.
            sizes: classes of each attribute of a patch, "none" included.
            surroundings: classes of floor and of wall.
            patch_loss: weight of the patches.
        """
        super().__init__()
        width = llava.config.vision_config.hidden_size
        self.llava = llava
        self.sizes, self.surroundings = list(sizes), list(surroundings)
        self.patch_loss = patch_loss
        self.reads = True  # whether texts are part of the loss
        outputs = sum(sizes) + 5
        self.patch_heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs)) for _ in range(2)
        )
        self.scene_head = nn.Linear(width, sum(surroundings))

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """All weights but the output weights, which are the embeddings: a file holds each once."""
        state = super().state_dict(*arguments, **options)
        return {
            name: value for name, value in state.items() if name not in self._keys_to_ignore_on_save
        }

    def tie_weights(self) -> None:
        """What transformers' trainer calls after it has loaded a checkpoint."""
        self.llava.tie_weights()

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        classes: torch.Tensor,
        places: torch.Tensor,
        surroundings: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """``loss``: of texts and patches, or of patches alone.

        Args:
            pixel_values: (b, 3, side, side); the texts are (b, t).
            classes: (b, g², 4); places: (b, g², 5); surroundings: (b, 2).
        """
        seen = self.llava.model.vision_tower(pixel_values, output_hidden_states=True)
        before_last = seen.hidden_states[-2]  # (b, g², width)
        first, last = (
            self._patch_loss(head, layer, classes, places)
            for head, layer in zip(
                self.patch_heads, (before_last, seen.last_hidden_state), strict=True
            )
        )
        around = self.scene_head(before_last.mean(dim=1)).split(self.surroundings, dim=-1)
        scene = sum(cross_entropy(a, surroundings[:, n]) for n, a in enumerate(around))
        patch_loss = first + _LAST_WEIGHT * last + _SURROUNDINGS_WEIGHT * scene
        if not self.reads:
            return {"loss": patch_loss}
        text_loss = self._text_loss(before_last, input_ids, attention_mask, labels)
        return {"loss": text_loss + self.patch_loss * patch_loss}

    def _text_loss(
        self,
        features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over the learned tokens; ``features`` (b, g², width) take the image's places."""
        inner = self.llava.model
        embedded = self.llava.get_input_embeddings()(input_ids)
        is_image = (input_ids == self.llava.config.image_token_index)[..., None]
        tokens = inner.multi_modal_projector(features).to(embedded.dtype)
        embedded = embedded.masked_scatter(is_image.expand_as(embedded), tokens)
        hidden = inner.language_model(
            inputs_embeds=embedded, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state[:, :-1]
        learned = labels[:, 1:] != -100
        return cross_entropy(self.llava.lm_head(hidden[learned]).float(), labels[:, 1:][learned])

    def _patch_loss(
        self, head: nn.Module, layer: torch.Tensor, classes: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        *parts, place = head(layer).split([*self.sizes, 5], dim=-1)
        total = layer.new_zeros(())
        for number, (part, weight) in enumerate(zip(parts, _WEIGHTS, strict=True)):
            rare = torch.ones(part.shape[-1])
            rare[0] = _BACKGROUND
            total = total + weight * cross_entropy(
                part.flatten(0, 1), classes[..., number].flatten(), weight=rare
            )
        is_object = (classes[..., :1] > 0).float()
        off = ((place - places).abs() * is_object).sum() / (5 * is_object.sum()).clamp(min=1)
        loss: torch.Tensor = total + _PLACE_WEIGHT * off
        return loss
