"""The block ``serve:`` of engine ``openai``, and the command lines that it means."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, field_validator

from vila2data.errors import BadInput
from vila2data.recipe import Block, PathOrName

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_FILLED_IN = frozenset({"model", "port", "served_model_name"})


def _told(value: Any) -> Any:
    """An argument as a manifest tells it: of an absolute path, which speaks of one machine, the
    name alone.
    """
    is_path = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_path else value


Argument = Annotated[Any, PlainSerializer(_told, when_used="json")]


class ServeRules(Block):
    """How ``vila2data serve`` starts ``vllm serve`` for each address on this machine."""

    model: PathOrName = Field(description="folder of a checkpoint, or its name on the Hub")
    arguments: Mapping[str, Argument] = Field(
        default_factory=dict, description="of `vllm serve`, with _ for -"
    )
    gpus_per_server: int | None = Field(
        None, ge=1, description="GPUs that a server sees, each its own; null: left as they are"
    )
    ready_s: float = Field(1800.0, gt=0, description="from a start to the first answer, at most")
    restarts: int = Field(5, ge=0, description="of a server that dies, in a row")
    first_wait_s: float = Field(1.0, ge=0, description="before a restart; doubles from one to next")

    @field_validator("arguments")
    @classmethod
    def _leaves_what_is_filled_in(cls, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in arguments:
            if name.replace("-", "_") in _FILLED_IN:
                raise ValueError(f"'{name}' is filled in; see engine.model, base_url, serve.model")
        return arguments


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How one server is started. ``environment`` is what it sees beside this process's own."""

    url: str
    host: str
    port: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def health_url(self) -> str:
        """Address that answers once the server does; not below ``/v1``."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/health"

    def shown(self) -> str:
        """The command line, as a shell takes it."""
        given = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*given, "vllm", shlex.join(self.arguments)])


def server_commands(
    rules: ServeRules, urls: Sequence[str], model: str, environment: Mapping[str, str]
) -> list[ServerCommand]:
    """One command for each URL that points at this machine.

    Args:
        rules: the recipe's block.
        urls: of all servers, such as ``http://localhost:8000/v1``.
        model: what the servers call the model.
        environment: of this process; its CUDA_VISIBLE_DEVICES are dealt out where it names any.

    Raises:
        BadInput: no URL points at this machine, two have one port, or there are too few GPUs.
    """
    here = [url for url in urls if urlsplit(url).hostname in _HERE]
    if not here:
        raise BadInput(
            f"engine.base_url: none of {', '.join(urls)} points at this machine: servers are "
            f"started for {', '.join(sorted(_HERE))} alone"
        )
    ports = [_port(url) for url in here]
    for port in ports:
        if ports.count(port) > 1:
            raise BadInput(f"engine.base_url: port {port} of this machine stands twice")
    gpus = _gpus(rules.gpus_per_server, len(here), environment)
    return [
        ServerCommand(
            url,
            str(urlsplit(url).hostname),
            port,
            _arguments(rules, url, port, model),
            {} if own is None else {GPUS_VARIABLE: own},
        )
        for url, port, own in zip(here, ports, gpus, strict=True)
    ]


def _port(url: str) -> int:
    parts = urlsplit(url)
    try:
        given = parts.port
    except ValueError as error:
        raise BadInput(f"engine.base_url: {url}: {error}") from error
    return given or (443 if parts.scheme == "https" else 80)


def _gpus(
    per_server: int | None, servers: int, environment: Mapping[str, str]
) -> Sequence[str | None]:
    """What each server's CUDA_VISIBLE_DEVICES says, None where it is left as it is."""
    if per_server is None:
        return [None] * servers
    wanted = per_server * servers
    visible = environment.get(GPUS_VARIABLE)
    numbers = [str(n) for n in range(wanted)] if visible is None else visible.split(",")
    if len(numbers) < wanted:
        raise BadInput(
            f"serve.gpus_per_server: {servers} servers of {per_server} GPUs need {wanted}, and "
            f"{GPUS_VARIABLE} is '{visible}': take addresses off engine.base_url, or give more"
        )
    return [
        ",".join(numbers[n * per_server : (n + 1) * per_server]).strip() for n in range(servers)
    ]


def _arguments(rules: ServeRules, url: str, port: int, model: str) -> tuple[str, ...]:
    given = {"host": urlsplit(url).hostname, **rules.arguments}
    options = [part for name, value in given.items() for part in _option(name, value)]
    return ("serve", rules.model, "--port", str(port), "--served-model-name", model, *options)


def _option(name: str, value: Any) -> Iterator[str]:
    """An option as vLLM's command line takes it: switches as --x and --no-x, objects as JSON."""
    flag = name.replace("_", "-")
    if value is None:
        return
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
        return
    yield f"--{flag}"
    if isinstance(value, list):
        yield from map(str, value)
    else:
        yield json.dumps(value) if isinstance(value, dict) else str(value)
