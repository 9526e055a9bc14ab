"""The package loads nothing heavy by itself, does not hide the library of its name, and says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nashsolve.integrations.transformers as package


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, nashsolve.integrations.transformers as m; m.__all__; "
        "print({'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    )
    assert run(code) == "set()"


def test_a_missing_library_names_the_pip_line() -> None:
    pytest.importorskip("torch")
    code = """
import sys
sys.modules["transformers"] = None
from nashsolve import MissingExtra
import nashsolve.integrations.transformers as m
try:
    m.convert
except MissingExtra as error:
    print(error)
"""
    assert "transformers is needed" in run(code) and "pip install 'nashsolve[experiments]'" in run(code)


def test_every_public_name_loads() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.0")
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'converts'"):
        package.converts  # noqa: B018
