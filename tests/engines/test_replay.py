import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from making import do, make_corpus, make_picture, parquet_hashes, write_recipe

from vila2data.build.manifest import read_manifest
from vila2data.engines import Request, Result, Sampling
from vila2data.engines.replay import ReplayConfig, ReplayEngine
from vila2data.errors import BadInput
from vila2data.recaption.ledger import Ledger
from vila2data.recipe import load_recipe

FAKE = {"name": "fake", "cut_share": 0.6}  # a fifth is rejected after three attempts


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    make_corpus(tmp_path / "corpus", 40, shards=3)
    build = do(write_recipe(tmp_path / "first.yaml", recaption={"engine": FAKE}))
    attempts = ledger_rows(tmp_path / "runs" / "round1", "attempts")
    assert {row["attempts"] for row in attempts} == {1, 2, 3}
    assert read_manifest(build).rows_of("round1-rejects") > 0
    return build


def replayed(folder: Path, build: Path, **blocks: Any) -> Path:
    engine = {"name": "replay", "build": str(build), **blocks.pop("engine", {})}
    recaption = {"engine": engine, "run": str(folder / "runs" / "again"), **blocks}
    out = str(folder / "again")
    return do(write_recipe(folder / "again.yaml", out=out, recaption=recaption))


def ledger_rows(run: Path, *names: str) -> list[dict[str, Any]]:
    shards = sorted((run / "shards").glob("*.parquet"))
    return [
        row for s in shards for row in pq.read_table(s, columns=list(names) or None).to_pylist()
    ]


def request_of(key: str, **settings: Any) -> Request:
    return Request(0, b"", "", Sampling(seed=settings.pop("seed", 0)), key=key, **settings)


def one(build: Path, request: Request, **settings: Any) -> Result:
    engine = ReplayEngine(ReplayConfig(build=build, **settings))
    (result,) = engine.generate([request])
    engine.close()
    return result


def test_a_replayed_round_has_the_same_ledger_and_the_same_bytes(
    recorded: Path, tmp_path: Path
) -> None:
    again = replayed(tmp_path, recorded)
    assert parquet_hashes(again) == parquet_hashes(recorded)
    runs = tmp_path / "runs"
    assert ledger_rows(runs / "again") == ledger_rows(runs / "round1")


def test_a_replayed_row_names_who_wrote_it_then(recorded: Path, tmp_path: Path) -> None:
    (file,) = (replayed(tmp_path, recorded) / "data" / "round1").glob("*.parquet")
    authors = {
        tuple(row.values())
        for row in pq.read_table(
            file, columns=["captioner", "captioner_revision", "engine"]
        ).to_pylist()
    }
    assert authors == {("fake", "1", "fake 1.0")}


def test_a_recorded_engine_error_stays_the_reason_after_its_last_attempt(tmp_path: Path) -> None:
    from vila2data_fakes import AUTHOR, Answers, told

    from vila2data.engines import failed

    def answer(requests: Any) -> Any:
        places: dict[str | None, int] = {}  # those that are asked again have another index
        for request in requests:
            place = places.setdefault(request.image_sha256, len(places))
            if place % 2:
                final = place % 4 == 1
                yield failed(request.index, AUTHOR, "engine_500", "x", retriable=not final)
            else:
                yield told(request, cut_share=0.0)

    make_corpus(tmp_path / "corpus", 12)
    first = do(write_recipe(tmp_path / "first.yaml"), engine=Answers(answer))
    again = replayed(tmp_path, first)
    assert parquet_hashes(again) == parquet_hashes(first)
    steps = [next(s for s in read_manifest(b).funnel if s.step == "round1") for b in (first, again)]
    assert steps[0] == steps[1]
    assert steps[1].rejected == {"engine_500": 6}


def test_a_changed_image_and_an_unknown_key_are_named(recorded: Path, tmp_path: Path) -> None:
    changed = one(recorded, request_of("00001", image_sha256="0" * 64))
    assert (changed.error_reason, changed.error_detail) == (
        "image_changed",
        "the build's image differs",
    )
    unknown = one(recorded, request_of("99999"))
    assert (unknown.error_reason, unknown.error_detail) == (
        "not_recorded",
        "the build has no such row",
    )
    other_round = one(recorded, request_of("00001", round=2))
    assert other_round.error_reason == "not_recorded"
    assert not any(result.retriable for result in (changed, unknown, other_round))


def test_match_key_answers_at_any_seed_and_match_seed_only_at_its_own(recorded: Path) -> None:
    from hashlib import sha256

    image = sha256(make_picture(1)).hexdigest()
    request = request_of("00001", image_sha256=image, seed=12345)
    other = one(recorded, request)
    assert (other.finish_reason, other.error_detail) == ("error", "recorded from another attempt")
    assert other.retriable
    assert one(recorded, request, match="key").text != ""


def test_results_come_in_the_order_of_requests_across_chunks(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vila2data.engines import replay

    monkeypatch.setattr(replay, "_CHUNK", 4)
    engine = ReplayEngine(ReplayConfig(build=recorded, match="key"))
    requests = [
        Request(n, b"", "", Sampling(), key=f"{n % 45:05d}", image_sha256=None) for n in range(90)
    ]
    assert [result.index for result in engine.generate(requests)] == list(range(90))


def test_a_replay_is_bound_to_the_builds_content_not_to_its_place(
    recorded: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(recorded, moved)
    assert ReplayConfig(build=moved).shaping() == ReplayConfig(build=recorded).shaping()
    (moved / "build.json").write_text((moved / "build.json").read_text() + " ")
    assert ReplayConfig(build=moved).shaping() != ReplayConfig(build=recorded).shaping()


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    config = ReplayConfig(build=tmp_path / "nothing")
    assert config.problems() == [f"engine.build: {tmp_path}/nothing: no such build"]
    with pytest.raises(BadInput, match="nothing holds no generated captions"):
        ReplayEngine(config)


def test_a_stricter_gate_judges_recorded_texts_anew(recorded: Path, tmp_path: Path) -> None:
    strict = {"max_repeated_ngram_share": 0.001}
    again = replayed(tmp_path, recorded, gate=strict, engine={"match": "key"})
    assert read_manifest(again).rows_of("round1") < read_manifest(recorded).rows_of("round1")
    recipe = load_recipe(tmp_path / "again.yaml")
    shards = sorted(recipe.corpus.glob("*.tar"))
    assert Ledger.open(tmp_path / "runs" / "again").total(shards).rejected["repetition"] > 0
