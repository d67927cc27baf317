"""Makes plausible rows in the layout of GRIT, by the million, in bounded memory."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]
Form = Literal["double", "string", "json"]


def _listed(text: str) -> list[str]:
    return text.split(" ")


_ITEM_TYPES: Mapping[Form, pa.DataType] = {
    "double": pa.list_(pa.list_(pa.float64())),
    "string": pa.list_(pa.list_(pa.string())),
    "json": pa.string(),
}
_NOUNS = _listed(
    "man woman dog cat car house tree book shirt dress table chair phone bag cake flower bird horse "
    "boat city beach mountain street room kitchen window door garden bottle cup plate hat shoe ring "
    "watch lamp bed sofa bridge river lake men women children people boxes shelves buses glasses "
    "café girl boy baby couple logo poster wall floor sky background team player jacket necklace"
)
_ADJECTIVES = _listed(
    "small large red blue old new wooden white black beautiful modern vintage green young rustic "
    "happy long golden round empty"
)
_LINKS = _listed("with near on beside under behind and in from for at over featuring by")
_SYLLABLES = _listed("ra to mi len stor ka vi per no dal est ing for gu shi con tek ul ba ché ø")
_COUNT_SHARES = (0.46, 0.28, 0.13, 0.07, 0.04, 0.02)  # one to six boxes
_COVER_SHARE = 0.71  # rows whose boxes all cover the image, as covers of books and albums do
_LARGE_SHARE = 0.15  # of the other boxes
_CROWD_SHARE = 0.02
_SAME_SPAN_SHARE = 0.15
_WIDENED_SHARE = 0.42
_WIDENED_TO_END_SHARE = 0.15  # of those that are widened
_OVERLAPPING_SHARE = 0.02  # of the boxes, whose chunk is as wide as an expression
_DUPLICATE_SHARE = 0.01
_REPEATED_ROWS = 1000  # of the first part, that any part may hold again
_DEFAULT_GROUP = 100_000


def grit_schema(form: Form = "double") -> pa.Schema:
    """Columns of GRIT's parts; ``form`` is that of the items."""
    return pa.schema(
        {
            "key": pa.string(),
            "clip_similarity_vitb32": pa.float64(),
            "clip_similarity_vitl14": pa.float64(),
            "id": pa.int64(),
            "url": pa.string(),
            "caption": pa.string(),
            "width": pa.int64(),
            "height": pa.int64(),
            "noun_chunks": _ITEM_TYPES[form],
            "ref_exps": _ITEM_TYPES[form],
        }
    )


def write_grit(
    folder: Path, *, rows: int, parts: int = 1, seed: int = 0, row_group_rows: int = _DEFAULT_GROUP
) -> Path:
    """Writes ``rows`` plausible rows, of which the default recipe keeps about a quarter.

    One row of a hundred repeats another, of the same part or of the first. Memory is that of one
    row group.

    Args:
        folder: made where it is not there.
        rows: in all.
        parts: files, of as many rows each; the last may have less.
        seed: the same seed, rows, parts and row groups give the same bytes.
        row_group_rows: rows of each row group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = _vocabulary()
    first: pa.Table | None = None
    begin = 0
    for part in range(parts):
        end = min(begin - (-rows // parts), rows)
        file = folder / f"coyo_{part}_snappy.parquet"
        with pq.ParquetWriter(file, grit_schema(), compression="snappy") as writer:
            for start in range(begin, end, row_group_rows):
                rng = np.random.default_rng((seed, start))
                table = _table(rng, min(row_group_rows, end - start), words)
                first = table.slice(0, _REPEATED_ROWS) if first is None else first
                writer.write_table(_with_duplicates(rng, table, first, start), row_group_rows)
        begin = end
    return folder


class _Words(NamedTuple):
    """Texts, their lengths in characters, and between which places each kind of them stands."""

    texts: pa.Array
    lengths: Array
    kinds: Mapping[str, tuple[int, int]]

    def draw(self, rng: np.random.Generator, kind: str, count: int) -> Array:
        """Places of texts; how often one is drawn falls with its place in the kind."""
        low, high = self.kinds[kind]
        rank = (high - low + 1) ** rng.random(count)
        return low + rank.astype(np.int64) - 1


@cache
def _vocabulary() -> _Words:
    rng = np.random.default_rng(0)
    phrases = [f"{a} {b}" for a, b in product(_ADJECTIVES, _NOUNS)]
    phrases += [f"{a} {b}" for a, b in product(("a", "the", "two", "his"), phrases + _NOUNS)]
    phrases += [*_NOUNS, *(f"a {a} of {b}s" for a, b in product(_NOUNS, _NOUNS[:20]))]
    phrases = [phrases[place] for place in rng.permutation(len(phrases))]
    syllables = rng.choice(np.array(_SYLLABLES, object), (4, 30_000))
    syllables *= np.arange(4)[:, None] < rng.integers(1, 5, 30_000)
    plain = ["".join(some) for some in syllables.T]
    texts: list[str] = []
    kinds = {}
    for kind, some in (("phrase", phrases), ("link", _LINKS), ("plain", plain)):
        kinds[kind] = (len(texts), len(texts) + len(some))
        texts += some
    return _Words(pa.array(texts), np.array([len(text) for text in texts]), kinds)


def _starts(counts: Array) -> Array:
    """Where each of some runs begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)])


