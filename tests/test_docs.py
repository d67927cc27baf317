"""What the README and the docs say can be done is done."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vila2data
from vila2data.cli import app
from vila2data.recipe import find_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("vila2data")]


def test_the_readme_has_the_two_commands_and_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert "make quickstart" in text
    assert "make test" in text


@pytest.mark.parametrize("command", commands((ROOT / "README.md").read_text()), ids=" ".join)
def test_the_commands_of_the_readme_exist_with_their_options(command: list[str]) -> None:
    words = command[1:3] if command[1] == "corpus" else command[1:2]
    help_text = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).output
    for option in (part for part in command if part.startswith("--")):
        assert option in help_text


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_recipes_that_the_readme_names_are_shipped() -> None:
    for name in re.findall(r"\[`([\w/]+)`\]\(recipes/", (ROOT / "README.md").read_text()):
        assert find_recipe(name).is_file()


def test_the_engine_of_the_docs_works() -> None:
    from vila2data.engines import Request, Sampling

    text = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "docs_engine"}
    exec(compile(code, "docs/extending.md", "exec", dont_inherit=True), names)
    engine = names["Shout"](names["ShoutConfig"](words=2))
    (result,) = engine.generate([Request(7, b"", "Describe.", Sampling())])
    assert (result.index, result.text, result.finish_reason) == (7, "LOUD LOUD", "stop")


def modules() -> list[str]:
    found = ["vila2data"]
    for package in ("vila2data", "vila2data.builders", "vila2data.training"):
        path = importlib.import_module(package).__path__
        found += [m.name for m in pkgutil.walk_packages(path, f"{package}.")]
    return sorted(set(found))


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_changelog_knows_the_version() -> None:
    assert f"## {vila2data.__version__}" in (ROOT / "CHANGELOG.md").read_text()
