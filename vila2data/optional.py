"""Imports of packages that only some uses need."""

import importlib
import re
from types import ModuleType

from .errors import MissingExtra

# the dynamic linker's words
_LIBRARY_MISSING = re.compile(r"(\S+\.so[.\d]*): cannot open shared object file")


def require(module: str, *, extra: str) -> ModuleType:
    """Imports ``module`` or names the extra that installs it.

    Raises:
        MissingExtra: the top-level package of ``module`` is not installed, or a library of the
            system that it loads.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise  # the package is there, something it needs is not: do not hide which
        raise MissingExtra(
            f"{package} is not installed; this needs the extra '{extra}': "
            f"pip install 'vila2data[{extra}]'"
        ) from error
    except ImportError as error:
        library = _LIBRARY_MISSING.match(str(error))
        if library is None:
            raise
        raise MissingExtra(
            f"{package} is installed, but not {library[1]}, which it loads; it belongs to the "
            "system: `apt-file search` or `dnf provides` tells the package that brings it"
        ) from error
