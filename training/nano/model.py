"""The model in training: a LLaVA, and heads that are thrown away."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

_PLACE, _STEP = 5, 2  # numbers: a box and its depth; to the right and away from the camera
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
        outputs = sum(sizes) + _PLACE
        self.patch_heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs)) for _ in range(2)
        )
        self.scene_head = nn.Linear(width, sum(surroundings))
        inner = llava.config.text_config.hidden_size
        self.place_head, self.step_head = (
            nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, outputs))
            for outputs in (_PLACE, _STEP)
        )

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
        named_places: torch.Tensor,
        named_steps: torch.Tensor,
        classes: torch.Tensor,
        places: torch.Tensor,
        surroundings: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """``loss``: of texts and patches, or of patches alone.

        Args:
            pixel_values: (b, 3, side, side); the texts are (b, t).
            named_places: (b, t, 5), of the object whose name ends there, otherwise NaN.
            named_steps: (b, t, 2), from the object named before the last to the last; NaN where
                nothing is asked.
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
        text_loss = self._text_loss(
            before_last, input_ids, attention_mask, labels, named_places, named_steps
        )
        return {"loss": text_loss + self.patch_loss * patch_loss}

    def _text_loss(
        self,
        features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        named_places: torch.Tensor,
        named_steps: torch.Tensor,
    ) -> torch.Tensor:
        """Mean over the learned tokens, and how far off what the layers know of places is.

        ``features`` (b, g², width) take the image's places among the tokens. A layer reads what
        the layers below it wrote at other tokens: so places are asked of one, steps between them
        of the next, and the last is left to put them into words.
        """
        inner = self.llava.model
        embedded = self.llava.get_input_embeddings()(input_ids)
        is_image = (input_ids == self.llava.config.image_token_index)[..., None]
        tokens = inner.multi_modal_projector(features[is_image.any(dim=1)[:, 0]])
        tokens = tokens.to(embedded.dtype)
        embedded = embedded.masked_scatter(is_image.expand_as(embedded), tokens)
        read = inner.language_model(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            use_cache=False,
            output_hidden_states=True,
        )
        hidden, learned = read.last_hidden_state[:, :-1], labels[:, 1:] != -100
        tokens = self.llava.lm_head(hidden[learned]).float()
        off = _off(self.place_head, read.hidden_states[-3], named_places)
        off = off + _off(self.step_head, read.hidden_states[-2], named_steps)
        loss: torch.Tensor = cross_entropy(tokens, labels[:, 1:][learned]) + _PLACE_WEIGHT * off
        return loss

    def _patch_loss(
        self, head: nn.Module, layer: torch.Tensor, classes: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        *parts, place = head(layer).split([*self.sizes, _PLACE], dim=-1)
        total = layer.new_zeros(())
        for number, (part, weight) in enumerate(zip(parts, _WEIGHTS, strict=True)):
            rare = torch.ones(part.shape[-1])
            rare[0] = _BACKGROUND
            total = total + weight * cross_entropy(
                part.flatten(0, 1), classes[..., number].flatten(), weight=rare
            )
        is_object = (classes[..., :1] > 0).float()
        off = ((place - places).abs() * is_object).sum() / (_PLACE * is_object.sum()).clamp(min=1)
        loss: torch.Tensor = total + _PLACE_WEIGHT * off
        return loss


def _off(head: nn.Module, layer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute error at the tokens for which something is wanted; 0 where there is none."""
    asked = ~wanted[..., 0].isnan()
    off: torch.Tensor = (head(layer[asked]) - wanted[asked]).abs().sum()
    return off / max(int(asked.sum()) * wanted.shape[-1], 1)
