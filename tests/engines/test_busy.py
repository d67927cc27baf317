import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from making import do, make_corpus, make_picture, write_recipe
from serving import serving

from vila2data.engines import Captioner, Request, Sampling, TellsBusy
from vila2data.engines.busy import BusyClock
from vila2data.engines.openai import OpenAIConfig, OpenAIEngine
from vila2data.engines.replay import ReplayConfig, ReplayEngine


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_work_side_by_side_counts_once_and_pauses_do_not() -> None:
    clock = Clock()
    busy = BusyClock(clock)
    assert busy.seconds == 0
    with busy.working():
        clock.now_s += 1
        with busy.working():
            clock.now_s += 2
        assert busy.seconds == 3  # the first is not over
        clock.now_s += 4
    clock.now_s += 100
    assert busy.seconds == 7
    with suppress(ValueError), busy.working():
        clock.now_s += 5
        raise ValueError
    clock.now_s += 100
    assert busy.seconds == 12


def request_of(index: int) -> Request:
    return Request(index, make_picture(index), "Describe it.", Sampling(max_tokens=8), f"{index}")


def check(engine: Captioner, requests: list[Request]) -> None:
    """Nothing before the first request, then some seconds, never more than passed."""
    assert isinstance(engine, TellsBusy)
    assert engine.busy_s == 0
    began_s = time.monotonic()
    assert len(list(engine.generate(requests))) == len(requests)
    assert 0 < engine.busy_s <= time.monotonic() - began_s
    told_s = engine.busy_s
    assert engine.busy_s == told_s  # it rests
    engine.close()


def test_transformers_is_busy_inside_the_model_alone(tiny_llava: Path) -> None:
    pytest.importorskip("torch")
    from vila2data.engines.transformers import TransformersConfig, TransformersEngine

    config = TransformersConfig(model=str(tiny_llava), dtype="float32", batch_size=2)
    engine = TransformersEngine(config)
    told: list[bool] = []
    model, processor = engine._model.generate, engine._chat.processor

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            told.append(engine._busy._under_way > 0)
            return function(*args, **kwargs)

        return call

    engine._model.generate = noted(model)
    check(engine, [request_of(n) for n in range(3)])
    assert told == [True, True]
    told.clear()
    noted(processor)(images=[[request_of(0).picture()]], text=[engine._chat.text("a")])
    assert told == [False]


def test_openai_is_busy_while_requests_are_on_their_way(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        config = OpenAIConfig(base_url=served.base_url, model="m", in_flight=3)
        check(OpenAIEngine(config), [request_of(n) for n in range(6)])


def test_replay_is_busy_while_it_looks_up(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4)
    build = do(write_recipe(tmp_path / "r.yaml"))
    check(ReplayEngine(ReplayConfig(build=build)), [request_of(n) for n in range(4)])
