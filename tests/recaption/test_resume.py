import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from making import do, make_corpus, make_picture, parquet_hashes, write_recipe
from vila2data_fakes import Answers, told

from vila2data.corpus.pack import pack
from vila2data.corpus.sources import SourceItem
from vila2data.engines import Result
from vila2data.errors import CorpusError, RunRefused
from vila2data.recaption.ledger import Ledger
from vila2data.recaption.run import plan, run, shaping_of
from vila2data.recipe import load_recipe

CLI = "from vila2data.cli import main; main()"
FAKE = {"name": "fake", "cut_share": 0.5}


def loaded(tmp_path: Path, overrides: tuple[str, ...] = (), **blocks: Any) -> Any:
    blocks.setdefault("recaption", {"engine": FAKE})
    return load_recipe(write_recipe(tmp_path / "r.yaml", **blocks), overrides)


def test_a_run_that_was_interrupted_between_any_two_results_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=3)
    quiet = write_recipe(
        tmp_path / "quiet.yaml",
        out=str(tmp_path / "quiet"),
        recaption={"run": str(tmp_path / "runs" / "quiet")},
    )
    expected = parquet_hashes(do(quiet, engine=Answers(answers_of([]))))
    recipe = loaded(tmp_path)
    keys: list[str] = []
    for stop_after in (0, 1, 3, 4, 5, 6, 2):
        interrupting = Answers(answers_of(keys, stop_after))
        with pytest.raises(KeyboardInterrupt):
            run(recipe.recaption, recipe.corpus, seed=0, engine=interrupting)
    assert 0 < len(plan(recipe.recaption, recipe.corpus, seed=0).finished) < 3
    build = do(tmp_path / "r.yaml", engine=Answers(answers_of(keys)))
    assert parquet_hashes(build) == expected


def answers_of(keys: list[str], stop_after: int | None = None) -> Any:
    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            if stop_after is not None and len(keys) == stop_after:
                keys.clear()
                raise KeyboardInterrupt
            keys.append(request.key)
            yield told(request)

    return answer


def test_a_finished_shard_is_never_asked_for_again(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 12, shards=3)
    recipe = loaded(tmp_path)
    first: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answers_of_up_to(first, 9)))
    finished = len(plan(recipe.recaption, recipe.corpus, seed=0).finished)
    assert finished == 1
    second: list[str] = []
    run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answers_of_up_to(second)))
    assert set(second) == {f"{n:05d}" for n in range(4, 12)}
    third: list[str] = []
    run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answers_of_up_to(third)))
    assert third == []


def answers_of_up_to(keys: list[str], limit: int = 1000) -> Any:
    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            if len(keys) == limit:
                raise KeyboardInterrupt
            keys.append(request.key)
            yield told(request)

    return answer


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=7", "seed: 0 in the run, 7 now"),
        ("recaption.sampling.temperature=0.9", r"sampling\.temperature: 0\.7 in the run, 0\.9 now"),
        ("recaption.sampling.max_tokens=9", r"sampling\.max_tokens: 64 in the run, 9 now"),
        ("recaption.sampling.top_p=0.5", r"sampling\.top_p: 0\.9 in the run, 0\.5 now"),
        ("recaption.retry.times=5", r"retry\.times: 2 in the run, 5 now"),
        ("recaption.retry.temperature=1.0", r"retry\.temperature: None in the run, 1\.0 now"),
        ("recaption.round=2", "round: 1 in the run, 2 now"),
        ("recaption.task=ocr", "task: general in the run, ocr now"),
        ("recaption.fraction=0.5", r"fraction: 1\.0 in the run, 0\.5 now"),
        ("recaption.prompts={long-v1: 1}", r"prompts\.long-v2\.sha256: \w{64} in the run, not set"),
        ("recaption.prompts.long-v1=2", r"prompts\.long-v1\.weight: 1\.0 in the run, 2\.0 now"),
        ("recaption.own_prompts={mine: Say it}", r"prompts\.mine\.sha256: \w{64} in the run"),
        ("recaption.prompt_per=round", "prompt_per: image in the run, round now"),
        ("recaption.template=recaption_only", "template: concatenated in the run, recaption_only"),
        ("recaption.gate.echo_words=5", r"gate\.echo_words: 8 in the run, 5 now"),
        ("recaption.limits.max_text_bytes=9", r"limits\.max_text_bytes: 65536 in the run, 9 now"),
        ("recaption.engine.flavour=sweet", r"engine\.flavour: plain in the run, sweet now"),
        ("recaption.engine.cut_share=0", r"engine\.cut_share: 0\.5 in the run, 0\.0 now"),
    ],
)
def test_a_changed_recipe_is_refused_with_the_difference(
    tmp_path: Path, override: str, difference: str
) -> None:
    make_corpus(tmp_path / "corpus", 2)
    settings = {
        "engine": FAKE,
        "own_prompts": {"mine": "Tell it"},
        "prompts": {"long-v1": 1.0, "long-v2": 1.0, "mine": 1.0},
    }
    recipe = loaded(tmp_path, recaption=settings)
    run(recipe.recaption, recipe.corpus, seed=recipe.seed)
    changed = loaded(tmp_path, (override,), recaption=settings)
    for action in (run, plan):
        with pytest.raises(RunRefused, match=rf"round1 was begun with other.*{difference}.*Set"):
            action(changed.recaption, changed.corpus, seed=changed.seed)


def test_every_difference_is_named_at_once(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 2)
    recipe = loaded(tmp_path)
    run(recipe.recaption, recipe.corpus, seed=0)
    changed = loaded(tmp_path, ("recaption.round=2", "recaption.sampling.top_p=0.5"))
    with pytest.raises(RunRefused, match=r"round: 1 .*; sampling\.top_p: 0\.9 .*; seed: 0 in"):
        run(changed.recaption, changed.corpus, seed=4)


