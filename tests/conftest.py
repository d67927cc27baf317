"""What the tests share. Helpers to import stand in tests/plugin: `making` makes corpora, recipes
and builds, `vila2data_fakes` is an engine without a model.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PLUGIN = TESTS / "plugin"
SHARED = TESTS.parent.parent / "shared" / "data"

# Before vila2data is imported, so that the engine `fake` is found as an installed package's is, by
# this process and by those that tests start.
sys.path.insert(0, str(PLUGIN))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests that read the shared data only where its folder is absent."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"{SHARED} is not there"))


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `load_dataset` caches belongs to the test session, not to the user."""
    from datasets import config

    cache = tmp_path_factory.getbasetemp() / "hf-datasets"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos and rows; only for tests with the marker `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA checkpoint with random weights."""
    # Threads that wait for each other on busy cores take longer than one alone.
    pytest.importorskip("torch").set_num_threads(1)
    from vila2data.training.tiny import make_tiny_llava

    return make_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture
def cli() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line in a process of its own."""

    def run(*arguments: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", "from vila2data.cli import main; main()", *arguments]
        return subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=120, **options
        )

    return run
