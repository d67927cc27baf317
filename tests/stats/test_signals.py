"""Each quality signal by exact example, and against a slow second computation."""

import random
import time
import zlib
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2data.stats.signals import longest_repeat, signals_of


def brute_force(words: list[str]) -> int:
    runs = range(len(words), 0, -1)
    for length in runs:
        found = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
        if len(set(found)) < len(found):
            return length
    return 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("one", 0),
        ("one two", 0),
        ("one one", 1),
        ("so so so so", 3),
        ("a red car and a red bus", 2),
        ("ab c a bc", 0),
        ("a b c d e f g h x a b c d e f g h", 8),
        ("a b c d e f g x a b c d e f g", 7),
        ("a b c d e f x a b c d e f", 6),
        ("x " * 100, 99),
    ],
)
def test_longest_repeat_by_example(text: str, expected: int) -> None:
    assert longest_repeat(text.split()) == expected


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_longest_repeat_is_that_of_brute_force(words: list[str]) -> None:
    assert longest_repeat(words) == brute_force(words)


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=25),
    st.integers(1, 3),
    st.text("ab", max_size=3),
)
def test_longest_repeat_of_loops_is_that_of_brute_force(
    words: list[str], times: int, between: str
) -> None:
    loop = (words + list(between)) * (times + 1)
    assert longest_repeat(loop) == brute_force(loop)


def test_longest_repeat_of_a_long_text_takes_little_time() -> None:
    rng = random.Random(0)
    passage = [f"w{rng.randrange(2000)}" for _ in range(8000)]
    began = time.perf_counter()
    assert longest_repeat([*passage, "between", *passage]) == 8000
    assert longest_repeat(["x"] * 30_000) == 29_999
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, 0, 1.0, 0.0, False)),
        ("   \n ", (0, 5, 0, 1.0, 0.0, False)),
        ("A cat", (2, 5, 1, 1.0, 0.0, False)),
        ("A cat. The CAT sat!", (5, 19, 2, 1.0, 0.0, False)),
        ("the cat the cat", (4, 15, 1, 0.5, 0.5, False)),
        ("So so so so", (4, 11, 1, 0.25, 0.75, False)),
        ('Wait... what?! "Yes." (No.)', (4, 27, 4, 1.0, 0.0, False)),
        ("3.5 m at v1.2", (4, 13, 1, 1.0, 0.0, False)),
        ("ü 👩‍🚀", (2, 5, 1, 1.0, 0.0, False)),
        ("- one\n- two", (4, 11, 1, 0.75, 0.25, True)),
        ("1. one\n2) two", (4, 13, 1, 1.0, 0.0, True)),
        ("• one\ntext", (3, 10, 1, 1.0, 0.0, False)),
        ("2020. was\n2021. was", (4, 19, 2, 0.75, 0.25, False)),
        ("-one\n-two", (2, 9, 1, 1.0, 0.0, False)),
    ],
)
def test_each_signal_by_example(text: str, expected: tuple[object, ...]) -> None:
    found = asdict(signals_of(text))
    del found["compression_ratio"]
    assert tuple(found.values()) == expected


@given(st.text())
def test_signals_are_those_of_a_second_computation(text: str) -> None:
    found = signals_of(text)
    words = text.lower().split()
    assert found.num_words == len(words)
    assert found.num_chars == len(text)
    assert found.distinct_ratio == (len(set(words)) / len(words) if words else 1.0)
    assert found.repeated_ngram_share == (brute_force(words) / len(words) if words else 0.0)
    data = text.encode("utf-8", "surrogatepass")
    assert found.compression_ratio == (len(data) / len(zlib.compress(data, 1)) if data else 0.0)
    assert (found.num_sentences >= 1) == bool(words) or not words
    assert 0 <= found.distinct_ratio <= 1
    assert 0 <= found.repeated_ngram_share < 1


def test_loops_compress_well_and_plain_text_does_not() -> None:
    assert signals_of("the same words again. " * 40).compression_ratio > 10
    assert signals_of("A dog runs over wet grass while two boys look on.").compression_ratio < 1.2


def test_lone_surrogates_do_not_stop_the_count() -> None:
    assert signals_of("half \ud800").num_words == 2
