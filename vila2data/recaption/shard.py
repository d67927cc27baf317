"""The work on shards: read, ask, judge, ask again."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, count

import pyarrow as pa

from vila2data.conversation import neutralise
from vila2data.corpus.read import ReadLimits, Sample, read_shard
from vila2data.counts import Counts
from vila2data.engines import Captioner, Request, Result
from vila2data.errors import CountsDoNotBalance
from vila2data.prompts import Prompt, render_prompt
from vila2data.prompts.catalog import ORIGINAL_FIELD
from vila2data.stats.signals import signals_of
from vila2data.storage import Place

from .gate import judge
from .ledger import storable
from .observe import Account, Figures, OnSample, ignore
from .rows import Row, counts_of, table_of
from .spec import RecaptionSpec


def scan_shard(
    shard: Place, limits: ReadLimits, on_sample: OnSample = ignore
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


def caption_shards(
    shards: Iterable[Place],
    spec: RecaptionSpec,
    engine: Captioner,
    *,
    seed: int,
    account: Account | None = None,
) -> Iterator[tuple[Place, pa.Table, Counts]]:
    """Captions of each shard's samples, in the order of the shard; each comes when it is whole.

    The engine draws one shard after the other from one stream, so that it never runs empty between
    two. Each attempt reads its shard anew, so that memory holds the texts of the shards in flight
    and the images in flight, no more.

    Args:
        seed: of the data set.
        account: told of each answer, and of samples whose caption is final.

    Raises:
        CountsDoNotBalance: the engine lost, repeated or invented a result.
    """
    told = account or Account()
    stream = _Stream(_ShardWork(shard, spec, seed, told) for shard in shards)
    with told.watching(engine):
        for requests in stream.rounds():
            for result in engine.generate(requests):
                stream.take(result)
                yield from stream.finished()
            stream.check_all_answered(requests)
        yield from stream.finished()


def request_for(
    sample: Sample, spec: RecaptionSpec, *, seed: int, attempt: int
) -> tuple[Prompt, Request]:
    """What attempt ``attempt`` at a sample asks, and the prompt that it was made from."""
    prompt = spec.prompt_for(sample.key, seed=seed)
    text = prompt.text
    if ORIGINAL_FIELD in text:
        text = render_prompt(text, original=neutralise(sample.text))
    return prompt, Request(
        index=sample.index,
        image=sample.image,
        prompt=text,
        sampling=spec.sampling_for(sample.key, seed=seed, attempt=attempt),
        key=sample.key,
        task=spec.task,
        round=spec.round,
        image_sha256=sample.image_sha256,
        limits=spec.limits.reading().image,
    )


class _Stream:
    """Requests of shard after shard, and the results that come in any order.

    What is asked again of a shard follows the shard that is being drawn then.
    """

    def __init__(self, new: Iterator["_ShardWork"]) -> None:
        self._new = new
        self._again: deque[_ShardWork] = deque()
        self._waiting: dict[int, tuple[_ShardWork, int]] = {}  # by number of the request
        self._numbers = count()
        self._finished: list[_ShardWork] = []

    def rounds(self) -> Iterator[Iterator[Request]]:
        """Requests, as long as there are any; more than once where the last shards are asked
        again.
        """
        while True:
            requests = self._requests()
            first = next(requests, None)
            if first is None:
                return
            yield chain([first], requests)

    def _requests(self) -> Iterator[Request]:
        while work := self._again.popleft() if self._again else next(self._new, None):
            for request in work.requests():
                number = next(self._numbers)
                self._waiting[number] = work, request.index
                yield replace(request, index=number)
            work.is_drawn = True
            self._settle(work)

    def take(self, result: Result) -> None:
        """Hands a result to its shard.

        Raises:
            CountsDoNotBalance: no request waits for it.
        """
        if result.index not in self._waiting:
            raise CountsDoNotBalance(
                f"the engine gave a result for index {result.index}, which was not asked for or "
                "is answered already"
            )
        work, index = self._waiting.pop(result.index)
        work.take(index, result)
        self._settle(work)

    def _settle(self, work: "_ShardWork") -> None:
        """Once an attempt has all its results, the next one waits to be drawn, or all is done."""
        if work.is_attempt_over:
            work.begin_attempt()
            (self._again if work.is_pending else self._finished).append(work)

    def finished(self) -> Iterator[tuple[Place, pa.Table, Counts]]:
        """The shards that became whole."""
        while self._finished:
            work = self._finished.pop(0)
            yield work.shard, *work.written()

    def check_all_answered(self, requests: Iterator[Request]) -> None:
        """After the engine ended.

        Raises:
            CountsDoNotBalance: it left requests without a result, or did not draw them.
        """
        left = next(requests, None)
        if not self._waiting:
            return
        work, _ = next(iter(self._waiting.values()))
        missing = sum(other is work for other, _ in self._waiting.values())
        more = " and drew no more" if left else ""
        raise CountsDoNotBalance(
            f"{work.shard}: the engine gave no result for {missing} requests{more}"
        )


class _ShardWork:
    """What is known of a shard while its captions are written."""

    def __init__(self, shard: Place, spec: RecaptionSpec, seed: int, account: Account) -> None:
        self.shard = shard
        self.spec = spec
        self.seed = seed
        self.account = account
        self.limits = spec.limits.reading()
        self.rows: dict[int, Row] = {}  # by index of the sample in the shard
        self.read = 0
        self.not_sampled = 0
        self.attempt = 0
        self.is_drawn = False  # all requests of the attempt
        self._asked: set[int] = set()
        self._again: set[int] = set()

    @property
    def is_attempt_over(self) -> bool:
        """Whether every request of the attempt is drawn and answered."""
        return self.is_drawn and not self._asked

    @property
    def is_pending(self) -> bool:
        """Whether something is to be asked."""
        return bool(self._asked)

    def written(self) -> tuple[pa.Table, Counts]:
        """The rows in the order of the shard, and their counts."""
        rows = [self.rows[index] for index in sorted(self.rows)]
        return table_of(rows), counts_of(rows, read=self.read, not_sampled=self.not_sampled)

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
            self.account.add(Figures(not_sampled=1))
            return False
        row = Row.of(sample, task=self.spec.task, round=self.spec.round)
        row.template_id = self.spec.template
        self.rows[sample.index] = row
        if sample.problem:
            row.reject(sample.problem.reason, sample.problem.detail)
            self.account.add(Figures(rejected={sample.problem.reason: 1}))
            return False
        self._asked.add(sample.index)
        return True

    def _request(self, sample: Sample) -> Request:
        row = self.rows[sample.index]
        prompt, request = request_for(sample, self.spec, seed=self.seed, attempt=self.attempt)
        row.prompt_id, row.seed = prompt.id, request.sampling.seed
        return request

    def take(self, index: int, result: Result) -> None:
        """Judges a sample's result; one that is rejected is asked for again while attempts are
        left.
        """
        row = self.rows[index]
        row.caption = storable(result.text)
        row.signals = signals_of(row.caption)
        row.finish_reason, row.num_tokens = result.finish_reason, result.num_tokens
        row.attempts = self.attempt + 1
        row.signed_by(result.author)
        self._asked.remove(index)
        prompt = self.spec.prompt(str(row.prompt_id))
        verdict = judge(result, row.signals, prompt, self.spec.gate)
        row.reject_reason, row.reject_detail = (
            (verdict.reason, verdict.detail) if verdict else (None, None)
        )
        is_asked_again = (
            verdict is not None and result.retriable and self.attempt < self.spec.retry.times
        )
        if is_asked_again:
            self._again.add(index)
        self.account.add(
            Figures.of_answer(
                result, row.reject_reason, attempt=self.attempt, is_asked_again=is_asked_again
            )
        )

    def begin_attempt(self) -> None:
        """Goes on to what is asked again."""
        self._asked, self._again = self._again, set()
        self.attempt += 1
        self.is_drawn = False
