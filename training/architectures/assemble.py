"""From a specification to a model with its processor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vila2data.errors import BadInput
from vila2data.optional import require

from . import llava, vila
from .language import IMAGE_TOKEN, load_language, load_tokenizer
from .parts import LOADING_ERRORS, reason
from .spec import ModelSpec
from .towers import Tower, as_siglip2, load_tower, with_side

PartName = Literal["vision", "projector", "language"]
_MODEL_TYPES = ("llava", "llava_next", "lfm2_vl", "internvl")


@dataclass(frozen=True, slots=True)
class _Form:
    """How transformers builds one architecture."""

    model: str
    tokens: Mapping[str, str]
    config: Callable[[Tower, Any, int], Any]
    processor: Callable[[Tower, Any], Any]


_FORMS = {
    "llava": _Form(
        "LlavaForConditionalGeneration", llava.TOKENS, llava.llava_config, llava.llava_processor
    ),
    "llava_next": _Form(
        "LlavaNextForConditionalGeneration",
        llava.TOKENS,
        llava.llava_next_config,
        llava.llava_next_processor,
    ),
    "vila-siglip": _Form(
        "Lfm2VlForConditionalGeneration",
        vila.SIGLIP_TOKENS,
        vila.siglip_config,
        vila.siglip_processor,
    ),
    "vila-internvit": _Form(
        "InternVLForConditionalGeneration",
        vila.INTERNVIT_TOKENS,
        vila.internvit_config,
        vila.internvit_processor,
    ),
}


def load(spec: ModelSpec) -> tuple[Any, Any]:
    """Model and processor of a checkpoint or of an assembly.

    Raises:
        BadInput: something cannot be loaded, or is not of an architecture known here.
        MissingExtra: torch, transformers or torchvision is not installed.
    """
    return assemble(spec) if spec.checkpoint is None else _load_checkpoint(spec)


def _load_checkpoint(spec: ModelSpec) -> tuple[Any, Any]:
    transformers = require("transformers", extra="vlm")
    name = spec.checkpoint
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in _MODEL_TYPES:
            found = (config.architectures or [config.model_type])[0]
            accepted = ", ".join(sorted(form.model for form in _FORMS.values()))
            raise BadInput(f"model.checkpoint: {name} is a {found}; accepted: {accepted}")
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            name, dtype=spec.dtype, trust_remote_code=False
        )
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise BadInput(f"model.checkpoint: {name} cannot be loaded: {reason(error)}") from error
    if spec.chat_template is not None:
        processor.chat_template = processor.tokenizer.chat_template = spec.chat_template
    return model, processor


def assemble(spec: ModelSpec) -> tuple[Any, Any]:
    """A new model of a tower, a projector that starts random, and a language model.

    Args:
        spec: an assembly, no checkpoint.

    Returns:
        Model and processor; the caller's random state stays as it was.

    Raises:
        BadInput: a part cannot be loaded or does not fit.
        MissingExtra: torch, transformers or torchvision is not installed.
    """
    torch = require("torch", extra="vlm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        assert spec.vision is not None
        tower = load_tower(spec.vision, spec.dtype)
        form, tower = _form(spec, tower)
        tokenizer = load_tokenizer(spec, form.tokens)
        language = load_language(spec, tokenizer)
        model = _joined(form, tower, language, tokenizer)
    return model.to(getattr(torch, spec.dtype)).eval(), form.processor(tower, tokenizer)


def _form(spec: ModelSpec, tower: Tower) -> tuple[_Form, Tower]:
    """The form for a tower, and the tower as the form takes it."""
    side_px = spec.image_side_px or tower.side_px
    if spec.architecture != "vila":
        assert spec.architecture is not None
        llava.check_tower(tower, spec.architecture)
        return _FORMS[spec.architecture], _at_side(tower, side_px)
    if tower.family == "internvit":
        tower = _at_side(tower, side_px)
    vila.check_tower(tower)
    if tower.family == "internvit":
        return _FORMS["vila-internvit"], tower
    if tower.family == "siglip":
        tower = as_siglip2(tower)
    return _FORMS["vila-siglip"], vila.at_side(tower, side_px)


def _at_side(tower: Tower, side_px: int) -> Tower:
    return tower if side_px == tower.side_px else with_side(tower, side_px)


def _joined(form: _Form, tower: Tower, language: Any, tokenizer: Any) -> Any:
    """The whole model around the given parts; only the projector is made anew."""
    import torch
    import transformers

    text_config = language.config
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = form.config(tower, text_config, image_token_id)
    with torch.device("meta"):  # the parts come next: no memory, no random numbers for them
        model = getattr(transformers, form.model)(config)
    inner = model.model
    inner.vision_tower = tower.model
    inner.language_model = language.base_model
    model.lm_head = language.get_output_embeddings()
    inner.multi_modal_projector = type(inner.multi_modal_projector)(config)
    if hasattr(inner, "image_newline"):
        width = text_config.hidden_size
        inner.image_newline = torch.nn.Parameter(torch.randn(width) / width**0.5)
    model.tie_weights()
    for part in (config, config.vision_config, config.text_config):
        part.dtype = tower.model.dtype  # as in a checkpoint that was loaded
    generation = model.generation_config = language.generation_config
    generation.pad_token_id = tokenizer.pad_token_id
    ends = generation.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    ends = sorted({e for e in [*ends, tokenizer.eos_token_id] if e is not None})
    generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    return model


def parts_of(model: Any) -> dict[PartName, dict[str, Any]]:
    """Every parameter of a model exactly once, by part and name.

    The token that ends a row of patches (``image_newline``) belongs to the projector, embeddings
    and output weights to the language model.

    Raises:
        BadInput: the model is not of an architecture known here.
    """
    if model.config.model_type not in _MODEL_TYPES:
        raise BadInput(f"parts of a {type(model).__name__} are not known")
    parts: dict[PartName, dict[str, Any]] = {"vision": {}, "projector": {}, "language": {}}
    for name, parameter in model.named_parameters():
        parts[_part(name)][name] = parameter
    return parts


def _part(name: str) -> PartName:
    inner = name.removeprefix("model.")
    if inner.startswith("vision_tower."):
        return "vision"
    if inner.startswith(("multi_modal_projector.", "image_newline")):
        return "projector"
    return "language"
