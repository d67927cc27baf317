"""Finds what is meant as a box in text that a model wrote, whole or broken.

``vila2data.boxes`` reads exactly what one convention writes; here all forms are looked for at once,
and what is broken is found as well, so that it can be counted.
"""

import re
from typing import Literal, NamedTuple

Form = Literal["numbers", "pairs", "patches"]

_NUMBER = r"[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?"
_BETWEEN = r"(?:\s*+,\s*+|\s++)"
_PAIR = rf"\(\s*+({_NUMBER})\s*+,\s*+({_NUMBER})\s*+\)"
_PATCH = r"<patch_index_[0-9]*+>?"
_DELIMITER = r"</?delimiter_of_multi_objects/?>"

_START = re.compile(
    r"<box>|<\|box_start\|>|<object>|<patch_index_|bbox(?:_2d[\"']?|[\"'])\s*+:"
    r"|\[|\]|\((?=\s*+[-+.0-9])"
)
_ONE_NUMBER = re.compile(_NUMBER)
_FOUR = re.compile(r"\s*+" + _BETWEEN.join([f"({_NUMBER})"] * 4) + r"\s*+")
_TWO_PAIRS = re.compile(rf"\s*+{_PAIR}\s*+,?\s*+{_PAIR}\s*+")
_PAIRS = re.compile(rf"{_PAIR}(?:\s*+,?\s*+{_PAIR})*+")
_PAIRS_APART = re.compile(r"(?<=\))\s*(?=\()")
_NEXT_PAIR = re.compile(r"\s*+,\s*+\((?=\s*+[-+.0-9])")
_ROUND = re.compile(rf"\(\s*+({_NUMBER})" + rf"\s*+,\s*+({_NUMBER})" * 3 + r"\s*+\)")
_NEVER_OPENED = re.compile(rf"(?<![0-9.])(?:{_NUMBER}\s*+,\s*+){{3}}{_NUMBER}\s*+$")
_NEVER_OPENED_CHARS = 120
_BODY = re.compile(r"[^\[\]<>{}]*+")
_RUN = re.compile(r"[\s0-9.,;+-]*+")
_PAIRS_RUN = re.compile(r"[\s0-9.,;+()\[-]*+")
_LIST = re.compile(r"\[\s*+\[")
_TAGGED = re.compile(r"([^<]*+)(?:</box>|<\|box_end\|>)")
_BRACKETED = re.compile(r"\[([^\[\]]*+)\]")
_PATCHES = re.compile(rf"(?:[^<]|{_PATCH}|{_DELIMITER})*+</object>")
_PATCH_RUN = re.compile(rf"(?:\s*+(?:{_PATCH}|{_DELIMITER}))*+")
_TWO_PATCHES = re.compile(r"\s*<patch_index_([0-9]{1,6})>\s*<patch_index_([0-9]{1,6})>\s*")
_AFTER_KEY = re.compile(r"\s*+[\"']?(?=[\[(])")
_COORDINATE_NAME = re.compile(
    r"(?:[xy](?:[_ ]?(?:min|max|left|right|top|bottom|center|[0-9]))?|left|right|top|bottom"
    rf"|w|h|width|height|nan|inf|none|null|\?)(?:\s*[:=]\s*{_NUMBER})?"
)
_LABEL = re.compile(
    r"""["'](?:label|name|category|text_content)["']\s*:\s*(?:"([^"]*)"|'([^']*)')"""
)
_LABEL_CHARS = 400


class BoxText(NamedTuple):
    """What is meant as a box: ``text[start:end]``, which boxes that stand together share.

    Attributes:
        numbers: as written, x1, y1, x2, y2, of ``patches`` the two indices; None where malformed.
        label: what JSON calls it, None elsewhere.
    """

    start: int
    end: int
    form: Form
    numbers: tuple[float, ...] | None
    label: str | None = None


def boxes_in(text: str) -> list[BoxText]:
    """All that is meant as a box, by place; takes time in proportion to the text."""
    found: list[BoxText] = []
    position = 0
    while start := _START.search(text, position):
        boxes, position = _at(text, start, position)
        found += boxes
    return found


def _at(text: str, start: re.Match[str], before: int) -> tuple[list[BoxText], int]:
    opening, place = start.group(), start.start()
    if opening == "[":
        return _bracket(text, place)
    if opening == "(":
        return _round(text, place)
    if opening == "]":
        return _never_opened(text, before, place)
    if opening.startswith("bbox"):
        return _keyed(text, place, start.end())
    if opening.startswith("<patch") or opening == "<object>":
        return _patches(text, start)
    return _tagged(text, place, start.end())


def _numbers(match: re.Match[str] | None) -> tuple[float, ...] | None:
    return tuple(map(float, match.groups())) if match else None


def _bracket(text: str, place: int, *, is_box: bool = False) -> tuple[list[BoxText], int]:
    """Of ``[``; ``is_box`` where something before says that it opens a box."""
    body = _BODY.match(text, place + 1)
    end = body.end() if body else place + 1
    if not text.startswith("]", end):
        return _unclosed(text, place)
    content = text[place + 1 : end]
    four = _numbers(_FOUR.fullmatch(content))
    if four:
        return [BoxText(place, end + 1, "numbers", four)], end + 1
    if not (is_box or _is_meant(content)):
        return [], place + 1
    parts = [_numbers(_FOUR.fullmatch(part)) for part in content.split(";")]
    return [BoxText(place, end + 1, "numbers", part) for part in parts], end + 1


