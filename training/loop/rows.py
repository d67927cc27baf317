"""What one round came to, and the file of a seed's rounds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from vila2data.build.manifest import read_manifest
from vila2data.build.views import connect, readable, sql_name
from vila2data.engines.checkpoint import folder_revision
from vila2data.errors import BadInput
from vila2data.files import write_text

from ..evaluation.evaluation import Evaluation
from ..evaluation.figures import NOTHING, Figure
from .stages import Round, Texts

RESULTS_FILE = "results.json"


@dataclass(frozen=True, slots=True)
class Words:
    """Words of captions, pieces between white space: mean and population standard deviation."""

    mean: float
    deviation: float
    captions: int


@dataclass(frozen=True, slots=True)
class Row:
    """One round.

    Attributes:
        round: its name.
        words: of the captions that are new in what the model was trained on.
        build: data set and version that holds them.
        checkpoint: the model, from the seed's folder.
        revision: of the checkpoint, as captions carry it.
        seconds: of its stages.
        figures: of its evaluation.
    """

    round: str
    words: Words | None
    build: str | None
    checkpoint: str
    revision: str
    seconds: float
    figures: Mapping[str, Figure]

    def value(self, figure: str) -> float | None:
        """Of a figure; None where there is none."""
        return self.figures.get(figure, NOTHING).value


def row_of(round_: Round, evaluation: Evaluation, *, seconds: float) -> Row:
    """The row of a round whose stages are done."""
    texts = round_.texts
    manifest = read_manifest(texts.build) if texts else None
    folder = round_.evaluation.parents[1]
    return Row(
        round=round_.name,
        words=words_of(texts) if texts else None,
        build=f"{manifest.data_set} {manifest.version}" if manifest else None,
        checkpoint=round_.checkpoint.relative_to(folder).as_posix(),
        revision=folder_revision(round_.checkpoint),
        seconds=round(seconds, 1),
        figures=evaluation.figures,
    )


def words_of(texts: Texts) -> Words:
    """Counts the words of captions; those that are null or empty are none.

    Raises:
        BuildError: the build cannot be read.
    """
    query = f"SELECT {sql_name(texts.column)} FROM {sql_name(texts.config)}"
    with connect(texts.build) as connection, readable(texts.build):
        found = [len(text.split()) for (text,) in connection.execute(query).fetchall() if text]
    counts = [count for count in found if count]
    return Words(fmean(counts), pstdev(counts), len(counts)) if counts else Words(0.0, 0.0, 0)


def write_rows(folder: Path, seed: int, rows: Iterable[Row]) -> None:
    """Writes ``results.json`` of a seed."""
    content = {"seed": seed, "rows": [asdict(row) for row in rows]}
    write_text(folder / RESULTS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_rows(folder: Path) -> Sequence[Row]:
    """The rows that ``write_rows`` wrote; none where it did not.

    Raises:
        BadInput: the file holds something else.
    """
    file = folder / RESULTS_FILE
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [_row(told) for told in content["rows"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{file}: is not what a loop writes ({error}); give --results") from error


def _row(told: Mapping[str, Any]) -> Row:
    figures = {name: Figure(**figure) for name, figure in told["figures"].items()}
    words = Words(**told["words"]) if told["words"] is not None else None
    return Row(**{**told, "figures": figures, "words": words})
