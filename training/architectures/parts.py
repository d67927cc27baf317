"""Parts that are named by a config, and what goes wrong while parts are loaded."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from vila2data.errors import BadInput
from vila2data.optional import require

LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    StrictDataclassError,
)


def reason(error: BaseException) -> str:
    """What a library says, in one line."""
    if "couldn't connect" in str(error):
        return "there is no such folder here, and the Hub cannot be reached"
    return " ".join(str(error).split())[:300] or type(error).__name__


def config_of(part: Mapping[str, Any], where: str) -> Any:
    """The transformers config that a mapping with ``model_type`` describes.

    Raises:
        BadInput: transformers does not know the type, or refuses a value.
    """
    transformers = require("transformers", extra="vlm")
    settings = dict(part)
    model_type = settings.pop("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise BadInput(
            f"model.{where}.model_type: transformers knows no '{model_type}'; "
            "see the list of models in its documentation"
        )
    try:
        return transformers.AutoConfig.for_model(model_type, **settings)
    except LOADING_ERRORS as error:
        raise BadInput(f"model.{where}: {reason(error)}") from error


def image_processor(name: str, **settings: Any) -> Any:
    """An image processor over torchvision where that is installed, and over Pillow elsewhere; the
    file it is saved as names no backend.
    """
    transformers = require("transformers", extra="vlm")
    if not transformers.utils.is_torchvision_available():
        name += "Pil"
    return getattr(transformers, name)(**settings)
