import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from making import make_corpus, write_recipe
from vila2data_fakes import AUTHOR, told

from vila2data.engines import Request, Result
from vila2data.errors import RunFailed
from vila2data.recaption.estimate import estimate, images_to_caption, pick
from vila2data.recaption.run import run
from vila2data.recaption.spec import RecaptionSpec
from vila2data.recipe import load_recipe


class Timed:
    """Takes a known time for each answer, by a clock of its own; the first call takes longer."""

    def __init__(
        self,
        *,
        answer: Callable[[Request], Result] = told,
        per_answer_s: Sequence[float] = (0.5,),
        warm_up_s: float = 0.0,
    ) -> None:
        self.now_s = 0.0
        self.asked: list[int] = []  # answers of each call
        self._answer = answer
        self._per_answer_s = per_answer_s  # of a call; the last one holds for all that follow
        self._warm_up_s = warm_up_s

    def clock(self) -> float:
        return self.now_s

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        call = len(self.asked)
        self.asked.append(0)
        self.now_s += self._warm_up_s if call == 0 else 0.0
        for request in requests:
            self.now_s += self._per_answer_s[min(call, len(self._per_answer_s) - 1)]
            self.asked[call] += 1
            yield self._answer(request)

    def close(self) -> None:
        pass


def corpus(tmp_path: Path, count: int, *, shards: int = 1, **settings: Any) -> Any:
    make_corpus(tmp_path / "corpus", count, shards=shards)
    return load_recipe(write_recipe(tmp_path / "r.yaml", recaption=settings))


def sizes_of(recipe: Any, size: int) -> dict[Path, int]:
    return dict.fromkeys(sorted(recipe.corpus.glob("*.tar")), size)


def fine(request: Request) -> Result:
    return Result(request.index, "a red cat sits near a tree.", "stop", AUTHOR, 10)


def test_a_known_rate_is_found_and_the_warm_up_is_left_out(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 40, shards=2)
    samples = pick(sizes_of(recipe, 20), recipe.recaption, 40, seed=0)
    engine = Timed(answer=fine, warm_up_s=1000.0)
    found = estimate(samples, recipe.recaption, engine, images=7200, seed=0, clock=engine.clock)
    assert engine.asked == [4, 8, 8, 8, 12]  # batches of 4, as the engine takes them
    assert (found.sampled, found.timed, found.shards) == (40, 36, 2)
    assert (found.answers_per_s, found.answers_per_s_error) == (2.0, 0.0)
    assert (found.images_per_s, found.hours) == (2.0, 1.0)
    assert (found.tokens_per_image, found.tokens_per_image_p95) == (10, 10)
    assert found.tokens == 72_000
    assert (found.rejected_share, found.answers_per_image) == (0, 1)


def test_an_estimate_from_all_images_is_what_the_run_takes(tmp_path: Path) -> None:
    """Prompts, seeds, verdicts and retries are those of the run."""
    recipe = corpus(tmp_path, 40, shards=4)
    samples = pick(sizes_of(recipe, 10), recipe.recaption, 40, seed=0)
    engine = Timed()
    found = estimate(samples, recipe.recaption, engine, images=40, seed=0, clock=engine.clock)
    assert found.answers_per_image > 1.1
    whole = Timed()
    run(recipe.recaption, recipe.corpus, seed=0, engine=whole)
    assert found.answers_per_image * 40 == sum(whole.asked)
    assert found.hours * 3600 == pytest.approx(whole.now_s)


