"""The catalogue of sources: the YAML files beside this module."""

from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from vila2data.blend.source import Source


@cache
def sources() -> MappingProxyType[str, Source]:
    """Every entry by its id, in order of file and place.

    Raises:
        ValueError: two entries have one id, or one names another that does not exist.
    """
    found: dict[str, Source] = {}
    for file in sorted(files(__name__).iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml"):
            continue
        for name, entry in yaml.safe_load(file.read_text("utf-8")).items():
            if name in found:
                raise ValueError(f"{file.name}: {name} stands twice in the catalogue")
            found[name] = Source.model_validate(entry)
    for name, source in found.items():
        for other in (source.copies, source.substitute):
            if other is not None and other not in found:
                raise ValueError(f"{name}: names {other}, which is not in the catalogue")
    return MappingProxyType(found)
