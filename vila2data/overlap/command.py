"""``vila2data overlap``: two builds compared, or one with itself."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vila2data.console import progress, say, show_json, show_table
from vila2data.errors import BadInput

from .builds import Collection
from .find import PairRules, find_pairs
from .page import Comparison, write_page


def overlap_command(
    build: Path,
    others: Sequence[Path],
    *,
    out: Path | None,
    config: str | None = None,
    images: Path | None = None,
    max_distance: int | None = 8,
    min_words: int = 10,
    samples: int = 40,
    as_json: bool = False,
) -> int:
    """Compares a build with others, or with itself where there are none; how many pairs it found.

    Args:
        build: folder.
        others: folders.
        out: the page; None writes none.
        config: of all builds; their default ones where None.
        images: folder below which the images are that rows name.
        max_distance: bits between hashes of images that are looked at; None compares bytes alone.
        min_words: how much text must be the same; see ``text.words_of``.
        samples: how many pairs of each kind the page shows of a comparison.
        as_json: shows JSON, with every pair, in the place of a table.

    Raises:
        BuildError: a folder is no build, or a file of it cannot be read.
        BadInput: a config is unknown or holds no conversations, or ``out`` is a folder.
    """
    if out is not None and out.is_dir():
        raise BadInput(f"{out}: is a folder; give the name of a file, such as {out}/pairs.html")
    rules = PairRules(max_distance=max_distance, min_words=min_words)
    left, *rights = (Collection.of(b, config=config, images=images) for b in (build, *others))
    # Views are needed on one side: where a build is compared with itself, on its own.
    ours = _signatures(left, rules, views=not rights)
    comparisons = [
        Comparison(left, right, _pairs(left, ours, right, rules)) for right in rights or [left]
    ]
    if out is not None:
        write_page(comparisons, out, samples=samples)
    if as_json:
        show_json({"comparisons": [_told(comparison) for comparison in comparisons]})
        return sum(len(comparison.pairs) for comparison in comparisons)
    for comparison in comparisons:
        _show(comparison)
    if out is not None:
        say(f"wrote {out}")
    return sum(len(comparison.pairs) for comparison in comparisons)


def _signatures(collection: Collection, rules: PairRules, *, views: bool) -> pa.Table:
    near = rules.max_distance is not None
    workers = rules.workers or os.cpu_count() or 1
    total = len(collection.conversations)
    with progress(f"reading {collection.label}", total=total, unit="rows") as done:
        return collection.signatures(near=near, views=near and views, workers=workers, done=done)


def _pairs(left: Collection, ours: pa.Table, right: Collection, rules: PairRules) -> pa.Table:
    if right is left:
        return find_pairs(ours, None, rules=rules, left_images=left.content)
    return find_pairs(
        ours,
        _signatures(right, rules, views=True),
        rules=rules,
        left_images=left.content,
        right_images=right.content,
    )


def _show(comparison: Comparison) -> None:
    title = f"{comparison.left.label}, rows in pairs with {comparison.other}: {comparison.rows:,}"
    show_table(["source", "its pair's source", "kind", "pairs"], comparison.counts, title=title)
    refused = comparison.refused
    if refused:
        show_table(["build", "not compared", "count"], refused)


def _told(comparison: Comparison) -> dict[str, Any]:
    counts: Counter[str] = Counter(comparison.pairs["kind"].to_pylist())
    named = [
        pair
        | {
            "left_id": comparison.left.names[int(pair["left_id"])],
            "right_id": comparison.right.names[int(pair["right_id"])],
        }
        for pair in comparison.pairs.to_pylist()
    ]
    return {
        "left": comparison.left.label,
        "right": comparison.right.label,
        "rows": comparison.rows,
        "kinds": dict(sorted(counts.items())),
        "not_compared": [
            dict(zip(("build", "reason", "count"), r, strict=True)) for r in comparison.refused
        ],
        "pairs": named,
    }
