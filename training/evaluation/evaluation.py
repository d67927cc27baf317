"""The result of an evaluation, and the file that holds it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vila2data.errors import BadInput

from .figures import NOTHING, Figure

EVALUATION_VERSION = 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found of one checkpoint on one build. It holds no time stamp and no path of the
    machine.

    Attributes:
        inputs: all that shapes the figures: checkpoint, build, corpus, prompt, limits, versions.
        scenes: how many were used.
        rejected: how many rows could not be used, and how many texts not be written, by reason.
        figures: by name.
    """

    inputs: Mapping[str, Any]
    scenes: int
    rejected: Mapping[str, int]
    figures: Mapping[str, Figure]

    def figure(self, name: str) -> Figure:
        """The figure of that name; an empty one where there is none."""
        return self.figures.get(name, NOTHING)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "evaluation") -> "Evaluation":
        """The evaluation that ``to_json`` wrote.

        Args:
            where: named in the message, for example the file.

        Raises:
            BadInput: the text is no such evaluation.
        """
        try:
            content = json.loads(text)
            figures = {name: Figure(**told) for name, told in content.pop("figures").items()}
            found = cls(**content, figures=figures)
            if not isinstance(found.inputs, dict) or not isinstance(found.rejected, dict):
                raise TypeError("inputs and rejected must be objects")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            told = " ".join(str(error).split())[:200]
            raise BadInput(
                f"{where}: is not what `vila2data evaluate` writes ({type(error).__name__}: {told})"
            ) from error
        return found


def read_evaluation(file: Path) -> Evaluation:
    """The evaluation in a file.

    Raises:
        BadInput: there is no such file, or it holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise BadInput(f"{file}: cannot be read: {reason}") from error
    return Evaluation.from_json(text, where=str(file))
