import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from making import make_corpus, write_recipe

from vila2data.errors import BadInput, MissingExtra
from vila2data.recaption.observe import Account, Figures
from vila2data.recaption.prometheus import served

parser = pytest.importorskip("prometheus_client.parser")


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Values by name and labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = parser.text_string_to_metric_families(answer.read().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_account_is_served_as_counters() -> None:
    account = Account()
    with served(account, port=0, config="round1") as port:
        before = scraped(port)
        assert before[("vila2data_images_total", "round1")] == 0
        assert ("vila2data_output_tokens_total", "round1") not in before  # not told
        account.add(
            Figures(
                kept=5,
                not_sampled=2,
                rejected={"length": 2, "refusal": 1},
                answers=11,
                retrying=1,
                failures={"engine_500": 1},
                output_tokens=700,
                prompt_tokens=9000,
                busy_s=2.5,
                engine_s=4.0,
            )
        )
        assert scraped(port) == {
            ("vila2data_images_total", "round1"): 8,
            ("vila2data_kept_total", "round1"): 5,
            ("vila2data_not_sampled_total", "round1"): 2,
            ("vila2data_rejected_total", "round1", "length"): 2,
            ("vila2data_rejected_total", "round1", "refusal"): 1,
            ("vila2data_answers_total", "round1"): 11,
            ("vila2data_failures_total", "round1", "engine_500"): 1,
            ("vila2data_output_tokens_total", "round1"): 700,
            ("vila2data_prompt_tokens_total", "round1"): 9000,
            ("vila2data_engine_busy_seconds_total", "round1"): 2.5,
            ("vila2data_engine_seconds_total", "round1"): 4.0,
            ("vila2data_retrying", "round1"): 1,
        }


def test_the_port_is_free_again_after_the_run_and_a_taken_one_is_named() -> None:
    with served(Account(), port=0, config="round1") as port:
        taken = served(Account(), port=port, config="round1")
        with pytest.raises(BadInput, match=rf"--metrics-port {port}: .* give another port"), taken:
            pass
    with served(Account(), port=port, config="round1") as again:
        assert again == port


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    serving = served(Account(), port=0, config="round1")
    with pytest.raises(MissingExtra, match=r"vila2data\[metrics\]"), serving:
        pass


def test_the_command_serves_its_run_or_refuses_before_it_begins(
    tmp_path: Path, cli: Callable[..., Any]
) -> None:
    make_corpus(tmp_path / "corpus", 2)
    file = write_recipe(tmp_path / "r.yaml")
    with served(Account(), port=0, config="round1") as port:
        refused = cli("recaption", file, "--metrics-port", port)
    assert (refused.returncode, "give another port" in refused.stderr) == (2, True)
    assert not (tmp_path / "runs").exists()
    assert cli("recaption", file, "--metrics-port", 0).returncode == 0
