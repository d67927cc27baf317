"""Instructions without an image."""

from collections.abc import Iterator

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.corpus.images import Problem
from vila2data.keyed import keyed_hash

from .fields import text_of
from .layout import Layout, Record


def read_instruction(record: Record) -> Iterator[Annotation | Problem]:
    """An instruction with what it is about, and the answer."""
    instruction, answer = text_of(record.get("instruction")), text_of(record.get("output"))
    if instruction is None:
        yield Problem("question_missing", "the instruction is no text")
        return
    if answer is None:
        yield Problem("answer_missing", instruction)
        return
    about = text_of(record.get("input"))
    question = instruction if about is None else f"{instruction}\n\n{about}"
    kind = text_of(record.get("kind"))
    yield Annotation(
        id=text_of(record.get("id")) or name_of(question, answer),
        group="",
        images=(),
        exchanges=(Exchange(question, answer),),
        origin={} if kind is None else {"kind": kind},
    )


def name_of(*texts: str) -> str:
    """A name for a row that its source gives none: of its texts, wherever it stands.

    Example:
        >>> name_of("a", "b") == name_of("a", "b"), name_of("a", "b") == name_of("ab")
        (True, False)
    """
    return f"{keyed_hash(*texts):016x}"


LAYOUTS: dict[str, Layout] = {
    "instruction": Layout(
        read_instruction, needs=("instruction", "output"), may_have=("input", "id", "kind")
    ),
}
