"""Answers are cleaned by rules that have names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.blend.labels import (
    RULES,
    Label,
    answer_of,
    choice_of,
    choices_of,
    first_of,
    majority,
    only,
    stated,
)
from vila2data.corpus.images import Problem

FOUR = ("It rises", "It falls", "Nothing", "Both")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["answer", "a"]), inner, max_size=2)
    ),
    max_leaves=8,
)


def reason(found: Label | Problem | tuple[str, ...]) -> str:
    assert isinstance(found, Problem), found
    return found.reason


@pytest.mark.parametrize(
    ("value", "answer", "rule"),
    [
        (" 11:28 ", "11:28", None),
        ("2016", "2016", None),
        (2016, "2016", "number_as_text"),
        (2016.0, "2016", "number_as_text"),
        (-0.5, "-0.5", "number_as_text"),
        (1e300, "1e+300", "number_as_text"),
    ],
)
def test_texts_and_numbers_are_answers(value, answer, rule):
    assert stated(value) == Label(answer, rule)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "answer_missing"),
        ("", "answer_missing"),
        (" \n", "answer_missing"),
        (True, "answer_malformed"),
        (float("nan"), "answer_malformed"),
        (float("-inf"), "answer_malformed"),
        (10**5000, "answer_malformed"),
        (["a"], "answer_malformed"),
        ({}, "answer_malformed"),
        (b"a", "answer_malformed"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_other_values_are_no_answers(value, why):
    assert reason(stated(value)) == why


@pytest.mark.parametrize(
    ("answers", "answer", "rule"),
    [
        (["40"] * 3, "40", None),
        (["40", "not a question", "40"], "40", "non_answers_left_out"),
        (["unanswerable", "N/A.", "red"], "red", "non_answers_left_out"),
        (["blue", "red", "red"], "red", "majority"),
        (["blue", "red"], "blue", "majority"),
        (["Yes", "no", "no", "yes", "yes "], "yes", "majority"),
        (["germ x", "germ  X", "germ-x"], "germ x", "majority"),
        (["unanswerable", "unanswerable", "a"], "a", "non_answers_left_out"),
        ([None, "", 7], "7", None),
        (
            [{"answer": "net", "answer_id": 1}, {"answer": "a net"}, {"answer": "Net"}],
            "net",
            "majority",
        ),
        ([{"answer": "net"}, {"answer": "net"}], "net", None),
    ],
)
def test_the_majority_of_several_answers_counts(answers, answer, rule):
    assert majority(answers) == Label(answer, rule)
    assert answer_of(answers) == Label(answer, rule)


@pytest.mark.parametrize("answers", [["unanswerable"], ["Unanswerable", "not a question", "n/a"]])
def test_where_nobody_gave_an_answer_the_policy_decides(answers):
    assert reason(majority(answers)) == "unanswerable"
    assert majority(answers, unanswerable="keep") == Label("Unanswerable", "unanswerable")


@pytest.mark.parametrize("answers", [[], [None, ""], [["a"]], [{}]])
def test_a_list_without_a_text_has_no_majority(answers):
    assert reason(majority(answers)) == "answer_missing"
    assert reason(majority(answers, unanswerable="keep")) == "answer_missing"


def test_a_single_label_may_be_what_annotators_write_for_none():
    assert answer_of("N/A") == Label("N/A")


@given(st.lists(st.sampled_from(["red", "Red", "blue", "unanswerable", "n/a", ""]), max_size=9))
def test_a_majority_is_one_of_the_answers_and_none_has_more_votes(answers):
    found = majority(answers)
    said = [a for a in answers if a in ("red", "Red", "blue")]
    if not said:
        assert isinstance(found, Problem)
        return
    assert isinstance(found, Label)
    assert found.answer in said
    votes = {colour: sum(a.lower() == colour for a in said) for colour in ("red", "blue")}
    assert votes[found.answer.lower()] == max(votes.values())


def test_of_answers_that_are_all_right_the_first_is_taken():
    assert first_of(["10,596", "$10,596"]) == Label("10,596", "first_of_several")
    assert first_of(["10,596", "10,596"]) == Label("10,596")
    assert first_of([None, 7]) == Label("7", "number_as_text")
    assert first_of("a") == Label("a")
    assert reason(first_of([])) == "answer_missing"
    assert reason(first_of([None])) == "answer_missing"


def test_a_list_of_one_is_its_answer():
    assert only(["14"]) == only("14") == Label("14")
    assert reason(only(["14", "15"])) == "label_several"
    assert reason(only([])) == "answer_missing"


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (["red", "blue"], ("red", "blue")),
        (["A. red", "B. blue"], ("red", "blue")),
        (["A) red", "b) blue"], ("red", "blue")),
        (["(A) red", "(B)blue"], ("red", "blue")),
        (["A: red", "B - blue"], ("red", "blue")),
        (["A. red", "blue"], ("A. red", "blue")),
        (["E. coli", "S. aureus"], ("E. coli", "S. aureus")),
        (["A", "B", "C"], ("A", "B", "C")),
        ([3, 4.5], ("3", "4.5")),
    ],
)
def test_letters_before_all_choices_are_no_part_of_them(options, choices):
    assert choices_of(options) == choices


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (None, "choices_malformed"),
        ("A. red", "choices_malformed"),
        ({"A": "red"}, "choices_malformed"),
        (["red", None], "choices_malformed"),
        (["red", ["blue"]], "choices_malformed"),
        (["A. red", "B. blue", "B. green"], "choices_malformed"),
        ([], "choices_too_few"),
        (["red"], "choices_too_few"),
    ],
    ids=str,
)
def test_other_values_are_no_choices(options, why):
    assert reason(choices_of(options)) == why


@pytest.mark.parametrize(
    ("label", "answer", "rule"),
    [
        ("B", "It falls", None),
        (" B ", "It falls", None),
        ("B)", "It falls", "letter_decorated"),
        ("(B)", "It falls", "letter_decorated"),
        ("B.", "It falls", "letter_decorated"),
        ("[B]", "It falls", "letter_decorated"),
        ("Answer: B", "It falls", "letter_decorated"),
        ("The correct answer is B.", "It falls", "letter_decorated"),
        ("Option (B)", "It falls", "letter_decorated"),
        ("b", "It falls", "letter_lower_case"),
        ("(b)", "It falls", "letter_lower_case"),
        ("B. It falls", "It falls", "letter_and_text"),
        ("B) it  falls", "It falls", "letter_and_text"),
        ("B. The curve falls", "It falls", "letter_and_text"),
        ("It falls", "It falls", "option_text"),
        ("it falls", "It falls", "option_text"),
    ],
)
def test_a_label_means_a_choice(label, answer, rule):
    assert choice_of(label, FOUR) == Label(answer, rule)


@pytest.mark.parametrize(
    ("label", "why"),
    [
        (None, "answer_missing"),
        (["B"], "answer_malformed"),
        ("E", "label_outside_choices"),
        ("E. It stays", "label_outside_choices"),
        ("A and C", "label_several"),
        ("A, C", "label_several"),
        ("Both A or B.", "label_several"),
        ("A. and C.", "label_several"),
        ("AC", "label_several"),
        ("A. It falls", "label_ambiguous"),
        ("It stays", "label_unknown"),
        ("answers", "label_unknown"),
        ("é", "label_unknown"),
        ("1", "label_unknown"),
        ("-", "label_unknown"),
    ],
    ids=str,
)
def test_a_label_that_means_no_choice_or_several_is_a_problem(label, why):
    assert reason(choice_of(label, FOUR)) == why


def test_the_text_of_a_choice_and_a_letter_may_disagree():
    assert reason(choice_of("A", ("B", "A"))) == "label_ambiguous"
    assert choice_of("A", ("A", "B")) == Label("A")
    assert choice_of("A'", ("A", "A'")) == Label("A'", "option_text")
    assert choice_of("D", ("C", "D")) == Label("D", "option_text")
    assert choice_of("A. baumannii", ("E. coli", "A. baumannii")) == Label(
        "A. baumannii", "option_text"
    )
    assert choice_of("A. C", ("C", "D", "E")) == Label("C", "letter_and_text")


def test_a_choice_that_stands_twice_is_no_answer():
    assert reason(choice_of("A", ("red", "Red ", "blue"))) == "choices_repeated"
    assert choice_of("C", ("red", "red", "blue")) == Label("blue")


def test_a_number_is_a_choice_only_where_choices_are_numbered():
    assert choice_of("2", FOUR, numbered=True) == Label("Nothing", "choice_number")
    assert choice_of(0, FOUR, numbered=True) == Label("It rises", "choice_number")
    assert choice_of("3", ("2", "3", "4", "5"), numbered=True) == Label("3", "option_text")
    assert reason(choice_of("4", FOUR, numbered=True)) == "label_outside_choices"
    assert reason(choice_of("-1", FOUR, numbered=True)) == "label_unknown"
    assert reason(choice_of("²", FOUR, numbered=True)) == "label_unknown"
    assert reason(choice_of("9" * 5000, FOUR, numbered=True)) == "label_unknown"


@given(anything, st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=30), st.booleans())
def test_a_choice_is_one_of_the_choices_whatever_the_label(label, options, numbered):
    choices = choices_of(options)
    if isinstance(choices, Problem):
        return
    found = choice_of(label, choices, numbered=numbered)
    if isinstance(found, Label):
        assert found.answer in choices
        assert found.rule is None or found.rule in RULES


@given(anything)
def test_no_value_makes_a_rule_fail(value):
    for rule in (stated, answer_of, first_of, only):
        found = rule(value)
        if isinstance(found, Label):
            assert found.answer
            assert found.rule is None or found.rule in RULES
        else:
            assert found.reason.startswith(("answer_", "label_", "unanswerable"))
