import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from making import make_corpus, parquet_hashes, write_recipe
from vila2data_fakes import Answers, told

from vila2data.errors import CountsDoNotBalance
from vila2data.recaption.observe import Account, Figures
from vila2data.recaption.run import run
from vila2data.recaption.runlog import LOG_FILE, RunLog, logged
from vila2data.recipe import load_recipe


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_its_account_in_its_folder(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 20, shards=2)
    engine = {"name": "fake", "cut_share": 0.6}
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml", recaption={"engine": engine}))
    counts = run(recipe.recaption, recipe.corpus, seed=0)
    log = recipe.recaption.run / LOG_FILE
    (line,) = lines_of(log)
    assert (line["state"], line["config"], line["pid"]) == ("done", "round1", os.getpid())
    assert (line["images"], line["kept"]) == (20, counts.written)
    assert line["rejected"] == counts.rejected
    assert counts.rejected
    assert line["images_per_s"] > 0
    assert line["elapsed_s"] >= line["engine_s"] > 0
    said = datetime.fromisoformat(line["time"])
    assert said.utcoffset() == timedelta(0)
    run(recipe.recaption, recipe.corpus, seed=0)  # nothing is left to do, or to tell
    assert len(lines_of(log)) == 1


def test_a_run_that_fails_says_so_last(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 4)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"))
    engine = Answers(lambda requests: (told(r, cut_share=0) for r in list(requests)[1:]))
    with pytest.raises(CountsDoNotBalance, match="no result for 1 requests"):
        run(recipe.recaption, recipe.corpus, seed=0, engine=engine)
    (line,) = lines_of(recipe.recaption.run / LOG_FILE)
    assert (line["state"], line["images"]) == ("failed", 3)


def test_the_rates_of_a_line_are_monotonic_whatever_the_wall_clock_does(tmp_path: Path) -> None:
    clock = Clock()
    account = Account(clock=clock)
    wall = iter([datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)])
    log = RunLog(tmp_path / "log", account, config="round1", now=lambda: next(wall))
    for kept in (100, 300):
        clock.now_s += 10
        account.add(Figures(kept=kept, output_tokens=kept * 9, busy_s=8.0, engine_s=10.0))
        log.write("running")
    first, second = lines_of(tmp_path / "log")
    assert [first["time"], second["time"]] == [
        "2026-03-01T12:00:00.000Z",
        "2020-01-01T00:00:00.000Z",
    ]
    assert [first["elapsed_s"], second["elapsed_s"]] == [10.0, 20.0]
    assert [first["images_per_s"], second["images_per_s"]] == [10.0, 20.0]
    assert second["lately"] == {
        "duration_s": 10.0,
        "images_per_s": 30.0,
        "output_tokens_per_s": 270.0,
        "prompt_tokens_per_s": None,
        "engine_busy": 0.8,
    }


def test_lines_come_while_the_run_goes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with logged(Account(), log, config="round1", every_s=0.001):
        while not log.is_file() or log.read_text().count("\n") < 2:
            pass  # the engine is silent
    states = [line["state"] for line in lines_of(log)]
    assert set(states[:-1]) == {"running"}
    assert states[-1] == "done"


def test_several_writers_share_a_file_line_by_line(tmp_path: Path) -> None:
    def work(name: str) -> None:
        log = RunLog(tmp_path / "log", Account(), config=name * 500)
        for _ in range(100):
            log.write("running")

    threads = [Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        sorted(line["config"][:1] for line in lines_of(tmp_path / "log"))
        == ["a"] * 100 + ["b"] * 100
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_on_a_full_disk_warns_once_and_never_stops_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_corpus(tmp_path / "corpus", 6, shards=3)
    recipe = load_recipe(write_recipe(tmp_path / "r.yaml"))
    folder = recipe.recaption.run
    folder.mkdir(parents=True)
    (folder / LOG_FILE).symlink_to("/dev/full")
    assert run(recipe.recaption, recipe.corpus, seed=0).read == 6
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "No space left" in warning.getMessage()
    assert len(parquet_hashes(folder)) == 3
    caplog.clear()
    log = RunLog(folder / LOG_FILE, Account(), config="round1")
    for _ in range(3):
        log.write("running")
    assert len(caplog.records) == 1
    caplog.clear()
    RunLog(folder / LOG_FILE, Account(), config="round1").write("failed")
    assert caplog.records == []  # the run itself says what failed


def test_a_line_that_was_torn_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    log = RunLog(path, Account(), config="round1")
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, content: write(file, content[:9]))
        log.write("running")
    log.write("running")
    log.write("done")
    torn, *whole = path.read_text().splitlines()
    assert len(torn) == 9
    assert [json.loads(line)["state"] for line in whole] == ["running", "done"]
    assert len(caplog.records) == 1
