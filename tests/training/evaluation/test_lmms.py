"""The door to lmms-eval, with a module of that name that writes results as it does."""

import json
import os
import sys
from pathlib import Path

import pytest

from vila2data.errors import BadInput, MissingExtra, RunFailed
from vila2data.prompts.catalog import prompt
from vila2data.training.evaluation import lmms
from vila2data.training.evaluation.lmms import (
    Score,
    benchmarks_of,
    lmms_command,
    load_benchmarks,
    run_benchmarks,
)

# What lmms-eval 0.7 takes and writes: DIR/MODEL/DATE_results.json, and status 0 whatever happens.
FAKE = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for flag in ("model", "model_args", "tasks", "batch_size", "output_path"):
    parser.add_argument("--" + flag, required=True)
parser.add_argument("--limit", type=float)
given = parser.parse_args()
print("chatter on stdout")
results = json.loads(os.environ["FAKE_RESULTS"])
told = {"results": {t: results[t] for t in given.tasks.split(",") if t in results}}
told["seen"] = vars(given)
pathlib.Path(os.environ["FAKE_SEEN"]).write_text(json.dumps(told["seen"]))
folder = pathlib.Path(given.output_path) / "name__of__model"
if results:
    folder.mkdir(parents=True)
    (folder / "20250101_000000_results.json").write_text(json.dumps(told))
    (folder / "20250101_000000_samples_gqa.jsonl").write_text("{}")
sys.exit(int(os.environ.get("FAKE_STATUS", "0")))
"""
RESULTS = {
    "gqa": {"alias": "gqa", "exact_match,none": 0.5, "exact_match_stderr,none": 0.01},
    "mme": {"mme_perception_score,none": 1234.5, "mme_perception_score_stderr,none": "N/A"},
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    package = tmp_path / "fake" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(package.parent))
    path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("FAKE_SEEN", str(tmp_path / "seen.json"))
    monkeypatch.setenv("FAKE_RESULTS", json.dumps(RESULTS))
    yield tmp_path / "seen.json"
    sys.modules.pop("lmms_eval", None)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    return folder


def test_every_benchmark_is_told_whole():
    known = load_benchmarks()
    assert {"vqav2", "gqa", "scienceqa", "textvqa", "pope", "llava_wild", "mmvet", "mmmu"} <= set(
        known
    )
    for benchmark in known.values():
        assert benchmark.scale in (1, 100)
        assert benchmark.prompt is None or prompt(benchmark.prompt).use == "format"
    assert len({b.task for b in known.values()}) == len(known)


def test_the_response_formats_are_those_of_llava_s_table_8():
    formats = {}
    for benchmark in load_benchmarks().values():
        formats.setdefault(benchmark.prompt, set()).add(benchmark.name)
    assert formats == {
        "format-short-answer": {"vqav2", "gqa", "textvqa", "mme", "pope"},
        "format-option-letter": {"scienceqa", "mmbench", "mmbench_cn", "seed", "mmmu"},
        "format-unanswerable": {"vizwiz"},
        None: {"llava_wild", "mmvet"},
    }


def test_scores_are_read_in_the_papers_unit(fake, checkpoint, capfd):
    scores = run_benchmarks(str(checkpoint), benchmarks_of("mme,gqa"), samples=8)
    assert scores == [Score("mme", 1234.5, None), Score("gqa", 50.0, 1.0)]
    seen = json.loads(fake.read_text())
    folder = seen.pop("output_path")
    assert seen == {
        "model": "llava_hf",
        "model_args": f"pretrained={checkpoint}",
        "tasks": "mme,gqa",
        "batch_size": "1",
        "limit": 8.0,
    }
    assert not Path(folder).exists()
    told = capfd.readouterr()
    assert told.out == ""
    assert "chatter on stdout" in told.err


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("llava_next", "llava_hf"), ("lfm2_vl", "lfm2_5_vl"), ("internvl", "internvl_hf")],
)
def test_each_form_of_model_has_its_class(checkpoint, model_type, expected):
    (checkpoint / "config.json").write_text(json.dumps({"model_type": model_type}))
    command = lmms_command(str(checkpoint), benchmarks_of("gqa"), "F")
    assert command[command.index("--model") + 1] == expected
    assert "--limit" not in command
    hub = lmms_command("llava-hf/llava-1.5-7b-hf", benchmarks_of("gqa"), "F")
    assert hub[hub.index("--model_args") + 1] == "pretrained=llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize(
    ("results", "status", "told"),
    [
        ({}, 0, "lmms-eval ended with status 0 and no results; its own messages stand above"),
        (RESULTS, 3, "lmms-eval ended with status 3 and results; its own messages stand above"),
        ({"mme": {}}, 0, r"have no exact_match of task gqa \(benchmark gqa\)"),
        ({"gqa": {"exact_match,none": "N/A"}}, 0, "have no exact_match of task gqa"),
        ({"gqa": {"exact_match,none": True}}, 0, "have no exact_match of task gqa"),
        ({"gqa": 3}, 0, "have no exact_match of task gqa"),
    ],
)
def test_a_run_without_figures_has_failed(fake, checkpoint, monkeypatch, results, status, told):
    monkeypatch.setenv("FAKE_RESULTS", json.dumps(results))
    monkeypatch.setenv("FAKE_STATUS", str(status))
    with pytest.raises(RunFailed, match=told):
        run_benchmarks(str(checkpoint), benchmarks_of("gqa"))


def test_without_lmms_eval_the_way_to_it_is_told(checkpoint, monkeypatch):
    monkeypatch.setattr(lmms, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"lmms_eval is not installed; .*pip install lmms-eval"):
        run_benchmarks(str(checkpoint), benchmarks_of("gqa"))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("gqa,vqa_v2", "--benchmarks: there is no 'vqa_v2'; did you mean 'vqav2'"),
        (" , ", "--benchmarks: names none; known: vqav2, gqa, "),
    ],
)
def test_unknown_benchmarks_are_refused(names, told):
    with pytest.raises(BadInput, match=told):
        benchmarks_of(names)


def test_a_benchmark_runs_once():
    assert [b.name for b in benchmarks_of("pope, gqa,pope")] == ["pope", "gqa"]


def test_checkpoints_that_lmms_eval_cannot_take_are_refused(checkpoint, tmp_path):
    gqa = benchmarks_of("gqa")
    with pytest.raises(BadInput, match="a,b: lmms-eval takes no path with ',' or '='"):
        lmms_command("a,b", gqa, "F")
    (checkpoint / "config.json").write_text('{"model_type": "qwen3_vl"}')
    told = "no class of lmms-eval is known for model_type qwen3_vl; known: llava, llava_next"
    with pytest.raises(BadInput, match=told):
        lmms_command(str(checkpoint), gqa, "F")
    for text in ("", "[]", "{}", '{"model_type": []}'):
        (checkpoint / "config.json").write_text(text)
        with pytest.raises(BadInput, match="checkpoint"):
            lmms_command(str(checkpoint), gqa, "F")
    with pytest.raises(BadInput, match=r"holds no config\.json of a model"):
        lmms_command(str(tmp_path), gqa, "F")
