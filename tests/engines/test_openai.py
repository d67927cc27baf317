import base64
import io
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from making import do, make_corpus, make_picture, parquet_hashes, write_recipe
from PIL import Image
from serving import Served, serving

from vila2data.build.manifest import read_manifest
from vila2data.engines import Request, Result, Sampling
from vila2data.engines.openai import OpenAIConfig, OpenAIEngine
from vila2data.engines.parallel import in_flight
from vila2data.errors import MissingExtra, RunFailed
from vila2data.keyed import keyed_hash
from vila2data.recaption.ledger import Ledger
from vila2data.recaption.run import run
from vila2data.recipe import load_recipe

QUICK = {"first_wait_s": 0.01, "timeout_s": 20.0, "tries": 3}


def engine_of(served: Served, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(OpenAIConfig(base_url=served.base_url, model="m", **QUICK | settings))


def request_of(index: int, image: Any = None, **sampling: Any) -> Request:
    asked = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 32, "seed": index, **sampling}
    return Request(
        index, image or make_picture(index), "Describe it.", Sampling(**asked), str(index)
    )


def answered(engine: OpenAIEngine, requests: list[Request]) -> dict[int, Result]:
    results = list(engine.generate(requests))
    assert len(results) == len({result.index for result in results})
    return {result.index: result for result in results}


def test_the_request_arrives_as_it_was_meant(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        engine = engine_of(served, extra_body={"top_k": 5})
        (result,) = engine.generate([request_of(3)])
        (note,) = served.notes()
    assert {
        k: note[k] for k in ("model", "temperature", "top_p", "max_tokens", "seed", "top_k")
    } == {
        "model": "m",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 32,
        "seed": 3,
        "top_k": 5,
    }
    assert note["prompt"] == "Describe it."
    assert result.finish_reason == "stop"
    assert result.num_prompt_tokens == 20
    assert result.num_tokens == len(result.text.split())
    assert result.author == engine.author
    assert result.author.engine.startswith("openai ")


def test_sound_images_arrive_as_their_own_bytes_and_turned_ones_upright(tmp_path: Path) -> None:
    lying = make_picture(4, exif_orientation=6)
    bitmap = io.BytesIO()
    Image.open(io.BytesIO(make_picture(1))).save(bitmap, "BMP")
    given: dict[int, Any] = {
        0: make_picture(0),
        1: make_picture(1),
        2: make_picture(2),
        3: lying,
        4: bitmap.getvalue(),
        5: Image.open(io.BytesIO(make_picture(1))).convert("RGB"),
    }
    with serving(tmp_path) as served:
        answered(engine_of(served), [request_of(i, image) for i, image in given.items()])
        urls = {note["seed"]: note["url"] for note in served.notes()}
    kinds = {i: url.partition(";")[0] for i, url in urls.items()}
    png = "data:image/png"
    assert kinds == {0: "data:image/jpeg", 1: png, 2: "data:image/webp", 3: png, 4: png, 5: png}
    arrived = {i: base64.b64decode(url.partition(",")[2]) for i, url in urls.items()}
    assert [arrived[i] == given[i] for i in (0, 1, 2)] == [True, True, True]
    stored = Image.open(io.BytesIO(lying))
    upright = Image.open(io.BytesIO(arrived[3]))
    assert upright.size == (stored.height, stored.width)
    assert upright.tobytes() == stored.transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "engine_500"),
        ("503", "engine_503"),
        ("429", "engine_429"),
        ("reset", "engine_unreachable"),
        ("cut_body", "engine_unreachable"),
        ("bad_json", "engine_bad_answer"),
        ("html", "engine_bad_answer"),
        ("empty_choices", "engine_bad_answer"),
        ("surrogate", "engine_bad_answer"),
        ("parts", "engine_bad_answer"),
        ("stall", "engine_timeout"),
    ],
)
def test_a_passing_fault_is_tried_again_and_a_lasting_one_named(
    tmp_path: Path, fault: str, reason: str
) -> None:
    lasting = keyed_image_hash(1)
    with serving(tmp_path, faults=[fault], times=2, bad={lasting: fault}) as served:
        patience_s = 1.0 if fault == "stall" else 20.0
        engine = engine_of(served, in_flight=3, timeout_s=patience_s)
        results = answered(engine, [request_of(i) for i in range(3)])
        tries = Counter(note["seed"] for note in served.notes())
    assert tries == {0: 3, 1: 3, 2: 3}
    assert [results[i].finish_reason for i in range(3)] == ["stop", "error", "stop"]
    assert results[1].error_reason == reason
    assert results[1].retriable
    assert "\n" not in results[1].error_detail


