"""Check the built wheel as a user would meet it: in fresh virtual environments, outside the checkout.

Usage: python tools/check_wheel.py DIST_FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The required dependencies alone: nothing heavy is loaded, a problem is solved, a missing extra is named.
BARE = """
import sys
import nashsolve as ns

heavy = {"torch", "cvxpy", "cupy", "matplotlib", "typer"} & set(sys.modules)
assert not heavy, f"import nashsolve loaded {sorted(heavy)}"
assert "site-packages" in ns.__file__, ns.__file__
assert ns.kernels.load() is not None, ns.kernels.reason()
solution = ns.solve(ns.BargainingProblem(gram=[[4.0, 0.0], [0.0, 1.0]]))
assert solution.success, solution.message
assert abs(float(solution.alpha[0]) - 0.5) < 1e-12, solution.alpha
try:
    ns.solve(ns.BargainingProblem(gram=[[4.0, 0.0], [0.0, 1.0]]), solver="cvxpy")
except ns.MissingExtra as error:
    assert "nashsolve[cvxpy]" in str(error), error
else:
    raise AssertionError("solver='cvxpy' without cvxpy did not raise MissingExtra")
"""

# The extras added: independent solvers agree, the certificate holds, and no agreement is said so.
FULL = """
import numpy as np
import nashsolve as ns

vectors = np.array([[1.0, 0.2, 0.0], [-0.5, 1.0, 0.1], [0.3, 0.3, 1.0]])
problem = ns.BargainingProblem(vectors=vectors, weights=[1.0, 2.0, 3.0])
answers = {name: ns.solve(problem, solver=name) for name in ("newton", "cvxpy")}
for name, answer in answers.items():
    assert answer.success, (name, answer.message)
    assert np.max(ns.verify(problem, answer.alpha).error_bound) < 1e-4, name
np.testing.assert_allclose(answers["cvxpy"].alpha, answers["newton"].alpha, rtol=1e-4)
blocked = ns.solve(ns.BargainingProblem(vectors=[[1.0, 0.0], [-1.0, 0.0]]), on_failure="return")
assert blocked.status == ns.Status.NO_AGREEMENT, blocked.status
print(ns.crosscheck(problem))
"""


def contents_problem(wheel: Path) -> str | None:
    """What is wrong with the list of files in the wheel, or None."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    strange = sorted(top for top in tops if top != "nashsolve" and not top.endswith(".dist-info"))
    if strange:
        return f"the wheel claims names other than nashsolve: {strange}"
    if "nashsolve/py.typed" not in names:
        return "nashsolve/py.typed is not in the wheel"
    checkout = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nashsolve").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = sorted(checkout - set(names))
    return f"files of the package are not in the wheel: {missing}" if missing else None


def run(*command: str | Path, cwd: str) -> None:
    """Run a command away from the checkout, isolated from its environment; stop at the first failure."""
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


def main() -> int:
    wheels = sorted(Path(sys.argv[1]).resolve().glob("nashsolve-*.whl"))
    if len(wheels) != 1:
        print(f"check_wheel: expected one wheel in {sys.argv[1]}, found {[w.name for w in wheels]}")
        return 1
    wheel = wheels[0]
    if problem := contents_problem(wheel):
        print(f"check_wheel: {problem}")
        return 1
    with tempfile.TemporaryDirectory(prefix="nashsolve-wheel-") as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        bin_folder = Path(folder) / "venv" / "bin"
        python = bin_folder / "python"
        install = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        constrain = ("-c", ROOT / "constraints.txt")
        try:
            print("check_wheel: required dependencies alone", flush=True)
            run(*install, *constrain, wheel, cwd=folder)
            run(python, "-I", "-W", "error", "-c", BARE, cwd=folder)
            print("check_wheel: with the extras cvxpy and cli", flush=True)
            run(*install, *constrain, f"{wheel}[cvxpy,cli]", cwd=folder)
            run(python, "-I", "-c", FULL, cwd=folder)
            run(bin_folder / "nashsolve", "doctor", cwd=folder)
        except subprocess.CalledProcessError as error:
            print(f"check_wheel: exit status {error.returncode} from {Path(error.cmd[0]).name}")
            return 1
    print(f"check_wheel: {wheel.name} is good")
    return 0


if __name__ == "__main__":
    sys.exit(main())
