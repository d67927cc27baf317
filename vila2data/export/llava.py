"""One JSON array of conversations beside a folder of images, as LLaVA and VILA read it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .row import Row
from .store import ImageStore
from .writer import Target, WriteRow, turns_of

FILE = "conversations.json"
IMAGES = "images"

_KEYS = frozenset({"id", "image", "model", "conversations"})
_TURN = frozenset({"from", "value"})


@contextmanager
def write_llava(target: Target) -> Iterator[WriteRow]:
    """Writes ``conversations.json`` and ``images``.

    A record that came from such a file is the same as it was there, but for texts that were made
    safe: with ``verbatim`` these too.
    """
    store = ImageStore(target.folder / IMAGES)
    between = "\n"
    # ASCII: LLaVA opens the file in the encoding of the user's locale.
    with (target.folder / FILE).open("w", encoding="ascii") as file:
        file.write("[")

        def write(row: Row) -> None:
            nonlocal between
            file.write(between + json.dumps(_record(row, store, verbatim=target.verbatim)))
            between = ",\n"

        yield write
        file.write("\n]\n")
    target.images = store.written


def _record(row: Row, store: ImageStore, *, verbatim: bool) -> dict[str, Any]:
    """The record, with what the source's had beside: other keys, other keys of its turns."""
    origin = row.origin
    names = [store.place(picture) for picture in row.pictures]
    record: dict[str, Any] = {"id": origin.get("id", row.id)}
    if names:
        listed = len(names) > 1 or isinstance(origin.get("image"), list)
        record["image"] = names if listed else names[0]
    if "model" in origin:
        record["model"] = origin["model"]
    turns = turns_of(row)
    more = _by_turn(origin.get("turns"), len(turns))
    written = _by_turn(origin.get("texts") if verbatim else None, len(turns))
    turns = [
        _merged(turn | ({"value": text} if isinstance(text, str) else {}), beside, taken=_TURN)
        for turn, beside, text in zip(turns, more, written, strict=True)
    ]
    return _merged(record | {"conversations": turns}, origin.get("other"), taken=_KEYS)


def _merged(ours: dict[str, Any], others: object, *, taken: frozenset[str]) -> dict[str, Any]:
    more = others if isinstance(others, dict) else {}
    return ours | {key: value for key, value in more.items() if key not in taken}


def _by_turn(told: object, turns: int) -> list[object]:
    """What is told by number of turn, for each of so many turns; None where nothing is."""
    by_number = told if isinstance(told, dict) else {}
    return [by_number.get(str(number)) for number in range(turns)]
