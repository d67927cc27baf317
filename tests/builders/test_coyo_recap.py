import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pytest
from datasets import load_dataset
from making import do, make_corpus, parquet_hashes, write_recipe
from vila2data_fakes import AUTHOR, Answers, told

from vila2data.build.manifest import read_manifest
from vila2data.build.verify import verify
from vila2data.build.views import connect
from vila2data.build.write import write_build
from vila2data.builders import coyo_recap, coyo_recap_rules
from vila2data.builders.coyo_recap import CoyoRecap
from vila2data.conversation import neutralise
from vila2data.corpus.read import read_corpus
from vila2data.engines import Request, Result, failed
from vila2data.errors import BadInput, BuildError, RunRefused
from vila2data.keyed import keyed_choice, sample_seed
from vila2data.recipe import load_recipe
from vila2data.schema import CAPTION, CONVERSATION, REJECT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_corpus(tmp_path / "corpus", 24, shards=3)
    return tmp_path


@pytest.fixture
def build(root: Path) -> Path:
    return do(write_recipe(root / "round1.yaml"))


def rows(build: Path, config: str) -> list[dict]:
    if read_manifest(build).rows_of(config) == 0:
        return []  # `datasets` cannot load a split without rows, so the card does not offer it
    return load_dataset(str(build), config, split="train").to_list()


def test_every_sample_of_the_corpus_is_in_a_config_or_its_rejects(root: Path, build: Path) -> None:
    keys = {sample.key for sample in read_corpus(root / "corpus")}
    for config in ("original", "round1"):
        kept, rejected = rows(build, config), rows(build, f"{config}-rejects")
        assert {r["key"] for r in kept} | {r["key"] for r in rejected} == keys
        assert len(kept) + len(rejected) == len(keys)
        assert all(r["reject_reason"] for r in rejected)


def test_tables_have_the_features_of_the_schema_eager_and_streaming(build: Path) -> None:
    expected = {"round1": CAPTION, "original-rejects": REJECT, "conversations": CONVERSATION}
    for config, features in expected.items():
        eager = load_dataset(str(build), config, split="train")
        streaming = load_dataset(str(build), config, split="train", streaming=True)
        assert eager.features == features
        assert streaming.features == features
        assert list(streaming) == eager.to_list()


def test_two_builds_of_one_version_are_not_mistaken_for_each_other(root: Path, build: Path) -> None:
    """`datasets` caches by the card's configs, which differ in nothing else."""
    own_run = {"run": str(root / "runs" / "other")}
    recipe = write_recipe(root / "r.yaml", out=str(root / "other"), seed=1, recaption=own_run)
    other = do(recipe)
    assert rows(build, "round1") != rows(other, "round1")
    for made in (build, other):
        stored = duckdb.sql(f"SELECT key, caption FROM '{made}/data/round1/*.parquet'").fetchall()
        assert [(r["key"], r["caption"]) for r in rows(made, "round1")] == sorted(stored)


def test_conversations_are_the_default_config(build: Path) -> None:
    assert load_dataset(str(build), split="train").to_list() == rows(build, "conversations")


def test_a_caption_says_who_wrote_it_from_which_prompt_with_which_seed(build: Path) -> None:
    mixture = {"long-v1": 1.0, "long-v2": 1.0, "long-v3": 1.0}
    for row in rows(build, "round1") + rows(build, "round1-rejects"):
        assert (row["captioner"], row["captioner_revision"], row["engine"]) == (
            "fake",
            "1",
            "fake 1.0",
        )
        assert (row["round"], row["captioner_round"], row["task"]) == (1, 0, "general")
        assert row["template_id"] == "concatenated"
        assert row["prompt_id"] == keyed_choice(mixture, 0, row["key"], 0, "general", "prompt")
        seeds = [
            sample_seed(0, row["key"], round=1, task="general", attempt=attempt)
            for attempt in range(3)
        ]
        assert row["seed"] in seeds
        if row["finish_reason"] == "length":  # only the last attempt may end so
            assert row["seed"] == seeds[2]


