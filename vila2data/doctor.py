"""What is installed, what would be used, what is missing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement

from . import registry

_ENGINE_NEEDS = {"transformers": ("torch", "vlm"), "openai": ("openai", "openai")}


def examine() -> list[tuple[str, str, str]]:
    """(what, what was found, how to get what is missing) of everything the package can use."""
    rows = [
        ("python", platform.python_version(), ""),
        ("cores", str(os.cpu_count()), ""),
        ("device", *device()),
    ]
    needed = (Requirement(line) for line in requires("vila2data") or [])
    rows += [_package(requirement) for requirement in needed if _extra_of(requirement) != "dev"]
    for name in registry.names("engines"):
        module, extra = _ENGINE_NEEDS.get(name, ("", ""))
        missing = bool(module) and find_spec(module) is None
        remedy = f"pip install 'vila2data[{extra}]'" if missing else ""
        rows.append((f"engine {name}", "not usable" if missing else "ready", remedy))
    rows += [(f"builder {name}", "registered", "") for name in registry.names("builders")]
    return rows


def device() -> tuple[str, str]:
    """(where models run on this machine, how to get what is missing)."""
    if find_spec("torch") is None:
        return "no torch", "pip install 'vila2data[vlm]'"
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}", ""
    return f"cpu, {torch.get_num_threads()} threads", ""


def _extra_of(requirement: Requirement) -> str:
    """The extra that asks for a package, "" where the package itself needs it."""
    return str(requirement.marker or "").partition("extra == ")[2].strip("\"' ")


def _package(requirement: Requirement) -> tuple[str, str, str]:
    extra = _extra_of(requirement)
    what = f"{requirement.name} ({extra})" if extra else requirement.name
    remedy = f"pip install 'vila2data[{extra}]'" if extra else "pip install vila2data"
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return what, "not installed", remedy
    fits = requirement.specifier.contains(found, prereleases=True)
    return (
        what,
        found if fits else f"{found}, needs {requirement.specifier}",
        "" if fits else remedy,
    )
