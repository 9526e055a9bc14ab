"""Install the oldest versions that pyproject.toml allows into a virtual environment and run the tests there.

Usage: python tools/lower_bounds.py [--venv FOLDER] [--print] [PYTEST_ARGUMENT ...]

The bounds are read from pyproject.toml: the required dependencies, the extras in `EXTRAS`, and of the extra
`dev` the test tools in `TEST_TOOLS`. torch is left out, since every release is a very large download; tests
that need it skip. The environment is made anew whenever pyproject.toml or this script has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("cvxpy", "plot", "cli", "frame")
TEST_TOOLS = ("array-api-strict", "hypothesis", "mpmath", "pytest", "pytest-xdist", "scikit-learn")

# Not ours to bound, but newer ones give the oldest typer and Matplotlib deprecation warnings, which the tests
# take for errors.
COMPANIONS = ("click<8.4", "pyparsing<3.3")


def lower_bound(requirement: Requirement) -> str:
    """`name==version` for the one lower bound of a requirement; a requirement without one is an error."""
    bounds = [spec.version for spec in requirement.specifier if spec.operator == ">="]
    if len(bounds) != 1:
        raise SystemExit(f"lower_bounds: {requirement} in pyproject.toml needs exactly one >= bound")
    return f"{requirement.name}=={bounds[0]}"


def bounds(project: dict) -> Iterator[str]:
    """The pins for the core, the extras and the test tools."""
    extras = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
    tools = {requirement.name: requirement for requirement in extras["dev"]}
    yield from (lower_bound(Requirement(line)) for line in project["dependencies"])
    yield from (lower_bound(requirement) for extra in EXTRAS for requirement in extras[extra])
    yield from (lower_bound(tools[name]) for name in TEST_TOOLS)


def oldest_python(project: dict) -> str | None:
    """The interpreter of the lowest Python that pyproject.toml allows, or None when it is not installed."""
    wanted = project["requires-python"].removeprefix(">=")
    if "{}.{}".format(*sys.version_info) == wanted:
        return sys.executable
    found = shutil.which(f"python{wanted}")
    works = found and subprocess.run([found, "--version"], capture_output=True).returncode == 0
    return found if works else None


def prepare(folder: Path, python: str, pins: list[str]) -> Path:
    """Make the environment if it is missing or out of date; returns its interpreter."""
    inside = folder / "bin" / "python"
    sources = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes()
    state = hashlib.sha256(sources).hexdigest()
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == state:
        return inside
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    install = [inside, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    constrain = ["-c", ROOT / "constraints.txt"]
    subprocess.run([*install, *constrain, *pins, "-e", f"{ROOT}[{','.join(EXTRAS)}]"], check=True)
    stamp.write_text(state)
    return inside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "lower-bounds")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print the pins and stop")
    options, pytest_arguments = parser.parse_known_args()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = list(bounds(project))
    pins += COMPANIONS
    print("lower_bounds:", *pins, flush=True)
    if options.only_print:
        return 0
    python = oldest_python(project)
    if python is None:
        print(f"lower_bounds: SKIPPED, the oldest releases need Python {project['requires-python'][2:]}")
        return 0
    try:
        inside = prepare(options.venv.resolve(), python, pins)
    except subprocess.CalledProcessError as error:
        print(f"lower_bounds: the oldest releases could not be installed (exit status {error.returncode})")
        return 1
    command = [inside, "-m", "pytest", "-q", "-n", "2", *pytest_arguments]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
