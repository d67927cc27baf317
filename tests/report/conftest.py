import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no package

from pages import Page, caption, make_build, scene

from vila2data.report import write_report


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _without_open3d(request, monkeypatch):
    """Pages are the same wherever tests run; those marked so draw solids, where open3d is."""
    if "open3d" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "open3d", None)


@pytest.fixture
def open3d():
    """Has pages show solids; its first import takes seconds."""
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d cannot be loaded: {error}")


@pytest.fixture
def report(tmp_path):
    """Writes a report of builds and gives its page."""

    def write(*builds, corpus=None, samples=24, keys=(), seed=0):
        out = tmp_path / "report.html"
        write_report(builds, out, corpus=corpus, samples=samples, keys=keys, seed=seed)
        return Page(out.read_text("utf-8"))

    return write


@pytest.fixture
def recap(tmp_path):
    """A build with two rounds, a specialist, rejects and conversations."""
    turns = [
        {"role": "user", "content": "<image>"},
        {"role": "assistant", "content": "a photo\nA red car by a tree."},
    ]
    conversation = {"messages": turns, "tasks": ["general"], "question_ids": [None]}
    loop = caption("b", "so so so so", round=1, reason="repetition", finish_reason="length")
    return make_build(
        tmp_path / "recap",
        "coyo-recap",
        {
            "original": [caption(key, f"photo of {key}") for key in "abc"],
            "original-rejects": [caption("d", "", original="", reason="image_undecodable")],
            "round1": [caption(key, f"A red car by tree {key}.", round=1) for key in "ac"],
            "round1-rejects": [loop],
            "round2": [caption(k, f"A red car, {k}, by a tall tree.", round=2) for k in "abc"],
            "round2-rejects": [],
            "ocr": [caption("a", "It says stop.", round=1, task="ocr")],
            "ocr-rejects": [],
            "conversations": [{"key": key, **conversation} for key in "abc"],
        },
    )


@pytest.fixture
def spatial(tmp_path):
    """A build of one picture of 640 x 320 with two boxes, made for ``spatial-relation-qa``."""
    return make_build(tmp_path / "spatial", "spatial-relation-qa", {"default": [scene()]})
