"""The column of a build that holds what is trained on, and the turns that its values become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vila2data.conversation.turns import IMAGE_MARKER
from vila2data.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_NULL = "text_null"
"""Reason of a row whose text is null, or a list of nothing: it is no row of its source."""

_DEFAULTS = ("messages", "caption")
_LISTS: Mapping[str, frozenset[str]] = {
    "messages": frozenset({"role", "content"}),
    "questions": frozenset({"question", "answer"}),
}


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column of captions, of conversations, or of questions with their answers."""

    name: str
    kind: Literal["caption", "messages", "questions"]

    def messages(self, value: Any) -> Sequence[Mapping[str, Any]] | None:
        """The turns of one row; None where it has no text."""
        if value is None or (self.kind != "caption" and not value):
            return None
        if self.kind == "messages":
            told: Sequence[Mapping[str, Any]] = value
            return told
        if self.kind == "caption":
            return _turns([(IMAGE_MARKER, value)])
        first, *others = [(pair["question"], pair["answer"]) for pair in value]
        asked = None if first[0] is None else f"{IMAGE_MARKER}\n{first[0]}"
        return _turns([(asked, first[1]), *others])


def text_column(schema: "pa.Schema", wanted: str | None, *, where: str) -> TextColumn:
    """The column that is wanted; `messages`, or else `caption`, where none is.

    Args:
        schema: of the rows.
        wanted: its name.
        where: named in the message.

    Raises:
        BadInput: there is no such column, or it holds no text.
    """
    kinds = {field.name: kind for field in schema if (kind := _kind_of(field.type))}
    name = wanted or next((name for name in _DEFAULTS if name in kinds), None)
    if name is None:
        raise BadInput(f"{where}: holds neither conversations nor captions")
    if name not in kinds:
        told = "holds no text" if name in schema.names else "is not there"
        known = ", ".join(kinds) or "none"
        raise BadInput(f"{where}: column '{name}' {told}; columns that hold one: {known}")
    return TextColumn(name, kinds[name])


def _kind_of(kind: "pa.DataType") -> Literal["caption", "messages", "questions"] | None:
    import pyarrow.types as of

    if of.is_string(kind) or of.is_large_string(kind):
        return "caption"
    if (of.is_list(kind) or of.is_large_list(kind)) and of.is_struct(kind.value_type):
        names = {field.name for field in kind.value_type}
        if names >= _LISTS["messages"]:
            return "messages"
        if names >= _LISTS["questions"]:
            return "questions"
    return None


def _turns(pairs: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    ]
