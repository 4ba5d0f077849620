#!/usr/bin/env python3
"""Builds a robot computer's environment from source distributions and checks its size and speed.

    python scripts/check_runtime_environment.py [FOLDER]

Builds the source distributions of flux-core and flux-runtime, builds wheels from them with only a
C++ compiler on the PATH, and installs `flux-runtime[cpu]` in a new environment in FOLDER (a
temporary one by default). The environment must contain no torch and take less than 400 MB, an
import and `--help` must take less than 0.5 s, and the shipped policy must reproduce its golden.
Takes minutes and needs a package index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAX_MEGABYTES = 400
MAX_SECONDS = 0.5
# g++ runs the assembler and the linker; CMake runs the archiver and the indexer.
TOOLS = ("g++", "c++", "as", "ld", "ar", "ranlib", "nm", "objdump", "strip")
SOURCES = ("cpp/CMakeLists.txt", "cpp/include/flux/engine.hpp", "cpp/src/flow_policy.cpp")
FORBIDDEN = ("torch", "onnx", "onnxscript", "transformers", "mujoco", "cmake", "pybind11")


class CheckFailedError(Exception):
    """A check failed; the message says what was expected and what was found."""


def require(condition: object, message: str) -> None:
    """Raises CheckFailedError unless `condition` is true."""
    if not condition:
        raise CheckFailedError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all steps; returns 0, or 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="working folder, which is kept (default: a temporary one)",
    )
    folder: Path | None = parser.parse_args(arguments).folder
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            check(folder.resolve())
            return 0
        with tempfile.TemporaryDirectory(prefix="flux-runtime-") as temporary:
            check(Path(temporary))
    except CheckFailedError as error:
        print(f"check_runtime_environment: error: {error}", file=sys.stderr)
        return 1
    return 0


def check(folder: Path) -> None:
    """Builds, installs and measures."""
    builder, robot = make_environment(folder / "builder"), make_environment(folder / "robot")
    environment = compiler_only(folder / "tools")
    pip(builder, environment, "install", "build")
    wheels = [
        build_wheel(package, builder, environment, folder)
        for package in ("flux-core", "flux-runtime")
    ]
    # Both by path and in one command, because on PyPI these names belong to other projects.
    core, runtime = wheels
    constraints = str(ROOT / "constraints.txt")
    pip(robot, environment, "install", "-c", constraints, str(core), f"{runtime}[cpu]")
    check_contents(robot, environment)
    check_speed(robot, environment)
    check_policies(robot, environment)


def make_environment(folder: Path) -> Path:
    """Creates an environment and returns the folder of its commands."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    return folder / "bin"


def compiler_only(folder: Path) -> dict[str, str]:
    """Returns an environment whose PATH has only a C++ compiler: no CMake, no Ninja."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Debian's Python uses its compilers' full names, which come from the same packages.
    names = {(sysconfig.get_config_var(kind) or "g++").split()[0] for kind in ("CC", "CXX")}
    for name in (*TOOLS, *sorted(names - set(TOOLS))):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PATH": str(folder)}


def pip(commands: Path, environment: dict[str, str], *arguments: str) -> None:
    """Runs pip in an environment."""
    run([str(commands / "python"), "-m", "pip", *arguments], environment, commands.parent)


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """Returns a command's output; if it fails, raises an error with the end of its output."""
    done = subprocess.run(
        command, env=environment, cwd=folder, check=False, capture_output=True, text=True
    )
    said = (done.stdout + done.stderr)[-3000:]
    require(done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}:\n{said}")
    return done.stdout


def build_wheel(package: str, builder: Path, environment: dict[str, str], folder: Path) -> Path:
    """Builds a source distribution, and then a wheel from nothing but that."""
    out, source = folder / "dist" / package, ROOT / "packages" / package
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    build = [str(builder / "python"), "-m", "build", "--sdist", "--outdir", str(out), str(source)]
    run(build, environment, folder)
    (sdist,) = out.glob("*.tar.gz")
    check_sources(sdist, SOURCES if package == "flux-runtime" else ())
    pip(builder, environment, "wheel", "--no-deps", "--wheel-dir", str(out), str(sdist))
    (wheel,) = out.glob("*.whl")
    seconds, size = time.perf_counter() - began, sdist.stat().st_size / 1e6
    print(f"built      {wheel.name} from an sdist of {size:.1f} MB in {seconds:.0f} s", flush=True)
    return wheel


def check_sources(sdist: Path, needed: Sequence[str]) -> None:
    """Checks that the C++ sources are included as files; in the repository they are a link."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    links = [member.name for member in members if member.issym() or member.islnk()]
    require(not links, f"{sdist.name}: expected no links, found {links}")
    missing = set(needed) - {member.name.partition("/")[2] for member in members}
    require(not missing, f"{sdist.name}: expected {', '.join(sorted(missing))}, found none")


def check_contents(robot: Path, environment: dict[str, str]) -> None:
    """Checks that packages for training and export are missing, and that the size is small."""
    listed = "[n for n in sys.argv[1:] if importlib.util.find_spec(n)]"
    program = f"import importlib.util, sys; print(*{listed})"
    python = [str(robot / "python"), "-c", program, *FORBIDDEN]
    found = run(python, environment, robot.parent).strip()
    require(not found, f"expected none of {', '.join(FORBIDDEN)}, found {found}")
    files = [path for path in robot.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"installed  {megabytes:.0f} MB, pip included (allowed {MAX_MEGABYTES}); no torch")
    message = f"expected less than {MAX_MEGABYTES} MB, got {megabytes:.0f}"
    require(megabytes < MAX_MEGABYTES, message)


def check_speed(robot: Path, environment: dict[str, str]) -> None:
    """Times whole processes, because users also wait for Python itself to start."""
    for name, command in {
        "import flux_runtime": [str(robot / "python"), "-c", "import flux_runtime"],
        "flux-runtime --help": [str(robot / "flux-runtime"), "--help"],
    }.items():
        seconds: list[float] = []
        for _ in range(6):
            began = time.perf_counter()
            run(command, environment, robot.parent)
            seconds.append(time.perf_counter() - began)
        first, median = seconds[0], statistics.median(seconds[1:])
        print(f"timed      {name}: {median:.2f} s (allowed {MAX_SECONDS}), first run {first:.2f} s")
        message = f"{name}: expected less than {MAX_SECONDS} s, got {median:.2f}"
        require(median < MAX_SECONDS, message)


def check_policies(robot: Path, environment: dict[str, str]) -> None:
    """Checks that the installed policies reproduce their goldens with the installed engine."""
    policies = list(robot.parent.glob("lib/*/site-packages/flux_runtime/policies/*/manifest.json"))
    require(policies, "expected the shipped policies in flux_runtime/policies, found none")
    for manifest in policies:
        command = [str(robot / "flux-runtime"), "check", str(manifest.parent)]
        verdict = run(command, environment, robot.parent).splitlines()[-1]
        print(f"checked    {manifest.parent.name}: {verdict}")


if __name__ == "__main__":
    sys.exit(main())
