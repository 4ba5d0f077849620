"""The folder that prepare.sh fills: whether it can travel, and what a machine takes from it.

    python benchmarks/gpu/prepared_folder.py benchmarks/gpu/prepared

Prints the sizes, and fails if the folder and the tracked files are together too large. Needs the
standard library only.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
MOST_BYTES = 60 * MIB
OURS = "flux_"
"""Wheels of this repository: they are always taken."""


def main() -> int:
    """Checks the size of a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tracked, prepared = tracked_bytes(ROOT), folder_bytes(folder)
    print(f"tracked files {tracked / MIB:.1f} MiB, prepared {prepared / MIB:.1f} MiB")
    if problem := too_large(tracked, prepared):
        print(f"prepared_folder.py: error: {problem}", file=sys.stderr)
        return 1
    return 0


def too_large(tracked: int, prepared: int, most: int = MOST_BYTES) -> str:
    """Returns why so many bytes cannot travel; '' if they can."""
    total = tracked + prepared
    if total <= most:
        return ""
    return (
        f"expected at most {most / MIB:.0f} MiB of tracked and prepared files, got "
        f"{total / MIB:.1f}. Name fewer architectures, or shorten carried.txt"
    )


def tracked_bytes(root: Path) -> int:
    """Returns the size of all files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True)
    paths = (root / name for name in listed.stdout.decode().split("\0") if name)
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or path.exists())


def folder_bytes(folder: Path) -> int:
    """Returns the size of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def unpack_missing(
    wheels: Sequence[Path], to: Path, has: Callable[[str], bool] | None = None
) -> list[str]:
    """Unpacks the wheels of this repository, and those of packages that the machine lacks.

    A machine without pip can import from the folder.

    Args:
        wheels: the files.
        to: the folder, which is made.
        has: whether the machine has a module.

    Returns:
        The names of the wheels that were unpacked.
    """
    has = has or (lambda module: importlib.util.find_spec(module) is not None)
    to.mkdir(parents=True, exist_ok=True)
    unpacked = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if wheel.name.startswith(OURS) or not all(map(has, modules_of(archive))):
                archive.extractall(to)
                unpacked.append(wheel.name)
    return unpacked


def modules_of(archive: zipfile.ZipFile) -> set[str]:
    """Returns the names by which the content of a wheel is imported."""
    tops = {name.split("/")[0] for name in archive.namelist()}
    return {
        top.split(".")[0]
        for top in tops
        if not top.endswith((".dist-info", ".data", ".libs")) and top.split(".")[0].isidentifier()
    }


if __name__ == "__main__":
    sys.exit(main())
