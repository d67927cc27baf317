"""Engine `openai` with several servers, which are processes of their own."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from making import do, make_corpus, make_picture, parquet_hashes, write_recipe
from pydantic import ValidationError
from serving import Served, serving

from vila2data.build.write import write_build
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.engines import Request, Result, Sampling
from vila2data.engines.openai import OpenAIConfig, OpenAIEngine
from vila2data.engines.servers import FAILURES_IN_A_ROW
from vila2data.errors import BadInput, RecipeError, RunFailed
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe

QUICK = {"first_wait_s": 0.01, "timeout_s": 20.0, "tries": 1, "in_flight": 4}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Any]:
    """Starts servers, one for each plan of faults."""
    with ExitStack() as stack:

        def start(*plans: dict[str, Any]) -> list[Served]:
            folders = [tmp_path / f"server-{number}" for number in range(len(plans))]
            for folder in folders:
                folder.mkdir()
            return [
                stack.enter_context(serving(folder, **plan))
                for folder, plan in zip(folders, plans, strict=True)
            ]

        yield start


def engine_of(served: list[Served], **settings: Any) -> OpenAIEngine:
    urls = [one.base_url for one in served]
    return OpenAIEngine(OpenAIConfig(base_url=urls, model="m", **QUICK | settings))


def requests_of(count: int) -> Iterator[Request]:
    for index in range(count):
        sampling = Sampling(temperature=0.7, max_tokens=32, seed=index)
        yield Request(index, make_picture(index), "Describe it.", sampling, str(index))


def texts(results: list[Result]) -> dict[int, str]:
    assert len(results) == len({result.index for result in results})
    assert {result.finish_reason for result in results} == {"stop"}
    return {result.index: result.text for result in results}


def test_texts_are_the_same_by_one_server_and_by_three_of_which_one_is_killed(servers: Any) -> None:
    served = servers(*[{"work_s": 0.02}] * 3)

    def killing() -> Iterator[Request]:
        for request in requests_of(60):
            if request.index == 20:
                served[1].kill()  # with requests in flight
            yield request

    by_three = texts(list(engine_of(served).generate(killing())))
    assert len(by_three) == 60
    assert 0 < len(served[1].notes()) <= 20
    assert by_three == texts(list(engine_of([served[0]]).generate(requests_of(60))))


def test_each_server_has_its_own_number_in_flight(servers: Any) -> None:
    served = servers(*[{"work_s": 0.03}] * 3)
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for request in requests_of(60):
            drawn += 1
            yield request

    for taken, _ in enumerate(engine_of(served).generate(requests()), start=1):
        assert 12 <= drawn <= taken + 12
    assert max(note["active"] for one in served for note in one.notes()) <= 4


def test_a_faster_server_gets_more(servers: Any) -> None:
    quick, slow = served = servers({}, {"work_s": 0.3})
    texts(list(engine_of(served).generate(requests_of(60))))
    assert len(quick.notes()) > 2 * len(slow.notes()) > 0


@pytest.mark.parametrize("fault", ["stall", "500", "503", "reset", "html"])
def test_a_server_that_fails_every_request_costs_none_of_them_a_try(
    servers: Any, fault: str
) -> None:
    failing, sound = served = servers({"always": fault, "stall_s": 30}, {})
    patience_s = 1.0 if fault == "stall" else 20.0
    engine = engine_of(served, timeout_s=patience_s, first_wait_s=20.0)
    assert len(texts(list(engine.generate(requests_of(40))))) == 40
    assert len(sound.notes()) == 40
    assert FAILURES_IN_A_ROW <= len(failing.notes()) <= FAILURES_IN_A_ROW - 1 + 4


def test_a_server_that_comes_back_is_asked_again(servers: Any, tmp_path: Path) -> None:
    served = servers({"work_s": 0.005}, {"work_s": 0.005})
    again = tmp_path / "again"
    again.mkdir()
    drawn = 0

    def requests(stack: ExitStack) -> Iterator[Request]:
        nonlocal drawn
        back: Served | None = None
        for request in requests_of(5000):
            if request.index == 20:
                served[1].kill()
            if request.index == 60:
                back = stack.enter_context(serving(again, port=served[1].port))
            if back is not None and len(back.notes()) > 10:
                return
            drawn += 1
            yield request

    with ExitStack() as stack:
        results = list(engine_of(served).generate(requests(stack)))
    assert 60 < drawn < 5000
    assert len(texts(results)) == drawn


def test_where_all_are_gone_the_run_fails_and_names_them_all(servers: Any) -> None:
    served = servers({}, {}, {})
    engine = engine_of(served, give_up_after=20, tries=2)
    for one in served:
        one.kill()
    urls = ", ".join(one.base_url for one in served)
    with pytest.raises(RunFailed, match=f"20 requests in a row failed.*are the servers at {urls}"):
        list(engine.generate(requests_of(100)))


def test_a_server_with_another_model_is_refused_and_one_that_does_not_tell_is_not(
    servers: Any,
) -> None:
    served = servers({}, {"models": ["other", "more"]}, {"models": ["m"]}, {"always": "503"})
    url = served[1].base_url
    with pytest.raises(BadInput, match=f"base_url: {url} serves other, more, not 'm': set"):
        engine_of(served)
    assert texts(list(engine_of([served[0], *served[2:]]).generate(requests_of(8))))


def test_addresses_are_one_or_a_list_each_once(tmp_path: Path) -> None:
    one = OpenAIConfig(base_url="http://a/v1", model="m")
    assert one.base_url == ("http://a/v1",)
    more = OpenAIConfig(base_url=["http://b", "http://c"], model="m", serve={"model": "x"})
    assert more.shaping() == one.shaping()
    with pytest.raises(ValidationError, match="http://a/v1 stands twice"):
        OpenAIConfig(base_url=["http://a/v1", "http://b/v1", "http://a/v1/"], model="m")
    (tmp_path / "corpus").mkdir()
    recipe = write_recipe(
        tmp_path / "r.yaml",
        recaption={"engine": {"name": "openai", "model": "m", "base_url": ["http://a", "b:8000"]}},
    )
    with pytest.raises(RecipeError, match=r"base_url\.1: string should match pattern '\^https"):
        load_recipe(recipe)


def test_a_run_begun_with_one_server_ends_with_three_of_which_one_dies_with_the_same_rows(
    servers: Any, tmp_path: Path
) -> None:
    served = servers(*[{"work_s": 0.01}] * 3)
    corpus = make_corpus(tmp_path / "corpus", 36, shards=3)
    urls = [one.base_url for one in served]

    def recipe_of(name: str, given: Any) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        engine = {"name": "openai", "model": "m", "base_url": given, **QUICK}
        return write_recipe(
            tmp_path / name / "r.yaml", corpus=str(corpus), recaption={"engine": engine}
        )

    alone = do(recipe_of("alone", urls[0]))
    begun = load_recipe(recipe_of("begun", urls[0]))

    def interrupt(_: int) -> None:
        if list(begun.recaption.run.glob("shards/*.parquet")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(begun.recaption, corpus, seed=0, on_sample=interrupt)
    ended = load_recipe(recipe_of("begun", urls))
    counts = run(ended.recaption, corpus, seed=0, on_sample=lambda _: served[2].kill())
    assert (counts.read, counts.rejected) == (36, {})
    for shard in sorted(ended.recaption.run.glob("shards/*.parquet")):
        same = tmp_path / "alone" / "runs" / "round1" / "shards" / shard.name
        assert pq.read_table(shard).equals(pq.read_table(same))
    assert parquet_hashes(write_build(CoyoRecap, ended)) == parquet_hashes(alone)
