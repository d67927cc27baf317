"""Engine ``transformers``: any image-text-to-text checkpoint, in this process, on CPU or GPU."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vila2data.corpus.images import ImageRefused, Problem
from vila2data.errors import BadInput, RunFailed
from vila2data.optional import require
from vila2data.recipe import PathOrName

from .checkpoint import folder_revision
from .protocol import OWN_SETTING, Author, EngineConfig, FinishReason, Request, Result, failed


class TransformersConfig(EngineConfig):
    """Settings of engine ``transformers``."""

    name: Literal["transformers"] = "transformers"
    model: PathOrName = Field(description="folder of a checkpoint, or its name on the Hub")
    revision: str | None = Field(None, description="commit or tag on the Hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_template: str | None = Field(None, description="Jinja, where the checkpoint has none")
    device: str = Field("auto", json_schema_extra=OWN_SETTING)
    batch_size: int = Field(8, ge=1, json_schema_extra=OWN_SETTING)
    threads: int | None = Field(None, ge=1, json_schema_extra=OWN_SETTING)

    @cached_property
    def author(self) -> Author:
        """Who writes; a local checkpoint is known by its folder's name and its files' hash."""
        folder = Path(self.model)
        local = folder.is_dir()
        name = folder.resolve().name if local else self.model
        revision = folder_revision(folder) if local else self.revision
        return Author(name, revision, f"transformers {_version()}")

    def shaping(self) -> dict[str, Any]:
        """Settings, the checkpoint's hash in place of its path, and the engine's version."""
        author = self.author
        return super().shaping() | {
            "model": author.captioner,
            "revision": author.captioner_revision,
            "engine": author.engine,
        }

    def problems(self) -> list[str]:
        """A path that looks local and is not there."""
        looks_local = self.model.startswith((".", "/", "~")) or self.model.count("/") > 1
        if looks_local and not Path(self.model).is_dir():
            return [f"engine.model: {self.model}: no such checkpoint folder"]
        return []


def _version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return "not installed"


def _loaded(config: TransformersConfig) -> tuple[Any, Any]:
    """Processor and model.

    Raises:
        BadInput: the checkpoint cannot be loaded, or takes no images.
    """
    transformers = require("transformers", extra="vlm")
    try:
        processor = transformers.AutoProcessor.from_pretrained(
            config.model, revision=config.revision, trust_remote_code=False
        )
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            config.model, revision=config.revision, dtype=config.dtype, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise BadInput(f"engine.model: {config.model} cannot be loaded: {reason}") from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise BadInput(f"engine.model: {config.model} has no processor of images and text")
    return processor, model


def _end_ids(config: TransformersConfig, model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the model's and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ids = ends if isinstance(ends, list) else [ends]
    found = sorted({i for i in [*ids, tokenizer.eos_token_id] if i is not None})
    if not found:
        raise BadInput(f"engine.model: {config.model} names no end-of-text token")
    return found


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
        self._processor, model = _loaded(config)
        self._model = model.to(device).eval()
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._end_ids = _end_ids(config, model, self._tokenizer)
        # generate() fills what a call leaves open from the checkpoint's own settings; its penalties
        # or suppressed tokens must not act beside the recipe's.
        self._model.generation_config = self._generation_config()
        template = config.chat_template or self._processor.chat_template
        if template is None:
            raise BadInput(
                f"engine.model: {config.model} has no chat template; "
                "give one as engine.chat_template"
            )
        self._template = template

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
        texts = [self._chat(request.prompt) for request in requests]
        images = [[picture] for picture in pictures]
        # A template that writes the start token itself must not get a second one.
        start = self._tokenizer.bos_token
        own = {"add_special_tokens": False} if start and texts[0].startswith(start) else {}
        return self._processor(images=images, text=texts, padding=True, return_tensors="pt", **own)

    def _chat(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def _generate_batch(self, requests: list[Request], inputs: Any) -> Iterator[Result]:
        import torch

        from .sampling import PerRequestSampling

        inputs = inputs.to(self._model.device, dtype=self._model.dtype)
        try:
            with torch.inference_mode():
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
            eos_token_id=self._end_ids,
            pad_token_id=self._tokenizer.pad_token_id,
            bos_token_id=self._tokenizer.bos_token_id,
        )

    def _result(self, request: Request, ids: list[int], num_prompt_tokens: int) -> Result:
        """Text up to the first end token within the request's own limit; the rest of a row is
        padding.
        """
        ids = ids[: request.sampling.max_tokens]
        end = next((n for n, token in enumerate(ids) if token in self._end_ids), None)
        finish_reason: FinishReason = "length" if end is None else "stop"
        # Special tokens stay visible, for the gate to find.
        text = self._tokenizer.decode(ids[:end], skip_special_tokens=False).strip()
        return Result(
            index=request.index,
            text=text,
            finish_reason=finish_reason,
            author=self.author,
            num_tokens=len(ids) if end is None else end + 1,
            num_prompt_tokens=num_prompt_tokens,
        )

    def close(self) -> None:
        """Lets the model go."""
        self._model = None
