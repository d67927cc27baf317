"""In which order samples come, and which of them: keyed draws, the same for any order of work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vila2data.keyed import keyed_hash, keyed_uniform

from .rows import Row


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one source.

    Samples of a few shards of a corpus are mixed with one another, and such groups of shards
    follow each other, so that training reads only a few tars at a time; every source is spread
    over the whole epoch.

    Attributes:
        seed: of the run.
        identity: of the source.
        weight: how often a row is seen in an epoch, on average.
        group_of_shard: for each epoch the group of each shard, in the order in which they come;
            empty where the images lie in the rows.
        groups: how many there are.
    """

    seed: int
    identity: str
    weight: float = 1.0
    group_of_shard: Sequence[Mapping[int, int]] = field(default_factory=list)
    groups: int = 1

    def share(self, key: str) -> float:
        """Where the row stands among all rows, in [0, 1): a fraction takes those below it, a cap
        the lowest.
        """
        return keyed_uniform(self.seed, self.identity, key, "sample")

    def times(self, row: Row, epochs: int) -> Iterator[float]:
        """When the row's copies come: epoch, and how far in it."""
        place = next((p for p in row.images if p is not None), None)
        for epoch in range(epochs):
            whole, part = divmod(self.weight, 1)
            more = keyed_uniform(self.seed, self.identity, row.key, epoch, "copy") < part
            for copy in range(int(whole) + more):
                drawn = keyed_uniform(self.seed, self.identity, row.key, epoch, copy, "order")
                if place is None or not self.group_of_shard:
                    yield epoch + drawn  # nothing is read of a tar
                else:
                    yield epoch + (self.group_of_shard[epoch][place.shard] + drawn) / self.groups


def shard_groups(
    seed: int, identity: str, shards: int, *, at_once: int, epochs: int
) -> tuple[list[Mapping[int, int]], int]:
    """For each epoch the group of each shard, and the number of groups."""
    by_epoch: list[Mapping[int, int]] = []
    for epoch in range(epochs):
        shuffled = sorted(
            range(shards), key=lambda s: keyed_hash(seed, identity, s, epoch, "shard")
        )
        by_epoch.append({shard: rank // at_once for rank, shard in enumerate(shuffled)})
    return by_epoch, max(1, -(-shards // at_once))
