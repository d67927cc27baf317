"""The Cauldron's rows: images and turns."""

from collections.abc import Iterator, Mapping

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import stated
from vila2data.corpus.images import Problem

from .answers import annotation, asked, pictures, sorted_out
from .fields import text_of
from .layout import Layout, Record


def read_cauldron(record: Record) -> Iterator[Annotation | Problem]:
    """A row's images, and a question for each pair of its turns, worded as its publisher did."""
    turns = record.get("texts")
    about = pictures(record.get("images"))
    if isinstance(about, Problem):
        yield about
        return
    if not isinstance(turns, list) or not turns:
        yield Problem("question_missing", "there are no turns")
        return
    exchanges, problems = sorted_out(_pair(*each) for each in enumerate(turns))
    yield from problems
    if exchanges:
        yield annotation(record, about, exchanges, origin=_origin(turns))


def _pair(place: int, turn: object) -> Exchange | Problem:
    if not isinstance(turn, Mapping):
        return Problem("question_missing", f"exchange {place}: is a {type(turn).__name__}")
    return asked(turn.get("user"), stated(turn.get("assistant")), place=place)


def _origin(turns: list[object]) -> dict[str, list[str]]:
    """The sets that the turns are of, each once, in order."""
    named = (text_of(turn.get("source")) for turn in turns if isinstance(turn, Mapping))
    found = list(dict.fromkeys(name for name in named if name is not None))
    return {"sources": found} if found else {}


LAYOUTS: dict[str, Layout] = {
    "cauldron": Layout(read_cauldron, needs=("images", "texts"), may_have=("id", "group")),
}
