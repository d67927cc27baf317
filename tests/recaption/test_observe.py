from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from making import make_corpus, write_recipe
from vila2data_fakes import AUTHOR, Answers, told

from vila2data.engines import Request, Result, failed
from vila2data.recaption.observe import Account, Figures, Pace
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe


class Clock:
    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


class Busy(Answers):
    """Tells that its model works; as long as the test says."""

    busy_s = 20.0

    def __init__(self) -> None:
        super().__init__(lambda requests: [])


def ran(tmp_path: Path, count: int, writer: Any = None, **settings: Any) -> tuple[Figures, Any]:
    make_corpus(tmp_path / "corpus", count, shards=settings.pop("shards", 2))
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", recaption=settings))
    account = Account()
    counts = run(recipe.recaption, recipe.corpus, seed=0, engine=writer, account=account)
    return account.figures(), counts


def test_every_answer_stands_in_the_account_and_what_is_given_up_has_its_reason(
    tmp_path: Path,
) -> None:
    """Of 6: one passes at once, one at the third answer, one never, one is refused for good, one
    fails at each try, one fails and then passes.
    """
    tries: dict[str, int] = {}

    def answer(requests: Iterable[Request]) -> Iterator[Result]:
        for request in requests:
            number = tries[request.key] = tries.get(request.key, 0) + 1
            kind = int(request.key)
            if kind == 3:
                yield failed(request.index, AUTHOR, "engine_refused", retriable=False)
            elif kind == 4 or (kind == 5 and number == 1):
                yield failed(request.index, AUTHOR, "engine_timeout")
            else:
                fine = kind in (0, 5) or (kind == 1 and number == 3)
                reason: Any = "stop" if fine else "length"
                text = "a red cat sits near a tree."
                yield Result(request.index, text, reason, AUTHOR, 10, 100)

    found, counts = ran(tmp_path, 6, Answers(answer))
    assert tries == {"00000": 1, "00001": 3, "00002": 3, "00003": 1, "00004": 3, "00005": 2}
    assert (found.kept, found.images, found.answers, found.retrying) == (3, 6, 13, 0)
    assert found.rejected == {"engine_refused": 1, "engine_timeout": 1, "length": 1}
    assert found.rejected == counts.rejected
    assert found.failures == {"engine_refused": 1, "engine_timeout": 4}
    assert (found.output_tokens, found.prompt_tokens) == (80, 800)
    assert found.kept_share == 0.5
    assert found.busy_s is None  # the engine does not tell


def test_retries_in_flight_are_seen_while_they_wait() -> None:
    cut = Result(0, "a cat", "length", AUTHOR, 5)
    first = Figures.of_answer(cut, "length", attempt=0, is_asked_again=True)
    assert (first.retrying, first.images) == (1, 0)
    again = first + Figures.of_answer(cut, "length", attempt=1, is_asked_again=True)
    assert (again.retrying, again.images) == (1, 0)
    last = again + Figures.of_answer(cut, "length", attempt=2, is_asked_again=False)
    assert (last.retrying, last.images, last.rejected) == (0, 1, {"length": 1})


def test_processes_of_a_run_add_up_to_what_one_would_tell(tmp_path: Path) -> None:
    settings = {"engine": {"name": "fake", "cut_share": 0.5}, "fraction": 0.7, "shards": 4}
    found = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        figures, counts = ran(folder, 24, **settings, executor={"workers": workers})
        assert figures.engine_s > 0
        assert (figures.kept, figures.not_sampled) == (counts.written, counts.not_sampled)
        found[workers] = [
            (figures.kept, figures.not_sampled, figures.rejected),
            (figures.answers, figures.retrying, figures.output_tokens),
        ]
    assert found[1] == found[2]
    assert found[1][0][1] > 0


def test_images_that_cannot_be_read_are_given_up_without_an_answer(tmp_path: Path) -> None:
    engine = Answers(lambda requests: (told(r, cut_share=0) for r in requests))
    found, _ = ran(tmp_path, 4, engine, limits={"max_image_pixels": 1})
    assert (found.answers, found.kept, sum(found.rejected.values())) == (0, 0, 4)


def test_rates_count_from_when_the_engine_was_ready() -> None:
    clock = Clock()
    account = Account(clock=clock)
    clock.now_s += 100  # loads a model
    assert account.pace() == Pace()
    assert account.told() == ""
    engine = Busy()
    with account.watching(engine):
        clock.now_s += 10
        engine.busy_s += 9
        for reason in [None] * 395 + ["length"] * 5:
            result = Result(0, "", "stop", AUTHOR, 70, 500)
            account.add(Figures.of_answer(result, reason, attempt=0, is_asked_again=False))
        assert account.pace() == Pace(40.0, 2800.0, 20_000.0, 0.9)
        assert account.told() == "40 images/s · 2,800 tok/s · engine busy 90 % · kept 98.8 %"
        account.add(Figures(retrying=2, failures={"engine_500": 3}))
        assert account.told().endswith("· kept 98.8 % · 2 retrying · 3 failures")
    clock.now_s += 10  # the engine is closed
    assert account.figures().engine_s == 10
    assert account.pace().engine_busy == 0.9
    assert account.pace().images_per_s == 20.0
    assert account.elapsed_s == 120


def test_shards_of_other_processes_count_the_time_that_they_took() -> None:
    clock = Clock()
    account = Account(clock=clock)
    clock.now_s += 60
    account.add(Figures(kept=100, busy_s=15.0, engine_s=20.0))
    assert account.pace().images_per_s == 5.0
    account.add(Figures(kept=100, busy_s=19.0, engine_s=20.0))
    assert account.pace() == Pace(10.0, None, None, 0.85)


def test_the_callback_is_told_of_samples_once_they_are_in_the_account() -> None:
    seen: list[tuple[int, int]] = []
    account = Account(lambda count: seen.append((count, account.figures().images)))
    account.add(Figures(answers=1, retrying=1))
    account.add(Figures(kept=2, rejected={"length": 1}, not_sampled=4))
    assert seen == [(7, 3)]