def _is_meant(content: str) -> bool:
    """Whether the content of brackets, which are not four numbers, was to be a box."""
    pieces = [piece.strip().lower() for piece in re.split("[,;]", content)]
    if len(pieces) == 1:
        words = content.split()
        return len(words) > 1 and all(_ONE_NUMBER.fullmatch(word) for word in words)
    numbers = sum(_ONE_NUMBER.fullmatch(piece) is not None for piece in pieces)
    return (
        numbers >= 2
        or (numbers == 1 and len(pieces) >= 4)
        or (len(pieces) >= 4 and all(_COORDINATE_NAME.fullmatch(piece) for piece in pieces))
    )


def _unclosed(text: str, place: int) -> tuple[list[BoxText], int]:
    run = _RUN.match(text, place + 1)
    end = run.end() if run else place + 1
    content = text[place + 1 : end]
    count = len(_ONE_NUMBER.findall(content))
    if count < 2 and not (count and end == len(text)):
        return [], place + 1
    whole = [_numbers(_FOUR.fullmatch(part)) for part in content.split(";")[:-1]]
    return [BoxText(place, end, "numbers", part) for part in [*whole, None]], end


def _round(text: str, place: int) -> tuple[list[BoxText], int]:
    """Of ``(``: pairs as Qwen-VL writes them where its tags were lost, or four numbers."""
    four = _ROUND.match(text, place)
    if four:
        return [BoxText(place, four.end(), "numbers", _numbers(four))], four.end()
    pairs = _PAIRS.match(text, place)
    if pairs is None:
        return [], place + 1
    cut = _NEXT_PAIR.match(text, pairs.end())
    if cut:
        run = _PAIRS_RUN.match(text, cut.end())
        end = run.end() if run else cut.end()
        return [BoxText(place, end, "pairs", None)], end
    parts = _PAIRS_APART.split(pairs.group())
    if parts == [pairs.group()] and pairs.group().count("(") == 1:
        return [], pairs.end()  # a point
    if all(part.count("(") == 1 for part in parts) and len(parts) == 2:
        parts = [pairs.group()]  # one box, without the comma
    read = [_numbers(_TWO_PAIRS.fullmatch(part)) for part in parts]
    return [BoxText(place, pairs.end(), "pairs", part) for part in read], pairs.end()


def _never_opened(text: str, before: int, place: int) -> tuple[list[BoxText], int]:
    lost = _NEVER_OPENED.search(text, max(before, place - _NEVER_OPENED_CHARS), place)
    return ([BoxText(lost.start(), place + 1, "numbers", None)] if lost else []), place + 1


def _tagged(text: str, place: int, inner: int) -> tuple[list[BoxText], int]:
    """Of ``<box>`` and ``<|box_start|>``."""
    whole = _TAGGED.match(text, inner)
    if whole is None:
        run = _PAIRS_RUN.match(text, inner)
        end = run.end() if run else inner
        return [BoxText(place, end, "pairs", None)], end
    content, end = whole[1], whole.end()
    if "[" not in content:
        four = _numbers(_TWO_PAIRS.fullmatch(content) or _FOUR.fullmatch(content))
        return [BoxText(place, end, "pairs", four)], end
    parts = [_numbers(_FOUR.fullmatch(part)) for part in _BRACKETED.findall(content)] or [None]
    return [BoxText(place, end, "numbers", part) for part in parts], end


def _patches(text: str, start: re.Match[str]) -> tuple[list[BoxText], int]:
    place, is_tagged = start.start(), start.group() == "<object>"
    whole = _PATCHES.match(text, start.end()) if is_tagged else None
    run = whole or _PATCH_RUN.match(text, start.end() if is_tagged else place)
    end = max(run.end() if run else 0, start.end())
    content = text[start.end() if is_tagged else place : end].removesuffix("</object>")
    read = [_numbers(_TWO_PATCHES.fullmatch(part)) for part in re.split(_DELIMITER, content)]
    if is_tagged and whole is None:
        read[-1] = None
    return [BoxText(place, end, "patches", part) for part in read], end


def _keyed(text: str, place: int, after: int) -> tuple[list[BoxText], int]:
    """Of the key of a box in JSON."""
    opening = _AFTER_KEY.match(text, after)
    if opening is None:
        return [BoxText(place, after, "numbers", None, _label(text, place, after))], after
    inner = opening.end()
    is_list = _LIST.match(text, inner)
    if is_list or text[inner] == "(":
        return [], inner + 1 if is_list else inner
    boxes, end = _bracket(text, inner, is_box=True)
    if not boxes:
        boxes, end = [BoxText(place, inner + 1, "numbers", None)], inner + 1
    return [b._replace(start=place, label=_label(text, place, end)) for b in boxes], end


def _label(text: str, place: int, end: int) -> str | None:
    """The label in the object around ``text[place:end]``."""
    first = text.rfind("{", max(0, place - _LABEL_CHARS), place)
    last = text.find("}", end, end + _LABEL_CHARS)
    around = text[first:place] if first >= 0 else "", text[end:last] if last >= 0 else ""
    found = next(filter(None, (_LABEL.search(part) for part in around)), None)
    return (found[1] or found[2] or None) if found else None
