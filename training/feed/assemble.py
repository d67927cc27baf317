"""From samples in order to the sequences of batches: packing, and batches of one modality."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

_OPEN_PACKS = 64


class Sized(Protocol):
    """What is known of a sample here."""

    @property
    def length(self) -> int:
        """Tokens, those of its images among them."""

    @property
    def has_images(self) -> bool:
        """Whether it has any."""


SampleType = TypeVar("SampleType", bound=Sized)


def items_of(
    samples: Iterable[SampleType],
    *,
    batch: int,
    context_tokens: int,
    packing: bool,
    single_modality: bool,
) -> Iterator[list[SampleType]]:
    """The sequences, ``batch`` of them to a global batch; the last batch, or with
    ``single_modality`` the last of each modality, is filled up with empty ones.

    Args:
        samples: in order, none longer than ``context_tokens``.
        batch: sequences in a global batch.
        context_tokens: most tokens of a sequence.
        packing: whether several samples may share a sequence.
        single_modality: whether a batch has images in all of its samples, or in none.
    """
    lanes: dict[bool, _Lane[SampleType]] = {}
    for sample in samples:
        kind = single_modality and sample.has_images
        lane = lanes.setdefault(kind, _Lane(context_tokens if packing else 0))
        lane.add(sample)
        if len(lane.ready) >= batch:
            yield from lane.take(batch)
    for kind in sorted(lanes):
        lanes[kind].close()
        while waiting := lanes[kind].take(batch):
            yield from waiting
            yield from ([] for _ in range(batch - len(waiting)))


@dataclass
class _Lane(Generic[SampleType]):
    """Sequences of one modality: those that are ready, and packs that still take samples."""

    capacity: int  # tokens of a pack, 0 where each sample is a sequence of its own
    ready: list[list[SampleType]] = field(default_factory=list)
    packs: list[list[SampleType]] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)

    def add(self, sample: SampleType) -> None:
        """Into the fullest pack that has room, or a new one; the fullest of too many is ready."""
        if not self.capacity:
            self.ready.append([sample])
            return
        fitting = [n for n, f in enumerate(self.filled) if f + sample.length <= self.capacity]
        if fitting:
            best = max(fitting, key=lambda n: self.filled[n])
            self.packs[best].append(sample)
            self.filled[best] += sample.length
        else:
            self.packs.append([sample])
            self.filled.append(sample.length)
        if len(self.packs) > _OPEN_PACKS:
            fullest = max(range(len(self.filled)), key=lambda n: self.filled[n])
            self.filled.pop(fullest)
            self.ready.append(self.packs.pop(fullest))

    def close(self) -> None:
        """Makes every open pack ready."""
        self.ready += self.packs
        self.packs, self.filled = [], []

    def take(self, count: int) -> list[list[SampleType]]:
        """The first so many that are ready, or as many as there are."""
        taken, self.ready = self.ready[:count], self.ready[count:]
        return taken
