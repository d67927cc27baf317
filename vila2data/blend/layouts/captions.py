"""Images with captions; the sentence that asks for one is the rules' `form`."""

from collections.abc import Iterator

from vila2data.blend.annotation import Annotation, Exchange
from vila2data.blend.labels import stated
from vila2data.corpus.images import Problem

from .answers import annotation, pictures, single, sorted_out
from .fields import text_of
from .layout import Layout, Record

_HEADINGS = frozenset({"DESCRIPTION", "TEXT"})
_AROUND_HEADINGS = " #*:"


def read_captions(record: Record) -> Iterator[Annotation | Problem]:
    """An image with its captions, each an exchange without a question."""
    given = record.get("captions")
    captions = given if isinstance(given, list | tuple) else [given]
    about = pictures(record.get("image"))
    if isinstance(about, Problem):
        yield about
        return
    exchanges, problems = sorted_out(_caption(*each) for each in enumerate(captions))
    yield from problems
    if exchanges:
        yield annotation(record, about, exchanges)
    elif not problems:
        yield Problem("answer_missing", "there is no caption")


def read_textocr_gpt4v(record: Record) -> Iterator[Annotation | Problem]:
    """A photo with GPT-4V's caption: the condensed one, or else its two parts without headings."""
    yield single(record, record.get("image"), _condensed(record))


def _caption(place: int, value: object) -> Exchange | Problem:
    caption = stated(value)
    if isinstance(caption, Problem):
        return Problem(caption.reason, f"caption {place} {caption.detail}")
    return Exchange("", caption.answer, cleaned=caption.rule)


def _condensed(record: Record) -> Exchange | Problem:
    condensed = text_of(record.get("caption_condensed"))
    if condensed is not None:
        return Exchange("", condensed)
    parts = [text_of(record.get(c)) for c in ("caption_image", "caption_text")]
    joined = "\n".join(part for part in parts if part)
    return Exchange("", joined) if joined else _without_headings(text_of(record.get("caption")))


def _without_headings(caption: str | None) -> Exchange | Problem:
    lines = [line.strip() for line in (caption or "").splitlines()]
    kept = [line for line in lines if line and line.strip(_AROUND_HEADINGS) not in _HEADINGS]
    if not kept:
        return Problem("answer_missing", "none of the captions is a text")
    changed = len(kept) < sum(map(bool, lines))
    return Exchange("", "\n".join(kept), cleaned="headings_left_out" if changed else None)


LAYOUTS: dict[str, Layout] = {
    "captions": Layout(read_captions, needs=("image", "captions"), may_have=("id", "group")),
    "textocr_gpt4v": Layout(
        read_textocr_gpt4v,
        needs=("image",),
        may_have=("id", "group", "caption", "caption_image", "caption_text", "caption_condensed"),
    ),
}
