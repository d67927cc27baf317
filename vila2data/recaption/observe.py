"""The account of a run while it goes: what was answered, what passed the gate, how fast."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from vila2data.counts import tally
from vila2data.engines import Captioner, Result, TellsBusy

OnSample = Callable[[int], None]
"""Called with a number of samples that are done."""

Number = TypeVar("Number", int, float)


def ignore(_: int) -> None:
    """The ``OnSample`` that does nothing."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums of a run or a part of it; those of several parts or processes add up.

    Args:
        kept: captions that passed the gate.
        not_sampled: samples outside the round's fraction.
        rejected: samples that are given up, by reason.
        answers: of the engine, those that are asked again included.
        retrying: samples whose answer was rejected and that wait for another.
        failures: answers without a text, by ``error_reason``; each try counts.
        output_tokens: of all answers that told, None where none did.
        prompt_tokens: as ``output_tokens``.
        busy_s: seconds in which the engines' models worked (``TellsBusy``), None where none tells.
        engine_s: seconds in which the engines were there to be asked; of several, the sum.
    """

    kept: int = 0
    not_sampled: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    retrying: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    busy_s: float | None = None
    engine_s: float = 0.0

    @classmethod
    def of_answer(
        cls, result: Result, reject_reason: str | None, *, attempt: int, is_asked_again: bool
    ) -> "Figures":
        """What one answer adds.

        Args:
            result: the answer.
            reject_reason: the gate's, None where it passed.
            attempt: 0 is the first at the sample.
            is_asked_again: it was rejected and is not given up.
        """
        is_failure = result.finish_reason == "error"
        is_given_up = reject_reason is not None and not is_asked_again
        return cls(
            kept=int(reject_reason is None),
            rejected={str(reject_reason): 1} if is_given_up else {},
            answers=1,
            retrying=int(is_asked_again) - int(attempt > 0),
            failures={result.error_reason or "engine_error": 1} if is_failure else {},
            output_tokens=result.num_tokens,
            prompt_tokens=result.num_prompt_tokens,
        )

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(
            self.kept + other.kept,
            self.not_sampled + other.not_sampled,
            _joined(self.rejected, other.rejected),
            self.answers + other.answers,
            self.retrying + other.retrying,
            _joined(self.failures, other.failures),
            _plus(self.output_tokens, other.output_tokens),
            _plus(self.prompt_tokens, other.prompt_tokens),
            _plus(self.busy_s, other.busy_s),
            self.engine_s + other.engine_s,
        )

    @property
    def images(self) -> int:
        """Images of the round that are done: kept or given up."""
        return self.kept + sum(self.rejected.values())

    @property
    def kept_share(self) -> float | None:
        """Kept of those that are done, None before the first."""
        return self.kept / self.images if self.images else None


def _joined(some: Mapping[str, int], others: Mapping[str, int]) -> Mapping[str, int]:
    return tally(Counter(some) + Counter(others)) if others else some


def _plus(some: Number | None, other: Number | None) -> Number | None:
    if some is None or other is None:
        return other if some is None else some
    return some + other


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a stretch of a run was. A figure is None where it was not told, or no time passed.

    ``engine_busy`` is the share of the engines' time in which their models worked.
    """

    images_per_s: float | None = None
    output_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    engine_busy: float | None = None

    @classmethod
    def between(cls, before: Figures, after: Figures, *, duration_s: float) -> "Pace":
        """From ``before`` to ``after``, which were taken ``duration_s`` apart."""
        return cls(
            _rate(before.images, after.images, duration_s),
            _rate(before.output_tokens, after.output_tokens, duration_s),
            _rate(before.prompt_tokens, after.prompt_tokens, duration_s),
            _rate(before.busy_s, after.busy_s, after.engine_s - before.engine_s),
        )


def _rate(before: float | None, after: float | None, duration_s: float) -> float | None:
    if after is None or duration_s <= 0:
        return None
    return (after - (before or 0)) / duration_s


class Account:
    """The figures of a run while it goes; filled and read by several threads.

    Rates count from when the first engine was ready, so that loading a model does not dilute them.

    Args:
        on_sample: told of samples that are done, after they are in the figures.
        clock: seconds that only go forward; the wall clock may jump.
    """

    def __init__(
        self, on_sample: OnSample = ignore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.on_sample = on_sample
        self._clock = clock
        self._created_s = clock()
        self._work_began_s: float | None = None
        self._lock = Lock()
        self._sum = Figures()
        self._engine: tuple[Captioner, float, float] | None = None  # with what it told at first

    def add(self, more: Figures) -> None:
        """Adds what happened here, or in another process."""
        with self._lock:
            if self._work_began_s is None:  # another process began earlier than it told
                self._work_began_s = self._clock() - more.engine_s
            self._sum += more
        if done := more.images + more.not_sampled:
            self.on_sample(done)

    @contextmanager
    def watching(self, engine: Captioner) -> Iterator[None]:
        """Counts the time of an engine that is ready, and how much of it the model worked."""
        with self._lock:
            began_s = self._clock()
            self._engine = engine, began_s, _busy_s(engine) or 0.0
            if self._work_began_s is None:
                self._work_began_s = began_s
        try:
            yield
        finally:
            with self._lock:
                self._sum = self._figures()
                self._engine = None

    def figures(self) -> Figures:
        """All until now."""
        with self._lock:
            return self._figures()

    def take(self) -> Figures:
        """All since the last call of this method, which the account then forgets."""
        with self._lock:
            found = self._figures()
            self._sum = Figures()
            if self._engine is not None:
                engine, _, _ = self._engine
                self._engine = engine, self._clock(), _busy_s(engine) or 0.0
            return found

    def _figures(self) -> Figures:
        if self._engine is None:
            return self._sum
        engine, began_s, busy_before_s = self._engine
        busy_s = _busy_s(engine)
        return self._sum + Figures(
            busy_s=None if busy_s is None else busy_s - busy_before_s,
            engine_s=self._clock() - began_s,
        )

    @property
    def elapsed_s(self) -> float:
        """Seconds since the account was opened."""
        return self._clock() - self._created_s

    def pace(self) -> Pace:
        """How fast it went since the first engine was ready."""
        began_s = self._work_began_s
        duration_s = 0.0 if began_s is None else self._clock() - began_s
        return Pace.between(Figures(), self.figures(), duration_s=duration_s)

    def told(self) -> str:
        """What matters, short enough to stand beside a bar."""
        figures, pace = self.figures(), self.pace()
        parts = []
        if pace.images_per_s is not None:
            parts.append(f"{_short(pace.images_per_s)} images/s")
        if pace.output_tokens_per_s is not None:
            parts.append(f"{_short(pace.output_tokens_per_s)} tok/s")
        if pace.engine_busy is not None:
            parts.append(f"engine busy {pace.engine_busy:.0%}".replace("%", " %"))
        if figures.kept_share is not None:
            parts.append(f"kept {figures.kept_share:.1%}".replace("%", " %"))
        if figures.retrying:
            parts.append(f"{figures.retrying:,} retrying")
        if failures := sum(figures.failures.values()):
            parts.append(f"{failures:,} failures" if failures > 1 else "1 failure")
        return " · ".join(parts)


def _busy_s(engine: Captioner) -> float | None:
    return engine.busy_s if isinstance(engine, TellsBusy) else None


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
