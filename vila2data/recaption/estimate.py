"""What a run would take, from captions of a few of its images that are thrown away."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from vila2data.corpus.read import Sample, read_shard
from vila2data.engines import Captioner, Result
from vila2data.errors import RunFailed
from vila2data.keyed import keyed_hash
from vila2data.prompts import Prompt
from vila2data.stats.signals import signals_of
from vila2data.storage import Place

from .gate import judge
from .ledger import storable
from .observe import OnSample, ignore
from .shard import request_for
from .spec import RecaptionSpec

_CHUNKS = 4
_ENOUGH = 1.5  # read of a fraction, which a keyed hash spreads unevenly


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was measured, and what follows for a run; an extrapolation.

    Args:
        images: to caption.
        sampled: images that were captioned for the estimate.
        timed: those of them that the rate is from; the others warmed the engine up.
        shards: that they are from.
        rejected_share: of the sampled, by the gate at the first answer.
        answers_per_image: retries included.
        tokens_per_image: mean of the output tokens of all answers to an image, None where the
            engine does not tell.
        tokens_per_image_p95: as ``tokens_per_image``; 5 % of the images take more.
        answers_per_s: of one engine.
        answers_per_s_error: standard error of ``answers_per_s``, from repeated chunks; None from
            fewer than two.
        concurrency: requests that the engine works on at a time, None where it does not tell.
    """

    images: int
    sampled: int
    timed: int
    shards: int
    rejected_share: float
    answers_per_image: float
    tokens_per_image: float | None
    tokens_per_image_p95: float | None
    answers_per_s: float
    answers_per_s_error: float | None
    concurrency: int | None

    @property
    def images_per_s(self) -> float:
        """Of one engine, retries included."""
        return self.answers_per_s / self.answers_per_image

    @property
    def tokens(self) -> float | None:
        """Output tokens of the run."""
        return None if self.tokens_per_image is None else self.images * self.tokens_per_image

    @property
    def hours(self) -> float:
        """Of one engine without a pause; its start is not in it."""
        return self.images / self.images_per_s / 3600

    @property
    def relative_error(self) -> float | None:
        """Standard error of the rate, and so of the hours, as a share of it."""
        error = self.answers_per_s_error
        return None if error is None else error / self.answers_per_s

    @property
    def is_lower_bound(self) -> bool:
        """Whether a chunk was too small to fill the engine, so that a run is faster."""
        return self.concurrency is not None and self.timed < _CHUNKS * self.concurrency


def images_to_caption(samples: int, spec: RecaptionSpec) -> int:
    """Of ``samples`` in the corpus, by the round's fraction."""
    return round(samples * spec.fraction)


