"""Makes rows in the layout of GRIT that break each rule of docs/grounding.md, among good ones."""

import math
import random
from typing import Any

Row = dict[str, Any]
Item = list[Any]

PHRASES = (
    *("a cat", "two small cats", "Cats", "the cat's", "CATS!", "an old dog", "dogs", "the dog"),
    *("a man in a hat", "women", "a woman", "the children", "boxes of glass", "a box", "a bus"),
    *(
        "buses",
        "Strawberries",
        "a strawberry",
        "glasses",
        "a glass",
        "the 'lens'",
        "feet",
        "a foot",
    ),
    *("mother's day", "dogs'", "of", "in", "on it", "which of them", "gas", "a man who sits"),
    *("un café", "Café", "naïve ideas", "e\u0301te\u0301", "猫", "二匹の猫", "خلفية خشبية", "כלב"),
    *("👩‍👩‍👧 family", "👍🏽", "ЖУКИ", "жуки", "STRASSE", "a\u00a0tree", "trees\u2003here", "ß"),
    *("<image>", "USER: him", "a </s> b", "[0.1]", "(crosses)", "waltzes", "wishes", "a...", "?!"),
)
FILLERS = (
    *(
        "with",
        "and",
        "near",
        "under",
        "photo",
        "—",
        "the",
        "stock",
        "beside",
        "für",
        "と",
        "🙂",
        "of",
    ),
    *(
        "in",
        "<s>",
        "ASSISTANT:",
        "<image>",
        "[INST]",
        "2021",
        "%s {} \\",
        "\u202e",
        "\u0301",
        "\x00",
    ),
)
GAPS = (" ", " ", " ", "  ", "\t", "\n", "\r\n", ", ", " , ", "", "\u00a0", "-")
BOX_TEXTS = (
    *("[0.100,0.200,0.300,0.400]", "[0.1,0.2,0.3,0.4]", "[0.100, 0.200, 0.300, 0.400]"),
    *("[0.300,0.200,0.100,0.400]", "[0.100,0.200,0.300,1.400]", "[0.100,0.200,0.300,0.400"),
    *("<object><patch_index_0044><patch_index_0863></object>", "[10, 20, 30, 40]"),
    *("[10, 20, 99999, 40]", '{"bbox_2d": [1, 2, 3, 4]}', "<box>(1,2),(3,4)</box>"),
    *("<|box_start|>(1,2),(3,4)<|box_end|>", "[0.12, 0.46, 0.70, 0.80]", "<phrase>a</phrase>"),
)
BAD_OFFSETS = (-1, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e18, 1e300, None, "abc", "", "1.5")
BAD_COORDINATES = (math.nan, math.inf, -math.inf, -1e-12, 1 + 1e-9, 2.0, 640.0, None, "a", "1,5")
EDGE_BOXES = (
    *([0, 0, 1, 1], [0.0, 0.0, 1.0, 0.7], [0.0, 0.0, 0.7, 1.0], [0.1, 0.1, 0.8, 1.1 - 1e-16]),
    *([0.0, 0.0, 1.0, 0.7 + 1e-16], [0.0, 0.0, 1.0, 0.7 + 2e-16], [0.15, 0.15, 0.95, 1.0]),
    *([0.1, 0, 0.94, 0.8333333333333334], [0.5, 0.5, 0.501, 0.6], [0.25, 0.1, 0.2509, 0.9]),
    *([0.5, 0.5, 0.5009765625, 0.75], [0.999, 0.999, 1.0, 1.0], [0.0, 0.0, 0.001, 0.001]),
    *([0.3, 0.3, 0.3, 0.5], [0.5, 0.2, 0.4, 0.6], [0.5, 0.6, 0.6, 0.2], [-0.0, 0, 0.5, 0.5]),
    *([0.0005, 0.1235, 0.4985, 0.9995], [0.0125, 0.0625, 0.5375, 0.8125], [0, 0, 1, 1e-300]),
    *(["0.25", "0.5", "0.75", "1"], ["2.5e-1", "0.10", ".75", "1."], [0.1, 0.2, 0.3, True]),
)
SCORES = (0.65, 0.7, 0.7 - 1e-16, 0.9, 1, 0, -1.0, math.nan, math.inf, None, "0.8", "high")


