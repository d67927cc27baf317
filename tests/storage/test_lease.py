"""Leases: one holder at a time, a dead one's place is taken, a living one's is not."""

import logging
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from faulty_storage import FaultyStorage
from storing import remote

from vila2data.errors import BadInput, RunFailed, RunRefused
from vila2data.storage import RemotePath, is_held, leased
from vila2data.storage.lease import LEASE_VARIABLE, Lease, duration_of_environment


@pytest.fixture(params=["memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemotePath]:
    if request.param == "memory":
        yield remote(f"memory://{tmp_path.name}/run")
    else:
        yield remote(request.getfixturevalue("storage").url("run"))


def abandoned(folder: RemotePath, name: str = "run", number: int = 1) -> Lease:
    """A lease whose holder died."""
    lease = Lease(folder, name, number, 0.2)
    assert lease.path.create(lease.content())
    return lease


def test_a_second_holder_is_refused_and_comes_in_when_the_first_is_done(folder: RemotePath) -> None:
    with leased(folder, duration_s=0.4):
        with pytest.raises(RunRefused, match="another process works on this run"):
            leased(folder, duration_s=0.4).__enter__()
        parts = [leased(folder, name, duration_s=0.4) for name in ("0-of-2", "1-of-2")]
        with parts[0], parts[1], pytest.raises(RunRefused, match="works on part 0-of-2 of this"):
            leased(folder, "0-of-2", duration_s=0.4).__enter__()
    with leased(folder, duration_s=60) as lease:
        assert lease.number == 2


def test_the_place_of_a_dead_holder_is_taken_after_its_time(folder: RemotePath) -> None:
    abandoned(folder)
    with leased(folder, duration_s=60) as lease:
        assert lease.number == 2
        assert not lease.is_lost
    assert [file.name for file in (folder / "locks").glob("*")] == ["run.000002"]


def test_a_holder_whose_place_was_taken_finds_out_and_ends(folder: RemotePath) -> None:
    slept = abandoned(folder)
    with leased(folder, duration_s=60):
        slept.renew()
        assert slept.is_lost
        with pytest.raises(RunFailed, match=r"took the run over.*finished shards are kept"):
            slept.check()
        slept.release()
    with leased(folder, duration_s=60) as after:
        assert after.number == 3


def test_only_one_of_two_that_find_a_dead_holder_takes_its_place(
    folder: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned(folder)

    def dead_and_another_was_faster(*_: Any) -> bool:
        abandoned(folder, number=2)
        return False

    monkeypatch.setattr("vila2data.storage.lease.is_held", dead_and_another_was_faster)
    with pytest.raises(RunRefused, match="another process works on this run"):
        leased(folder, duration_s=60).__enter__()


def test_looks_are_counted_so_that_a_wait_that_took_too_long_is_no_proof(
    folder: RemotePath,
) -> None:
    lease = abandoned(folder)
    waits: list[float] = []

    def sleep(duration_s: float) -> None:
        waits.append(duration_s)
        if len(waits) == 8:  # the last but one
            lease.renew()

    assert is_held(folder, "run", 1, sleep=sleep)
    assert len(waits) == 8
    waits.clear()
    assert not is_held(folder, "run", 1, sleep=lambda _: None)


def test_a_lease_is_kept_while_the_storage_fails_for_a_while(storage: FaultyStorage) -> None:
    folder = remote(storage.url("run"))
    with leased(folder, duration_s=0.4) as lease:
        storage.fail("500", method="PUT", key="locks/", times=3)
        while storage.faults()[2:] == []:
            Event().wait(0.02)
        with pytest.raises(RunRefused):
            leased(folder, duration_s=0.4).__enter__()
        lease.check()


def test_a_creation_whose_answer_was_lost_is_known_to_be_ours(storage: FaultyStorage) -> None:
    place = remote(storage.url("run/claims/00000"))
    storage.fail("lost", method="PUT", times=1)
    assert place.create(b"mine")
    assert len(storage.faults()) == 1
    assert not place.create(b"another's")
    assert place.read_bytes() == b"mine"


def test_a_storage_that_ignores_the_condition_is_told_of(
    folder: RemotePath, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemotePath, "_create", RemotePath.write_bytes)
    with caplog.at_level(logging.WARNING), leased(folder, duration_s=60):
        assert "does not keep two commands from beginning at the same moment" in caplog.text


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_a_lease_of_no_time_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEASE_VARIABLE, value)
    with pytest.raises(BadInput, match=f"must be a number of seconds above 0, not '{value}'"):
        duration_of_environment()
