"""Builder of ``ocr-blend``: what VILA²'s OCR specialist learns from."""

from typing import ClassVar

from vila2data.blend.builder import BlendBuilder


class OcrBlend(BlendBuilder):
    """Questions and answers about text in images: documents, charts, tables, books, scenes.

    Made of the data sets that VILA² names for its OCR specialist. Questions about one image stand
    in one conversation; labels are cleaned by rules that the table of cleaned labels counts.
    Rows of The Cauldron that repeat a source of this blend, and rows that repeat an evaluation set
    it was compared with, are left out.

    Which 35 sets of The Cauldron VILA² took is not published; the recipe holds our reading.
    """

    DATA_SET: ClassVar[str] = "ocr-blend"
