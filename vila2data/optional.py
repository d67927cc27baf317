"""Imports of packages that only some uses need."""

import importlib
from types import ModuleType

from .errors import MissingExtra


def require(module: str, *, extra: str) -> ModuleType:
    """Imports ``module`` or names the extra that installs it.

    Raises:
        MissingExtra: the top-level package of ``module`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is there, something it needs is not: do not hide which
        raise MissingExtra(
            f"{package} is not installed; this needs the extra '{extra}': "
            f"pip install 'vila2data[{extra}]'"
        ) from error
