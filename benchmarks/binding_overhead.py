"""What a call from Python into compiled code costs: five bindings of the same function, on a Gram of eight players.

    python -m benchmarks.binding_overhead [--json FILE]

The function reads an (n, n) and writes an (n,) float64 array, through whatever the binding does to find and check
their memory. Needs a C++ compiler; bindings whose package is missing (cffi, nanobind, numba) are named and left out.
Sizes are those of the installed packages that a user of each binding needs at run time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]

PLAIN = """
extern "C" __attribute__((visibility("default"))) int touch(const double* gram, double* out, long n) {
    for (long i = 0; i < n; ++i) out[i] = gram[i * n + i];
    return 0;
}
"""

STABLE = """
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
extern "C" int touch(const double*, double*, long);
static PyObject* call(PyObject*, PyObject* const* args, Py_ssize_t) {
    Py_buffer a, b;
    if (PyObject_GetBuffer(args[0], &a, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) return nullptr;
    if (PyObject_GetBuffer(args[1], &b, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)) return nullptr;
    const int code = touch((const double*)a.buf, (double*)b.buf, (long)b.shape[0]);
    PyBuffer_Release(&a), PyBuffer_Release(&b);
    return PyLong_FromLong(code);
}
static PyMethodDef methods[] = {{"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, ""}, {0, 0, 0, 0}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "stable", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_stable() { return PyModule_Create(&module); }
"""

NANOBIND = """
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
namespace nb = nanobind;
extern "C" int touch(const double*, double*, long);
NB_MODULE(bound, m) {
    m.def("call", [](nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu> a,
                     nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu> b) {
        return touch(a.data(), b.data(), (long)b.shape(0));
    });
}
"""


def compiled(folder: Path, name: str, source: str, *flags: str) -> Path:
    """A shared library of the source and of the plain function."""
    (folder / "touch.cpp").write_text(PLAIN)
    (folder / f"{name}.cpp").write_text(source)
    target = folder / f"{name}.so"
    files = [str(folder / "touch.cpp"), *([str(folder / f"{name}.cpp")] if source else [])]
    command = ["c++", "-std=c++17", "-O2", "-fPIC", "-shared", *files, "-o", str(target)]
    command += [f"-I{sysconfig.get_paths()['include']}", *flags]
    subprocess.run(command, check=True, capture_output=True)
    return target


def load(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stable_abi(folder: Path, gram: Any, out: Any) -> Call:
    call = load("stable", compiled(folder, "stable", STABLE)).call
    return lambda: call(gram, out)


def by_ctypes(folder: Path, gram: Any, out: Any) -> Call:
    import ctypes

    touch = ctypes.CDLL(str(compiled(folder, "plain", ""))).touch
    matrix = np.ctypeslib.ndpointer(np.float64, 2, flags="C")
    vector = np.ctypeslib.ndpointer(np.float64, 1, flags="C")
    touch.argtypes = [matrix, vector, ctypes.c_long]
    return lambda: touch(gram, out, 8)


def by_cffi(folder: Path, gram: Any, out: Any) -> Call:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("int touch(const double*, double*, long);")
    touch = ffi.dlopen(str(compiled(folder, "plain", ""))).touch
    return lambda: touch(ffi.from_buffer("double[]", gram), ffi.from_buffer("double[]", out, True), 8)


def by_nanobind(folder: Path, gram: Any, out: Any) -> Call:
    import nanobind

    source = Path(nanobind.source_dir()) / "nb_combined.cpp"
    flags = [str(source), f"-I{nanobind.include_dir()}", "-fvisibility=hidden", "-fno-strict-aliasing"]
    flags += [f"-I{Path(nanobind.include_dir()).parent / 'ext' / 'robin_map' / 'include'}"]
    call = load("bound", compiled(folder, "bound", NANOBIND, *flags)).call
    return lambda: call(gram, out)


def by_numba(_folder: Path, gram: Any, out: Any) -> Call:
    import numba

    @numba.njit
    def touch(gram: Any, out: Any) -> int:
        for i in range(out.shape[0]):
            out[i] = gram[i, i]
        return 0

    touch(gram, out)
    return lambda: touch(gram, out)


BINDINGS: dict[str, tuple[Callable[[Path, Any, Any], Call], tuple[str, ...]]] = {
    "CPython stable ABI": (stable_abi, ()),
    "nanobind": (by_nanobind, ()),
    "ctypes": (by_ctypes, ()),
    "cffi": (by_cffi, ("cffi",)),
    "Numba": (by_numba, ("numba", "llvmlite")),
}


def megabytes(packages: tuple[str, ...]) -> float:
    """Size of installed packages."""
    sizes = [
        f.locate().stat().st_size for p in packages for f in importlib.metadata.files(p) or () if f.locate().exists()
    ]
    return sum(sizes) / 1e6


def measure(calls: dict[str, Call], rounds: int = 15, repeats: int = 3000) -> dict[str, float]:
    """Median microseconds of interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            seconds[name].append((time.perf_counter() - begin) / repeats)
    return {name: 1e6 * statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    gram, out = np.eye(8), np.empty(8)
    calls: dict[str, Call] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, _) in BINDINGS.items():
            try:
                calls[name] = make(Path(folder), gram, out)
            except ImportError as error:
                print(f"{name}: left out, {error}")
                continue
            out[:] = 0
            calls[name]()
            assert (out == 1).all(), name
        micros = measure(calls)
    best = min(micros.values())
    print(f"{'binding':<20} {'us a call':>10} {'ratio':>7} {'MB at run time':>15}")
    for name, value in micros.items():
        print(f"{name:<20} {value:>10.2f} {value / best:>6.1f}x {megabytes(BINDINGS[name][1]):>15.1f}")
    if arguments.json:
        versions = {"python": sys.version.split()[0], "numpy": np.__version__}
        sizes = {name: megabytes(BINDINGS[name][1]) for name in micros}
        arguments.json.write_text(json.dumps({"versions": versions, "us": micros, "megabytes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
