import pytest

torch = pytest.importorskip("torch")
from vila2data.engines import Sampling  # noqa: E402
from vila2data.engines.sampling import PerRequestSampling  # noqa: E402

DRAWS = 4000


def drawn(logits: list[float], **sampling: float) -> list[int]:
    """The tokens that ``DRAWS`` requests, seeds 0 onwards, draw first from the same scores."""
    samplings = [Sampling(seed=seed, **sampling) for seed in range(DRAWS)]
    scores = torch.tensor([logits]).repeat(DRAWS, 1)
    masked = PerRequestSampling(samplings)(torch.zeros(DRAWS, 1), scores)
    assert torch.isfinite(masked).sum(dim=-1).tolist() == [1] * DRAWS
    tokens: list[int] = masked.argmax(dim=-1).tolist()
    return tokens


def chi_square(tokens: list[int], probabilities: "torch.Tensor") -> float:
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probabilities))
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = probabilities[possible] * DRAWS
    return float(((counts[possible] - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_are_drawn_with_the_probabilities_of_softmax(temperature: float) -> None:
    logits = [0.5, 2.0, -1.0, 1.0, 1.0]
    tokens = drawn(logits, temperature=temperature)
    exact = torch.softmax(torch.tensor(logits) / temperature, dim=-1)
    assert chi_square(tokens, exact) < 23.5  # 4 degrees of freedom, p = 0.0001


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.05, {1}), (0.5, {1}), (0.7, {1, 3}), (0.9, {0, 1, 3}), (1.0, {0, 1, 2, 3})],
)
def test_the_nucleus_is_the_most_probable_tokens_that_fill_top_p(
    top_p: float, nucleus: set[int]
) -> None:
    exact = torch.tensor([0.15, 0.55, 0.05, 0.25])
    tokens = drawn(exact.log().tolist(), temperature=1.0, top_p=top_p)
    assert set(tokens) == nucleus
    kept = torch.tensor([float(p) if n in nucleus else 0.0 for n, p in enumerate(exact)])
    assert chi_square(tokens, kept / kept.sum()) < 21.1  # 3 degrees of freedom, p = 0.0001


def test_an_impossible_token_is_never_drawn() -> None:
    tokens = drawn([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf], temperature=1.0)
    assert set(tokens) == {1, 3}


def test_greedy_rows_keep_their_scores_beside_drawn_ones() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    samplings = [Sampling(), Sampling(temperature=1.0, seed=5)]
    masked = PerRequestSampling(samplings)(torch.zeros(2, 1), scores)
    assert masked[0].tolist() == [1.0, 3.0, 2.0]
    assert torch.isfinite(masked[1]).sum() == 1


def test_a_draw_depends_on_its_own_seed_and_scores_alone() -> None:
    rows = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    samplings = [Sampling(temperature=0.5 + row / 4, top_p=0.9, seed=row) for row in range(6)]
    together = PerRequestSampling(samplings)(torch.zeros(6, 1), rows).argmax(dim=-1).tolist()
    alone = [
        int(PerRequestSampling([samplings[n]])(torch.zeros(1, 1), rows[n : n + 1]).argmax())
        for n in (5, 4, 3, 2, 1, 0)
    ]
    assert together == alone[::-1]


def test_rounding_that_reorders_tokens_of_equal_probability_does_not_change_the_draw() -> None:
    even = drawn([0.0] * 64, temperature=1.0, top_p=1.0)
    nudged = drawn([1e-6 * (n % 3) for n in range(64)], temperature=1.0, top_p=1.0)
    assert sum(a != b for a, b in zip(even, nudged, strict=True)) <= 2


def test_each_token_of_a_row_has_a_draw_of_its_own() -> None:
    sampling = PerRequestSampling([Sampling(temperature=1.0, seed=3)])
    scores = torch.zeros(1, 1000)
    tokens = [int(sampling(torch.zeros(1, 1), scores).argmax()) for _ in range(20)]
    assert len(set(tokens)) > 15


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    drawn([0.0, 1.0], temperature=1.0)
    assert torch.equal(before, torch.random.get_rng_state())
