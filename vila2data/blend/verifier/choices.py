"""Reads lettered lines, the letters of answers, and the rotation that an id tells."""

import re
from string import ascii_uppercase

_HEADS = tuple(f"{letter}. " for letter in ascii_uppercase)
_ROTATION = re.compile(r"(.+)/r([0-9]{1,9})((?:/c[0-9]+)?)(?:/d[0-9]+)?", re.DOTALL)


def lettered(question: str) -> tuple[str, list[str]]:
    r"""What a question asks, and the choices that its last lines list from A on; [] where none.

    Example:
        >>> lettered("Which?\nA. cat\nB. dog")
        ('Which?', ['cat', 'dog'])
        >>> lettered("A. cat\nC. dog")
        ('A. cat\nC. dog', [])
    """
    last = question.rpartition("\n")[2]
    if last[:3] not in _HEADS:
        return question, []
    lines = question.split("\n")
    count = _HEADS.index(last[:3]) + 1
    listed = lines[-count:]
    if len(listed) < count or not all(map(str.startswith, listed, _HEADS)):
        return question, []
    return "\n".join(lines[:-count]), [line[3:] for line in listed]


def place_of(answer: str) -> int | None:
    """Of an answer that is a letter, A being 0; None of any other."""
    is_letter = len(answer) == 1 and answer in ascii_uppercase
    return ascii_uppercase.index(answer) if is_letter else None


def rotation_of(row_id: str) -> tuple[str, int, str] | None:
    """The name, the rotation and the copy that an id tells; None where it tells no rotation.

    Rows that have one name are not told apart.

    Example:
        >>> rotation_of("a/b/s0/r2/c1/d1")
        ('a/b/s0', 2, '/c1')
    """
    found = _ROTATION.fullmatch(row_id)
    return found and (found[1], int(found[2]), found[3])
