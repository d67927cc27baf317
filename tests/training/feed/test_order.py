from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from feeding import instruct, keys_of, make_build, make_pair, records_of, talk

from vila2data.training.feed.order import Draws, shard_groups
from vila2data.training.feed.plan import Plan
from vila2data.training.feed.rows import Row

Planned = Callable[..., Plan]
ROWS = [instruct(f"r{n:03d}", talk("", f"number {n} .")) for n in range(400)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return make_build(tmp_path / "texts", "llava-instruct", "all", ROWS)


def test_rows_and_their_order_follow_from_the_keys_alone(
    tmp_path: Path, texts: Path, planned: Planned
) -> None:
    turned = make_build(tmp_path / "turned", "llava-instruct", "all", ROWS[::-1], files=5)
    other = make_build(tmp_path / "o", "sft-blend", "all", [instruct("x", talk("", "a red ."))])
    expected = keys_of(planned({"build": texts, "fraction": 0.3}))
    assert keys_of(planned({"build": turned, "fraction": 0.3})) == expected
    after = keys_of(planned({"build": other}, {"build": turned, "fraction": 0.3}))
    assert [key for key in after if key != "x"] == expected
    assert expected != sorted(expected)


def test_the_number_of_shards_changes_the_order_but_not_the_rows(
    tmp_path: Path, planned: Planned
) -> None:
    plans = []
    for shards in (1, 7):
        corpus, build = make_pair(tmp_path / str(shards), 40, shards=shards)
        source = {"build": build, "corpus": corpus, "fraction": 0.5, "weight": 1.5}
        plans.append(keys_of(planned(source, shards_at_once=2)))
    assert Counter(plans[0]) == Counter(plans[1])
    assert plans[0] != plans[1]


def test_a_fraction_is_about_that_share_and_smaller_ones_are_within_it(
    texts: Path, planned: Planned
) -> None:
    taken = {f: set(keys_of(planned({"build": texts, "fraction": f}))) for f in (0.25, 0.5, 1.0)}
    assert len(taken[1.0]) == 400
    assert taken[0.25] < taken[0.5]
    assert 160 < len(taken[0.5]) < 240
    assert 70 < len(taken[0.25]) < 130
    other = set(keys_of(planned({"build": texts, "fraction": 0.5}, seed=1)))
    assert other != taken[0.5]


def test_a_cap_is_exact_and_smaller_ones_are_within_it(texts: Path, planned: Planned) -> None:
    taken = {c: keys_of(planned({"build": texts, "cap": c})) for c in (1, 7, 100, 400, 999)}
    assert {cap: len(keys) for cap, keys in taken.items()} == {
        1: 1,
        7: 7,
        100: 100,
        400: 400,
        999: 400,
    }
    assert set(taken[1]) < set(taken[7]) < set(taken[100])
    both = set(keys_of(planned({"build": texts, "cap": 100, "fraction": 0.1})))
    assert both < set(taken[100])
    assert both == set(keys_of(planned({"build": texts, "fraction": 0.1})))


def test_a_weight_is_how_often_a_row_is_seen(texts: Path, planned: Planned) -> None:
    def times(weight: float, epochs: int = 1) -> Counter[int]:
        seen = Counter(keys_of(planned({"build": texts, "weight": weight}, epochs=epochs)))
        return Counter(seen.values()) + Counter({0: 400 - len(seen)})

    assert times(2.0) == {2: 400}
    assert times(1.0, epochs=3) == {3: 400}
    half = times(0.5)
    assert half.keys() == {0, 1}
    assert 160 < half[1] < 240
    more = times(1.5)
    assert more.keys() == {1, 2}
    assert 160 < more[2] < 240
    assert times(0.5, epochs=2).keys() == {0, 1, 2}  # other rows in other epochs


def test_rows_seen_in_no_epoch_are_counted(texts: Path, planned: Planned) -> None:
    plan = planned({"build": texts, "weight": 0.1})
    (step,) = plan.funnel
    assert (step.read, step.written, step.not_sampled) == (400, plan.samples, 400 - plan.samples)


def test_epochs_hold_the_same_rows_in_another_order(texts: Path, planned: Planned) -> None:
    keys = keys_of(planned({"build": texts}, epochs=3))
    epochs = [keys[:400], keys[400:800], keys[800:]]
    assert all(set(epoch) == set(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_only_so_many_shards_are_read_at_a_time(tmp_path: Path, planned: Planned) -> None:
    corpus, build = make_pair(tmp_path, 60, shards=12)
    source = {"build": build, "corpus": corpus, "weight": 2.0}
    records = [r for item in records_of(planned(source, shards_at_once=3, epochs=2)) for r in item]
    epochs = []
    for begin in (0, 120):
        spans: dict[int, list[int]] = defaultdict(list)
        for position, record in enumerate(records[begin : begin + 120]):
            spans[record["places"][0]].append(position)
        assert len(spans) == 12
        open_at = [
            sum(seen[0] <= position <= seen[-1] for seen in spans.values())
            for position in range(120)
        ]
        assert max(open_at) == 3
        epochs.append(sorted(spans, key=lambda shard: spans[shard][0]))
    assert epochs[0] != epochs[1]


def test_sources_are_spread_evenly_over_an_epoch(
    tmp_path: Path, texts: Path, planned: Planned
) -> None:
    corpus, build = make_pair(tmp_path, 50, shards=5)
    plan = planned({"build": texts}, {"build": build, "corpus": corpus}, shards_at_once=1)
    sources = [record["source"] for item in records_of(plan) for record in item]
    for begin in range(0, 450, 90):
        assert 3 <= sources[begin : begin + 90].count(1) <= 20  # 10 of 90 on average


def test_shards_are_grouped_by_a_draw() -> None:
    by_epoch, groups = shard_groups(0, "a", 10, at_once=4, epochs=2)
    assert groups == 3
    for mapping in by_epoch:
        assert sorted(Counter(mapping.values()).items()) == [(0, 4), (1, 4), (2, 2)]
    assert by_epoch[0] != by_epoch[1]
    assert by_epoch != shard_groups(0, "b", 10, at_once=4, epochs=2)[0]
    assert shard_groups(0, "a", 3, at_once=16, epochs=1) == ([{0: 0, 1: 0, 2: 0}], 1)


def test_draws_are_uniform_and_apart_from_one_another() -> None:
    draws = Draws(0, "a")
    shares = [draws.share(str(n)) for n in range(2000)]
    times = [next(draws.times(Row(str(n)), 1)) for n in range(2000)]
    assert abs(mean(shares) - 0.5) < 0.03
    assert abs(mean(times) - 0.5) < 0.03
    low: Any = [t for s, t in zip(shares, times, strict=True) if s < 0.25]
    assert abs(mean(low) - 0.5) < 0.06
