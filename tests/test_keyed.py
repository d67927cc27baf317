"""Draws depend on what they are for, and on nothing else."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.keyed import keyed_choice, keyed_hash, keyed_uniform, sample_seed

PARTS = st.lists(st.one_of(st.text(), st.integers()), max_size=4)


def test_values_never_change() -> None:
    """Published data sets were drawn with them."""
    assert keyed_hash(0, "000000001", "prompt") == 12955344624790135826
    assert keyed_choice({"a": 1, "b": 1, "c": 1}, 0, "k") == "c"
    assert sample_seed(0, "k", round=1, task="general", attempt=0) == 1436092839


@given(PARTS, PARTS)
def test_other_parts_give_another_hash(one: list[str | int], other: list[str | int]) -> None:
    typed = [(type(part), part) for part in one], [(type(part), part) for part in other]
    assert (keyed_hash(*one) == keyed_hash(*other)) == (typed[0] == typed[1])


@given(PARTS)
def test_uniform_lies_in_its_range(parts: list[str | int]) -> None:
    assert 0 <= keyed_uniform(*parts) < 1


def chi_square(counts: list[int], shares: list[float]) -> float:
    total = sum(counts)
    return sum((c - total * s) ** 2 / (total * s) for c, s in zip(counts, shares, strict=True))


def test_uniform_is_uniform() -> None:
    counts = Counter(int(keyed_uniform(0, f"{n:09d}") * 20) for n in range(20_000))
    assert chi_square([counts[n] for n in range(20)], [1 / 20] * 20) < 43.8  # p = 0.001


def test_choice_follows_the_weights() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0, "never": 0.0}
    counts = Counter(keyed_choice(weights, 7, f"{n:09d}") for n in range(16_000))
    assert set(counts) == {"a", "b", "c"}
    assert chi_square([counts[n] for n in "abc"], [1 / 8, 2 / 8, 5 / 8]) < 13.8  # p = 0.001


def test_draws_for_two_purposes_are_independent() -> None:
    three = dict.fromkeys("abc", 1.0)
    pairs = Counter(
        (keyed_choice(three, n, "prompt"), keyed_choice(three, n, "order")) for n in range(18_000)
    )
    assert chi_square([pairs[a, b] for a in "abc" for b in "abc"], [1 / 9] * 9) < 26.1


def test_order_of_work_and_of_the_mapping_do_not_matter() -> None:
    keys = [f"{n}" for n in range(200)]
    one = {key: keyed_choice({"a": 1, "b": 3}, key) for key in keys}
    random.Random(0).shuffle(keys)
    assert one == {key: keyed_choice({"b": 3, "a": 1}, key) for key in keys}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0}])
def test_weights_of_which_none_is_positive_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least one positive weight"):
        keyed_choice(weights, 0)


@given(st.integers(), st.text(), st.integers(0, 9), st.text(), st.integers(0, 9))
def test_seed_fits_31_bits(seed: int, key: str, round: int, task: str, attempt: int) -> None:
    assert 0 <= sample_seed(seed, key, round=round, task=task, attempt=attempt) < 2**31


def test_each_attempt_round_and_task_has_its_own_seed() -> None:
    seeds = {
        sample_seed(0, "k", round=r, task=t, attempt=a)
        for r in range(3)
        for t in ("general", "ocr")
        for a in range(3)
    }
    assert len(seeds) == 18
