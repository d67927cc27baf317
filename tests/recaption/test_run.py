import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from making import do, make_corpus, parquet_hashes, write_recipe
from serving import serving
from vila2data_fakes import AUTHOR, Answers, told

from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.views import connect
from vila2data.corpus.pack import pack
from vila2data.corpus.read import list_shards, read_corpus
from vila2data.corpus.sources import SourceItem
from vila2data.counts import Counts
from vila2data.engines import Request, Result, failed
from vila2data.errors import BadInput, CountsDoNotBalance, RunFailed
from vila2data.recaption.run import plan, run
from vila2data.recaption.shard import caption_shards
from vila2data.recipe import load_recipe

FAKE = {"name": "fake", "cut_share": 0.5}
CONFIGS = ["original", "original-rejects", "round1", "round1-rejects", "conversations"]


@pytest.mark.shared
@pytest.mark.slow
def test_forty_photos_go_the_whole_way_twice(
    tmp_path: Path, tiny_llava: Path, shared_data: Path, cli: Callable[..., Any]
) -> None:
    coco = shared_data / "captions" / "coco"
    packed = cli(
        *("corpus", "pack", coco / "images", "--captions", coco / "captions.json"),
        *("--out", tmp_path / "corpus", "--samples-per-shard", 16),
    )
    assert packed.returncode == 0, packed.stderr
    originals = {sample.key: sample.text for sample in read_corpus(tmp_path / "corpus")}
    assert len(originals) == 40
    assert all(originals.values())

    engine = {"name": "transformers", "model": str(tiny_llava), "dtype": "float32"}
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 120}
    first_recipe = write_recipe(
        tmp_path / "first.yaml", recaption={"engine": engine, "sampling": sampling}
    )
    first = do(first_recipe)
    check_round(first, "round1", originals, "tiny-llava")

    # An answer of 1 in 12 is lost on every try, another is refused.
    faults = ["none", "500", "reset", "stall", "bad_json", "length", "cut_body", "429", "filter"]
    with serving(tmp_path, faults=faults, times=2, stall_s=0.8) as served:
        server = {"name": "openai", "base_url": served.base_url, "model": "m", "in_flight": 8}
        server |= {"first_wait_s": 0.01, "timeout_s": 0.4, "tries": 2}
        second = do(
            write_recipe(
                tmp_path / "second.yaml",
                version="1.1.0",
                base=str(first),
                recaption={"engine": server, "round": 2, "run": str(tmp_path / "runs" / "round2")},
            )
        )
        seen = {note["fault"] for note in served.notes()}
    assert seen == set(faults)
    check_round(second, "round2", originals, "m")
    for config in CONFIGS[:-1]:
        for file in (first / "data" / config).iterdir():
            assert file.samefile(second / "data" / config / file.name)


