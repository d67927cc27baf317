"""Where the sources of a recipe are, before any work."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from vila2data.errors import BadInput
from vila2data.runfolder import fingerprint_of

from .files import Folder, Part, SourceFile
from .recipe import BlendRecipe
from .source import Source


@dataclass(frozen=True)
class Place:
    """A source that was found.

    Attributes:
        source: with what the recipe changes of it.
        folder: where its files are.
        files: to read, in order.
        images: folder that names of images are below; None on the Hub.
        commit: of the Hub.
    """

    name: str
    source: Source
    folder: Folder
    files: list[SourceFile]
    images: Path | None
    commit: str | None

    def parts(self) -> Iterator[Part]:
        """What can be read side by side, in order."""
        for file in self.files:
            yield from file.parts(self.source)

    def told(self) -> dict[str, Any]:
        """What a manifest says of it."""
        names = [[Path(file.name).name, file.size] for file in self.files]
        return {
            "source": self.name,
            "hub": self.source.hub if self.folder.on_hub else None,
            "commit": self.commit,
            "files": len(self.files),
            "bytes": sum(file.size for file in self.files),
            "fingerprint": fingerprint_of({"files": names}),
        }


def find_places(recipe: BlendRecipe, names: Iterable[str]) -> tuple[list[Place], dict[str, str]]:
    """The sources that are there, and why the others are not.

    Args:
        recipe: of the blend.
        names: of the sources to look for.

    Raises:
        BadInput: one or more are not there, and the recipe does not skip them; each is named.
    """
    found: list[Place] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            found.append(_place(recipe, name))
        except BadInput as error:
            missing[name] = str(error)
    if missing and recipe.missing == "fail":
        raise BadInput(
            "sources are missing; give each a path, or set missing to skip:\n  "
            + "\n  ".join(missing.values())
        )
    return found, missing


def _place(recipe: BlendRecipe, name: str) -> Place:
    source = recipe.source(name)
    local = recipe.folder(name)
    commit = None
    if local is not None:
        if not local.exists():
            raise BadInput(f"{name}: {local} does not exist")
        folder = Folder(local.absolute().as_posix())
    else:
        commit = _commit(name, source)
        folder = Folder(f"datasets/{source.hub}@{commit}", on_hub=True)
    files = folder.files(source.files)
    if not files:
        raise BadInput(f"{name}: no file {source.files} in {local or source.hub}")
    images = recipe.entry(name).images or (local.parent if local and local.is_file() else local)
    return Place(name, source, folder, files, images and images.absolute(), commit)


def _commit(name: str, source: Source) -> str:
    """The commit of the Hub that is read: a branch may move while the build runs."""
    if source.hub is None:
        told = f"; get it from {source.url}" if source.url else ""
        raise BadInput(
            f"{name}: is not on the Hub{told}, and give its folder as sources.{name}.path"
        )
    try:
        info = HfApi().dataset_info(source.hub, revision=source.revision)
    except (HfHubHTTPError, OSError, ValueError) as error:
        line = str(error).strip().partition("\n")[0]
        raise BadInput(f"{name}: {source.hub} cannot be read on the Hub: {line}") from error
    return str(info.sha)
