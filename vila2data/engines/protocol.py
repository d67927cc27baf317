"""What every engine takes and gives."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

from PIL import Image
from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

from vila2data import registry
from vila2data.corpus.images import ImageLimits, decode, refuse_narrow

FinishReason = Literal["stop", "length", "repetition", "error"]

OWN_SETTING: Final[JsonDict] = {"shapes_text": False}
"""``json_schema_extra`` of a setting that does not shape the text."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one text is drawn. ``temperature`` 0 is greedy, and then ``top_p`` and ``seed`` do
    nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One image, one prompt. ``index`` comes back with the result; the key, task, round and image
    hash tell an engine that replays a build which row is meant.
    """

    index: int
    image: bytes | Image.Image
    prompt: str
    sampling: Sampling
    key: str = ""
    task: str = "general"
    round: int = 1
    image_sha256: str | None = None
    limits: ImageLimits = field(default_factory=ImageLimits)

    def picture(self) -> Image.Image:
        """The image as RGB, upright.

        Raises:
            ImageRefused: it cannot be decoded within the limits, or is too narrow.
        """
        given = self.image
        picture = decode(given, self.limits) if isinstance(given, bytes) else given.convert("RGB")
        refuse_narrow(*picture.size)
        return picture


@dataclass(frozen=True, slots=True)
class Author:
    """Who wrote a text. ``engine`` holds name and version; ``captioner_revision`` is None where it
    cannot be known.
    """

    captioner: str
    captioner_revision: str | None
    engine: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request. ``num_tokens`` counts generated tokens, the end-of-text token
    included.

    ``error_reason`` is a fixed code and ``error_detail`` what was seen, both set where
    ``finish_reason`` is ``error``; ``retriable`` is False where another seed cannot help.
    """

    index: int
    text: str
    finish_reason: FinishReason
    author: Author
    num_tokens: int | None = None
    num_prompt_tokens: int | None = None
    error_reason: str = ""
    error_detail: str = ""
    retriable: bool = True


class Captioner(Protocol):
    """An engine, ready to write.

    ``generate`` draws requests from the iterable as it can take them, so that memory stays bounded,
    and yields one result per request, in any order. The result of a request does not depend on the
    others. A request that fails gives a result with finish reason ``error``; only what makes
    further work pointless is raised.
    """

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """One result per request, in any order."""
        ...

    def close(self) -> None:
        """Frees models, connections and files."""
        ...


@runtime_checkable
class TellsBusy(Protocol):
    """What a captioner may have besides: how long its model worked. One that lacks it is used as
    well, and has no share of busy time in a run's account.
    """

    @property
    def busy_s(self) -> float:
        """Seconds since the engine was started in which its model was working; never more than
        have passed. Read while ``generate`` runs, and from other threads.
        """
        ...


class EngineConfig(BaseModel):
    """Base of the engines' settings, the ``engine:`` block of a recipe.

    Every field shapes the text, and so belongs to a run's fingerprint, unless it is declared with
    ``json_schema_extra=OWN_SETTING``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str

    @classmethod
    def resolve(cls, content: Any) -> "type[EngineConfig]":
        """The settings class of the engine that ``content["name"]`` names.

        Raises:
            ValueError: no engine has that name.
        """
        name = content.get("name") if isinstance(content, dict) else None
        if name not in registry.names("engines"):
            raise ValueError(
                f"engine '{name}' is not known; known: {', '.join(registry.names('engines'))}"
            )
        config: type[EngineConfig] = registry.load("engines", name).Config
        return config

    def shaping(self) -> dict[str, Any]:
        """The settings that shape the text, and what else does (engine version, model hash)."""
        fields = type(self).model_fields
        shaped = {
            name
            for name, info in fields.items()
            if not isinstance(info.json_schema_extra, dict)
            or info.json_schema_extra.get("shapes_text", True)
        }
        return self.model_dump(mode="json", include=shaped)

    def problems(self) -> list[str]:
        """What keeps the engine from starting, found without starting it."""
        return []


def failed(
    index: int, author: Author, reason: str, detail: str = "", *, retriable: bool = True
) -> Result:
    """A result that says why there is no text."""
    return Result(
        index, "", "error", author, error_reason=reason, error_detail=detail, retriable=retriable
    )