def check_round(build: Path, config: str, originals: dict[str, str], captioner: str) -> None:
    """The build verifies, loads both ways, answers SQL, and every photo stands in ``config`` or in
    its rejects.
    """
    from datasets import load_dataset

    assert verify(build).problems == []
    rows = {}
    for name in (config, f"{config}-rejects"):
        eager = load_dataset(str(build), name, split="train")
        streamed = load_dataset(str(build), name, split="train", streaming=True)
        assert streamed.features == eager.features
        assert list(streamed) == eager.to_list()
        rows |= {row["key"]: row for row in eager}
        assert len(eager) == read_manifest(build).rows_of(name)
    assert {key: row["original"] for key, row in rows.items()} == originals
    assert {row["captioner"] for row in rows.values()} == {captioner}
    kept = [row for row in rows.values() if "reject_reason" not in row]
    assert kept
    assert {row["finish_reason"] for row in kept} == {"stop"}
    step = next(step for step in read_manifest(build).funnel if step.step == config)
    assert (step.read, step.written) == (40, len(kept))
    assert sum(step.rejected.values()) == 40 - len(kept)
    default = load_dataset(str(build), split="train")
    assert len(default) == 40
    query = f"SELECT count(*), count(DISTINCT key), min(num_words) > 0 FROM {config}"
    assert connect(build).execute(query).fetchall() == [(len(kept), len(kept), True)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The build of 40 samples in one shard, by one worker, one request at a time."""
    folder = tmp_path_factory.mktemp("expected")
    make_corpus(folder / "corpus", 40)
    build = do(write_recipe(folder / "r.yaml", recaption={"engine": {**FAKE, "batch_size": 1}}))
    files = {f"data/{config}/train-00000-of-00001.parquet" for config in CONFIGS}
    assert set(parquet_hashes(build)) == files
    manifest = read_manifest(build)
    assert min(manifest.rows_of("round1"), manifest.rows_of("round1-rejects")) > 3
    return parquet_hashes(build)


@pytest.mark.parametrize(
    ("shards", "workers", "batch_size"), [(3, 1, 7), (8, 1, 64), (8, 2, 3), (3, 2, 1)]
)
def test_shards_workers_and_batches_do_not_change_a_byte(
    tmp_path: Path, expected: dict[str, str], shards: int, workers: int, batch_size: int
) -> None:
    make_corpus(tmp_path / "corpus", 40, shards=shards)
    engine = {**FAKE, "batch_size": batch_size}
    recipe = write_recipe(
        tmp_path / "r.yaml", recaption={"engine": engine, "executor": {"workers": workers}}
    )
    assert parquet_hashes(do(recipe)) == expected


@pytest.mark.slow
def test_a_real_model_writes_the_same_rows_whatever_the_split(
    tmp_path: Path, tiny_llava: Path
) -> None:
    builds = []
    for shards, batch_size in ((1, 8), (4, 3)):
        folder = tmp_path / str(shards)
        folder.mkdir()
        make_corpus(folder / "corpus", 16, shards=shards)
        engine = {"name": "transformers", "model": str(tiny_llava), "dtype": "float32"}
        sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 40}
        recaption = {"engine": {**engine, "batch_size": batch_size}, "sampling": sampling}
        builds.append(do(write_recipe(folder / "r.yaml", recaption=recaption)))
    assert parquet_hashes(builds[0]) == parquet_hashes(builds[1])


def test_a_fraction_takes_the_same_samples_from_any_shards(tmp_path: Path) -> None:
    keys = []
    for shards in (1, 5):
        corpus = make_corpus(tmp_path / f"corpus{shards}", 40, shards=shards)
        settings = {"fraction": 0.4, "run": str(tmp_path / f"run{shards}")}
        recipe = load_recipe(
            write_recipe(tmp_path / "r.yaml", corpus=str(corpus), recaption=settings)
        )
        counts = run(recipe.recaption, corpus, seed=0)
        assert counts.read == 40
        files = sorted((tmp_path / f"run{shards}" / "shards").glob("*.parquet"))
        keys.append([k for f in files for k in pq.read_table(f)["key"].to_pylist()])
        assert len(keys[-1]) == 40 - counts.not_sampled
    assert keys[0] == keys[1]
    assert 8 <= len(keys[0]) <= 24


def run_with(tmp_path: Path, answer: Any, count: int = 6, **recaption: Any) -> Counts:
    corpus = make_corpus(tmp_path / "corpus", count)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", recaption=recaption))
    return run(recipe.recaption, corpus, seed=0, engine=Answers(answer))


def loses_one(requests: Any) -> Iterator[Result]:
    return (told(r, cut_share=0) for r in requests if r.index != 3)


def stops_early(requests: Any) -> Iterator[Result]:
    return (told(r, cut_share=0) for r, _ in zip(requests, range(2), strict=False))


def says_nothing(requests: Any) -> Iterator[Result]:
    return iter(())


def repeats_one(requests: Any) -> Iterator[Result]:
    for request in requests:
        yield told(request, cut_share=0)
        if request.index == 3:
            yield told(request, cut_share=0)


def invents_one(requests: Any) -> Iterator[Result]:
    for request in requests:
        yield told(request, cut_share=0)
    yield Result(77, "invented.", "stop", AUTHOR)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (loses_one, r"00000\.tar: the engine gave no result for 1 requests"),
        (stops_early, r"00000\.tar: the engine gave no result for 2 requests and drew no more"),
        (says_nothing, r"00000\.tar: the engine gave no result for 1 requests and drew no more"),
        (repeats_one, "gave a result for index 3, which was not asked for or is answered already"),
        (invents_one, "gave a result for index 77, which was not asked for or is answered already"),
    ],
)
def test_an_engine_that_loses_or_invents_results_fails_the_run(
    tmp_path: Path, answer: Any, message: str
) -> None:
    with pytest.raises(CountsDoNotBalance, match=message):
        run_with(tmp_path, answer)
    assert list((tmp_path / "runs" / "round1" / "shards").glob("*.parquet")) == []


def in_disorder(window: int, seed: int) -> Callable[[Any], Iterator[Result]]:
    """An engine that holds ``window`` requests and answers any of them."""
    drawn = random.Random(seed)

    def answer(requests: Any) -> Iterator[Result]:
        held: list[Request] = []
        for request in requests:
            held.append(request)
            if len(held) == window:
                yield told(held.pop(drawn.randrange(window)), cut_share=0.6)
        drawn.shuffle(held)
        yield from (told(request, cut_share=0.6) for request in held)

    return answer


@pytest.mark.parametrize("window", [1, 5, 12, 100])
def test_shards_that_overlap_are_written_as_if_each_were_alone(tmp_path: Path, window: int) -> None:
    corpus = make_corpus(tmp_path / "corpus", 36, shards=6)
    retry = {"retry": {"times": 3, "temperature": 0.9}}

    def written(name: str, shards: list[Path], answer: Any) -> list[Any]:
        folder = tmp_path / name
        recipe = load_recipe(
            write_recipe(tmp_path / "r.yaml", recaption={**retry, "run": str(folder)})
        )
        found = caption_shards(shards, recipe.recaption, Answers(answer), seed=0)
        return sorted((shard, table.to_pylist(), counts) for shard, table, counts in found)

    shards = list_shards(corpus)
    alone = [row for shard in shards for row in written("alone", [shard], in_disorder(1, 0))]
    attempts = {row["attempts"] for _, rows, _ in alone for row in rows}
    assert len(attempts) == 4, "some samples are asked again until no attempt is left"
    for seed in range(5):
        assert written("together", shards, in_disorder(window, seed)) == alone


def test_the_engine_is_never_without_requests_between_shards(tmp_path: Path) -> None:
    """Until the last shard is drawn it holds all that it can hold."""
    corpus = make_corpus(tmp_path / "corpus", 40, shards=8)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"))
    held: list[int] = []

    def filled(requests: Any) -> Iterator[Result]:
        drawn, waiting = iter(requests), deque[Request]()
        while True:
            waiting.extend(islice(drawn, 12 - len(waiting)))
            if not waiting:
                return
            held.append(len(waiting))
            yield told(waiting.popleft(), cut_share=0)

    order = []
    for shard, _, _ in caption_shards(
        list_shards(corpus), recipe.recaption, Answers(filled), seed=0
    ):
        order.append((shard.name, len(held)))
    assert held == [12] * 29 + list(range(11, 0, -1))
    assert [name for name, _ in order] == [f"{n:05d}.tar" for n in range(8)]
    assert [at for _, at in order] == [5 * n for n in range(1, 9)], "each as soon as it is whole"


def test_counts_that_do_not_balance_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(CountsDoNotBalance, match=r"x: read 5, but written 3 \+ rejected 1 .* = 4"):
        Counts(read=5, written=3, rejected={"length": 1}).check("x")


def test_a_rejected_caption_is_drawn_again_with_another_seed_a_bounded_number_of_times(
    tmp_path: Path,
) -> None:
    seeds: dict[int, list[int]] = {}
    places: dict[str | None, int] = {}  # those that are asked again have another index

    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            place = places.setdefault(request.image_sha256, len(places))
            tries = seeds.setdefault(place, [])
            tries.append(request.sampling.seed)
            good = 0 < place < len(tries)
            yield Result(
                request.index,
                "a cat sits." if good else "a cat",
                "stop" if good else "length",
                AUTHOR,
            )

    counts = run_with(tmp_path, answer, 5, retry={"times": 3})
    assert {index: len(tries) for index, tries in seeds.items()} == {0: 4, 1: 2, 2: 3, 3: 4, 4: 4}
    assert all(len(set(tries)) == len(tries) for tries in seeds.values())
    assert counts == Counts(5, 3, {"length": 2}, 0)
    rows = pq.read_table(tmp_path / "runs" / "round1" / "shards" / "00000.parquet").to_pylist()
    assert [row["attempts"] for row in rows] == [4, 2, 3, 4, 4]
    assert [row["seed"] for row in rows] == [seeds[index][-1] for index in range(5)]
    assert rows[0]["caption"] == "a cat"  # kept as it was, with its reason
    assert rows[0]["reject_reason"] == "length"


def test_an_error_that_another_seed_cannot_help_is_not_tried_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            asked.append(request.index)
            yield failed(request.index, AUTHOR, "engine_refused", "400", retriable=False)

    assert run_with(tmp_path, answer, 3).rejected == {"engine_refused": 3}
    assert asked == [0, 1, 2]


def test_text_that_is_no_unicode_does_not_stop_the_run(tmp_path: Path) -> None:
    def answer(requests: Any) -> Iterator[Result]:
        return (Result(r.index, "a cat \ud800 sits.", "stop", AUTHOR) for r in requests)

    assert run_with(tmp_path, answer, 2).written == 2
    rows = pq.read_table(tmp_path / "runs" / "round1" / "shards" / "00000.parquet").to_pylist()
    assert {row["caption"] for row in rows} == {"a cat ? sits."}


def test_memory_and_images_are_drawn_one_by_one(tmp_path: Path) -> None:
    """The requests are lazy: an engine that takes one at a time finds one image alive."""
    alive: list[Request] = []

    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            alive.append(request)
            yield told(alive.pop(), cut_share=0)

    assert run_with(tmp_path, answer, 6).written == 6


def test_progress_counts_each_sample_once(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 20, shards=3)
    settings: dict[str, Any] = {"engine": FAKE, "fraction": 0.7}
    for workers in (1, 2):
        done: list[int] = []
        settings |= {"executor": {"workers": workers}, "run": str(tmp_path / f"run{workers}")}
        recipe = load_recipe(write_recipe(tmp_path / "r.yaml", recaption=settings))
        run(recipe.recaption, recipe.corpus, seed=0, on_sample=done.append)
        assert sum(done) == 20


def test_an_engine_that_cannot_start_says_so_from_a_worker_too(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4, shards=2)
    engine = {**FAKE, "break_on": "start"}
    for workers in (1, 2):
        recipe = load_recipe(
            write_recipe(
                tmp_path / "r.yaml", recaption={"engine": engine, "executor": {"workers": workers}}
            )
        )
        with pytest.raises(BadInput, match=r"engine\.break_on: the fake engine does not start"):
            run(recipe.recaption, recipe.corpus, seed=0)


def test_a_worker_that_dies_fails_the_run_and_keeps_the_finished_shards(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=4)
    engine = {**FAKE, "break_on": "00011"}
    file = write_recipe(
        tmp_path / "r.yaml", recaption={"engine": engine, "executor": {"workers": 2}}
    )
    recipe = load_recipe(file)
    with pytest.raises(RunFailed, match=r"a worker process died .* run the same command again"):
        run(recipe.recaption, recipe.corpus, seed=0)
    finished = plan(recipe.recaption, recipe.corpus, seed=0).finished
    assert recipe.corpus / "00003.tar" not in finished
    assert len(finished) >= 1
    healed = load_recipe(file, ["recaption.engine.break_on=''"])
    assert run(healed.recaption, recipe.corpus, seed=0).read == 12


def test_a_recipe_whose_engine_cannot_start_is_refused_before_the_run(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 2)
    file = write_recipe(
        tmp_path / "r.yaml", recaption={"engine": {"name": "fake", "problem": "no paper"}}
    )
    with pytest.raises(BadInput, match=r"recaption\.engine\.problem: no paper"):
        load_recipe(file)


PEAK = """
import resource, sys
from making import *
from vila2data.recipe import load_recipe
from vila2data.recaption.run import run
recipe = load_recipe(sys.argv[1])
counts = run(recipe.recaption, recipe.corpus, seed=0)
print(counts.read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_is_flat_from_one_to_eight_shards(tmp_path: Path) -> None:
    """Shards of 40 images of 1 MB: one shard in memory would show."""
    import os

    pictures = [os.urandom(1_000_000) for _ in range(4)]
    peaks = {}
    for shards in (1, 8):
        corpus = tmp_path / f"corpus{shards}"
        items = (heavy_item(n, pictures[n % 4]) for n in range(40 * shards))
        pack(items, corpus, samples_per_shard=40)
        file = write_recipe(
            tmp_path / f"{shards}.yaml",
            corpus=str(corpus),
            recaption={"run": str(tmp_path / f"run{shards}")},
        )
        told = subprocess.run(
            [sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert int(told[0]) == 40 * shards
        peaks[shards] = int(told[1])
    assert peaks[8] < peaks[1] + 12_000  # KiB


def heavy_item(number: int, noise: bytes) -> SourceItem:
    """A PNG of about a megabyte, most of it in a comment, so that it is quickly made."""
    import io

    from PIL import Image, PngImagePlugin

    extra = PngImagePlugin.PngInfo()
    extra.add(b"vpAg", noise + number.to_bytes(4, "big"))
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number % 256, 0, 0)).save(buffer, "PNG", pnginfo=extra)
    return SourceItem(f"{number:06d}", buffer.getvalue, b"text")
