from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from vila2data.training.feed.assemble import items_of

CONTEXT = 50


@dataclass(frozen=True)
class Sample:
    number: int
    length: int
    has_images: bool


_SAMPLES = st.lists(st.tuples(st.integers(1, CONTEXT), st.booleans()), max_size=300).map(
    lambda given: [Sample(n, *values) for n, values in enumerate(given)]
)


@given(_SAMPLES, st.integers(1, 9), st.booleans(), st.booleans())
def test_items_hold_each_sample_once_in_whole_batches(
    samples: list[Sample], batch: int, packing: bool, single_modality: bool
) -> None:
    items = list(
        items_of(
            iter(samples),
            batch=batch,
            context_tokens=CONTEXT,
            packing=packing,
            single_modality=single_modality,
        )
    )
    assert len(items) % batch == 0
    assert Counter(s for item in items for s in item) == Counter(samples)
    assert all(sum(s.length for s in item) <= CONTEXT for item in items)
    if not packing:
        assert all(len(item) <= 1 for item in items)
    batches = [items[n : n + batch] for n in range(0, len(items), batch)]
    if single_modality:
        for one in batches:
            assert len({s.has_images for item in one for s in item}) == 1
    assert all(any(item for item in one) for one in batches)  # none of nothing but filling
    filling = sum(not item for item in items)
    assert filling < batch * (2 if single_modality else 1)


@given(_SAMPLES, st.integers(1, 5))
def test_without_packing_the_order_stays(samples: list[Sample], batch: int) -> None:
    options = {"batch": batch, "context_tokens": CONTEXT, "packing": False}
    items = items_of(iter(samples), **options, single_modality=False)
    assert [s for item in items for s in item] == samples
    by_kind = [s for i in items_of(iter(samples), **options, single_modality=True) for s in i]
    for kind in (True, False):
        assert [s for s in by_kind if s.has_images == kind] == [
            s for s in samples if s.has_images == kind
        ]


def test_packs_are_full_and_few_are_open_at_a_time() -> None:
    """As many samples are held back as the open packs and one batch can hold, of any number."""
    count, given_out, most = 20_000, 0, 0

    def samples() -> Iterator[Sample]:
        for number in range(count):
            nonlocal most
            most = max(most, number - given_out)
            yield Sample(number, 5 + number * 7919 % 31, has_images=bool(number % 3))

    lengths = []
    for item in items_of(
        samples(), batch=8, context_tokens=CONTEXT, packing=True, single_modality=True
    ):
        given_out += len(item)
        lengths.append(sum(s.length for s in item))
    assert given_out == count
    assert most <= 2 * (64 + 8) * (CONTEXT // 5)
    assert sum(lengths) / (len(lengths) * CONTEXT) > 0.95
