"""The C++ unit tests, built and run like any C++ project: with CMake, the compiler and ctest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp" / "tests"


def _tool(name: str) -> str | None:
    """Finds a program beside this Python, where pip puts it, or on the PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def build() -> Path:
    """Builds the unit tests; only what has changed is compiled again."""
    cmake = _tool("cmake")
    if cmake is None:
        pytest.skip("no cmake: pip install cmake")
    if not (_tool(os.environ.get("CXX", "c++")) or _tool("g++") or _tool("clang++")):
        pytest.skip("no C++ compiler")
    # Unoptimised, because compiling takes longer than running the tests.
    options = ["-DCMAKE_BUILD_TYPE=Debug", "-DFLUX_BUILD_TESTS=ON", "-DFLUX_BUILD_EXAMPLES=ON"]
    _run(cmake, "-S", str(ROOT / "cpp"), "-B", str(BUILD), *options)
    _run(cmake, "--build", str(BUILD), "--parallel", "2")
    return BUILD


def test_the_cpp_unit_tests_pass(build: Path) -> None:
    ctest = _tool("ctest")
    assert ctest is not None
    listed = _run(ctest, "--test-dir", str(build), "--output-on-failure")
    assert "100% tests passed" in listed


def test_the_cpp_example_runs_a_bundle(build: Path, tiny_policy: Path) -> None:
    library = pytest.importorskip("flux_runtime.engines.onnxruntime_library").find_library()
    example = build / "examples" / "run_bundle"
    printed = _run(str(example), str(tiny_policy), str(library), "4")
    assert "first of 5 actions: 0 0 0" in printed


def test_the_installed_cpp_library_can_be_found_and_linked(build: Path, tmp_path: Path) -> None:
    cmake = _tool("cmake")
    assert cmake is not None
    _run(cmake, "--install", str(build), "--prefix", str(tmp_path / "prefix"))
    user = tmp_path / "user"
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(user CXX)\n"
        "find_package(flux_core_cpp 2026.11.0 REQUIRED)\n"
        "add_executable(user main.cpp)\ntarget_link_libraries(user PRIVATE flux::core)\n"
    )
    (user / "main.cpp").write_text(
        "#include <flux/histogram.hpp>\n"
        "int main() { flux::Histogram h; h.record(1.0); return h.count() == 1 ? 0 : 1; }\n"
    )
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"
    _run(cmake, "-S", str(user), "-B", str(user / "build"), prefix)
    _run(cmake, "--build", str(user / "build"))
    _run(str(user / "build" / "user"))


def test_the_declarations_are_those_of_openvinos_own_header() -> None:
    """The pip package contains the header that `flux/openvino_abi.hpp` replaces."""
    openvino = pytest.importorskip("openvino", reason="pip install 'flux-runtime[openvino]'")
    compiler = _tool(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = ROOT / "cpp" / "src" / "openvino_engine.cpp"
    include = Path(openvino.__file__).parent / "include"
    options = ["-std=c++20", "-fsyntax-only", "-DFLUX_HAS_OPENVINO_HEADER"]
    _run(compiler, *options, f"-I{ROOT / 'cpp' / 'include'}", f"-I{include}", str(source))
