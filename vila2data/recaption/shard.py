"""The work on one shard: read, ask, judge, ask again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from vila2data.conversation import neutralise
from vila2data.corpus.read import ReadLimits, Sample, read_shard
from vila2data.counts import Counts
from vila2data.engines import Captioner, Request, Result
from vila2data.errors import CountsDoNotBalance
from vila2data.prompts import render_prompt
from vila2data.prompts.catalog import ORIGINAL_FIELD
from vila2data.stats.signals import signals_of

from .gate import judge
from .ledger import storable
from .rows import Row, counts_of, table_of
from .spec import RecaptionSpec

OnSample = Callable[[int], None]
"""Called with a number of samples that are done."""


def _ignore(_: int) -> None:
    pass


def scan_shard(
    shard: Path, limits: ReadLimits, on_sample: OnSample = _ignore
) -> tuple[pa.Table, Counts]:
    """The original texts of a shard, as round 0; broken images and unfit texts are rejected."""
    rows = []
    for sample in read_shard(shard, limits=limits):
        row = Row.of(sample, task="general", round=0)
        row.caption, row.signals = sample.text, signals_of(sample.text)
        if problem := sample.problem or sample.text_problem:
            row.reject(problem.reason, problem.detail)
        rows.append(row)
        on_sample(1)
    return table_of(rows), counts_of(rows, read=len(rows))


def caption_shard(
    shard: Path,
    spec: RecaptionSpec,
    engine: Captioner,
    *,
    seed: int,
    on_sample: OnSample = _ignore,
) -> tuple[pa.Table, Counts]:
    """Captions of a shard's samples, in the order of the shard.

    Each attempt reads the shard anew, so that memory holds the texts of one shard and the images in
    flight, no more.

    Args:
        seed: of the data set.
        on_sample: told of samples whose caption is final.

    Raises:
        CountsDoNotBalance: the engine lost, repeated or invented a result.
    """
    work = _ShardWork(shard, spec, seed, on_sample)
    while work.pending:
        requests = work.requests()
        for result in engine.generate(requests):
            work.take(result)
        for _ in requests:  # what the engine did not draw is missing in the balance
            pass
        work.next_attempt()
    rows = [work.rows[index] for index in sorted(work.rows)]
    return table_of(rows), counts_of(rows, read=work.read, not_sampled=work.not_sampled)


class _ShardWork:
    """What is known of a shard while its captions are written."""

    def __init__(self, shard: Path, spec: RecaptionSpec, seed: int, on_sample: OnSample) -> None:
        self.shard = shard
        self.spec = spec
        self.seed = seed
        self.on_sample = on_sample
        self.limits = spec.limits.reading()
        self.rows: dict[int, Row] = {}  # by index of the sample in the shard
        self.read = 0
        self.not_sampled = 0
        self.attempt = 0
        self.pending = True
        self._asked: set[int] = set()
        self._again: set[int] = set()

    def requests(self) -> Iterator[Request]:
        """Requests of this attempt: all samples at first, then those that were rejected."""
        only = set(self._asked) if self.attempt else None
        for sample in read_shard(self.shard, limits=self.limits, only=only):
            if only is not None or self._admit(sample):
                yield self._request(sample)

    def _admit(self, sample: Sample) -> bool:
        self.read += 1
        if not self.spec.takes(sample.key, seed=self.seed):
            self.not_sampled += 1
            self.on_sample(1)
            return False
        row = Row.of(sample, task=self.spec.task, round=self.spec.round)
        row.template_id = self.spec.template
        self.rows[sample.index] = row
        if sample.problem:
            row.reject(sample.problem.reason, sample.problem.detail)
            self.on_sample(1)
            return False
        self._asked.add(sample.index)
        return True

    def _request(self, sample: Sample) -> Request:
        row = self.rows[sample.index]
        prompt = self.spec.prompt_for(sample.key, seed=self.seed)
        sampling = self.spec.sampling_for(sample.key, seed=self.seed, attempt=self.attempt)
        row.prompt_id, row.seed = prompt.id, sampling.seed
        text = prompt.text
        if ORIGINAL_FIELD in text:
            text = render_prompt(text, original=neutralise(sample.text))
        return Request(
            index=sample.index,
            image=sample.image,
            prompt=text,
            sampling=sampling,
            key=sample.key,
            task=self.spec.task,
            round=self.spec.round,
            image_sha256=row.image_sha256,
            limits=self.limits.image,
        )

    def take(self, result: Result) -> None:
        """Judges a result; one that is rejected is asked for again while attempts are left.

        Raises:
            CountsDoNotBalance: no request waits for this result.
        """
        if result.index not in self._asked:
            raise CountsDoNotBalance(
                f"{self.shard}: the engine gave a result for index {result.index}, "
                "which was not asked for or is answered already"
            )
        row = self.rows[result.index]
        row.caption = storable(result.text)
        row.signals = signals_of(row.caption)
        row.finish_reason, row.num_tokens = result.finish_reason, result.num_tokens
        row.attempts = self.attempt + 1
        row.signed_by(result.author)
        self._asked.discard(result.index)
        prompt = self.spec.prompt(str(row.prompt_id))
        verdict = judge(result, row.signals, prompt, self.spec.gate)
        row.reject_reason, row.reject_detail = (
            (verdict.reason, verdict.detail) if verdict else (None, None)
        )
        if verdict and result.retriable and self.attempt < self.spec.retry.times:
            self._again.add(result.index)
        else:
            self.on_sample(1)

    def next_attempt(self) -> None:
        """Ends an attempt.

        Raises:
            CountsDoNotBalance: the engine left a request without a result.
        """
        if self._asked:
            raise CountsDoNotBalance(
                f"{self.shard}: the engine gave no result for {len(self._asked)} requests"
            )
        self._asked, self._again = self._again, set()
        self.attempt += 1
        self.pending = bool(self._asked)