def test_originals_name_no_writer(build: Path) -> None:
    for row in rows(build, "original"):
        assert row["caption"] == row["original"]
        assert (row["round"], row["captioner_round"]) == (0, None)
        unset = (
            "captioner",
            "engine",
            "prompt_id",
            "template_id",
            "seed",
            "finish_reason",
            "num_tokens",
        )
        assert [row[name] for name in unset] == [None] * len(unset)


def test_conversations_hold_original_and_recaption_by_a_second_computation(
    root: Path, build: Path
) -> None:
    samples = {s.key: s for s in read_corpus(root / "corpus")}
    captions = {r["key"]: r["caption"] for r in rows(build, "round1")}
    found = {r["key"]: r for r in rows(build, "conversations")}
    for key, sample in samples.items():
        parts = [neutralise(p) for p in (sample.text, captions.get(key, "")) if p]
        if not parts:
            assert key not in found
            continue
        assert found[key]["messages"] == [
            {"role": "user", "content": "<image>"},
            {"role": "assistant", "content": "\n".join(parts)},
        ]
        assert found[key]["tasks"] == ["general" if key in captions else "original"]
        assert found[key]["image_sha256"] == sample.image_sha256


def test_the_same_inputs_give_the_same_files(root: Path, build: Path) -> None:
    again = do(write_recipe(root / "round1.yaml", out=str(root / "again")))
    assert parquet_hashes(again) == parquet_hashes(build)
    assert (again / "croissant.json").read_text() == (build / "croissant.json").read_text()


