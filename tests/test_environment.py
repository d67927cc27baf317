import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_starting_python_imports_no_torch() -> None:
    assert run("import sys; print('torch' in sys.modules)") == "False"


def test_torchvision_imports_in_a_process_of_its_own() -> None:
    pytest.importorskip("torchvision")
    code = "import torch, torchvision; print(torch.ops.torchvision.nms.default)"
    assert run(code) == "torchvision.nms.default"


def test_asking_whether_torchvision_is_there_imports_nothing() -> None:
    pytest.importorskip("torchvision")
    code = (
        "import sys; from importlib.util import find_spec; "
        "print(find_spec('torchvision') is not None, 'torch' in sys.modules)"
    )
    assert run(code) == "True False"