def keyed_image_hash(index: int) -> str:
    from hashlib import sha256

    return sha256(make_picture(index)).hexdigest()


@pytest.mark.parametrize(
    ("fault", "finish", "reason", "tries"),
    [
        ("length", "length", "", 1),
        ("filter", "error", "engine_stopped", 1),
        ("400", "error", "engine_refused", 1),
        ("no_usage", "stop", "", 1),
    ],
)
def test_an_answer_that_is_final_is_not_tried_again(
    tmp_path: Path, fault: str, finish: str, reason: str, tries: int
) -> None:
    with serving(tmp_path, bad={keyed_image_hash(1): fault}) as served:
        results = answered(engine_of(served), [request_of(i) for i in range(3)])
        assert Counter(note["seed"] for note in served.notes())[1] == tries
    assert (results[1].finish_reason, results[1].error_reason) == (finish, reason)
    assert [results[i].finish_reason for i in (0, 2)] == ["stop", "stop"]
    assert results[1].retriable == (fault != "400")
    if fault == "no_usage":
        assert results[1].num_tokens is None


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, faults=["429"], retry_after="0.4") as served:
        answered(engine_of(served), [request_of(0)])
        first, second = (note["at_s"] for note in served.notes())
    assert second - first >= 0.4


def test_no_more_requests_are_in_flight_than_asked_for_and_none_is_drawn_early(
    tmp_path: Path,
) -> None:
    drawn = 0

    def requests() -> Any:
        nonlocal drawn
        for index in range(24):
            drawn += 1
            yield request_of(index)

    taken = 0
    with serving(tmp_path, work_s=0.03) as served:
        for _ in engine_of(served, in_flight=4).generate(requests()):
            taken += 1
            assert drawn <= taken + 4
        most = max(note["active"] for note in served.notes())
    assert (taken, most) == (24, 4)


def test_an_image_that_cannot_be_decoded_never_reaches_the_server(tmp_path: Path) -> None:
    cut = make_picture(0)[:200]
    with serving(tmp_path) as served:
        results = answered(engine_of(served), [request_of(0, cut), request_of(1)])
        assert len(served.notes()) == 1
    assert results[0].error_reason == "image_undecodable"
    assert not results[0].retriable


def test_a_wrong_key_stops_the_run_and_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, key="right") as served:
        monkeypatch.setenv("MY_KEY", "wrong")
        engine = engine_of(served, api_key_env="MY_KEY")
        with pytest.raises(RunFailed, match=r"answers 401 for model 'm': .*\$MY_KEY"):
            list(engine.generate([request_of(i) for i in range(40)]))
        monkeypatch.setenv("MY_KEY", "right")
        engine = engine_of(served, api_key_env="MY_KEY")
        assert answered(engine, [request_of(0)])[0].finish_reason == "stop"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def openai_recipe(folder: Path, base_url: str, **settings: Any) -> Path:
    engine = {"name": "openai", "base_url": base_url, "model": "m", **QUICK, **settings}
    return write_recipe(folder / "recipe.yaml", recaption={"engine": engine})


