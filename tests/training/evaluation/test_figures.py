"""Figures and their errors, against the standard library and against numerical derivatives."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2data.training.evaluation.figures import Figure, mean_of_ratios, ratio, spread

COUNTS = st.lists(
    st.integers(0, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=2,
    max_size=12,
)


def error_by_derivatives(statistic, scenes):
    """The infinitesimal jackknife: what a little more weight on each scene changes."""
    step, count = 1e-6, scenes
    base = np.ones(count)
    changes = []
    for number in range(count):
        more, less = base.copy(), base.copy()
        more[number] += step
        less[number] -= step
        changes.append((statistic(more) - statistic(less)) / (2 * step))
    changes = np.array(changes)
    return math.sqrt(count / (count - 1) * (changes**2).sum())


def test_a_ratio_pools_what_is_counted():
    figure = ratio([(1, 2), (3, 4), (0, 0)])
    assert figure.value == 4 / 6
    assert figure.count == 6
    # residuals 1 - 2·2/3, 3 - 4·2/3, 0
    expected = math.sqrt(3 / 2 * ((1 - 4 / 3) ** 2 + (3 - 8 / 3) ** 2)) / 6
    assert figure.standard_error == pytest.approx(expected)


def test_with_one_count_a_scene_it_is_the_mean_with_its_usual_error():
    values = [3.0, 5.0, 5.5, 9.0, 1.25]
    figure = ratio((value, 1) for value in values)
    assert figure.value == pytest.approx(statistics.mean(values))
    assert figure.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert figure.count == 5


@settings(max_examples=40, deadline=None)
@given(COUNTS)
def test_the_error_of_a_ratio_is_that_of_reweighted_scenes(pairs):
    counted = np.array(pairs, float)
    figure = ratio(pairs)
    assert figure.count == counted[:, 1].sum()
    if (counted[:, 1] > 0).sum() < 2:
        assert figure.standard_error is None
        return

    def weighted(weights):
        return weights @ counted[:, 0] / (weights @ counted[:, 1])

    assert figure.value == pytest.approx(weighted(np.ones(len(pairs))))
    assert figure.standard_error == pytest.approx(
        error_by_derivatives(weighted, len(pairs)), abs=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.randoms(use_true_random=False))
def test_the_error_of_a_mean_of_ratios_is_that_of_reweighted_scenes(pairs, rng):
    others = [(n - k, n) for k, n in pairs]
    rng.shuffle(others)
    first, second = np.array(pairs, float), np.array(others, float)
    figure = mean_of_ratios([pairs, others])
    if (first[:, 1] > 0).sum() < 2:
        assert figure.standard_error is None
        return

    def weighted(weights):
        each = [weights @ g[:, 0] / (weights @ g[:, 1]) for g in (first, second)]
        return sum(each) / 2

    assert figure.value == pytest.approx(weighted(np.ones(len(pairs))))
    assert figure.standard_error == pytest.approx(
        error_by_derivatives(weighted, len(pairs)), abs=1e-6
    )


def test_a_mean_of_ratios_leaves_out_what_was_never_counted():
    assert mean_of_ratios([[(1, 2), (1, 2)], [(0, 0), (0, 0)]]) == ratio([(1, 2), (1, 2)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 80), min_size=3, max_size=12))
def test_the_spread_is_the_standard_deviation(values):
    figure = spread(values)
    deviation = statistics.stdev(values)
    assert figure.value == pytest.approx(deviation)
    assert figure.count == len(values)
    if deviation == 0:
        assert figure.standard_error == 0
        return

    def weighted(weights):
        mean = weights @ values / weights.sum()
        return math.sqrt(weights @ (np.array(values) - mean) ** 2 / weights.sum())

    # of the deviation with n in place of n - 1, whose error is smaller in the same proportion
    factor = statistics.pstdev(values) / deviation
    expected = error_by_derivatives(weighted, len(values))
    assert figure.standard_error == pytest.approx(factor * expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "figure", [ratio([]), ratio([(0, 0), (0, 0)]), mean_of_ratios([]), spread([]), spread([3])]
)
def test_what_was_never_counted_has_no_value(figure):
    assert figure == Figure(None, None, 0)


def test_one_scene_has_no_error():
    assert ratio([(1, 2)]) == Figure(0.5, None, 2)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_figure_is_finite(number):
    with pytest.raises(ValueError, match="a figure must be finite, not"):
        Figure(number, None, 1)
    with pytest.raises(ValueError, match="a figure must be finite, not"):
        Figure(0.5, number, 1)
