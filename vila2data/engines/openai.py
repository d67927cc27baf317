"""Engine ``openai``: servers that speak the OpenAI chat protocol, such as ``vllm serve``."""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from threading import Event
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vila2data.corpus.images import ImageRefused, read_header
from vila2data.errors import BadInput, RunFailed
from vila2data.keyed import keyed_uniform
from vila2data.optional import require
from vila2data.serve.rules import ServeRules

from .busy import BusyClock
from .parallel import in_flight
from .protocol import OWN_SETTING, Author, EngineConfig, FinishReason, Request, Result, failed
from .servers import ServerPool, Servers

_MAX_WAIT_S = 60.0
_PROBE_TIMEOUT_S = 10.0
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_ANSWERS = frozenset({"engine_stopped", "engine_refused"})  # errors that only a live server gives
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "repetition": "repetition"}


Url = Annotated[str, Field(pattern=r"^https?://")]


class OpenAIConfig(EngineConfig):
    """Settings of engine ``openai``."""

    name: Literal["openai"] = "openai"
    base_url: tuple[Url, ...] = Field(
        json_schema_extra=OWN_SETTING, min_length=1, description="of one server, or a list of them"
    )
    model: str = Field(description="the model's name on the server")
    revision: str | None = Field(
        None, description="the model's revision, which servers do not tell"
    )
    extra_body: dict[str, Any] = Field(default_factory=dict, description="passed on as it is")
    api_key_env: str = Field("OPENAI_API_KEY", json_schema_extra=OWN_SETTING)
    in_flight: int = Field(
        32, ge=1, le=1024, json_schema_extra=OWN_SETTING, description="requests at a time, a server"
    )
    timeout_s: float = Field(120.0, gt=0, json_schema_extra=OWN_SETTING)
    tries: int = Field(5, ge=1, le=20, json_schema_extra=OWN_SETTING)
    first_wait_s: float = Field(0.5, ge=0, json_schema_extra=OWN_SETTING)
    give_up_after: int = Field(64, ge=1, json_schema_extra=OWN_SETTING)
    serve: ServeRules | None = Field(
        None, json_schema_extra=OWN_SETTING, description="how `vila2data serve` starts the servers"
    )

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("base_url")
    @classmethod
    def _each_once(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        bare = [url.rstrip("/") for url in urls]
        for url in bare:
            if bare.count(url) > 1:
                raise ValueError(f"{url} stands twice")
        return urls

    @property
    def author(self) -> Author:
        """Who writes, as far as the client can know."""
        return Author(self.model, self.revision, f"openai {_version()}")


def _version() -> str:
    try:
        return version("openai")
    except PackageNotFoundError:
        return "not installed"


class _Transient(Exception):
    """A try failed in a way that another may not; ``is_servers`` where the server may be why."""

    def __init__(
        self, reason: str, detail: str, wait_s: float | None = None, *, is_servers: bool = True
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.wait_s = wait_s
        self.is_servers = is_servers


class OpenAIEngine:
    """A captioner over HTTP: a bounded number of requests in flight on each server, each tried
    again with growing waits.

    A try asks one server after another until one answers: what is wrong with a server costs a
    request nothing while another is there. A request that fails for good gives an error result. The
    servers are gone, rather than a sample bad, where ``give_up_after`` requests in a row failed so,
    or the last ones did and no server ever answered one or does now: the run stops without
    finishing their shards. So failures are results only once a server has answered after them.

    Raises:
        BadInput: a server tells which models it has, and ``model`` is none of them.
    """

    Config = OpenAIConfig

    def __init__(self, config: OpenAIConfig) -> None:
        openai = require("openai", extra="openai")
        self.config = config
        self.author = config.author
        self._openai = openai
        self._failures = 0  # in a row, in calls of generate that may be short
        self._has_answered = False
        # The client's own retries are off: they do not cover a body that is cut short.
        self._clients = {
            url: openai.OpenAI(
                base_url=url,
                api_key=os.environ.get(config.api_key_env) or "none",
                timeout=config.timeout_s,
                max_retries=0,
            )
            for url in config.base_url
        }
        self._refuse_other_models()
        servers = Servers(
            config.base_url, in_flight=config.in_flight, first_wait_s=config.first_wait_s
        )
        self._pool = ServerPool(servers, self._is_up)
        self._busy = BusyClock()

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one request was on its way, network and the server's queue
        included: what the client can see. Waits before another try are left out.
        """
        return self._busy.seconds

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """One result per request, in the order in which the servers answer."""
        held: list[Result] = []  # failures since the last answer
        limit = self.config.in_flight * len(self._clients)
        for result in in_flight(self._answer, requests, limit):
            if result.finish_reason != "error" or result.error_reason in _ANSWERS:
                self._failures, self._has_answered = 0, True
                yield from held
                held.clear()
            elif result.retriable:
                self._failures += 1
                held.append(result)
                if self._failures >= self.config.give_up_after:
                    raise self._gone(result)
                continue
            yield result
        if held and not (self._has_answered and any(map(self._is_up, self._clients))):
            raise self._gone(held[-1])
        yield from held

    def _gone(self, last: Result) -> RunFailed:
        urls = ", ".join(self._clients)
        are = "are the servers" if len(self._clients) > 1 else "is the server"
        return RunFailed(
            f"{self._failures} requests in a row failed, the last with {last.error_reason} "
            f"({last.error_detail}): {are} at {urls} up? "
            "Finished shards are kept; run the same command again"
        )

    def _refuse_other_models(self) -> None:
        with ThreadPoolExecutor(len(self._clients)) as pool:  # one that is gone takes its time
            told = dict(zip(self._clients, pool.map(self._models, self._clients), strict=True))
        wrong = [
            f"{url} serves {', '.join(models)}"
            for url, models in told.items()
            if models and self.config.model not in models
        ]
        if wrong:
            raise BadInput(
                f"engine.base_url: {'; '.join(wrong)}, not '{self.config.model}': set engine.model "
                "to what the server calls it, or take the server off the list"
            )

    def _is_up(self, url: str) -> bool:
        """Whether a server answers anything that is no failure of its own, and tells of no other
        model.
        """
        models = self._models(url)
        return models is not None and (not models or self.config.model in models)

    def _models(self, url: str) -> list[str] | None:
        """What a server calls its models, none where it does not tell; None where it is not up."""
        timeout_s = min(self.config.timeout_s, _PROBE_TIMEOUT_S)
        try:
            listed = self._clients[url].models.list(timeout=timeout_s)
        except self._openai.APIStatusError as error:
            return [] if int(error.status_code) < 500 else None
        except (self._openai.APIConnectionError, ValueError):
            return None
        names = (getattr(model, "id", None) for model in getattr(listed, "data", None) or ())
        return [name for name in names if isinstance(name, str)]

    def _answer(self, request: Request, stop: Event) -> Result:
        try:
            url = data_url(request)
        except ImageRefused as refused:
            told = refused.problem
            return failed(request.index, self.author, told.reason, told.detail, retriable=False)
        last = _Transient("engine_error", "not tried")
        for number in range(self.config.tries):
            try:
                return self._try(request, url, stop)
            except _Transient as error:
                last = error
                final = number + 1 == self.config.tries
                if final or stop.wait(self._wait_s(request, number, error.wait_s)):
                    break
        return failed(request.index, self.author, last.reason, last.detail)

    def _wait_s(self, request: Request, number: int, asked_s: float | None) -> float:
        """Doubles from try to try, spread by half so that requests do not come back all at once."""
        spread = 0.5 + keyed_uniform(request.key, request.sampling.seed, number, "wait")
        waited = self.config.first_wait_s * 2**number * spread
        return float(min(max(waited, asked_s or 0.0), _MAX_WAIT_S))

    def _try(self, request: Request, image_url: str, stop: Event) -> Result:
        """Asks one server after another, until one gives an answer that it is not to blame for."""
        last = _Transient("engine_error", "not tried")
        tried: set[str] = set()
        while lease := self._pool.take(tried, stop):
            try:
                result = self._ask(lease.server.url, request, image_url)
            except _Transient as error:
                if not error.is_servers:
                    self._pool.answered(lease)
                    raise
                self._pool.failed(lease)
                last = error
                tried.add(lease.server.url)
            except BaseException:
                self._pool.answered(lease)
                raise
            else:
                self._pool.answered(lease)
                return result
        raise last

    def _ask(self, server: str, request: Request, image_url: str) -> Result:
        openai = self._openai
        sampling = request.sampling
        content = [
            {"type": "image_url", "image_url": {"url": image_url}},
            {"type": "text", "text": request.prompt},
        ]
        try:
            with self._busy.working():
                answer = self._clients[server].chat.completions.create(
                    model=self.config.model,
                    messages=[{"role": "user", "content": content}],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    seed=sampling.seed,
                    extra_body=self.config.extra_body or None,
                )
        except openai.APITimeoutError as error:
            raise _Transient("engine_timeout", f"no answer in {self.config.timeout_s} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _Transient("engine_unreachable", f"{type(cause).__name__}: {cause}") from error
        except openai.APIStatusError as error:
            return self._refused(server, request, error)
        except (json.JSONDecodeError, openai.APIResponseValidationError) as error:
            raise _Transient("engine_bad_answer", "the body is no JSON, or is cut short") from error
        return self._result(request, answer)

    def _refused(self, server: str, request: Request, error: Any) -> Result:
        status = int(error.status_code)
        if status in (401, 403, 404):
            raise RunFailed(
                f"{server} answers {status} for model '{self.config.model}': check "
                f"engine.base_url, engine.model and the key in ${self.config.api_key_env}"
            ) from error
        detail = f"{status}: {_one_line(error)}"
        if status >= 500 or status in _RETRIED_STATUS:
            raise _Transient(
                f"engine_{status}", detail, _retry_after_s(error), is_servers=status >= 500
            ) from error
        # The request itself is refused, and would be again.
        return failed(request.index, self.author, "engine_refused", detail, retriable=False)

    def _result(self, request: Request, answer: Any) -> Result:
        try:
            choice = answer.choices[0]
            text, told = choice.message.content, choice.finish_reason
        except (AttributeError, IndexError, TypeError) as error:
            raise _Transient("engine_bad_answer", "the answer holds no choice") from error
        if told not in _FINISH:
            return failed(request.index, self.author, "engine_stopped", f"finish_reason {told}")
        if not isinstance(text, str | None) or not _is_unicode(text or ""):
            raise _Transient("engine_bad_answer", "the answer's content is no text")
        return Result(
            index=request.index,
            text=(text or "").strip(),
            finish_reason=_FINISH[told],
            author=self.author,
            num_tokens=_count(answer, "completion_tokens"),
            num_prompt_tokens=_count(answer, "prompt_tokens"),
        )

    def close(self) -> None:
        """Closes the connections."""
        for client in self._clients.values():
            client.close()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _is_unicode(text: str) -> bool:
    """False where the JSON held half a surrogate pair, which no table can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _count(answer: Any, name: str) -> int | None:
    count = getattr(getattr(answer, "usage", None), name, None)
    return count if isinstance(count, int) and 0 <= count < 2**31 else None


def _retry_after_s(error: Any) -> float | None:
    try:
        return float(error.response.headers["retry-after"])
    except (AttributeError, KeyError, ValueError):
        return None


def data_url(request: Request) -> str:
    """The image as a data URL: its own bytes where they are upright and sound, else turned and
    stored as PNG.

    Raises:
        ImageRefused: it cannot be decoded; a server must not be the one to find out.
    """
    picture = request.picture()
    if isinstance(request.image, bytes):
        header = read_header(request.image, request.limits)
        if header.upright and header.format in ("JPEG", "PNG", "WEBP"):
            return _encoded(request.image, header.format.lower())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _encoded(buffer.getvalue(), "png")


def _encoded(image: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