def hostile_rows(count: int, seed: int = 0) -> list[Row]:
    """``count`` rows, the same for the same seed: two of five are good, the others are good ones that
    were damaged in one to three ways; one of twenty repeats id and caption of an earlier one.
    """
    rng = random.Random(seed)
    rows: list[Row] = []
    for place in range(count):
        row = good_row(rng, place)
        if rng.random() < 0.6:
            for damage in rng.choices(DAMAGES, k=rng.choice((1, 1, 2, 3))):
                damage(rng, row)
        if rows and rng.random() < 0.05:
            _repeat(rng, row, rng.choice(rows))
        rows.append(row)
    return rows


def good_row(rng: random.Random, place: int) -> Row:
    """A row of one to five phrases that stand apart."""
    words, spans = [], []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
        words += [text + rng.choice(GAPS) for text in rng.choices(FILLERS, k=rng.randrange(3))]
        phrase = rng.choice(PHRASES)
        start = len("".join(words))
        spans.append((start, start + len(phrase)))
        words += [phrase, rng.choice(GAPS)]
    caption = "".join(words) + rng.choice(FILLERS) * rng.randrange(2)
    chunks = [[*span, *_box(rng), _score(rng)] for span in spans]
    rng.shuffle(chunks)
    ends = [n for n in range(1, len(caption) + 1) if n == len(caption) or caption[n] == " "]
    refs = [list(chunk) for chunk in chunks]
    for ref in refs:
        if rng.random() < 0.4:
            ref[1] = rng.choice([end for end in ends if end >= ref[1]])
    return {
        "key": f"{place:09d}",
        "clip_similarity_vitb32": rng.uniform(0.2, 0.4),
        "clip_similarity_vitl14": rng.uniform(0.2, 0.4),
        "id": 10**12 + place,
        "url": f"https://example.org/{place}.jpg",
        "caption": caption,
        "width": rng.choice((1024, 640, 333, 1, 7)),
        "height": rng.choice((693, 480, 1, 28)),
        "noun_chunks": chunks,
        "ref_exps": refs,
    }


def _box(rng: random.Random) -> list[Any]:
    """Sound and far from each limit, with as many decimals as may be."""
    w, h = rng.uniform(0.05, 0.8), rng.uniform(0.05, 0.8)
    x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
    decimals = rng.choice((2, 3, 4, 17))
    return [round(value, decimals) for value in (x, y, x + w, y + h)]


def _score(rng: random.Random) -> float:
    return rng.uniform(0.5, 1)


def _repeat(rng: random.Random, row: Row, earlier: Row) -> None:
    """A duplicate; at times one that differs in the id or the caption alone, or in its boxes."""
    row["caption"], row["id"] = earlier["caption"], earlier["id"]
    if rng.random() < 0.7:
        row["noun_chunks"], row["ref_exps"] = earlier["noun_chunks"], earlier["ref_exps"]
    if rng.random() < 0.2:
        row["id"] = rng.choice((None, 0, -1, 2**63 - 1))
    elif rng.random() < 0.2 and row["caption"] is not None:
        row["caption"] += " "


def _items(row: Row, name: str = "noun_chunks") -> list[Item]:
    """Those that a damage can be done to."""
    return [item for item in row[name] or () if item is not None and len(item) >= 6]


def _one(rng: random.Random, row: Row, name: str = "noun_chunks") -> Item:
    """One of the items; an item of no row where there is none."""
    return rng.choice(_items(row, name) or [[0, 1, 0.1, 0.1, 0.2, 0.2, 0.5]])


def _length(row: Row) -> int:
    return len(row["caption"] or "")


def _add(rng: random.Random, row: Row, item: Item, *, ref: bool = True) -> None:
    """Puts an item at a random place, and its copy at the same place among the expressions."""
    row["noun_chunks"] = list(row["noun_chunks"] or ())
    place = rng.randint(0, len(row["noun_chunks"]))
    row["noun_chunks"].insert(place, item)
    if ref:
        row["ref_exps"] = list(row["ref_exps"] or ())
        row["ref_exps"].insert(place, list(item))


def _set(item: Item, place: int, value: Any) -> None:
    if place < len(item):
        item[place] = value


