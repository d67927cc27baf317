"""Every figure of the statistics, computed a second time by pandas from the texts."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from making import do, make_corpus, write_recipe

from vila2data.build.views import view_statements
from vila2data.errors import BadInput
from vila2data.stats import run_sql, statements, statistics


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stats")
    make_corpus(root / "corpus", 40)
    strict = {"retry": {"times": 0}}
    return do(write_recipe(root / "round1.yaml", recaption=strict))


def captions(build: Path, config: str) -> pd.DataFrame:
    return pd.read_parquet(build / "data" / config)


@pytest.mark.parametrize("config", ["original", "round1"])
def test_lengths_are_those_of_the_texts(build: Path, config: str) -> None:
    words = captions(build, config)["caption"].str.split().str.len()
    row = next(r for r in statistics(build)["length"].dicts() if r["config"] == config)
    assert row["captions"] == len(words)
    assert row["mean_words"] == pytest.approx(words.mean(), abs=0.005)
    assert row["std_words"] == pytest.approx(words.std(ddof=0), abs=0.005)
    assert (row["min_words"], row["max_words"]) == (words.min(), words.max())
    assert row["median_words"] == pytest.approx(words.median(), abs=0.5)


def test_quality_is_the_mean_of_the_stored_signals(build: Path) -> None:
    table = captions(build, "round1")
    row = next(r for r in statistics(build)["quality"].dicts() if r["config"] == "round1")
    assert row["mean_chars"] == pytest.approx(table["caption"].str.len().mean(), abs=0.05)
    for column in ("distinct_ratio", "repeated_ngram_share", "compression_ratio"):
        assert row[column] == pytest.approx(table[column].mean(), abs=0.0006), column
    assert row["list_share"] == table["list_format"].mean()


def test_rejects_are_counted_by_reason(build: Path) -> None:
    expected = {
        (config.removesuffix("-rejects"), reason): count
        for config in ("original-rejects", "round1-rejects")
        for reason, count in captions(build, config)["reject_reason"].value_counts().items()
    }
    told = {
        (r["config"].removesuffix("-rejects"), r["reject_reason"]): r["rows"]
        for r in statistics(build)["gate"].dicts()
    }
    assert told == expected
    assert ("round1", "length") in told


def test_configs_come_in_the_order_of_the_rounds(build: Path) -> None:
    assert [r["config"] for r in statistics(build)["length"].dicts()] == ["original", "round1"]


def test_a_duckdb_user_can_run_the_files_alone(build: Path) -> None:
    """Only the printed statements and the shipped files, in a DuckDB of their own."""
    with duckdb.connect() as connection:
        for statement in view_statements(build):
            connection.execute(statement)
        for name in ("length", "quality", "gate"):
            rows = connection.execute(statements(name)).fetchall()
            assert rows == statistics(build)[name].rows


def test_views_name_every_config(build: Path) -> None:
    with duckdb.connect() as connection:
        for statement in view_statements(build):
            connection.execute(statement)
        count = connection.execute('SELECT count(*) FROM "round1-rejects"').fetchall()
        assert count == [(len(captions(build, "round1-rejects")),)]
        union = connection.execute("SELECT DISTINCT config FROM captions ORDER BY 1").fetchall()
        assert union == [("original",), ("round1",)]


def test_a_path_with_a_quote_is_only_a_path(build: Path, tmp_path: Path) -> None:
    odd = tmp_path / "it's; DROP TABLE x; --"
    odd.symlink_to(build)
    assert statistics(odd)["length"].rows == statistics(build)["length"].rows


def test_a_query_that_is_wrong_is_bad_input() -> None:
    with duckdb.connect() as connection, pytest.raises(BadInput, match="query: Parser Error"):
        run_sql(connection, "SELEC 1")


def test_statistics_import_neither_datasets_nor_arrow(build: Path) -> None:
    """The command is measured as a whole process, so what it imports is part of it."""
    code = (
        "import sys, json; sys.argv = ['vila2data', 'stats', sys.argv[1], '--json']\n"
        "import vila2data.cli\n"
        "try: vila2data.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'datasets', 'torch', 'pyarrow', 'pandas', 'numpy', 'PIL'}\n"
        "sys.stderr.write(json.dumps(sorted(heavy & sys.modules.keys())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(build)], capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stderr.splitlines()[-1])) <= {"numpy"}
    assert json.loads(done.stdout)[str(build)]["length"][0]["config"] == "original"
