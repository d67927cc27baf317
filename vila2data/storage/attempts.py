"""Storage fails now and then: what is asked again, how often, and what a run is told at the end."""

import errno
import os
import time
from collections.abc import Callable
from random import SystemRandom
from typing import TypeVar

from vila2data.errors import BadInput, RunFailed

Answer = TypeVar("Answer")

TRIES_VARIABLE = "VILA2DATA_STORAGE_TRIES"
_TRIES = 8
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_TOLD_CHARS = 300

# What another try would not change, and what callers look for.
_FINAL = (FileNotFoundError, FileExistsError, NotImplementedError, TypeError, ValueError)
_REFUSED = (PermissionError, ImportError)
_REFUSED_NAMES = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"})


def persistently(
    what: object,
    ask: Callable[[], Answer],
    *,
    tries: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """The answer of ``ask``, which is called again where the storage failed: errors of the server,
    orders to slow down, timeouts, connections that broke. The libraries below have tried
    themselves.

    Args:
        what: is asked about, for the message.
        ask: may be called again after it failed.
        tries: None: those of the environment.
        sleep: takes seconds.

    Raises:
        FileNotFoundError: there is none.
        FileExistsError: it is there already.
        BadInput: the storage refuses.
        RunFailed: it failed to the end.
    """
    tries = tries or tries_of_environment()
    number = 1
    while True:
        try:
            return ask()
        except _FINAL:
            raise
        except Exception as error:
            final = _final(what, error, tries if number == tries else None)
            if final is not None:
                raise final from error
        sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**number) * SystemRandom().uniform(0.5, 1))
        number += 1


def _final(what: object, error: Exception, tries: int | None) -> Exception | None:
    """What to raise where another try would be in vain, or ``tries`` are over."""
    if isinstance(error, _REFUSED) or type(error).__name__ in _REFUSED_NAMES:
        return BadInput(
            f"{what}: the storage refuses: {_told(error)}; its credentials and address come from "
            "the environment"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OSError(error.errno, error.strerror)  # of this machine
    if tries is None:
        return None
    return RunFailed(
        f"{what}: the storage failed {tries} times, at last with: {_told(error)}; nothing finished "
        "is lost: run the same command again when it answers"
    )


def tries_of_environment() -> int:
    """How often the storage is asked before a run fails.

    Raises:
        BadInput: the variable is no number above 0.
    """
    told = os.environ.get(TRIES_VARIABLE, str(_TRIES))
    if not told.isdecimal() or not int(told):
        raise BadInput(f"{TRIES_VARIABLE}: must be a number above 0, not '{told}'")
    return int(told)


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:_TOLD_CHARS]
