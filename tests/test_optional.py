import sys
from pathlib import Path

import pytest

from vila2data.errors import MissingExtra
from vila2data.optional import require


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a package whose import runs ``code``."""

    def made(code: str) -> str:
        (tmp_path / "some_package.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "some_package", raising=False)
        return "some_package"

    return made


def test_a_package_that_is_not_installed_is_named_with_its_extra():
    with pytest.raises(MissingExtra, match=r"pip install 'vila2data\[spatial\]'"):
        require("no_such_package", extra="spatial")


def test_a_library_of_the_system_that_is_missing_is_named(package):
    # What the dynamic linker says where a wheel needs more than the machine has.
    said = "libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    with pytest.raises(MissingExtra, match=r"not libusb-1\.0\.so\.0"):
        require(package(f"raise ImportError({said!r})"), extra="spatial")


@pytest.mark.parametrize(
    "code", ["import no_such_package", "raise ImportError('cannot import name x')"]
)
def test_a_package_that_is_broken_otherwise_says_so_itself(package, code):
    with pytest.raises(ImportError):
        require(package(code), extra="spatial")
