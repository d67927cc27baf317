"""The engine `vllm`; in an environment of its own: `make test-vllm`."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from making import make_corpus, make_picture, write_recipe
from tiny_models import make_decisive_model

from vila2data.engines import Request, Result, Sampling

pytest.importorskip("vllm")
from vila2data.engines.transformers import TransformersConfig, TransformersEngine
from vila2data.engines.vllm import VllmConfig, VllmEngine

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

PROMPTS = ("Describe the picture .", "a red circle", "what is on the left of the large box")
ARGUMENTS = {"max_model_len": 512, "enforce_eager": True, "max_num_seqs": 8}


def config_of(
    model: Path, engine_args: Mapping[str, Any] = ARGUMENTS, **settings: Any
) -> VllmConfig:
    return VllmConfig(model=str(model), dtype="float32", engine_args=engine_args, **settings)


def asked(index: int, **sampling: Any) -> Request:
    drawn = Sampling(**{"temperature": 0.0, "max_tokens": 24, "seed": index, **sampling})
    image = make_picture(index, exif_orientation=6 if index % 5 == 4 else None)
    return Request(index, image, PROMPTS[index % 3], drawn, str(index))


def by_index(results: Iterator[Result]) -> dict[int, Result]:
    found = list(results)
    assert len({result.index for result in found}) == len(found)
    return {result.index: result for result in found}


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decisive_model(tmp_path_factory.mktemp("model"), "llava", "clip", "llama")


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[VllmEngine]:
    started = VllmEngine(config_of(model, in_flight=12, decoding=3))
    yield started
    started.close()


def test_greedy_results_are_those_of_the_engine_transformers(
    model: Path, engine: VllmEngine
) -> None:
    requests = [asked(n, max_tokens=6 + 6 * (n % 4)) for n in range(40)]
    other = TransformersEngine(TransformersConfig(model=str(model), dtype="float32", batch_size=1))
    expected = by_index(other.generate(requests))
    found = by_index(engine.generate(requests))
    assert {n: replace(r, author=engine.author) for n, r in expected.items()} == found
    assert {r.finish_reason for r in found.values()} == {"stop", "length"}
    assert engine.author.engine.startswith("vllm ")
    assert engine.author.captioner_revision == other.author.captioner_revision


def test_it_is_busy_while_it_holds_requests_and_no_longer(engine: VllmEngine) -> None:
    before_s, began_s = engine.busy_s, time.monotonic()
    assert len(by_index(engine.generate(asked(n) for n in range(20)))) == 20
    told_s = engine.busy_s
    assert 0 < told_s - before_s <= time.monotonic() - began_s
    assert engine.busy_s == told_s


def test_a_text_depends_on_its_own_seed_alone(engine: VllmEngine) -> None:
    drawn = [asked(n, temperature=1.0, top_p=0.95) for n in range(10)]
    first = by_index(engine.generate(drawn))
    assert by_index(engine.generate(drawn[::-1])) == first
    assert by_index(engine.generate(drawn[3:4])) == {3: first[3]}
    again = [replace(r, sampling=replace(r.sampling, seed=99 + r.index)) for r in drawn]
    assert sum(r.text != first[n].text for n, r in by_index(engine.generate(again)).items()) > 5


def test_what_cannot_be_asked_stops_no_other(engine: VllmEngine) -> None:
    requests = [asked(n) for n in range(6)]
    requests[1] = replace(requests[1], image=b"no image")
    requests[4] = replace(requests[4], prompt="red " * 600)
    found = by_index(engine.generate(requests))
    assert found[1].finish_reason == found[4].finish_reason == "error"
    assert found[1].error_reason.startswith("image_")
    assert found[4].error_reason == "engine_refused"
    assert "512" in found[4].error_detail
    assert not found[1].retriable
    assert not found[4].retriable
    alone = by_index(engine.generate([requests[n] for n in (0, 2, 3, 5)]))
    assert {n: found[n] for n in alone} == alone


def test_requests_are_drawn_as_vllm_can_take_them(engine: VllmEngine) -> None:
    drawn = 0

    def counted() -> Iterator[Request]:
        nonlocal drawn
        for number in range(60):
            drawn += 1
            yield asked(number)

    for taken, _ in enumerate(engine.generate(counted()), start=1):
        assert drawn <= taken + engine.config.in_flight
    assert drawn == 60


def test_a_caller_that_stops_early_leaves_an_engine_that_goes_on(engine: VllmEngine) -> None:
    results = engine.generate(asked(n, max_tokens=200) for n in range(30))
    next(results)
    results.close()  # type: ignore[attr-defined]
    again = [asked(n) for n in range(5)]
    assert len(by_index(engine.generate(again))) == 5


def test_an_error_in_the_requests_is_raised(engine: VllmEngine) -> None:
    def broken() -> Iterator[Request]:
        yield asked(0)
        raise KeyError("shard")

    with pytest.raises(KeyError, match="shard"):
        list(engine.generate(broken()))
    assert len(by_index(engine.generate([asked(1)]))) == 1


def test_it_is_started_anew_and_ends_repeating_texts(model: Path, engine: VllmEngine) -> None:
    requests = [asked(n, max_tokens=100) for n in range(9)]
    plain = by_index(engine.generate(requests))
    rules = {"max_pattern_size": 6, "min_count": 3}
    recycled = VllmEngine(config_of(model, recycle_after=4, repetition=rules))
    starts = 0
    start = recycled._start

    def counted() -> None:
        nonlocal starts
        starts += 1
        start()

    recycled._start = counted  # type: ignore[method-assign]
    found = by_index(recycled.generate(requests))
    recycled.close()
    assert starts == 2
    assert {r.finish_reason for r in found.values()} >= {"repetition"}
    for number, result in found.items():
        if result.finish_reason == "repetition":
            assert plain[number].text.startswith(result.text)
            assert (result.num_tokens or 0) < (plain[number].num_tokens or 0)
        else:
            assert result == plain[number]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("kind", ["tensor", "data"])
def test_two_that_share_the_work_write_what_one_writes(
    model: Path, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "tensor":  # on a CPU each part of the model wants a core of its own
        cores = sorted(os.sched_getaffinity(0))[:2]
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, cores)))
    requests = [asked(n, temperature=n % 2) for n in range(30)]
    expected = by_index(engine.generate(requests))
    shared = VllmEngine(config_of(model, {**ARGUMENTS, f"{kind}_parallel_size": 2}))
    found = by_index(shared.generate(requests))
    shared.close()
    assert found == expected


def test_a_checkpoint_that_vllm_cannot_load_is_told(tmp_path: Path, model: Path) -> None:
    from vila2data.errors import BadInput

    with pytest.raises(BadInput, match="cannot be loaded"):
        VllmEngine(config_of(model, {"no_such": 1}))


def test_recaption_leaves_the_same_rows_as_the_engine_transformers(
    model: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    make_corpus(tmp_path / "corpus", 30, shards=3)
    rows = {}
    for name, own in (("vllm", {"engine_args": ARGUMENTS}), ("transformers", {"batch_size": 1})):
        recipe = write_recipe(
            tmp_path / f"{name}.yaml",
            recaption={
                "run": str(tmp_path / name),
                "engine": {"name": name, "model": str(model), "dtype": "float32", **own},
                "sampling": {"temperature": 0.0, "max_tokens": 24},
                "retry": {"times": 0},
            },
        )
        done = subprocess.run(
            [sys.executable, "-m", "vila2data", "recaption", str(recipe)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "destroyed" not in done.stderr
        tables = [pq.read_table(file) for file in sorted((tmp_path / name).rglob("*.parquet"))]
        columns = ["key", "caption", "finish_reason", "reject_reason", "num_tokens"]
        rows[name] = [row for table in tables for row in table.select(columns).to_pylist()]
    assert rows["vllm"] == rows["transformers"]
    assert len(rows["vllm"]) == 30
