"""The account of a run for Prometheus."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vila2data.errors import BadInput
from vila2data.optional import require

from .observe import Account


class AccountCollector:
    """Reads an account whenever Prometheus asks; nothing is counted twice.

    Args:
        account: what is told.
        config: the label of every figure.
    """

    def __init__(self, account: Account, *, config: str) -> None:
        self._account = account
        self._config = config
        self._core: Any = require("prometheus_client.core", extra="metrics")

    def collect(self) -> Iterator[Any]:
        """The figures as metric families; those that the engine does not tell are left out."""
        figures = self._account.figures()
        yield self._counter("images", "Images that are done: kept or given up.", figures.images)
        yield self._counter("kept", "Captions that passed the gate.", figures.kept)
        yield self._counter(
            "not_sampled", "Samples outside the round's fraction.", figures.not_sampled
        )
        yield self._by_reason("rejected", "Images that are given up.", figures.rejected)
        yield self._counter("answers", "Answers of the engine, retries included.", figures.answers)
        yield self._by_reason("failures", "Answers without a text.", figures.failures)
        for name, what, value in (
            ("output_tokens", "Tokens that were written.", figures.output_tokens),
            ("prompt_tokens", "Tokens that were read.", figures.prompt_tokens),
            ("engine_busy_seconds", "Seconds in which models worked.", figures.busy_s),
        ):
            if value is not None:
                yield self._counter(name, what, value)
        yield self._counter(
            "engine_seconds", "Seconds in which engines were ready.", figures.engine_s
        )
        retrying = self._core.GaugeMetricFamily(
            "vila2data_retrying", "Rejected images that wait for another answer.", labels=["config"]
        )
        retrying.add_metric([self._config], figures.retrying)
        yield retrying

    def _counter(self, name: str, what: str, value: float) -> Any:
        family = self._core.CounterMetricFamily(f"vila2data_{name}", what, labels=["config"])
        family.add_metric([self._config], value)
        return family

    def _by_reason(self, name: str, what: str, counts: Mapping[str, int]) -> Any:
        labels = ["config", "reason"]
        family = self._core.CounterMetricFamily(f"vila2data_{name}", what, labels=labels)
        for reason, count in counts.items():
            family.add_metric([self._config, reason], count)
        return family


@contextmanager
def served(account: Account, *, port: int, config: str) -> Iterator[int]:
    """Serves an account at ``/metrics`` on all addresses of this machine; gives the port.

    Args:
        account: what is told.
        port: 0 takes a free one.
        config: the label of every figure.

    Raises:
        BadInput: the port is taken.
        MissingExtra: ``prometheus_client`` is not installed.
    """
    client: Any = require("prometheus_client", extra="metrics")
    # A registry of its own: the default one would add figures of the Python process, and keep this
    # account after its run.
    registry = client.CollectorRegistry()
    registry.register(AccountCollector(account, config=config))
    try:
        server, thread = client.start_http_server(port, registry=registry)
    except OSError as error:
        raise BadInput(f"--metrics-port {port}: {error.strerror}; give another port") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
