"""Engine ``transformers``: any image-text-to-text checkpoint, in this process, on CPU or GPU."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, ClassVar, Literal

from pydantic import Field

from vila2data.corpus.images import ImageRefused, Problem
from vila2data.errors import RunFailed
from vila2data.optional import require

from .busy import BusyClock
from .checkpoint import Chat, CheckpointConfig
from .protocol import OWN_SETTING, Request, Result, failed


class TransformersConfig(CheckpointConfig):
    """Settings of engine ``transformers``."""

    PACKAGES: ClassVar[tuple[str, ...]] = ("transformers",)

    name: Literal["transformers"] = "transformers"
    device: str = Field("auto", json_schema_extra=OWN_SETTING)
    batch_size: int = Field(8, ge=1, json_schema_extra=OWN_SETTING)
    threads: int | None = Field(None, ge=1, json_schema_extra=OWN_SETTING)


def _loaded(config: TransformersConfig) -> Any:
    """The model.

    Raises:
        BadInput: the checkpoint cannot be loaded.
    """
    transformers = require("transformers", extra="vlm")
    try:
        return transformers.AutoModelForImageTextToText.from_pretrained(
            config.model, revision=config.revision, dtype=config.dtype, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise config.unloadable(error) from error


class TransformersEngine:
    """A captioner that batches with left padding, each row drawn by its own generator.

    A row's text depends on its image, prompt and sampling alone; what the other rows of its batch
    are changes only the rounding of floating-point sums.
    """

    Config = TransformersConfig

    def __init__(self, config: TransformersConfig) -> None:
        torch = require("torch", extra="vlm")
        self.config = config
        self.author = config.author
        if config.threads:
            torch.set_num_threads(config.threads)
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = _loaded(config)
        self._chat = Chat.of(config, model.generation_config.eos_token_id)
        self._model = model.to(device).eval()
        self._chat.tokenizer.padding_side = "left"
        if self._chat.tokenizer.pad_token_id is None:
            self._chat.tokenizer.pad_token = self._chat.tokenizer.eos_token
        # generate() fills what a call leaves open from the checkpoint's own settings; its penalties
        # or suppressed tokens must not act beside the recipe's.
        self._model.generation_config = self._generation_config()
        self._busy = BusyClock()

    @property
    def busy_s(self) -> float:
        """Seconds inside the model's ``generate``; what decodes and prepares images beside it, and
        what waits for that, is left out.
        """
        return self._busy.seconds

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """One result per request; the next batch is decoded while one is generated."""
        batches = self._batches(iter(requests))
        with ThreadPoolExecutor(1) as ahead:
            upcoming = ahead.submit(next, batches, None)
            while (batch := upcoming.result()) is not None:
                upcoming = ahead.submit(next, batches, None)
                refused, ready, inputs = batch
                yield from refused
                if ready:
                    yield from self._generate_batch(ready, inputs)

    def _batches(
        self, requests: Iterator[Request]
    ) -> Iterator[tuple[list[Result], list[Request], Any]]:
        """(requests that failed, the others, their model inputs)."""
        while chunk := list(islice(requests, self.config.batch_size)):
            refused: list[Result] = []
            ready: list[Request] = []
            pictures: list[Any] = []
            for request in chunk:
                try:
                    pictures.append(request.picture())
                    ready.append(request)
                except ImageRefused as error:
                    refused.append(self._refused(request, error.problem))
            try:
                inputs = self._inputs(ready, pictures)
            except Exception:  # noqa: BLE001 - the border at which one image must not stop the others
                unfit = self._unfit(ready, pictures)
                refused += unfit.values()
                kept = [n for n in range(len(ready)) if n not in unfit]
                ready = [ready[n] for n in kept]
                inputs = self._inputs(ready, [pictures[n] for n in kept])
            yield refused, ready, inputs

    def _unfit(self, requests: list[Request], pictures: list[Any]) -> dict[int, Result]:
        """Failures of the requests that the processor cannot take, by position."""
        unfit = {}
        for position, (request, picture) in enumerate(zip(requests, pictures, strict=True)):
            try:
                self._inputs([request], [picture])
            except Exception as error:  # noqa: BLE001 - as above
                told = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
                unfit[position] = self._refused(request, Problem("image_unprocessable", told))
        return unfit

    def _refused(self, request: Request, told: Problem) -> Result:
        return failed(request.index, self.author, told.reason, told.detail, retriable=False)

    def _inputs(self, requests: list[Request], pictures: list[Any]) -> Any:
        if not requests:
            return None
        texts = [self._chat.text(request.prompt) for request in requests]
        images = [[picture] for picture in pictures]
        own = self._chat.special_tokens(texts[0])
        return self._chat.processor(
            images=images, text=texts, padding=True, return_tensors="pt", **own
        )

    def _generate_batch(self, requests: list[Request], inputs: Any) -> Iterator[Result]:
        import torch

        from .sampling import PerRequestSampling

        inputs = inputs.to(self._model.device, dtype=self._model.dtype)
        try:
            with torch.inference_mode(), self._busy.working():
                output = self._model.generate(
                    **inputs,
                    max_new_tokens=max(r.sampling.max_tokens for r in requests),
                    logits_processor=[PerRequestSampling([r.sampling for r in requests])],
                )
        except torch.cuda.OutOfMemoryError as error:
            raise RunFailed(
                f"the device's memory is too small for batches of {len(requests)}: lower "
                "engine.batch_size and run the same command again; finished shards are kept"
            ) from error
        prompt_length = inputs["input_ids"].shape[1]
        written = output[:, prompt_length:].cpu()  # (batch, new tokens)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        for request, ids, count in zip(requests, written.tolist(), prompt_tokens, strict=True):
            yield self._result(request, ids, int(count))

    def _generation_config(self) -> Any:
        """Greedy, since PerRequestSampling leaves one token per row."""
        generation: Any = require("transformers", extra="vlm")
        return generation.GenerationConfig(
            do_sample=False,
            num_beams=1,
            eos_token_id=self._chat.end_ids,
            pad_token_id=self._chat.tokenizer.pad_token_id,
            bos_token_id=self._chat.tokenizer.bos_token_id,
        )

    def _result(self, request: Request, ids: list[int], num_prompt_tokens: int) -> Result:
        """Of the request's own limit; the rest of a row is padding."""
        text, finish_reason, num_tokens = self._chat.written(ids[: request.sampling.max_tokens])
        return Result(
            index=request.index,
            text=text,
            finish_reason=finish_reason,
            author=self.author,
            num_tokens=num_tokens,
            num_prompt_tokens=num_prompt_tokens,
        )

    def close(self) -> None:
        """Lets the model go."""
        self._model = None
