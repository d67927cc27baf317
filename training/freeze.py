"""Which parameters a stage trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vila2data.errors import BadInput

from .architectures.assemble import parts_of


@dataclass(frozen=True, slots=True)
class PartSize:
    """Parameters of a part, and how many of them are trained."""

    part: str
    parameters: int
    trained: int


def freeze(model: Any, trains: Sequence[str]) -> list[PartSize]:
    """Leaves gradients to the named parts alone.

    Weights that two parts share (the language model's tied embeddings are one part) count once, as
    ``parts_of`` assigns them.

    Raises:
        BadInput: a named part has no parameters, or the model has some of no known part.
    """
    parts: dict[str, dict[str, Any]] = {str(k): named for k, named in parts_of(model).items()}
    known = {id(p) for named in parts.values() for p in named.values()}
    lost = [name for name, p in model.named_parameters() if id(p) not in known]
    if lost:
        raise BadInput(f"model: {lost[0]} belongs to no part that could be frozen or trained")
    empty = [part for part in trains if not parts.get(part)]
    if empty:
        raise BadInput(f"trains: the model has no part '{empty[0]}'")
    for part, named in parts.items():
        for parameter in named.values():
            parameter.requires_grad_(part in trains)
    return [
        PartSize(part, count, count if part in trains else 0)
        for part, named in parts.items()
        for count in [sum(p.numel() for p in named.values())]
    ]
