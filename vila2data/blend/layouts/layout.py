"""What a layout is, and the values that records hold."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vila2data.blend.annotation import Annotation
from vila2data.corpus.images import Problem

Record = Mapping[str, Any]
"""A row as the source has it, under the layout's names of columns."""

Read = Callable[[Record], Iterator[Annotation | Problem]]
"""What a record holds: annotations, and a problem for each question of it that cannot be used.

A function of a module, so that any process finds it. It never raises because of what a record
holds: values of another type than expected are problems.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """A way that records are laid out.

    Attributes:
        read: the function.
        needs: columns that records must have.
        may_have: columns that are used where they are there.
        worded: questions are as they shall be asked, and hold the markers of their images.
    """

    read: Read
    needs: tuple[str, ...]
    may_have: tuple[str, ...] = ()
    worded: bool = False
