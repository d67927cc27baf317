"""Chat templates that take images: the language model's own where it can be made to."""

import logging
from typing import Any

_LOG = logging.getLogger(__name__)

VICUNA = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The form of Vicuna and LLaVA-1.5, with the end token after each answer."""

_FLATTENED = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set text = namespace(value='') -%}"
    "{%- if message['content'] is string -%}{%- set text.value = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set text.value = text.value + '<image>\\n' -%}"
    "{%- elif part['type'] == 'text' -%}{%- set text.value = text.value + part['text'] -%}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text.value)] -%}"
    "{%- endfor -%}{%- set messages = flat.messages -%}"
)
_WORD = "vila2data-probe"
_PROBE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _WORD}]}]


def chat_template(given: str | None, tokenizer: Any) -> str:
    """The template to use: given > the tokenizer's own > Vicuna's.

    An own template that takes only text as contents is put behind a preface that turns each
    message's parts into text, ``<image>`` and a line break for an image. Where the result still
    does not render one image and one text, Vicuna's form is used, with a warning.
    """
    if given is not None:
        return given
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own is None:
        return VICUNA
    for template in (str(own), _FLATTENED + str(own)):
        if _renders_images(template, tokenizer):
            return template
    _LOG.warning("the tokenizer's chat template cannot be made to take images; using Vicuna's")
    return VICUNA


def _renders_images(template: str, tokenizer: Any) -> bool:
    try:
        text = tokenizer.apply_chat_template(
            _PROBE, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception:  # noqa: BLE001 - a template may raise anything, by its own raise_exception too
        return False
    return text.count("<image>") == 1 and text.count(_WORD) == 1 and "'type'" not in text