def pick(
    sizes: Mapping[Place, int], spec: RecaptionSpec, count: int, *, seed: int
) -> list[list[Sample]]:
    """Up to ``count`` samples that a run would ask about, by shard: the same at every call.

    The shards are spread over all, the samples over each shard; memory holds their images.

    Args:
        sizes: samples of each shard to draw from.
        spec: whose fraction and limits hold.
        count: of samples.
        seed: of the data set.
    """
    shards = list(sizes)
    number = min(count, len(shards))
    picked = []
    for position in range(number):
        shard = shards[position * len(shards) // number]
        share = (position + 1) * count // number - position * count // number
        picked.append(_pick_in(shard, spec, share, size=sizes[shard], seed=seed))
    return picked


def _pick_in(
    shard: Place, spec: RecaptionSpec, count: int, *, size: int, seed: int
) -> list[Sample]:
    enough = count if spec.fraction == 1 else math.ceil(count / spec.fraction * _ENOUGH)
    step = max(1, size // enough)
    # Not the first of each stretch, which is where a corpus sorted by something has its extremes.
    begun = keyed_hash(seed, shard.name, "calibrate") % step
    samples = read_shard(shard, limits=spec.limits.reading(), only=range(begun, size, step))
    usable = (s for s in samples if not s.problem and spec.takes(s.key, seed=seed))
    return list(islice(usable, count))


def estimate(
    samples: Sequence[Sequence[Sample]],
    spec: RecaptionSpec,
    engine: Captioner,
    *,
    images: int,
    seed: int,
    on_sample: OnSample = ignore,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Captions ``samples`` as a run would, and times the first answers.

    A first chunk warms the engine up; the others are timed each by itself, from asking to the last
    answer, so that filling and draining the engine counts and the rate errs to the slow side. What
    the gate rejects is asked again as often as the recipe says, untimed: a handful would not fill
    the engine as a run's retries do.

    Args:
        samples: by shard.
        spec: the recipe's block.
        engine: ready to write.
        images: to caption in the run.
        seed: of the data set.
        on_sample: told of samples that were answered.
        clock: seconds that only go forward.

    Raises:
        RunFailed: there are too few samples to time anything.
    """
    together = _mixed(samples)
    concurrency = concurrency_of(spec)
    chunks = _chunks(len(together), concurrency or 1)
    asking = _Asking(together, spec, seed, engine)
    durations_s = []
    for chunk in chunks:
        durations_s.append(asking.ask_timed(chunk, clock))
        on_sample(len(chunk))
    rejected = asking.rejected  # at the first answer
    asking.ask_again()
    counts = [len(chunk) for chunk in chunks]
    rate, error = _rate(counts[1:], durations_s[1:])
    tokens_mean, tokens_p95 = asking.tokens_per_image()
    return Estimate(
        images=images,
        sampled=len(together),
        timed=sum(counts[1:]),
        shards=sum(bool(of_shard) for of_shard in samples),
        rejected_share=rejected / len(together),
        answers_per_image=asking.answers / len(together),
        tokens_per_image=tokens_mean,
        tokens_per_image_p95=tokens_p95,
        answers_per_s=rate,
        answers_per_s_error=error,
        concurrency=concurrency,
    )


def concurrency_of(spec: RecaptionSpec) -> int | None:
    """Requests that the recipe's engine works on at a time, None where its settings do not say."""
    for setting in ("in_flight", "batch_size"):
        told = getattr(spec.engine, setting, None)
        if isinstance(told, int):
            return told
    return None


def _mixed(samples: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Those of the shards in turn, so that each chunk has some of each."""
    longest = max(map(len, samples), default=0)
    return [of_shard[n] for n in range(longest) for of_shard in samples if n < len(of_shard)]


def _chunks(count: int, concurrency: int) -> list[range]:
    """The warm-up, then chunks of whole batches as far as there are enough.

    Raises:
        RunFailed: the warm-up would leave nothing to time.
    """
    batch = max(1, min(concurrency, count // (_CHUNKS + 1)))
    batches = [range(start, min(start + batch, count)) for start in range(0, count, batch)]
    timed = len(batches) - 1
    if timed < 1:
        raise RunFailed(
            f"{count} images are too few to time: give --calibrate more, at least "
            f"{2 * concurrency} for this engine"
        )
    number = min(_CHUNKS, timed)
    bounds = [1 + timed * position // number for position in range(number + 1)]
    chunks = [range(batches[a].start, batches[b - 1].stop) for a, b in pairwise(bounds)]
    return [*batches[:1], *chunks]


def _rate(counts: Sequence[int], durations_s: Sequence[float]) -> tuple[float, float | None]:
    """Answers a second over all chunks, and its standard error: that of a ratio of two sums.

    Raises:
        RunFailed: no time passed.
    """
    total_s = sum(durations_s)
    if total_s <= 0:
        raise RunFailed("the images were too quick to be timed: give --calibrate more")
    rate = sum(counts) / total_s
    if len(counts) < 2:
        return rate, None
    residuals = [n - rate * s for n, s in zip(counts, durations_s, strict=True)]
    spread = math.sqrt(sum(r * r for r in residuals) / (len(counts) - 1) / len(counts))
    return rate, spread / statistics.fmean(durations_s)


class _Asking:
    """Asks about samples, judges the answers, asks again."""

    def __init__(
        self, samples: Sequence[Sample], spec: RecaptionSpec, seed: int, engine: Captioner
    ) -> None:
        self._samples = samples
        self._spec = spec
        self._seed = seed
        self._engine = engine
        self._again: list[int] = []
        self._tokens: dict[int, int] = {}  # by place in samples
        self.answers = 0
        self.rejected = 0

    def tokens_per_image(self) -> tuple[float | None, float | None]:
        """Mean and 95th percentile of the output tokens of all answers to a sample, None where the
        engine told of none.
        """
        told = list(self._tokens.values())
        return (float(np.mean(told)), float(np.percentile(told, 95))) if told else (None, None)

    def ask_timed(self, places: Sequence[int], clock: Callable[[], float]) -> float:
        """Seconds from the first asking of the samples at ``places`` to the last answer."""
        began_s = clock()
        self.ask(places, attempt=0)
        return clock() - began_s

    def ask_again(self) -> None:
        """Asks again about what was rejected, as often as the recipe says."""
        for attempt in range(1, self._spec.retry.times + 1):
            places, self._again = self._again, []
            if places:
                self.ask(places, attempt=attempt)

    def ask(self, places: Sequence[int], *, attempt: int) -> None:
        """One attempt at each of the samples at ``places``."""
        prompts = {}
        requests = []
        for place in places:
            prompt, request = request_for(
                self._samples[place], self._spec, seed=self._seed, attempt=attempt
            )
            prompts[place] = prompt
            requests.append(replace(request, index=place))
        for result in self._engine.generate(requests):
            self._take(result, prompts[result.index])

    def _take(self, result: Result, prompt: Prompt) -> None:
        self.answers += 1
        if result.num_tokens is not None:
            self._tokens[result.index] = self._tokens.get(result.index, 0) + result.num_tokens
        text = storable(result.text)
        if judge(result, signals_of(text), prompt, self._spec.gate) is None:
            return
        self.rejected += 1
        if result.retriable:
            self._again.append(result.index)
