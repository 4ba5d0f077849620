"""A folder that is renamed into place once it is complete; a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from flux_core.errors import DataError, UsageError

from ..parquet.arrow import first_line


def check_new(root: Path) -> None:
    """Refuses a path that already has content."""
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(
            f"{root}: expected an empty folder, got files. Choose another --out or remove it"
        )
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root}: expected a folder, got a file. Choose another --out")


def real_place(root: Path) -> Path:
    """Returns the path at which `root` is to be made, with links, `.` and `..` resolved."""
    return root.resolve() if root.is_symlink() or root.name in ("", "..") else root


def partial_folder(root: Path) -> Path:
    """The hidden folder beside `root` that this process writes to."""
    return root.with_name(f"{_partial_prefix(root)}{os.getpid()}")


def _partial_prefix(root: Path) -> str:
    return f".{root.name}.partial-"


def remove_abandoned(root: Path) -> None:
    """Removes the hidden folders of `root` whose processes were killed."""
    prefix = _partial_prefix(root)
    with contextlib.suppress(PermissionError):  # a folder may be writable but not readable
        for path in root.parent.iterdir():
            number = path.name.removeprefix(prefix)
            is_partial = path.name.startswith(prefix) and number.isdecimal()
            if is_partial and not _is_alive(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only checks whether the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def missing_folders(folder: Path) -> list[Path]:
    """Returns a folder and its parents as far as they do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes those of the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def disk_errors(root: Path, left: str = "Nothing was left behind") -> Iterator[None]:
    """Reports a full disk, missing rights or a value that a table cannot hold in one line, which
    ends with what is `left`."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{root}: cannot be written ({error}). {left}") from error
    except pa.ArrowException as error:  # the types do not fit; the disk is fine
        raise DataError(
            f"{root}: expected values that fit the table, got {first_line(error)}. {left}"
        ) from error


def sync(path: Path) -> None:
    """Waits until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