def test_a_server_that_is_down_finishes_no_shard_and_the_run_goes_on_when_it_is_up(
    tmp_path: Path,
) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=3)
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    recipe_file = openai_recipe(tmp_path, url, tries=1)
    recipe = load_recipe(recipe_file)
    with pytest.raises(RunFailed, match=r"12 requests in a row failed.*is the server at .* up\?"):
        run(recipe.recaption, recipe.corpus, seed=0)
    gives_up = load_recipe(recipe_file, ["recaption.engine.give_up_after=3"])
    with pytest.raises(RunFailed, match="3 requests in a row failed, the last with engine_unrea"):
        run(gives_up.recaption, recipe.corpus, seed=0)
    assert list((recipe.recaption.run / "shards").glob("*.parquet")) == []
    with serving(tmp_path, port=port):
        interrupted = do(recipe_file)
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    make_corpus(quiet / "corpus", 12, shards=3)
    with serving(quiet) as served:
        undisturbed = do(openai_recipe(quiet, served.base_url))
    assert parquet_hashes(interrupted) == parquet_hashes(undisturbed)


def test_a_server_that_dies_between_shards_leaves_the_finished_ones(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=3)
    with serving(tmp_path) as served:
        recipe = load_recipe(openai_recipe(tmp_path, served.base_url, tries=1))
        engine = OpenAIEngine(recipe.recaption.engine)
        list(engine.generate([request_of(0)]))
    with pytest.raises(RunFailed, match="12 requests in a row failed"):
        run(recipe.recaption, recipe.corpus, seed=0, engine=engine)
    ledger = Ledger.open(recipe.recaption.run)
    assert ledger.finished([recipe.corpus / "00000.tar"]) == {}


def test_one_sample_that_the_server_cannot_take_does_not_stop_the_run(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    bad = {keyed_image_hash(i): fault for i, fault in ((2, "500"), (3, "400"), (5, "500"))}
    with serving(tmp_path, bad=bad) as served:
        build = do(openai_recipe(tmp_path, served.base_url, tries=1))
    step = next(step for step in read_manifest(build).funnel if step.step == "round1")
    assert (step.read, step.written) == (6, 3)
    assert step.rejected == {"engine_500": 2, "engine_refused": 1}


def test_a_failed_run_ends_at_once_though_the_server_stalls(tmp_path: Path) -> None:
    script = """
import sys
from making import make_picture
from vila2data.engines import Request, Sampling
from vila2data.engines.openai import OpenAIConfig, OpenAIEngine
engine = OpenAIEngine(OpenAIConfig(base_url=sys.argv[1], model="m", timeout_s=60))
requests = [Request(i, make_picture(i), "x", Sampling(seed=i)) for i in range(8)]
def cut():
    yield from requests
    raise KeyboardInterrupt
list(engine.generate(cut()))
"""
    with serving(tmp_path, always="stall", stall_s=30) as served:
        began_s = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-c", script, served.base_url], capture_output=True, text=True
        )
    assert "KeyboardInterrupt" in ended.stderr
    assert time.monotonic() - began_s < 20


def test_answers_are_the_same_whatever_the_number_in_flight_and_the_faults(tmp_path: Path) -> None:
    requests = [request_of(i, seed=keyed_hash(i) % 1000) for i in range(12)]
    told = []
    faults = ["none", "500", "reset", "bad_json", "429"]
    for number, (limit, dealt) in enumerate([(1, []), (5, faults), (64, faults)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(folder, faults=dealt) as served:
            told.append(answered(engine_of(served, in_flight=limit), requests))
    assert told[0] == told[1] == told[2]


def test_what_a_thread_raises_is_raised_by_the_generator() -> None:
    def answer(request: Request, _: Any) -> Result:
        raise RunFailed(f"no {request.index}")

    with pytest.raises(RunFailed, match="no 7"):
        list(in_flight(answer, [request_of(7)], 4))


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"openai is not installed.*'vila2data\[openai\]'"):
        OpenAIEngine(OpenAIConfig(base_url="http://127.0.0.1:1/v1", model="m"))
