"""Order-free randomness: every draw is a keyed hash of what it is for.

A draw depends on its parts alone (data set seed, sample key, round, task, attempt, purpose), never
on the order of work, the worker, the shard or any generator's state, so that any split of the work
gives the same rows.
"""

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_SEED_RANGE = 2**31  # some servers and generators take no more than a signed 32-bit seed


def keyed_hash(*parts: str | int) -> int:
    """A uniform unsigned 64-bit integer from ``parts``; ``("a", "b")`` and ``("ab",)`` differ.

    Example:
        >>> keyed_hash(0, "000000001", "prompt") == keyed_hash(0, "000000001", "prompt")
        True
        >>> keyed_hash("1") == keyed_hash(1)
        False
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        kind = b"i" if isinstance(part, int) else b"s"
        encoded = str(part).encode("utf-8", "surrogatepass")
        digest.update(kind + len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def keyed_uniform(*parts: str | int) -> float:
    """A uniform number in [0, 1) from ``parts``."""
    return (keyed_hash(*parts) >> 11) / 2**53


def keyed_choice(weights: Mapping[str, float], *parts: str | int) -> str:
    """One of the keys of ``weights``, drawn in proportion to its weight.

    The order in which the mapping lists its keys does not matter.

    Raises:
        ValueError: ``weights`` is empty or no weight is positive.
    """
    options = sorted((name, weight) for name, weight in weights.items() if weight > 0)
    if not options:
        raise ValueError("weights must hold at least one positive weight")
    point = keyed_uniform(*parts) * sum(weight for _, weight in options)
    for name, weight in options:
        point -= weight
        if point < 0:
            return name
    return options[-1][0]  # rounding may leave a point of exactly zero


def sample_seed(dataset_seed: int, key: str, *, round: int, task: str, attempt: int) -> int:
    """The sampling seed of one attempt at one sample, in [0, 2**31)."""
    return keyed_hash(dataset_seed, key, round, task, attempt, "seed") % _SEED_RANGE


def mixed(first: Keys, *others: Keys | int) -> Keys:
    """A hash of each row of ``first`` and ``others``: draws for many at once, keyed as one by one.

    Begin with a ``keyed_hash`` and mix in what tells the draws apart; the order counts.

    Args:
        first: (n,).
        others: (n,), or one number for all.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    found = first.astype(np.uint64)
    for other in others:
        part = np.atleast_1d(np.asarray(other, np.uint64))  # numbers warn of what arrays do not
        found = _finalised(found + np.uint64(0x9E3779B97F4A7C15) ^ _finalised(part))
    return found


def _finalised(keys: Keys) -> Keys:
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def uniform(keys: Keys) -> NDArray[np.float64]:
    """A uniform number in [0, 1) of each key."""
    numbers: NDArray[np.float64] = (keys >> np.uint64(11)).astype(np.float64) / 2**53
    return numbers
