"""The papers' prompts, questions and templates as data, each with an id and a hash."""

from .catalog import (
    Prompt,
    Template,
    load_prompts,
    load_templates,
    prompt,
    render_prompt,
    template,
)

__all__ = [
    "Prompt",
    "Template",
    "load_prompts",
    "load_templates",
    "prompt",
    "render_prompt",
    "template",
]