def test_work_in_ranges_of_keys_gives_the_same_files_and_the_same_checks(
    root: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (coyo_recap, coyo_recap_rules):
        monkeypatch.setattr(module, "ROWS_PER_RANGE", 5)
    again = do(write_recipe(root / "round1.yaml", out=str(root / "again")))
    assert parquet_hashes(again) == parquet_hashes(build)
    assert read_manifest(again).funnel == read_manifest(build).funnel
    assert verify(again).problems == []


@pytest.mark.parametrize("rows_per_range", [5, 1_000_000])
def test_rules_that_are_broken_in_several_ranges_are_told_once(
    build: Path, rows_per_range: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coyo_recap_rules, "ROWS_PER_RANGE", rows_per_range)
    with connect(build) as connection:
        connection.execute(
            "CREATE OR REPLACE VIEW round1 AS SELECT * REPLACE ('' AS caption, 0 AS num_chars, "
            f"0 AS num_words) FROM '{build}/data/round1/*.parquet'"
        )
        keys = sorted(key for (key,) in connection.execute("SELECT key FROM round1").fetchall())
        told = coyo_recap_rules.problems(connection, ["original", "round1"])
        left = connection.execute(
            "SELECT count(*) FROM duckdb_views() WHERE temporary AND NOT internal"
        ).fetchall()
    assert told == [f"round1: a caption is empty: {len(keys)} rows, such as {', '.join(keys[:3])}"]
    assert left == [(0,)]


def test_rules_over_a_table_that_is_not_there_hide_nothing_afterwards(build: Path) -> None:
    with connect(build) as connection:
        with pytest.raises(duckdb.CatalogException, match="nowhere"):
            coyo_recap_rules.problems(connection, ["original", "nowhere"])
        assert coyo_recap_rules.problems(connection, ["original", "round1"]) == []


def test_an_existing_version_is_never_written_into(root: Path, build: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in build.rglob("*")}
    with pytest.raises(
        BuildError, match=r"exists, and versions never change: give the recipe a new"
    ):
        do(root / "round1.yaml")
    assert {p: p.stat().st_mtime_ns for p in build.rglob("*")} == before


def test_a_second_round_carries_the_first_along_without_rewriting_it(
    root: Path, build: Path
) -> None:
    before = parquet_hashes(build)
    second = do(round2(root))
    manifest = read_manifest(second)
    assert manifest.configs == [
        "original",
        "original-rejects",
        "round1",
        "round1-rejects",
        "round2",
        "round2-rejects",
        "conversations",
    ]
    for config in ("original", "round1", "round1-rejects"):
        name = f"data/{config}/train-00000-of-00001.parquet"
        assert (second / name).stat().st_ino == (build / name).stat().st_ino
    assert parquet_hashes(build) == before
    steps = [step.step for step in manifest.funnel]
    assert steps == ["read the corpus", "round1", "round2", "conversations"]


def round2(root: Path, **recaption: object) -> Path:
    return write_recipe(
        root / "round2.yaml",
        version="1.1.0",
        base=str(root / "builds" / "coyo-recap" / "1.0.0"),
        recaption={
            "run": str(root / "runs" / "round2"),
            "round": 2,
            "engine": {"name": "fake", "flavour": "second"},
            **recaption,
        },
    )


def test_conversations_hold_the_newest_caption_that_passed(root: Path, build: Path) -> None:
    second = do(round2(root))
    newest = {
        r["key"]: r["caption"] for config in ("round1", "round2") for r in rows(second, config)
    }
    originals = {r["key"]: r["original"] for r in rows(second, "original")}
    old = {r["key"] for r in rows(second, "round1")} - {r["key"] for r in rows(second, "round2")}
    assert old, "the test wants captions that only the first round has"
    for row in rows(second, "conversations"):
        parts = [originals.get(row["key"]), newest.get(row["key"])]
        assert row["messages"][1]["content"] == "\n".join(neutralise(p) for p in parts if p)


def test_prompts_are_the_same_in_every_round_unless_asked_otherwise(
    root: Path, build: Path
) -> None:
    second = do(round2(root))
    asked = {
        config: {
            r["key"]: r["prompt_id"] for c in (config, f"{config}-rejects") for r in rows(second, c)
        }
        for config in ("round1", "round2")
    }
    assert asked["round1"] == asked["round2"]


def test_a_specialist_becomes_a_config_and_turns(root: Path, build: Path) -> None:
    recipe = write_recipe(
        root / "spatial.yaml",
        version="1.1.0",
        base=str(build),
        recaption={
            "run": str(root / "runs" / "spatial"),
            "round": 2,
            "task": "spatial",
            "prompts": {"spatial-v1": 1, "spatial-v2": 1},
            "engine": {"name": "fake", "flavour": "spatial"},
        },
    )
    made = do(recipe)
    answers = {r["key"]: r["caption"] for r in rows(made, "spatial")}
    assert answers
    for row in rows(made, "conversations"):
        has_answer = row["key"] in answers
        assert ("spatial" in row["tasks"]) == has_answer
        if has_answer:
            turn = row["tasks"].index("spatial")
            assert row["messages"][2 * turn + 1]["content"] == neutralise(answers[row["key"]])
            assert row["question_ids"][turn].startswith("spatial-question-v")
            markers = [m["content"].count("<image>") for m in row["messages"]]
            assert markers == [1] + [0] * (len(markers) - 1)


def test_a_fraction_takes_the_same_images_in_every_round(root: Path) -> None:
    first = do(write_recipe(root / "round1.yaml", recaption={"fraction": 0.5}))
    second = do(round2(root, fraction=0.5))

    def keys(build: Path, config: str) -> set[str]:
        return {r["key"] for c in (config, f"{config}-rejects") for r in rows(build, c)}

    assert 4 <= len(keys(first, "round1")) <= 20
    assert keys(first, "round1") == keys(second, "round2")
    step = next(s for s in read_manifest(first).funnel if s.step == "round1")
    assert step.not_sampled == 24 - len(keys(first, "round1"))


def test_a_duplicate_key_is_kept_once_and_its_copy_rejected(root: Path) -> None:
    made = make_corpus(root / "other", 4, shards=1)
    (made / "00000.tar").rename(root / "corpus" / "00003.tar")  # keys 00000 … 00003 again
    build = do(write_recipe(root / "round1.yaml"))
    for config in ("original", "round1"):
        reasons = Counter(r["reject_reason"] for r in rows(build, f"{config}-rejects"))
        assert reasons["duplicate_key"] >= 3
        kept = [r["key"] for r in rows(build, config)]
        assert len(kept) == len(set(kept))


def test_an_image_that_the_engine_could_not_decode_has_no_conversation(root: Path) -> None:
    def answer(requests: Iterable[Request]) -> Iterator[Result]:
        for request in requests:
            if request.key == "00003":
                yield failed(request.index, AUTHOR, "image_undecodable", retriable=False)
            else:
                yield told(request, cut_share=0)

    build = do(write_recipe(root / "round1.yaml"), engine=Answers(answer))
    assert "00003" in {r["key"] for r in rows(build, "original")}
    assert [r["key"] for r in rows(build, "round1-rejects")] == ["00003"]
    assert "00003" not in {r["key"] for r in rows(build, "conversations")}
    assert read_manifest(build).funnel[-1].rejected == {"image_refused": 1}


def test_an_unfinished_run_is_refused(root: Path) -> None:
    recipe = load_recipe(write_recipe(root / "round1.yaml"))
    with pytest.raises(RunRefused, match="holds no run; `vila2data recaption RECIPE` makes one"):
        write_build(CoyoRecap, recipe)
    assert not list((root / "builds").glob("*/1.0.0"))


def test_a_config_that_the_base_has_already_is_refused(root: Path, build: Path) -> None:
    recipe = load_recipe(root / "round1.yaml", ["version=1.1.0", f"base={build}"])
    with pytest.raises(BadInput, match="config 'round1' is in the base"):
        write_build(CoyoRecap, recipe)


def test_a_build_of_the_original_texts_alone_needs_no_run(root: Path) -> None:
    recipe = write_recipe(root / "r.yaml")
    loaded = load_recipe(recipe).model_copy(update={"recaption": None})
    build = write_build(CoyoRecap, loaded)
    assert read_manifest(build).configs == ["original", "original-rejects", "conversations"]
    assert {r["tasks"][0] for r in rows(build, "conversations")} == {"original"}


def test_the_builder_works_as_datasets_users_expect(
    root: Path, build: Path, tmp_path: Path
) -> None:
    files = [str(root / "runs" / "round1" / "shards" / "*.parquet")]
    builder = CoyoRecap(
        config_name="round1", cache_dir=str(tmp_path / "cache"), captions={"round1": files}
    )
    builder.download_and_prepare()
    assert builder.as_dataset(split="train").to_list() == rows(build, "round1")


def test_table_1_and_the_card_hold_the_numbers_of_the_data(build: Path) -> None:
    captions = rows(build, "round1")
    words = [len(r["caption"].split()) for r in captions]
    mean = sum(words) / len(words)
    std = (sum((w - mean) ** 2 for w in words) / len(words)) ** 0.5
    told = {row["config"]: row for row in read_manifest(build).stats["captions"]}["round1"]
    assert told["captions"] == len(words)
    assert told["mean_words"] == pytest.approx(mean, abs=0.005)
    assert told["std_words"] == pytest.approx(std, abs=0.005)
    card = (build / "README.md").read_text()
    assert (
        f"| `round1` | {len(words)} | {told['mean_words']:.1f} ± {told['std_words']:.1f} |" in card
    )


def test_rows_are_sorted_by_key(build: Path) -> None:
    for file in build.rglob("*.parquet"):
        keys = duckdb.sql(f"SELECT key FROM '{file}'").fetchall()
        assert keys == sorted(keys)


def test_the_manifest_names_its_sources_and_packages(root: Path, build: Path) -> None:
    content = json.loads((build / "build.json").read_text())
    corpus, run = content["sources"]
    assert (corpus["corpus"], corpus["shards"]) == ("corpus", 3)
    assert run["run"] == "round1"
    assert run["engine"]["name"] == "fake"
    assert content["packages"]["datasets"]
    assert str(root) not in json.dumps(content)