def _spoil_offset(rng: random.Random, row: Row) -> None:
    _set(_one(rng, row), rng.randrange(2), rng.choice((*BAD_OFFSETS, _length(row) + 1)))


def _turn_offsets(rng: random.Random, row: Row) -> None:
    item = _one(rng, row)
    item[:2] = rng.choice(([item[1], item[0]], [item[0], item[0]], [0, 10**9], [0, _length(row)]))


def _write_offsets(rng: random.Random, row: Row) -> None:
    forms = (float, str, lambda n: f"{n}.0", lambda n: f"{n}e0", lambda n: f"+{n}")
    for item in _items(row):
        write = rng.choice(forms)
        item[:2] = [write(v) if isinstance(v, int) and v >= 0 else v for v in item[:2]]


def _span_blank(rng: random.Random, row: Row) -> None:
    start = _length(row)
    row["caption"] = (row["caption"] or "") + rng.choice((" ", "\t\n", "\r ", "\u00a0", "\u2003"))
    _add(rng, row, [start, _length(row), *_box(rng), _score(rng)])


def _spoil_coordinate(rng: random.Random, row: Row) -> None:
    _set(_one(rng, row), rng.randrange(2, 6), rng.choice(BAD_COORDINATES))


def _take_edge_box(rng: random.Random, row: Row) -> None:
    edge = rng.choice(EDGE_BOXES)
    for items in ([_one(rng, row)], _items(row))[rng.random() < 0.3]:
        items[2:6] = edge


def _enlarge(rng: random.Random, row: Row) -> None:
    for item in _items(row):
        if rng.random() < 0.7:
            item[2:6] = [rng.uniform(0, 0.07), rng.uniform(0, 0.07), 1.0, rng.uniform(0.7, 1)]


def _take_score(rng: random.Random, row: Row) -> None:
    for item in _items(row):
        item[6:] = [rng.choice(SCORES)]


def _change_length(rng: random.Random, row: Row) -> None:
    item = _one(rng, row)
    item[:] = rng.choice((item[: rng.randrange(7)], [*item, 0.1, None, 3.0], item[:6]))


def _null_item(rng: random.Random, row: Row) -> None:
    name = rng.choice(("noun_chunks", "ref_exps"))
    row[name] = list(row[name] or ())
    row[name].insert(rng.randint(0, len(row[name])), None)


def _null_list(rng: random.Random, row: Row) -> None:
    row[rng.choice(("noun_chunks", "ref_exps", "ref_exps"))] = rng.choice((None, []))


def _spoil_caption(rng: random.Random, row: Row) -> None:
    row["caption"] = rng.choice((None, "", " ", "\t\r\n ", "\u00a0", "x"))


def _lengthen_caption(rng: random.Random, row: Row) -> None:
    row["caption"] = (row["caption"] or "").ljust(rng.choice((200, 201, 5000, 5001)), "x")


def _write_box_text(rng: random.Random, row: Row) -> None:
    text = "".join(rng.sample(BOX_TEXTS, rng.randint(1, 3)))
    if rng.random() < 0.5:
        row["caption"] = (row["caption"] or "") + text
        return
    row["caption"] = text + (row["caption"] or "")
    for item in (*_items(row), *_items(row, "ref_exps")):
        item[:2] = [v + len(text) if isinstance(v, int) else v for v in item[:2]]


def _overlap(rng: random.Random, row: Row) -> None:
    """Random spans, some of one end, some of one start."""
    length = _length(row)
    if length < 2:
        return
    end = rng.randint(1, length)
    for _ in range(rng.randint(1, 4)):
        start, stop = sorted(rng.sample(range(length + 1), 2))
        span = rng.choice(([start, stop], [rng.randrange(end), end]))
        _add(rng, row, [*span, *_box(rng), _score(rng)], ref=rng.random() < 0.8)


def _box_again(rng: random.Random, row: Row) -> None:
    """More boxes of one span, some equal."""
    for _ in range(rng.randint(1, 3)):
        item = _one(rng, row)
        box = rng.choice((_box(rng), item[2:6], _near(rng, item[2:6])))
        _add(rng, row, [*item[:2], *box, rng.choice((_score(rng), *SCORES))])


