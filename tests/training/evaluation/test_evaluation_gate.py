"""The gate: who is refused, and in which words."""

import pytest
from pydantic import ValidationError

from vila2data.training.evaluation.evaluation import Evaluation
from vila2data.training.evaluation.figures import NOTHING, Figure
from vila2data.training.evaluation.gate import GateRules, gate

RULES = GateRules(
    min_loss_margin=0.1,
    min_unique_captions=0.5,
    min_precision_margin=0.2,
    min_recall_margin=0.1,
    min_attribute_accuracy=0.6,
    min_side_accuracy=0.4,
)
SEEING = {
    "loss": 0.8,
    "loss_shuffled": 1.5,
    "unique_captions": 0.9,
    "object_precision": 0.8,
    "blind_object_precision": 0.3,
    "object_recall": 0.6,
    "blind_object_recall": 0.2,
    "attribute_accuracy": 0.9,
    "side_accuracy": 0.7,
}


def evaluation(**changes):
    figures = {n: Figure(v, 0.01, 10) for n, v in (SEEING | changes).items() if v is not None}
    return Evaluation({}, 10, {}, figures)


def test_a_model_that_looks_passes():
    assert gate(evaluation(), RULES) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"loss_shuffled": 0.85},
            "loss_shuffled - loss is 0.850 - 0.800 = 0.050, at least 0.1 is needed",
        ),
        ({"unique_captions": 0.03}, "unique_captions is 0.030, at least 0.5 is needed"),
        (
            {"object_precision": 0.4},
            (
                "object_precision - blind_object_precision is 0.400 - 0.300 = 0.100, "
                "at least 0.2 is needed"
            ),
        ),
        (
            {"object_recall": 0.1},
            "object_recall - blind_object_recall is 0.100 - 0.200 = -0.100, at least 0.1 is needed",
        ),
        ({"attribute_accuracy": 0.5}, "attribute_accuracy is 0.500, at least 0.6 is needed"),
        ({"side_accuracy": 0.35}, "side_accuracy is 0.350, at least 0.4 is needed"),
        ({"side_accuracy": None}, "side_accuracy cannot be told: nothing was counted"),
        ({"object_precision": None}, "object_precision cannot be told: nothing was counted"),
        ({"loss": None}, "loss cannot be told: nothing was counted"),
    ],
)
def test_each_figure_is_told_with_its_bound(changes, told):
    assert gate(evaluation(**changes), RULES) == [told]


def test_all_that_is_wrong_is_told_at_once():
    assert len(gate(Evaluation({}, 2, {}, {"loss": NOTHING}), RULES)) == 6


def test_a_figure_on_its_bound_passes():
    on_it = evaluation(
        object_precision=0.3, blind_object_precision=0.1, side_accuracy=0.4, loss_shuffled=0.9
    )
    assert gate(on_it, RULES) == []


def test_a_bound_that_is_null_is_not_checked():
    nothing = GateRules(**dict.fromkeys(GateRules.model_fields))
    assert gate(Evaluation({}, 2, {}, {}), nothing) == []


def test_rules_know_their_keys():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        GateRules(min_loss=0.1)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        GateRules(min_side_accuracy=40)
