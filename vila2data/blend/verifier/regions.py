"""What questions about regions must satisfy."""

import re
from collections.abc import Iterator, Sequence

_NUMBER = r"(0\.0|1\.0|0\.[0-9]?[1-9])"  # two decimals, of which a last zero is dropped
_BOX = re.compile(rf"\[{_NUMBER}, {_NUMBER}, {_NUMBER}, {_NUMBER}\]")
_DESCRIBE = "Please provide a short description for this region: "
_LOCATE = "Please provide the bounding box coordinate of the region this sentence describes: "


def region_problems(asked: Sequence[str], answers: Sequence[str]) -> Iterator[str]:
    """What is wrong with each question and its answer."""
    for question, answer in zip(asked, answers, strict=True):
        if question.startswith(_DESCRIBE):
            told, text = question.removeprefix(_DESCRIBE).removesuffix("."), answer
            is_ended = question.endswith(".")
            if answer[:1].upper() != answer[:1]:
                yield "the description of a region does not begin with a capital"
        elif question.startswith(_LOCATE):
            told, text = answer, question.removeprefix(_LOCATE)
            is_ended = True
        else:
            yield "a question about a region is worded in another way"
            continue
        is_all_dots = not text.strip(".")  # people write that too
        if not is_ended or not text.endswith(".") or (text.endswith("..") and not is_all_dots):
            yield "the text of a region does not end with one full stop"
        if not _is_box(told):
            yield "a box is not x1, y1, x2, y2 in 0-1 with two decimals"


def _is_box(text: str) -> bool:
    read = _BOX.fullmatch(text)
    if read is None:
        return False
    x1, y1, x2, y2 = map(float, read.groups())
    return x1 <= x2 and y1 <= y2
