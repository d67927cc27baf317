"""An S3 server for each test, reached by this process and those that it starts."""

from collections.abc import Iterator

import pytest
from faulty_storage import FaultyStorage

from vila2data.storage.attempts import TRIES_VARIABLE
from vila2data.storage.lease import LEASE_VARIABLE

LEASE_S = 6.0


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStorage]:
    monkeypatch.setattr("vila2data.storage.attempts._FIRST_WAIT_S", 0.01)
    settings = {TRIES_VARIABLE: "8", LEASE_VARIABLE: str(LEASE_S)}
    with FaultyStorage() as made, made.reached(settings):
        yield made
