import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from making import do, make_corpus, make_picture, write_recipe

from vila2data import __version__

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    make_corpus(root / "corpus", 24, shards=2)
    return do(write_recipe(root / "round1.yaml"))


def test_help_is_quick_and_names_every_command(cli: Cli) -> None:
    code = (
        "import sys, vila2data.cli\n"
        "sys.argv = ['vila2data', '--help']\n"
        "try: vila2data.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'duckdb', 'pyarrow', 'pandas', 'openai', 'PIL'}\n"
        "sys.exit(f'imported {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        "corpus",
        "recaption",
        "serve",
        "build",
        "verify",
        "stats",
        "query",
        "sql",
        "report",
        "doctor",
        "quickstart",
        "train",
        "loop",
        "evaluate",
        "foundation",
    ):
        assert command in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["corpus", "pack"],
        ["corpus", "check"],
        ["recaption"],
        ["serve"],
        ["build"],
        ["verify"],
        ["report"],
        ["train"],
    ],
)
def test_every_command_explains_itself(cli: Cli, command: list[str]) -> None:
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"vila2data {__version__}\n"


def test_the_whole_path_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpus", 10)
    recipe = write_recipe(tmp_path / "round1.yaml")
    dry = cli("recaption", recipe, "--dry-run")
    assert dry.returncode == 0
    assert "0 are finished" in dry.stdout
    assert not (tmp_path / "runs").exists()
    done = cli("recaption", recipe)
    assert done.returncode == 0, done.stderr
    assert "next: vila2data build" in done.stdout
    again = cli("recaption", recipe)
    assert "of these in earlier runs │    10" in again.stdout
    planned = cli("build", recipe, "--dry-run")
    assert f"would write {tmp_path}/builds/coyo-recap/1.0.0" in planned.stdout
    assert not (tmp_path / "builds").exists()
    assert cli("build", recipe).returncode == 0
    build = tmp_path / "builds" / "coyo-recap" / "1.0.0"
    verified = cli("verify", build)
    assert (verified.returncode, verified.stdout.count("ok (checked")) == (0, 1)
    refused = cli("build", recipe)
    assert refused.returncode == 2
    assert "versions never change" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_pack_can_be_tried_dry(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(make_picture(number))
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({f"{n}.png": f"a picture {n}" for n in range(5)}))
    given = ["corpus", "pack", tmp_path / "pictures", "--captions", captions]
    dry = cli(*given, "--out", tmp_path / "corpus", "--samples-per-shard", "2", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would pack 5 samples into 3 shards" in dry.stdout
    assert not (tmp_path / "corpus").exists()
    assert cli(*given, "--out", tmp_path / "corpus").returncode == 0
    adopted = cli("corpus", "pack", tmp_path / "corpus", "--out", tmp_path / "b", "--dry-run")
    assert "is a corpus as it is; would link 1 shards" in adopted.stdout


def test_a_broken_build_exits_with_1_and_a_list(cli: Cli, build: Path, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(build, tmp_path / "1.0.0"))
    (broken / "README.md").unlink()
    (broken / "notes.txt").write_text("mine")
    done = cli("verify", broken)
    assert done.returncode == 1
    assert "notes.txt: is in the folder but not in build.json" in done.stdout
    assert "README.md: is missing" in done.stdout
    told = json.loads(cli("verify", broken, "--json").stdout)
    assert len(told["problems"]) == 2


def test_statistics_as_table_json_and_csv(cli: Cli, build: Path) -> None:
    assert "Caption length" in cli("stats", build).stdout
    told = json.loads(cli("stats", build, "--json").stdout)
    lengths = told[str(build)]["length"]
    assert [row["config"] for row in lengths] == ["original", "round1"]
    lines = cli("stats", build, "--csv").stdout.splitlines()
    assert lines[0].startswith("build,config,captions,mean_words,std_words")
    assert len(lines) == 1 + len(lengths)


def test_queries_as_table_json_and_csv(cli: Cli, build: Path) -> None:
    question = "SELECT config, count(*) AS n FROM captions GROUP BY 1 ORDER BY 1"
    rows = json.loads(cli("query", build, question, "--json").stdout)
    assert [row["config"] for row in rows] == ["original", "round1"]
    csv = cli("query", build, question, "--csv").stdout.splitlines()
    assert csv == ["config,n", *(f"{row['config']},{row['n']}" for row in rows)]
    assert "round1" in cli("query", build, question).stdout


def test_a_wrong_query_exits_with_2(cli: Cli, build: Path) -> None:
    done = cli("query", build, "SELECT nothing FROM nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: query: Catalog Error")


def test_printed_statements_work_in_duckdb(cli: Cli, build: Path) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(cli("sql", build).stdout)
        assert connection.execute("SELECT count(*) FROM round1").fetchall()[0][0] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "nowhere"], "nowhere: is no build"),
        (["stats", "nowhere"], "nowhere: is no build"),
        (["recaption", "nowhere.yaml"], "no such recipe file; shipped recipes:"),
        (["corpus", "check", "nowhere"], "no such folder"),
        (["corpus", "pack", "nowhere", "--out", "x"], "cannot be loaded as a data set"),
    ],
)
def test_bad_input_exits_with_2_in_one_line(
    cli: Cli, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_exit_with_2(cli: Cli) -> None:
    assert cli("verify").returncode == 2
    assert cli("nonsense").returncode == 2


def test_every_mistake_of_a_recipe_is_told_at_once(cli: Cli, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", sead=1, version="1", recaption={"fraction": 2})
    done = cli("recaption", recipe)
    assert done.returncode == 2
    assert "has 3 mistakes:" in done.stderr
    for said in ("sead: is no key here; did you mean 'seed'?", "version:", "recaption.fraction:"):
        assert said in done.stderr


def test_doctor_says_what_is_there(cli: Cli) -> None:
    rows = {row["what"]: row for row in json.loads(cli("doctor", "--json").stdout)}
    assert rows["engine transformers"]["found"] == "ready"
    assert rows["builder coyo-recap"]["found"] == "registered"
    assert rows["device"]["found"].startswith(("cpu", "cuda"))
