"""The gate before a loop's first round: a model that does not look at its images is refused.

Blindness looks like success: the loss falls, captions are long and fluent, every text ends. So a
model is held against itself with other scenes' images and captions.
"""

from pydantic import Field

from vila2data.recipe import Block

from .evaluation import Evaluation


class GateRules(Block):
    """Bounds on the figures of an evaluation; a bound that is null is not checked."""

    min_loss_margin: float | None = Field(
        0.05, description="loss_shuffled - loss of the references, nats a token"
    )
    min_unique_captions: float | None = Field(0.3, ge=0, le=1, description="share")
    min_precision_margin: float | None = Field(
        0.1, ge=-1, le=1, description="object_precision above blind_object_precision"
    )
    min_recall_margin: float | None = Field(
        0.1, ge=-1, le=1, description="object_recall above blind_object_recall"
    )
    min_attribute_accuracy: float | None = Field(0.6, ge=0, le=1)
    min_side_accuracy: float | None = Field(0.4, ge=0, le=1)


def gate(evaluation: Evaluation, rules: GateRules) -> list[str]:
    """What speaks against a model, each with the figure and its bound; empty where nothing does."""
    found = [
        _above(evaluation, "loss_shuffled", "loss", rules.min_loss_margin),
        _at_least(evaluation, "unique_captions", rules.min_unique_captions),
        _above_blind(evaluation, "object_precision", rules.min_precision_margin),
        _above_blind(evaluation, "object_recall", rules.min_recall_margin),
        _at_least(evaluation, "attribute_accuracy", rules.min_attribute_accuracy),
        _at_least(evaluation, "side_accuracy", rules.min_side_accuracy),
    ]
    return [told for told in found if told is not None]


def _above_blind(evaluation: Evaluation, name: str, margin: float | None) -> str | None:
    return _above(evaluation, name, f"blind_{name}", margin)


def _above(evaluation: Evaluation, name: str, other: str, margin: float | None) -> str | None:
    value, floor = evaluation.figure(name).value, evaluation.figure(other).value
    if margin is None:
        return None
    if value is None or floor is None:
        missing = name if value is None else other
        return f"{missing} cannot be told: nothing was counted"
    if round(value - floor - margin, 9) >= 0:  # 0.3 - 0.2 is not quite 0.1
        return None
    return (
        f"{name} - {other} is {value:.3f} - {floor:.3f} = {value - floor:.3f}, "
        f"at least {margin:g} is needed"
    )


def _at_least(evaluation: Evaluation, name: str, bound: float | None) -> str | None:
    value = evaluation.figure(name).value
    if bound is None:
        return None
    if value is None:
        return f"{name} cannot be told: nothing was counted"
    return None if value >= bound else f"{name} is {value:.3f}, at least {bound:g} is needed"
