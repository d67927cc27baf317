"""Command ``vila2data quickstart``: from nothing to a build, offline, on a CPU."""

import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

_PICTURES = 48
_SHOWN = 3
_RECIPE = "quickstart/round1"


def command(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path(
        "quickstart"
    ),
) -> None:
    """Draws pictures, makes a tiny model, recaptions, builds, verifies, counts: offline, on a CPU.

    The model has random weights, so its captions are random words: this shows the way of the data,
    not its quality. What an earlier call finished is kept.
    """
    from vila2data.commands import quiet_libraries
    from vila2data.console import say

    from .pictures import draw_pictures
    from .tiny import make_tiny_llava

    quiet_libraries()
    pictures, corpus = out / "pictures", out / "corpus"
    captions = draw_pictures(pictures, _PICTURES)
    model = make_tiny_llava(out / "tiny-llava")
    build = out / "builds" / "coyo-recap" / "1.0.0"
    _run("corpus", "pack", pictures, "--captions", captions, "--out", corpus)
    settings = _settings(
        {
            "corpus": corpus,
            "out": out / "builds",
            "recaption.run": out / "runs" / "round1",
            "recaption.engine.model": model,
        }
    )
    _run("recaption", _RECIPE, *settings)
    if not build.is_dir():
        _run("build", _RECIPE, *settings)
    _run("verify", build)
    _run("stats", build)
    _run("query", build, f"SELECT key, original, caption FROM round1 ORDER BY key LIMIT {_SHOWN}")
    if find_spec("altair") is not None:
        _run("report", build, "--corpus", corpus, "--samples", "12", "--out", out / "report.html")
    longest = "SELECT key, num_words, caption FROM round1 ORDER BY num_words DESC LIMIT 3"
    say("\nThe model has random weights, so its captions are random words. Next:")
    load = f"from datasets import load_dataset; print(load_dataset('{build}')['train'][0])"
    say(f'  python -c "{load}"')
    say(f'  vila2data query {build} "{longest}"')
    own = _settings({"corpus": "corpora/mine", "recaption.engine.model": "MODEL"})
    say("  vila2data corpus pack YOUR_IMAGES --out corpora/mine")
    say(f"  vila2data recaption coyo_recap/round1 {' '.join(own)}")


def _settings(values: dict[str, Path | str]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def _run(*arguments: str | Path) -> None:
    """Runs a command of ``vila2data``, and shows it: what quickstart does, a user can do.

    Raises:
        typer.Exit: it failed; with its status.
    """
    from vila2data.console import say

    words = [str(argument) for argument in arguments]
    say(f"\n$ vila2data {shlex.join(words)}")
    sys.stdout.flush()
    done = subprocess.run([sys.executable, "-m", "vila2data", *words], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
