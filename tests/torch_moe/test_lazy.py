"""The package loads nothing heavy by itself, and says what to install where something is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nashsolve.integrations.torch_moe as torch_moe


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, nashsolve.integrations.torch_moe as m; m.__all__; print({'torch', 'pydantic'} & set(sys.modules))"
    )
    assert run(code) == "set()"


@pytest.mark.parametrize("package", ["torch", "pydantic"])
def test_a_missing_package_names_the_pip_line(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from nashsolve import MissingExtra
import nashsolve.integrations.torch_moe as m
try:
    m.MoE
except MissingExtra as error:
    print(error)
"""
    if package == "pydantic":
        pytest.importorskip("torch", reason="the extra 'moe' is not installed")
    text = run(code)
    assert package in text and "pip install 'nashsolve[" in text


def test_every_public_name_loads() -> None:
    pytest.importorskip("torch", reason="the extra 'moe' is not installed")
    for name in torch_moe.__all__:
        assert getattr(torch_moe, name) is not None
    assert set(torch_moe.__all__) <= set(dir(torch_moe))
    with pytest.raises(AttributeError, match="no attribute 'MoEE'"):
        torch_moe.MoEE  # noqa: B018
