"""What installed packages register."""

from types import SimpleNamespace

import pytest

from vila2data import registry
from vila2data.errors import BadInput


def test_what_is_unknown_is_refused_with_what_is_known() -> None:
    with pytest.raises(BadInput, match=r"there is no builder 'coyo'; known: .*coyo-recap"):
        registry.load("builders", "coyo")


def test_a_fault_of_a_plugin_is_not_taken_for_its_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("of its own")

    monkeypatch.setattr(registry, "_points", lambda _: {"mine": SimpleNamespace(load=broken)})
    with pytest.raises(KeyError, match="of its own"):
        registry.load("builders", "mine")
