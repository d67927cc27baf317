"""The papers' hyper-parameters, by name of the stage."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def load_presets() -> Mapping[str, Mapping[str, Any]]:
    """Values of each preset, in the order of ``presets.yaml``; ``source`` cites the paper."""
    text = (files(__package__) / "presets.yaml").read_text(encoding="utf-8")
    presets: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return presets


def with_preset(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``content`` of a recipe over the values of a preset: what the recipe says itself wins.

    Raises:
        KeyError: there is no such preset.
    """
    values = {key: value for key, value in load_presets()[name].items() if key != "source"}
    return _merged(values, content)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(below, value)
        else:
            result[key] = value
    return result
