"""Lets torchvision's wheel from PyPI be imported beside a torch without CUDA.

That wheel is built against CUDA, so its C library does not load beside a CPU torch. torchvision
passes over this, but then fails to import, because it describes two operators that the library
would have declared. Image processors and vLLM import torchvision and never call them. Where
the library does not load, this declares the operators right before torchvision is imported;
calling one still fails. Where it loads, nothing is changed.

``make setup`` copies this file and the ``.pth`` file beside it into an environment's site-packages,
which lets every process of that environment find it. Starting Python imports no torch. It is
not part of the installed package: with torchvision from https://download.pytorch.org/whl/cpu
nobody needs it.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a library's declarations end with it


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _declare_missing_operators(Path(self.path).parent)
        super().exec_module(module)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def _declare_missing_operators(package: Path) -> None:
    import torch

    try:
        torch.ops.load_library(str(package / "_C.so"))
    except (ImportError, OSError):
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        _declared.append(library)


def install() -> None:
    """Puts the finder first; a second call changes nothing."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


install()
