"""The command ``vila2data export``."""

from pathlib import Path

from vila2data.build.manifest import read_manifest
from vila2data.console import progress, say, show_table

NEXT = {
    "llava": "LLaVA: --data_path {out}/conversations.json --image_folder {out}/images",
    "sharegpt": "LLaMA-Factory: dataset_dir: {out}, with the dataset that dataset_info.json names",
    "messages": 'TRL: load_dataset("{out}", split="train")',
    "webdataset": "Energon: get_train_dataset({out}, ...), with a cooker",
}


def export_command(
    build: Path,
    *,
    config: str | None,
    format: str,
    out: Path,
    images: Path | None,
    corpus: Path | None,
    upright: bool = False,
    verbatim: bool = False,
) -> None:
    """Exports a build, and says what was written and what was left out.

    Raises:
        BadInput: as ``vila2data.export.run.export``.
        RunFailed: no row can be used, or the disk is full.
    """
    from .run import export

    manifest = read_manifest(build)
    total = manifest.rows_of(config or manifest.default_config)
    with progress("exporting", total=total, unit="rows") as done:
        found = export(
            build,
            out,
            format=format,
            config=config,
            images=images,
            corpus=corpus,
            upright=upright,
            verbatim=verbatim,
            on_row=done,
        )
    reasons = [(f"left out: {reason}", count) for reason, count in sorted(found.left_out.items())]
    counts = [("rows", found.written), *reasons, ("images", found.images)]
    show_table(["", "count"], counts, title=f"{out}: {format}")
    if found.lying:
        say(
            f"{found.lying} images are stored lying, as their EXIF says; "
            "trainers that do not turn them see them so: --upright turns them"
        )
    say(NEXT[format].format(out=out.as_posix()))
