"""The language model, and its tokenizer with the tokens that images need."""

from collections.abc import Mapping
from typing import Any

from vila2data.errors import BadInput
from vila2data.optional import require

from .parts import LOADING_ERRORS, config_of, reason
from .spec import ModelSpec
from .templates import chat_template

IMAGE_TOKEN = "<image>"
PAD_TOKEN = "<pad>"


def load_tokenizer(spec: ModelSpec, tokens: Mapping[str, str]) -> Any:
    """The tokenizer with ``tokens`` as special tokens, a pad token and a chat template.

    Args:
        spec: its ``tokenizer``, or else its ``language``, is read.
        tokens: by the name under which a processor asks for them.

    Raises:
        BadInput: it cannot be loaded, or has no token that ends a text.
    """
    transformers = require("transformers", extra="vlm")
    name = spec.tokenizer or spec.language
    where = "tokenizer" if spec.tokenizer else "language"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, extra_special_tokens=dict(tokens), trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        raise BadInput(
            f"model.{where}: {name} holds no tokenizer that can be loaded: {reason(error)}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise BadInput(
            f"model.{where}: {name} names no end-of-text token, so that no answer would end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "right"
    tokenizer.chat_template = chat_template(spec.chat_template, tokenizer)
    return tokenizer


def load_language(spec: ModelSpec, tokenizer: Any) -> Any:
    """The causal language model, with an embedding for every token of ``tokenizer``.

    New embeddings are drawn around the mean of the others.

    Raises:
        BadInput: it cannot be loaded, or is no causal language model.
    """
    transformers = require("transformers", extra="vlm")
    torch = require("torch", extra="vlm")
    auto = transformers.AutoModelForCausalLM
    try:
        if isinstance(spec.language, str):
            model = auto.from_pretrained(spec.language, dtype=spec.dtype, trust_remote_code=False)
        else:
            model = auto.from_config(_config(spec, tokenizer))
    except LOADING_ERRORS as error:
        told = spec.language if isinstance(spec.language, str) else "this config"
        raise BadInput(
            f"model.language: {told} is no causal language model that can be loaded: "
            f"{reason(error)}"
        ) from error
    if hasattr(model.config, "vision_config"):
        raise BadInput(
            f"model.language: {spec.language} sees images itself; give it as model.checkpoint, "
            "or give a model of text alone"
        )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model.to(getattr(torch, spec.dtype))


def _config(spec: ModelSpec, tokenizer: Any) -> Any:
    assert isinstance(spec.language, Mapping)
    own = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return config_of({**own, **spec.language}, "language")