def _near(rng: random.Random, box: Item) -> Item:
    """A box that shares about 0.9, or exactly 0.75, with ``box``, or is equal as float32 alone."""
    numbers = [value for value in box if type(value) is float and math.isfinite(value)]
    if len(numbers) < 4:
        return [0.25, 0.25, 0.5, 0.4375]
    x1, y1, x2, y2 = numbers
    by = rng.choice((0.9, 0.9 + 1e-6, 0.9 - 1e-6, 0.89, 0.91, 0.75, 1 - 1e-9))
    return [x1, y1, x1 + (x2 - x1) * by, y2]


def _shorten_ref(rng: random.Random, row: Row) -> None:
    ref = _one(rng, row, "ref_exps")
    ref[rng.randrange(2)] = rng.choice((0, 1, _length(row), _length(row) + 1, *BAD_OFFSETS))


def _widen_ref(rng: random.Random, row: Row) -> None:
    for ref in _items(row, "ref_exps"):
        if all(isinstance(v, int) for v in ref[:2]):
            low, high = max(ref[0], 0), min(max(ref[1], 0), _length(row))
            ref[:2] = [rng.randint(0, low), rng.randint(high, _length(row))]


def _shuffle_refs(rng: random.Random, row: Row) -> None:
    row["ref_exps"] = rng.sample(row["ref_exps"] or [], len(row["ref_exps"] or []))


def _change_refs(rng: random.Random, row: Row) -> None:
    """Another box, one less, or one more with the same box before the others."""
    refs = row["ref_exps"] = list(row["ref_exps"] or ())
    what = rng.randrange(3)
    if what == 0:
        _one(rng, row, "ref_exps")[2:6] = _box(rng)
    elif what == 1 and refs:
        refs.pop(rng.randrange(len(refs)))
    else:
        refs.insert(0, [0, _length(row), *_one(rng, row)[2:6], 0.5])


_CROWDS = (
    ("two small cats", "a cat", "Cats", "the cat's", "CATS!", "cat in a box", "(cat)"),
    ("a box", "boxes of fruit", "The Box", "BOXES", "box's", "box.", "old boxes"),
    ("men", "a man", "The Men on it", "man;", "three men who sit", "MAN", "men"),
    ("kitties", "a kitty", "Kitty's", "kitty", "KITTIES", "kitties from it", "kitty,"),
    ("猫", "猫", "猫", "猫", "猫。", "白い 猫", "猫 of 猫"),
    ("ЖУК", "жук", "Жук", "жук!", "a жук", "жук", "of жук"),
)


def _crowd(rng: random.Random, row: Row) -> None:
    """Three to five boxes of a category in as many spellings, some of one instance."""
    boxes: list[Item] = []
    for phrase in rng.sample(rng.choice(_CROWDS), rng.randint(3, 5)):
        start = _length(row) + 1
        row["caption"] = f"{row['caption'] or ''} {phrase}"
        exact = [[0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.5, 0.4375]]
        near = [_near(rng, rng.choice(boxes))] if boxes else exact
        boxes.append(rng.choice((_box(rng), _box(rng), *near)))
        _add(rng, row, [start, start + len(phrase), *boxes[-1], _score(rng)])


def _spoil_size(rng: random.Random, row: Row) -> None:
    row[rng.choice(("width", "height"))] = rng.choice((None, 0, -5, 1, 2))


def _spoil_columns(rng: random.Random, row: Row) -> None:
    row["clip_similarity_vitb32"] = rng.choice((None, math.nan, 0.3, -0.1, math.inf))
    row["clip_similarity_vitl14"] = rng.choice((None, math.nan, 0.25))
    row[rng.choice(("url", "key", "id", "id"))] = None


DAMAGES = (
    *(_spoil_offset, _turn_offsets, _write_offsets, _span_blank, _spoil_coordinate),
    *(
        _take_edge_box,
        _take_edge_box,
        _enlarge,
        _take_score,
        _change_length,
        _null_item,
        _null_list,
    ),
    *(
        _spoil_caption,
        _lengthen_caption,
        _write_box_text,
        _overlap,
        _overlap,
        _box_again,
        _box_again,
    ),
    *(_shorten_ref, _widen_ref, _widen_ref, _shuffle_refs, _change_refs, _crowd, _crowd),
    *(_spoil_size, _spoil_columns),
)