def test_throughput_settings_may_change_between_starts(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 8, shards=4)
    recipe = loaded(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answers_of_up_to([], 5)))
    faster = loaded(
        tmp_path,
        (
            "recaption.engine.batch_size=64",
            "recaption.engine.delay_s=0.001",
            "recaption.executor.workers=2",
        ),
    )
    assert run(faster.recaption, faster.corpus, seed=0).read == 8


def test_the_same_corpus_at_another_place_is_no_change(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 8, shards=2)
    recipe = loaded(tmp_path)
    run(recipe.recaption, recipe.corpus, seed=0)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "corpus", moved, copy_function=shutil.copyfile)  # new times
    assert len(plan(recipe.recaption, moved, seed=0).finished) == 2


def item(number: int, text: str) -> SourceItem:
    return SourceItem(f"{number:05d}", lambda: make_picture(number), text.encode())


@pytest.mark.parametrize("change", ["caption", "image", "bytes appended", "sample dropped"])
def test_a_changed_corpus_shard_is_refused(tmp_path: Path, change: str) -> None:
    corpus = tmp_path / "corpus"
    pack([item(n, f"text {n}") for n in range(4)], corpus, samples_per_shard=2)
    recipe = loaded(tmp_path)
    run(recipe.recaption, corpus, seed=0)
    tar = corpus / "00001.tar"
    size = tar.stat().st_size
    if change == "bytes appended":
        with tar.open("ab") as file:
            file.write(b"\0" * 512)
    else:
        items = {
            "caption": [item(0, "text 0"), item(1, "text 1"), item(2, "text 2"), item(3, "text X")],
            "image": [*(item(n, f"text {n}") for n in range(3)), item(6, "text 3")],
            "sample dropped": [item(n, f"text {n}") for n in range(3)],
        }[change]
        other = tmp_path / "other"
        pack(items, other, samples_per_shard=2)
        tar.write_bytes((other / "00001.tar").read_bytes())
    assert (tar.stat().st_size == size) or change != "caption"  # a tar's size tells little
    for action in (run, plan):
        with pytest.raises(
            CorpusError, match=r"00001\.tar: has changed since .*another run folder"
        ):
            action(recipe.recaption, corpus, seed=0)


def test_a_shard_that_the_corpus_has_lost_is_named(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    recipe = loaded(tmp_path)
    run(recipe.recaption, recipe.corpus, seed=0)
    (tmp_path / "corpus" / "00002.tar").unlink()
    with pytest.raises(CorpusError, match="holds shards that the corpus does not: 00002"):
        run(recipe.recaption, recipe.corpus, seed=0)


def test_shards_that_the_corpus_has_gained_are_done(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4, shards=2)
    recipe = loaded(tmp_path)
    run(recipe.recaption, recipe.corpus, seed=0)
    shutil.rmtree(tmp_path / "corpus")
    make_corpus(tmp_path / "corpus", 8, shards=4)
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 8


def test_a_second_driver_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4)
    recipe = loaded(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def answer(requests: Any) -> Iterator[Result]:
        for request in requests:
            begun.set()
            go_on.wait(60)
            yield told(request)

    counts = []
    first = threading.Thread(
        target=lambda: counts.append(
            run(recipe.recaption, recipe.corpus, seed=0, engine=Answers(answer))
        )
    )
    first.start()
    assert begun.wait(60)
    second = subprocess.run(
        [sys.executable, "-c", CLI, "recaption", str(tmp_path / "r.yaml")],
        capture_output=True,
        text=True,
    )
    go_on.set()
    first.join()
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: {tmp_path}/runs/round1: another process works on this")
    assert second.stderr.count("\n") == 1
    assert counts[0].read == 4


def test_a_partial_file_that_a_killed_process_left_does_no_harm(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4, shards=2)
    recipe = loaded(tmp_path)
    Ledger.create(recipe.recaption.run, shaping_of(recipe.recaption, seed=0))
    (recipe.recaption.run / "shards" / ".00000.parquet.partial").write_bytes(b"half a file")
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 4
    assert sorted(p.name for p in (recipe.recaption.run / "shards").iterdir()) == [
        "00000.parquet",
        "00001.parquet",
    ]


def started(recipe_file: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", CLI, "recaption", recipe_file],
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell that starts the tests in the background has them, and so their children, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_lines(log: Path, count: int) -> list[str]:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        lines = log.read_text().splitlines() if log.is_file() else []
        if len(lines) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(f"{log}: fewer than {count} lines")


def is_alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path: Path, how: signal.Signals) -> None:
    make_corpus(tmp_path / "corpus", 80, shards=2)
    log = tmp_path / "log"
    engine = {**FAKE, "delay_s": 0.5, "log": str(log)}
    file = write_recipe(
        tmp_path / "r.yaml", recaption={"engine": engine, "executor": {"workers": 2}}
    )
    driver = started(file)
    lines = wait_for_lines(log, 3)
    workers = {int(line.split()[0]) for line in lines}
    os.kill(driver.pid, how)
    _, stderr = driver.communicate(timeout=60)
    until_s = time.monotonic() + 30
    while any(is_alive(worker) for worker in workers) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not any(is_alive(worker) for worker in workers)
    assert list((tmp_path / "runs" / "round1" / "shards").glob("*.parquet")) == []
    if how == signal.SIGINT:
        assert driver.returncode not in (0, None)
        assert b"Traceback" not in stderr
