"""Order-free randomness: every draw is a keyed hash of what it is for.

A draw depends on its parts alone (data set seed, sample key, round, task, attempt, purpose), never
on the order of work, the worker, the shard or any generator's state, so that any split of the work
gives the same rows.
"""

from collections.abc import Mapping
from hashlib import blake2b

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