def test_what_the_gate_rejects_is_asked_again_and_its_tokens_count(tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def answer(request: Request) -> Result:
        tries[request.key] = tries.get(request.key, 0) + 1
        cut = int(request.key) % 10 == 0 and tries[request.key] < 3
        text, reason = "a red cat sits near a tree.", "length" if cut else "stop"
        return Result(request.index, text, reason, AUTHOR, 40 if cut else 10)  # type: ignore[arg-type]

    recipe = corpus(tmp_path, 40)
    samples = pick(sizes_of(recipe, 40), recipe.recaption, 40, seed=0)
    engine = Timed(answer=answer)
    found = estimate(samples, recipe.recaption, engine, images=1000, seed=0, clock=engine.clock)
    assert found.rejected_share == 0.1
    assert found.answers_per_image == 1.2  # 4 of 40 twice again
    assert found.tokens_per_image == (36 * 10 + 4 * 90) / 40
    assert found.tokens_per_image_p95 == 90
    assert found.answers_per_s == 2.0  # of first answers; a handful of retries fills no batch
    assert found.images_per_s == pytest.approx(2.0 / 1.2)


def test_the_standard_error_is_that_of_repeated_chunks(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 20)
    samples = pick(sizes_of(recipe, 20), recipe.recaption, 20, seed=0)
    engine = Timed(answer=fine, per_answer_s=(9.0, 0.25, 0.25, 0.25, 0.75))
    found = estimate(samples, recipe.recaption, engine, images=100, seed=0, clock=engine.clock)
    assert engine.asked == [4, 4, 4, 4, 4]
    rate = 16 / 6  # chunks of 1, 1, 1 and 3 s
    squares = 3 * (4 - rate) ** 2 + (4 - 3 * rate) ** 2
    assert found.answers_per_s == pytest.approx(rate)
    assert found.answers_per_s_error == pytest.approx((squares / 3 / 4) ** 0.5 / 1.5)
    assert found.relative_error == pytest.approx(1 / 3)


def test_too_few_to_fill_the_engine_is_a_lower_bound_and_too_few_to_time_an_error(
    tmp_path: Path,
) -> None:
    recipe = corpus(tmp_path, 20, engine={"name": "fake", "batch_size": 8})
    for count, is_lower_bound in ((20, True), (1, None)):
        samples = pick(sizes_of(recipe, 20), recipe.recaption, count, seed=0)
        engine = Timed(answer=fine)
        if is_lower_bound is None:
            with pytest.raises(RunFailed, match="1 images are too few to time"):
                estimate(samples, recipe.recaption, engine, images=20, seed=0)
        else:
            found = estimate(
                samples, recipe.recaption, engine, images=20, seed=0, clock=engine.clock
            )
            assert found.is_lower_bound
            assert found.concurrency == 8


def keys(picked: Any) -> list[list[str]]:
    return [[sample.key for sample in of_shard] for of_shard in picked]


def test_the_sample_is_spread_and_the_same_at_every_call(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 60, shards=6)
    sizes = sizes_of(recipe, 10)
    picked = keys(pick(sizes, recipe.recaption, 12, seed=0))
    assert picked == keys(pick(sizes, recipe.recaption, 12, seed=0))
    assert [len(of_shard) for of_shard in picked] == [2] * 6
    for number, (first, second) in enumerate(picked):
        assert int(first) // 10 == int(second) // 10 == number
        assert int(second) - int(first) == 5
    few = keys(pick(sizes, recipe.recaption, 3, seed=0))
    assert [int(key) // 10 for (key,) in few] == [0, 2, 4]
    everything = keys(pick(sizes, recipe.recaption, 1000, seed=0))
    assert [len(of_shard) for of_shard in everything] == [10] * 6


def test_only_what_the_round_asks_about_is_sampled_and_counted(tmp_path: Path) -> None:
    recipe = corpus(tmp_path, 60, shards=2, fraction=0.4)
    spec: RecaptionSpec = recipe.recaption
    picked = keys(pick(sizes_of(recipe, 30), spec, 10, seed=0))
    assert [len(of_shard) for of_shard in picked] == [5, 5]
    assert all(spec.takes(key, seed=0) for key in chain(*picked))
    assert images_to_caption(60, spec) == 24
    refusing = spec.model_copy(
        update={"limits": spec.limits.model_copy(update={"max_image_bytes": 1})}
    )
    assert keys(pick(sizes_of(recipe, 30), refusing, 10, seed=0)) == [[], []]


def test_the_command_shows_an_estimate_and_stores_nothing(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    recipe = corpus(tmp_path, 40, shards=2)
    asked = ("recaption", tmp_path / "r.yaml", "--dry-run", "--calibrate", 32, "--devices", 8)
    shown = cli(*asked, "--price-per-hour", 2.5)
    assert shown.returncode == 0, shown.stderr
    for said in (
        "images to caption",
        "hours on engine fake",
        "hours on 8 of them",
        "cost at 2.5",
        "±",
    ):
        assert said in shown.stdout
    assert "extrapolated from 32 images of 2 shards" in shown.stdout
    found = json.loads(cli(*asked, "--price-per-hour", 2.5, "--json").stdout)
    assert (found["images"], found["sampled"], found["devices"]) == (40, 32, 8)
    assert found["hours"] == pytest.approx(found["device_hours"] / 8)
    assert found["cost"] == pytest.approx(found["device_hours"] * 2.5)
    assert not recipe.recaption.run.exists()


def test_a_finished_run_and_options_without_their_command_are_refused(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    recipe = corpus(tmp_path, 4)
    file = tmp_path / "r.yaml"
    for options, said in (
        (("--calibrate", 8), "--calibrate goes with --dry-run"),
        (("--dry-run", "--devices", 2), "go with --dry-run --calibrate"),
    ):
        done = cli("recaption", file, *options)
        assert (done.returncode, said in done.stderr) == (2, True)
    run(recipe.recaption, recipe.corpus, seed=0)
    done = cli("recaption", file, "--dry-run", "--calibrate", 8)
    assert done.returncode == 2
    assert "every shard is finished; there is nothing to estimate" in done.stderr
