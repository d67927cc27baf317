"""Corpus and run on an S3 storage that fails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.plugin.faulty_storage import FAULTS, FaultyStorage
from vila2data.storage import RemotePath, place_of

from .company import two_drivers
from .trial import Trial
from .verdict import built

LEASE_S = 5.0
_SHARE = 0.1  # of the requests that fail
_UPLOADS = 0.5  # of the shards
_DOWN = "the storage failed"


@contextmanager
def _on_storage(trial: Trial) -> Iterator[FaultyStorage]:
    """Puts the corpus there, and has the build made from there."""
    seed = trial.random.randrange(1 << 30)
    told = {"VILA2DATA_LEASE_S": str(LEASE_S), "VILA2DATA_STORAGE_TRIES": "8"}
    with FaultyStorage(seed=seed) as storage, storage.reached(told):
        corpus, run = place_of(storage.url("corpus")), place_of(storage.url("run"))
        assert isinstance(corpus, RemotePath)
        assert isinstance(trial.corpus, Path)
        for file in sorted(trial.corpus.iterdir()):
            (corpus / file.name).upload(file)
        trial.corpus, trial.run = corpus, run
        yield storage
        trial.build = built(trial)
        assert storage.keys("run/claims/") == []


def _fail(
    storage: FaultyStorage, faults: Sequence[str], share: float, *, method: str = "", key: str = ""
) -> None:
    """Each fault as often as the others. One draw decides over all rules, the first that holds."""
    for number, fault in enumerate(faults, 1):
        storage.fail(fault, method=method, key=key, share=share * number / len(faults))


def _note_faults(trial: Trial, storage: FaultyStorage) -> None:
    if faults := [str(request.fault) for request in storage.faults()]:
        kinds = ", ".join(f"{faults.count(kind)} {kind}" for kind in FAULTS if kind in faults)
        trial.happened.append(f"{len(faults)} of {len(storage.requests)} requests failed ({kinds})")


def failing_storage(trial: Trial) -> None:
    """A tenth of all requests fails, in one way or another."""
    with _on_storage(trial) as storage:
        _fail(storage, FAULTS, _SHARE)
        trial.until_done()
        _note_faults(trial, storage)


def uploads_cut(trial: Trial) -> None:
    """Half of the shards' uploads are cut in the middle or answered by an order to slow down, and
    the driver is killed.
    """
    with _on_storage(trial) as storage:
        _fail(storage, ("cut", "503"), _UPLOADS, method="PUT", key="run/shards/")
        trial.kill_command(trial.start(), "driver")
        trial.until_done()
        _note_faults(trial, storage)


def storage_down(trial: Trial) -> None:
    """Every connection is reset until the driver gives up."""
    with _on_storage(trial) as storage:
        process = trial.start()
        if trial.wait_inside(process):
            storage.is_down = True
            said = trial.end_of(process)
            storage.is_down = False
            if process.returncode != 0:
                assert process.returncode == 1, said
                assert _DOWN in said, said
                trial.note("storage down until the driver gave up")
        trial.end_of(process)
        trial.until_done()


def two_drivers_on_storage(trial: Trial) -> None:
    """The second one is refused by the lease of the first, which goes on."""
    with _on_storage(trial):
        two_drivers(trial)
