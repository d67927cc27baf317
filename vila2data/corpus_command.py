"""``vila2data corpus``, beside the package of that name, which is slow to import. Commands import
what they need when they run.
"""

from pathlib import Path
from typing import Annotated

import typer

from .options import DryRunOption, JsonOption

app = typer.Typer(no_args_is_help=True, help="Image-text shards: WebDataset tars.")


@app.command("pack")
def corpus_pack(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images or of img2dataset tars, or what load_dataset takes."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    captions: Annotated[
        Path | None,
        typer.Option(help="JSON, JSONL, CSV or parquet; else NAME.txt beside NAME.jpg."),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Of the captions or data set.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Of the captions or data set.")] = None,
    key_column: Annotated[str | None, typer.Option(help="Of the data set; unique.")] = None,
    config: Annotated[str | None, typer.Option(help="Of the data set.")] = None,
    split: Annotated[str, typer.Option(help="Of the data set.")] = "train",
    samples_per_shard: Annotated[int, typer.Option(min=1, help="Samples in each tar.")] = 10_000,
    max_image_bytes: Annotated[int, typer.Option(min=1)] = 32 * 1024 * 1024,
    max_image_pixels: Annotated[int, typer.Option(min=1)] = 64_000_000,
    dry_run: DryRunOption = False,
) -> None:
    """Writes image-text shards from a folder, a data set, or img2dataset's output.

    An interrupted pack goes on where it stopped. Every image that is left out is counted, with a
    reason, in the shard's parquet.
    """
    from .commands import pack_command
    from .corpus.images import ImageLimits
    from .corpus.sources import SourceOptions

    written = pack_command(
        source,
        out,
        SourceOptions(captions, image_column, text_column, key_column, config, split),
        samples_per_shard=samples_per_shard,
        limits=ImageLimits(max_image_bytes, max_image_pixels),
        dry_run=dry_run,
    )
    raise typer.Exit(0 if written else 1)


@app.command("check")
def corpus_check(
    corpus: Annotated[str, typer.Argument(help="Folder of the corpus, or its URL.")],
    limit: Annotated[int, typer.Option(min=0, help="How many findings of a kind are listed.")] = 20,
    headers_only: Annotated[bool, typer.Option(help="Does not decode the images.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Counts samples and lists what is wrong: duplicate keys and images, broken or oversize images,
    captions missing.

    Exit status 1 where a sample cannot be used or a key stands twice.
    """
    from dataclasses import asdict

    from .commands import samples_in
    from .console import progress, show_json, show_table
    from .corpus.check import check
    from .corpus.read import list_shards
    from .storage import place_of

    place = place_of(corpus)
    with progress("checking", total=samples_in(list_shards(place)), unit="samples") as done:
        report = check(place, decode_images=not headers_only, limit=limit, on_sample=done)
    if as_json:
        show_json(asdict(report))
    else:
        counts = [("shards", report.shards), ("samples", report.samples), ("usable", report.usable)]
        found = [(kind, count) for kind, count in report.counts.items()]
        show_table(["", "count"], counts + found, title=str(place))
        listed = [(f.kind, f.shard, f.key, f.detail) for f in report.findings]
        if listed:
            show_table(["kind", "shard", "key", "detail"], listed, title="Findings")
    raise typer.Exit(1 if report.failed else 0)
