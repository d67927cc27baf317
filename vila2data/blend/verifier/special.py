"""Finds special tokens and role labels among many texts."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vila2data.conversation import find_special

MARKER = "<image>"
"""What stands for an image in a text; elsewhere it is a rule of its own."""

_HELD = "<\ufffc>"  # no more a token than the marker is to the text beside it
_SUSPECT = (  # all that could be a role label or, beside "<", a special token
    r"(?i)(?:user|assistant|system|human|gpt|bot)[^a-z0-9]*:"
    r"|\[/?(?:inst|system|tool|available|cls|sep|pad|mask|unk|img)"
)


def special(texts: pa.StringArray) -> Iterator[int]:
    """The places of texts that hold a special token or a role label, markers apart.

    Few hold what one could be made of; only these are looked at one by one.
    """
    angles, markers = (pc.count_substring(texts, mark) for mark in ("<", MARKER))
    is_suspect = pc.or_(pc.match_substring_regex(texts, _SUSPECT), pc.greater(angles, markers))
    for place in np.flatnonzero(is_suspect.fill_null(False)).tolist():
        if find_special(texts[place].as_py().replace(MARKER, _HELD)) is not None:
            yield place
