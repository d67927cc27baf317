"""Builder of ``sft-blend``: VILA²'s blends for supervised fine-tuning."""

from typing import ClassVar

from vila2data.blend.builder import BlendBuilder


class SftBlend(BlendBuilder):
    """Conversations about one image, several images or none, from the data sets that VILA² names
    for supervised fine-tuning: configs `1.8m` and `5.9m`.

    The table of sources tells what was wanted of each, what was found, and how many rows and tokens
    it gave. Some of the named data sets were never public or are gone; the recipe says which, and
    what stands in for them.
    """

    DATA_SET: ClassVar[str] = "sft-blend"
