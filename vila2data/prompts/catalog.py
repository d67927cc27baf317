"""Reads the YAML files beside this module."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

import yaml

from vila2data.errors import BadInput

Use = Literal["caption", "question", "format"]

ORIGINAL_FIELD = "{original}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text given to a model.

    ``use`` tells what for: ``caption`` asks a captioner to write, ``question`` stands in a training
    sample before a specialist's answer, ``format`` follows a question and fixes the form of its
    answer. ``echo_phrases`` are further texts that show, when a caption holds them, that the model
    repeated its instruction.
    """

    id: str
    text: str
    use: Use
    task: str
    source: str
    echo_phrases: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the text alone, hexadecimal."""
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Template:
    """How an original text and its newest recaption become one training text."""

    id: str
    text: str
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the text alone, hexadecimal."""
        return sha256(self.text.encode()).hexdigest()

    def render(self, *, original: str, caption: str) -> str:
        """The training text; blank parts leave no empty lines behind.

        Source: VILA² section 2.1.1 (Table 2, conversation template ablation).
        """
        parts = {"{original}": original.strip(), "{caption}": caption.strip()}
        lines = [parts.get(line, line) for line in self.text.split("\n")]
        return "\n".join(line for line in lines if line)


def _entries(file: str) -> list[dict[str, object]]:
    text = (files(__package__) / file).read_text(encoding="utf-8")
    entries: list[dict[str, object]] = yaml.safe_load(text)
    return entries


@cache
def load_prompts() -> MappingProxyType[str, Prompt]:
    """Every shipped prompt by id."""
    found: dict[str, Prompt] = {}
    for file in ("captions.yaml", "questions.yaml", "formats.yaml"):
        for entry in _entries(file):
            phrases = entry.pop("echo_phrases", [])
            item = Prompt(**entry, echo_phrases=tuple(phrases))  # type: ignore[arg-type]
            if item.id in found:
                raise ValueError(f"{file}: prompt id '{item.id}' stands twice")
            found[item.id] = item
    return MappingProxyType(found)


@cache
def load_templates() -> MappingProxyType[str, Template]:
    """Every shipped template by id."""
    entries = (Template(**entry) for entry in _entries("templates.yaml"))  # type: ignore[arg-type]
    return MappingProxyType({item.id: item for item in entries})


def prompt(prompt_id: str) -> Prompt:
    """The shipped prompt ``prompt_id``.

    Raises:
        BadInput: there is none; the message lists those that exist.
    """
    prompts = load_prompts()
    if prompt_id not in prompts:
        raise BadInput(f"there is no prompt '{prompt_id}'; known: {', '.join(sorted(prompts))}")
    return prompts[prompt_id]


def template(template_id: str) -> Template:
    """The shipped template ``template_id``.

    Raises:
        BadInput: there is none; the message lists those that exist.
    """
    templates = load_templates()
    if template_id not in templates:
        known = ", ".join(sorted(templates))
        raise BadInput(f"there is no template '{template_id}'; known: {known}")
    return templates[template_id]


def render_prompt(text: str, *, original: str) -> str:
    """``text`` with ``{original}`` replaced; no other field is special, so braces in a prompt are
    safe.

    Args:
        text: a prompt, with or without the field.
        original: the sample's own text, already neutralised.
    """
    return text.replace(ORIGINAL_FIELD, original)
