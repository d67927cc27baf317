"""Figures of answers."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.training.evaluation.answers import answer_figures, choice_figures, normalised
from vila2data.training.evaluation.scenes import Question, Scene


def a_scene(*questions):
    return Scene(
        "k", b"", (), "gray", "white", None, [Question(f"{k}?", a, k) for k, a in questions]
    )


SCENES = [
    a_scene(("existence", "yes"), ("existence", "no"), ("color", "red")),
    a_scene(("existence", "yes"), ("color", "blue"), ("side", "left")),
]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Red", "red"),
        (" The red one. ", "red one"),
        ("an apple, a pear!", "apple pear"),
        ("left-hand", "left hand"),
        ("</s>", "s"),
        ("__3__", "3"),
        ("the", ""),
    ],
)
def test_case_punctuation_and_articles_do_not_count(answer, expected):
    assert normalised(answer) == expected


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(text):
    assert normalised(normalised(text)) == normalised(text)


def test_accuracy_by_kind_and_their_unweighted_mean():
    figures = answer_figures([["Yes.", "yes", "the red"], ["no", "red", "left"]], SCENES)
    assert {name: figure.value for name, figure in figures.items()} == {
        "vqa": pytest.approx((1 / 3 + 1 / 2 + 1) / 3),
        "vqa_color": 1 / 2,
        "vqa_existence": 1 / 3,
        "vqa_side": 1.0,
        "existence_accuracy": 1 / 3,
        "existence_yes": 2 / 3,
    }
    assert {name: figure.count for name, figure in figures.items()} == {
        "vqa": 6,
        "vqa_color": 2,
        "vqa_existence": 3,
        "vqa_side": 1,
        "existence_accuracy": 3,
        "existence_yes": 3,
    }


def test_with_one_question_a_scene_the_error_is_that_of_a_mean():
    scenes = [a_scene(("color", "red"))] * 4
    figures = answer_figures([["red"], ["blue"], ["red"], ["red"]], scenes)
    expected = statistics.stdev([1, 0, 1, 1]) / math.sqrt(4)
    assert figures["vqa"].standard_error == pytest.approx(expected)


def test_an_answer_that_failed_is_left_out():
    figures = answer_figures([[None, "no", None], ["yes", None, None]], SCENES)
    assert (figures["vqa_existence"].value, figures["vqa_existence"].count) == (1.0, 2)
    assert figures["vqa_color"].value is None
    assert figures["vqa"].value == 1.0


def test_without_such_a_question_nothing_is_told_of_existence():
    assert set(answer_figures([["red"]], [a_scene(("color", "red"))])) == {"vqa", "vqa_color"}


def test_choices_are_counted_by_kind():
    scenes = [a_scene(("side", "left"), ("depth", "front")), a_scene(("side", "left"))]
    figures = choice_figures([["left", "behind"], ["left"]], scenes, ("side", "depth"))
    assert {n: (f.value, f.count) for n, f in figures.items()} == {
        "relation_accuracy": (0.5, 3),
        "relation_accuracy_side": (1.0, 2),
        "relation_accuracy_depth": (0.0, 1),
    }


def test_there_must_be_as_many_answers_as_questions():
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer"):
        answer_figures([["yes"], []], SCENES)
