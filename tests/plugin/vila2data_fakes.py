"""An engine without a model, as another package would add one: a request's text follows from the
request alone.
"""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vila2data.engines import OWN_SETTING, Author, EngineConfig, Request, Result
from vila2data.errors import BadInput
from vila2data.keyed import keyed_hash, keyed_uniform

WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "old",
    "small",
    "wide",
    "round",
    "cat",
    "dog",
    "bus",
    "tree",
    "street",
    "table",
    "sits",
    "stands",
    "near",
    "under",
]
AUTHOR = Author("fake", "1", "fake 1.0")


class FakeConfig(EngineConfig):
    name: Literal["fake"] = "fake"
    batch_size: int = Field(4, ge=1, json_schema_extra=OWN_SETTING)
    delay_s: float = Field(0.0, json_schema_extra=OWN_SETTING)
    log: str = Field("", json_schema_extra=OWN_SETTING)
    cut_share: float = 0.3
    flavour: str = "plain"
    problem: str = ""
    break_on: str = Field("", json_schema_extra=OWN_SETTING)

    def problems(self) -> list[str]:
        return [f"engine.problem: {self.problem}"] if self.problem else []


def told(request: Request, *, cut_share: float = 0.3, flavour: str = "plain") -> Result:
    """The one answer to a request."""
    draw = (request.image_sha256 or "", request.prompt, request.sampling.seed, flavour)
    count = 6 + keyed_hash(*draw, "length") % 12
    words = [WORDS[keyed_hash(*draw, n) % len(WORDS)] for n in range(count)]
    cut = keyed_uniform(*draw, "cut") < cut_share
    text = " ".join(words) + ("" if cut else ".")
    return Result(request.index, text, "length" if cut else "stop", AUTHOR, num_tokens=count)


class FakeEngine:
    """Answers batch by batch, each in reverse, and notes each request in a log."""

    Config = FakeConfig

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        if config.break_on == "start":
            raise BadInput("engine.break_on: the fake engine does not start")

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        waiting = iter(requests)
        while batch := list(islice(waiting, self.config.batch_size)):
            for request in reversed(batch):
                self._note(request)
                time.sleep(self.config.delay_s)
                if self.config.break_on == request.key:
                    os._exit(9)
                yield told(request, cut_share=self.config.cut_share, flavour=self.config.flavour)

    def _note(self, request: Request) -> None:
        if self.config.log:
            line = f"{os.getpid()} {request.key} {request.sampling.seed}\n"
            with Path(self.config.log).open("a") as log:
                log.write(line)

    def close(self) -> None:
        pass


class Answers:
    """A captioner of given results, for tests of what engines must not do."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        return iter(self.answer(requests))

    def close(self) -> None:
        pass
