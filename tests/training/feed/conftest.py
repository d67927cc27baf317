"""What the tests of the data feed share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from feeding import processor_of

from vila2data.training.feed.plan import Plan
from vila2data.training.feed.planning import make_plan
from vila2data.training.feed.spec import FeedSpec
from vila2data.training.tiny import tiny_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of corpora are kept apart from the user's; torch's threads do not wait for others."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def words() -> Any:
    """A LLaVA's processor with a token per word."""
    pytest.importorskip("torch")
    return processor_of(tiny_tokenizer())


@pytest.fixture
def planned(tmp_path: Path, words: Any) -> Callable[..., Plan]:
    """Makes a plan of some sources; their form is plain where they name none."""

    def plan(
        *sources: dict[str, Any],
        seed: int = 0,
        batch: int = 1,
        epochs: int = 1,
        processor: Any = None,
        **settings: Any,
    ) -> Plan:
        spec = FeedSpec(sources=[{"form": "plain", **s} for s in sources], **settings)
        folder = tmp_path / f"plan{len(list(tmp_path.glob('plan*')))}"
        made = make_plan(spec, processor or words, folder, seed=seed, batch=batch, epochs=epochs)
        assert all(step.balanced for step in made.funnel)
        return made

    return plan
