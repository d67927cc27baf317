"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe file, or a shipped one's name such as coyo_recap/round1.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides a value of the recipe."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Says what would be done, and stops.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON in place of a table.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="CSV in place of a table.")]
BuildArgument = Annotated[Path, typer.Argument(help="Folder of a build.")]
