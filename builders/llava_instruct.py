"""Builder of ``llava-instruct``: LLaVA-1.5's instruction mixture from its sources."""

from typing import ClassVar

from vila2data.blend.builder import BlendBuilder


class LlavaInstruct(BlendBuilder):
    """LLaVA-1.5's instruction-following mixture, by the rules of the paper's appendix A.2.

    Questions about one image are one conversation; ShareGPT's conversations end before 2048 tokens;
    A-OKVQA's choices are rotated; at most ten regions of an image of Visual Genome, and fewer than
    ten of RefCOCO, stand in a row. The table of sources compares the rows with the published
    counts.
    """

    DATA_SET: ClassVar[str] = "llava-instruct"
