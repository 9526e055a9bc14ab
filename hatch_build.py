"""Compiles the kernel while a wheel or an editable install is built; also ``python hatch_build.py`` after an edit.

Needs a C++17 compiler ($CXX, c++, g++ or clang++) and Python's headers. Where one is missing the package is built
without the kernel and says so: every other engine works, and ``nashsolve doctor`` names the reason.
NASHSOLVE_KERNEL=require makes a failure an error, NASHSOLVE_KERNEL=skip builds without.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "nashsolve" / "kernels"
LIBRARY = SOURCES / "_native.abi3.so"
COLUMNS = SOURCES.parent / "tall" / "native"
COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
KERNEL = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
INSTRUCTION_SETS = {
    "x86_64": {
        "base": ["-march=x86-64"],
        "v3": ["-march=x86-64-v3"],
        "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }
}


class KernelNotBuilt(Exception):
    """Why there is no kernel, in one sentence."""


def compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise KernelNotBuilt("no C++ compiler was found (set CXX, or install g++ or clang)")


def build(extra: tuple[str, ...] = (), library: Path = LIBRARY) -> Path:
    """Compile one object for each instruction set, side by side, and link them with the binding."""
    if os.name != "posix":
        raise KernelNotBuilt("the build is written for Linux and macOS")
    cxx = compiler().split()
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").exists():
        raise KernelNotBuilt(f"Python's headers are missing in {include} (install python3-dev)")
    sets = INSTRUCTION_SETS.get(platform.machine(), {"base": []})
    with tempfile.TemporaryDirectory() as folder:
        jobs = [[*cxx, *COMMON, "-O2", f"-I{include}", *extra, "-c", "module.cpp", "-o", f"{folder}/module.o"]]
        for name, flags in sets.items():
            names = [f"-DNASH_NAMESPACE=nash_{name}", f'-DNASH_NAME="{name}"']
            jobs.append(
                [*cxx, *COMMON, *KERNEL, *flags, *names, *extra, "-c", "engine.cpp", "-o", f"{folder}/{name}.o"]
            )
        device = ["-DNASH_NAMESPACE=nash_device", '-DNASH_NAME="device"', "-DNASH_TILES", "-O1", *extra]
        jobs.append([*cxx, *COMMON, *KERNEL, *device, "-c", "engine.cpp", "-o", f"{folder}/device.o"])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, jobs))
        objects = [f"{folder}/module.o", *(f"{folder}/{name}.o" for name in sets), f"{folder}/device.o"]
        static = [] if sys.platform == "darwin" else ["-static-libstdc++", "-static-libgcc"]
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        fresh = f"{folder}/{library.name}"
        _run([*cxx, "-shared", "-pthread", *static, *undefined, *extra, *objects, "-o", fresh])
        shutil.copy(fresh, library.with_suffix(".new"))
        os.replace(library.with_suffix(".new"), library)
    return library


def build_columns() -> list[Path]:
    """The one-pass kernels for tall data: a plain library for each instruction set, chosen when it is loaded."""
    cxx, built = compiler().split(), []
    for name, flags in INSTRUCTION_SETS.get(platform.machine(), {"base": []}).items():
        library = COLUMNS / f"_columns_{name}.so"
        fresh = library.with_suffix(".new")
        static = [] if sys.platform == "darwin" else ["-static-libstdc++", "-static-libgcc"]
        options = [*COMMON, "-O3", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi", *flags, "-shared", *static]
        _run([*cxx, *options, "columns.cpp", "-o", str(fresh)], COLUMNS)
        os.replace(fresh, library)
        built.append(library)
    return built


def _run(command: list[str], folder: Path = SOURCES) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise KernelNotBuilt(f"the compiler failed: {' '.join(command)}\n{done.stderr[-2000:]}")


def stale() -> bool:
    sources = [*SOURCES.glob("*.?pp"), *COLUMNS.glob("*.cpp"), Path(__file__)]
    return (
        not LIBRARY.exists()
        or not any(COLUMNS.glob("_columns_*.so"))
        or LIBRARY.stat().st_mtime < max(s.stat().st_mtime for s in sources)
    )


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script
    pass
else:

    class KernelHook(BuildHookInterface):
        """Adds the library to the wheel and gives the wheel the tag of the stable ABI."""

        def initialize(self, version: str, build_data: dict) -> None:
            wish = os.environ.get("NASHSOLVE_KERNEL", "")
            if self.target_name == "wheel" and version != "editable":
                # So that `nashsolve experiment list` finds its recipes without a checkout.
                recipes = "nashsolve/integrations/experiments/recipes"
                build_data["force_include"][str(Path(__file__).parent / "experiments" / "recipes")] = recipes
            if self.target_name != "wheel" or wish == "skip":
                return
            try:
                if stale():
                    build()
                    build_columns()
            except KernelNotBuilt as problem:
                if wish == "require":
                    raise
                self.app.display_warning(f"nashsolve is built without its compiled kernel: {problem}")
                LIBRARY.unlink(missing_ok=True)
                return
            if version != "editable":
                build_data["artifacts"].append(f"/nashsolve/kernels/{LIBRARY.name}")
                build_data["artifacts"].append("/nashsolve/tall/native/_columns_*.so")
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    print(build(tuple(sys.argv[1:])), *build_columns(), sep="\n")
