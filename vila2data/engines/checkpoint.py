"""What engines share that load a checkpoint: its identity, settings and chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from vila2data.errors import BadInput
from vila2data.files import file_sha256
from vila2data.optional import require
from vila2data.recipe import PathOrName

from .protocol import OWN_SETTING, Author, EngineConfig, FinishReason

_NOT_WEIGHTS = (".md", ".txt", ".png", ".gitattributes")


def folder_revision(folder: Path) -> str:
    """``sha256:…`` over the names and contents of a checkpoint's files; the same wherever the
    folder lies.
    """
    digest = sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and path.suffix not in _NOT_WEIGHTS:
            digest.update(f"{name.as_posix()} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


class CheckpointConfig(EngineConfig):
    """Settings of an engine that loads a checkpoint.

    ``PACKAGES`` are the distributions that may hold the engine; the first that is installed does.
    """

    PACKAGES: ClassVar[tuple[str, ...]]

    model: PathOrName = Field(description="folder of a checkpoint, or its name on the Hub")
    revision: str | None = Field(None, description="commit or tag on the Hub")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat_template: str | None = Field(None, description="Jinja, where the checkpoint has none")
    captioner: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=OWN_SETTING,
        description="what captions call the model; default: its folder's name, or that on the Hub",
    )

    @cached_property
    def author(self) -> Author:
        """Who writes; a local checkpoint is told from others of its name by its files' hash."""
        folder = Path(self.model)
        local = folder.is_dir()
        name = self.captioner or (folder.resolve().name if local else self.model)
        revision = folder_revision(folder) if local else self.revision
        return Author(name, revision, f"{self.name} {self._version()}")

    def _version(self) -> str:
        for package in self.PACKAGES:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return "not installed"

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

    def unloadable(self, error: Exception) -> BadInput:
        """What is told of a checkpoint that cannot be loaded."""
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        return BadInput(f"engine.model: {self.model} cannot be loaded: {reason}")


@dataclass(frozen=True, slots=True)
class Chat:
    """How a checkpoint is asked, and how its answers are read.

    Attributes:
        processor: of images and text, from ``transformers``.
        template: of chats, Jinja.
        end_ids: tokens that end an answer.
    """

    processor: Any
    template: str
    end_ids: Sequence[int]

    @classmethod
    def of(cls, config: CheckpointConfig, ends: int | list[int] | None) -> "Chat":
        """Loads a checkpoint's processor.

        Args:
            config: of the engine.
            ends: tokens that end an answer by the model's own account, beside the tokenizer's.

        Raises:
            BadInput: the checkpoint takes no images, or has no chat template or end-of-text token.
        """
        transformers = require("transformers", extra="vlm")
        try:
            processor = transformers.AutoProcessor.from_pretrained(
                config.model, revision=config.revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise config.unloadable(error) from error
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise BadInput(f"engine.model: {config.model} has no processor of images and text")
        ids = [*(ends if isinstance(ends, list) else [ends]), processor.tokenizer.eos_token_id]
        end_ids = sorted({i for i in ids if i is not None})
        if not end_ids:
            raise BadInput(f"engine.model: {config.model} names no end-of-text token")
        template = config.chat_template or processor.chat_template
        if template is None:
            raise BadInput(
                f"engine.model: {config.model} has no chat template; "
                "give one as engine.chat_template"
            )
        return cls(processor, template, end_ids)

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    def text(self, prompt: str) -> str:
        """The user's turn with one image and ``prompt``, up to where the answer begins."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self.template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return text

    def special_tokens(self, text: str) -> dict[str, bool]:
        """How a tokenizer is called on ``text``: a template that writes the start token itself must
        not get a second one.
        """
        start = self.tokenizer.bos_token
        return {"add_special_tokens": False} if start and text.startswith(start) else {}

    def written(self, ids: list[int]) -> tuple[str, FinishReason, int]:
        """Text up to the first end token, how it ended, and its tokens, the end included.

        Special tokens stay visible, for the gate to find.
        """
        end = next((n for n, token in enumerate(ids) if token in self.end_ids), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=False).strip()
        return (text, "length", len(ids)) if end is None else (text, "stop", end + 1)
