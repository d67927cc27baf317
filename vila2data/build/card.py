"""The data set card: every number in it is generated from the build."""

from hashlib import sha256
from textwrap import dedent
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from .manifest import REJECTS_SUFFIX, Manifest

_CAPTIONS = "captions"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


def card_of(manifest: Manifest, about: str) -> str:
    """The text of ``README.md``.

    Args:
        about: what the data set is, in Markdown; the builder's docstring.
    """
    environment = Environment(
        loader=PackageLoader("vila2data.build"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template("card.md.jinja").render(
        header=yaml.safe_dump(_header(manifest), sort_keys=False, allow_unicode=True).strip(),
        manifest=manifest,
        about=_paragraphs(about),
        recipe=yaml.safe_dump(dict(manifest.recipe), sort_keys=False, allow_unicode=True).strip(),
        configs=[
            (c, manifest.rows_of(c), sum(f.bytes for f in manifest.files_of(c)))
            for c in manifest.configs
        ],
        rejects_suffix=REJECTS_SUFFIX,
        tables=_tables(manifest),
    )


def _tables(manifest: Manifest) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and cells of what a data set counts beside captions."""
    found = []
    for name, rows in manifest.stats.items():
        if name != _CAPTIONS and isinstance(rows, list) and rows:
            columns = list(rows[0])
            cells = [["–" if row[c] is None else str(row[c]) for c in columns] for row in rows]
            found.append((_spoken(name).capitalize(), [_spoken(c) for c in columns], cells))
    return found


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _paragraphs(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"{first}\n{dedent(rest)}".strip()


def _files_sha256(manifest: Manifest, config: str) -> str:
    return sha256("".join(file.sha256 for file in manifest.files_of(config)).encode()).hexdigest()


def _header(manifest: Manifest) -> dict[str, Any]:
    rows = sum(file.rows for file in manifest.files)
    captions = manifest.stats.get(_CAPTIONS)
    size = next((name for limit, name in (*_SIZES, *_LARGER) if rows < limit), "n>1B")
    configs = []
    for config in manifest.configs:
        if manifest.rows_of(config) == 0:
            continue  # `datasets` cannot load a split without rows; SQL sees an empty view
        splits = dict.fromkeys(file.split for file in manifest.files_of(config))
        files = [{"split": s, "path": f"data/{config}/{s}-*.parquet"} for s in splits]
        entry: dict[str, Any] = {"config_name": config, "data_files": files}
        # `datasets` knows what it has cached by this block, not by the files or their folder:
        # without the hash it would give the rows of another build with the same version.
        entry["description"] = f"sha256:{_files_sha256(manifest, config)}"
        if config == manifest.default_config:
            entry["default"] = True
        configs.append(entry)
    return {
        "pretty_name": f"{manifest.data_set} {manifest.version}",
        "license": manifest.license,
        "size_categories": [size],
        "tags": ["vila2data", "image-text", *(["synthetic-captions"] if captions else [])],
        "configs": configs,
    }
