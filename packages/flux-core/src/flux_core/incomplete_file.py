"""Recognises files that are not there yet: pointers of Git LFS, and empty files."""

from __future__ import annotations

from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a pointer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""

MAX_POINTER_BYTES = 1024
"""The size of a pointer, according to the same page."""

POINTER = "a Git LFS pointer instead of the file; run `git lfs pull`"


def why_incomplete(path: Path) -> str:
    """Returns what a file is instead of its content, or '' if it may be complete.

    A missing file is none of these.
    """
    if not path.is_file():
        return ""
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    if size >= MAX_POINTER_BYTES:
        return ""
    with path.open("rb") as file:
        return POINTER if is_lfs_pointer(file.read(len(LFS_POINTER))) else ""


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file that begins like this is a pointer of Git LFS."""
    return data.startswith(LFS_POINTER)