class _Spans(NamedTuple):
    """Captions as runs of words, and the phrases in them.

    ``first_word`` (n + 1,) of each row; ``words`` (w,) places in the vocabulary; the others (s,):
    offsets of the phrase in characters, and of the end of what stands after it.
    """

    first_word: Array
    words: Array
    start: Array
    end: Array
    wide_end: Array


def _spans(rng: np.random.Generator, row: Array, crowded: Array, words: _Words) -> _Spans:
    """Each row as a few plain words, then each phrase between plain words and a link, then more.

    Args:
        rng: of the draws.
        row: (s,) of each phrase, ascending.
        crowded: (n,) rows whose phrases are all the same.
        words: to take from.
    """
    n, s = len(crowded), len(row)
    before, after = rng.integers(0, 2, s), rng.integers(0, 3, s)
    intro, tail = rng.integers(1, 4, n), rng.integers(1, 8, n)
    length = before + after + 2
    first_word = _starts(intro + tail + np.bincount(row, length, n).astype(np.int64))
    first_span = np.searchsorted(row, np.arange(n))
    within = _starts(length)[:-1]
    place = first_word[row] + intro[row] + within - within[first_span[row]] + before
    drawn = words.draw(rng, "plain", int(first_word[-1]))
    phrase = words.draw(rng, "phrase", s)
    drawn[place] = np.where(crowded[row], phrase[first_span[row]], phrase)
    drawn[place + after + 1] = words.draw(rng, "link", s)
    ends = np.cumsum(words.lengths[drawn] + 1) - 1  # a space stands after each word
    ends -= np.repeat((ends - words.lengths[drawn])[first_word[:-1]], np.diff(first_word))
    to_end = rng.random(s) < _WIDENED_TO_END_SHARE
    wide = np.where(to_end, first_word[row + 1] - 1, place + after)
    start = ends[place] - words.lengths[drawn[place]]
    return _Spans(first_word, drawn, start, ends[place], ends[wide])


def _boxes(rng: np.random.Generator, row: Array, n: int) -> Array:
    """(m, 4) xyxy 0-1, mostly above 0.7 of the image."""
    m = len(row)
    large = (rng.random(n) < _COVER_SHARE)[row] | (rng.random(m) < _LARGE_SHARE)
    size = np.where(large, rng.uniform(0.86, 1, (2, m)), rng.uniform(0.05, 0.8, (2, m)))
    low = rng.random((2, m)) * (1 - size)
    return np.concatenate([low, np.minimum(low + size, 1)]).T


def _items(offsets: tuple[Array, Array], boxes: Array, scores: Array, counts: Array) -> pa.Array:
    """The column of ``noun_chunks`` or ``ref_exps``."""
    values = np.column_stack([*offsets, boxes, scores])  # (m, 7)
    each = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    inner = pa.ListArray.from_arrays(each, pa.array(values.ravel()))
    return pa.ListArray.from_arrays(_starts(counts).astype(np.int32), inner)


def _table(rng: np.random.Generator, n: int, words: _Words) -> pa.Table:
    """``n`` rows, none a duplicate; keys are not yet set."""
    crowded = rng.random(n) < _CROWD_SHARE
    counts = rng.choice(len(_COUNT_SHARES), n, p=_COUNT_SHARES) + 1
    counts[crowded] = rng.integers(4, 7, crowded.sum())
    row = np.repeat(np.arange(n), counts)
    again = (rng.random(len(row)) < _SAME_SPAN_SHARE) & (np.diff(row, prepend=-1) == 0)
    spans = _spans(rng, row[~again], crowded, words)
    scores = rng.uniform(0.65, 1, len(row))
    order = np.lexsort((-scores, row))  # the surest first, as in GRIT
    scores, span = scores[order], (np.cumsum(~again) - 1)[order]
    boxes = _boxes(rng, row, n)
    start, end = spans.start[span], spans.end[span]
    widened = rng.random(len(spans.start)) < _WIDENED_SHARE
    wide_end = np.where(widened[span], spans.wide_end[span], end)
    end = np.where(rng.random(len(row)) < _OVERLAPPING_SHARE, wide_end, end)
    lists = pa.ListArray.from_arrays(
        spans.first_word.astype(np.int32), words.texts.take(pa.array(spans.words))
    )
    ids = pa.array(rng.integers(10**9, 10**13, n))
    text = pc.cast(ids, pa.string())
    columns = {
        "key": text,
        "clip_similarity_vitb32": rng.uniform(0.2, 0.4, n),
        "clip_similarity_vitl14": rng.uniform(0.15, 0.35, n),
        "id": ids,
        "url": pc.binary_join_element_wise("https://example.org/uploads/", text, ".jpg", ""),
        "caption": pc.binary_join(lists, " "),
        "width": rng.integers(200, 2000, n),
        "height": rng.integers(200, 2000, n),
        "noun_chunks": _items((start, end), boxes, scores, counts),
        "ref_exps": _items((start, wide_end), boxes, scores, counts),
    }
    return pa.table(columns, grit_schema())


def _with_duplicates(
    rng: np.random.Generator, table: pa.Table, first: pa.Table, start: int
) -> pa.Table:
    """As many rows, some of them repeated in the place of others; keys count from ``start``."""
    n = len(table)
    taken = np.arange(n)
    repeated = rng.random(n) < _DUPLICATE_SHARE
    taken[repeated] = rng.integers(0, n + len(first), repeated.sum())
    mixed = pa.concat_tables([table, first]).take(pa.array(taken))
    keys = pc.utf8_lpad(pc.cast(pa.array(np.arange(start, start + n)), pa.string()), 9, "0")
    return mixed.set_column(0, "key", keys)
