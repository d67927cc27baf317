import configparser
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "vila2data": "vila2data",
    "builders": "vila2data.builders",
    "training": "vila2data.training",
}
FOLDERS |= {"recipes": "vila2data.recipes"}


def setup_cfg() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    folders = set()
    for top, package in FOLDERS.items():
        for init in (ROOT / top).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / top).parts
            folders.add(".".join([package, *inner]))
    listed = setup_cfg()["options"]["packages"].split()
    assert set(listed) == folders
    assert len(listed) == len(set(listed))


def test_metadata_stands_in_one_place() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "[project]" not in text
    assert "[build-system]" in text


def test_constraints_hold_every_requirement_of_the_development_environment() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pinned[canonicalize_name(requirement.name)] = next(iter(requirement.specifier)).version
    needed = setup_cfg()["options"]["install_requires"]
    extras = setup_cfg()["options.extras_require"]
    for block in (
        needed,
        *(
            extras[e]
            for e in (
                "metrics",
                "openai",
                "vlm",
                "train",
                "phash",
                "report",
                "spatial",
                "ray",
                "s3",
                "dev",
            )
        ),
    ):
        for line in block.splitlines():
            if line and not line.startswith(("#", "vila2data")):
                requirement = Requirement(line)
                if requirement.marker is not None and not requirement.marker.evaluate():
                    continue
                version = pinned[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version, prereleases=True), line


def test_builders_engines_and_commands_are_registered() -> None:
    for kind, names in (
        ("builders", {"coyo-recap", "scenes"}),
        ("engines", {"openai", "replay", "transformers"}),
        ("commands", {"evaluate", "foundation", "loop", "quickstart", "train"}),
    ):
        assert names <= {point.name for point in entry_points(group=f"vila2data.{kind}")}


@pytest.mark.parametrize("folder", ["builders", "training"])
def test_a_bare_import_is_refused(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"import vila2data.{folder}, not {folder}" in done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of a clean copy of the tracked files."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_the_wheel_holds_code_and_data_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "vila2data/py.typed",
        "vila2data/prompts/captions.yaml",
        "vila2data/stats/sql/length.sql",
        "vila2data/build/templates/card.md.jinja",
        "vila2data/report/templates/report.html.jinja",
        "vila2data/recipes/coyo_recap/round1.yaml",
        "vila2data/builders/coyo_recap.py",
        "vila2data/training/presets.yaml",
        "vila2data/training/quickstart.py",
        "vila2data/training/nano/foundation/vision/model.safetensors",
    ):
        assert needed in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vila2data"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_can_be_built_from(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "builders/coyo_recap.py", "recipes/__init__.py"} <= names
    assert {"recipes/coyo_recap/round1.yaml", "README.md", "LICENSE"} <= names


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(dist: Path, tmp_path: Path) -> None:
    """With this environment's packages, but not its editable install."""
    (wheel,) = dist.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    import numpy

    packages = Path(numpy.__file__).parent.parent
    # -S keeps .pth files, and with them the editable install, out.
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); sys.path.append({str(packages)!r})\n"
        # what a .pth file would do: see environment/
        "from importlib.util import find_spec\n"
        "if find_spec('torchvision_beside_cpu_torch'): import torchvision_beside_cpu_torch\n"
        "import vila2data, vila2data.recipe\n"
        f"assert vila2data.__file__.startswith({str(site)!r}), vila2data.__file__\n"
        "print(vila2data.recipe.shipped_recipes())\n"
        "from vila2data.cli import main\n"
        "sys.argv = ['vila2data', 'loop', 'quickstart/loop', '--dry-run']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "coyo_recap/round1" in done.stdout
    assert "vila2data train nano/align" in done.stdout
