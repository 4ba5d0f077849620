"""Lists, measures and hashes the files of a bundle, and reads untrusted JSON."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn

from ..errors import BundleError
from .checks import AGAIN, DAMAGED, fail, show

MAX_FILES = 1000
MAX_JSON_BYTES = 4 * 2**20
"""Parsed, it may take 15 times as much. The largest at full size is the weights' header: 0.2 MB."""
MAX_JSON_DEPTH = 64
_HASH_CHUNK_BYTES = 4 * 2**20


def list_files(directory: Path) -> list[str]:
    """Returns the relative names of all files, sorted; refuses links and special files."""
    found: list[str] = []
    pending = [directory]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            name = path.relative_to(directory).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise BundleError(
                    f"{ascii(name)[1:-1]}: is a symbolic link. A bundle holds only plain files: "
                    f"copy it with 'cp -rL'."
                )
            if stat.S_ISDIR(mode):
                pending.append(path)
            elif stat.S_ISREG(mode):
                found.append(name)
            else:
                raise BundleError(f"{ascii(name)[1:-1]}: not a plain file. Remove it. {AGAIN}")
        if len(found) + len(pending) > MAX_FILES:
            raise BundleError(f"{directory}: more than {MAX_FILES} files. Is this a bundle?")
    return sorted(found)


def check_size(path: Path, name: str, expected_bytes: int) -> None:
    """Refuses a file whose size differs from the manifest."""
    found_bytes = path.stat().st_size
    if found_bytes != expected_bytes:
        raise BundleError(
            f"{name}: size differs from the manifest (expected {expected_bytes} bytes, got "
            f"{found_bytes}). {DAMAGED}"
        )


def check_sha256(path: Path, name: str, expected: str) -> None:
    """Refuses a file whose hash differs from the manifest."""
    found = sha256_of(path)
    if found != expected:
        raise BundleError(
            f"{name}: sha256 differs from the manifest (expected {expected[:12]}…, got "
            f"{found[:12]}…). {DAMAGED}"
        )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal, read in chunks of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_json_object(path: Path, name: str) -> dict[str, Any]:
    """Reads a file that holds a JSON object; see `parse_json_object`."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BundleError(f"{name}: larger than {MAX_JSON_BYTES} bytes. {AGAIN}")
    return parse_json_object(path.read_bytes(), name)


def parse_json_object(content: bytes, name: str) -> dict[str, Any]:
    """Reads a JSON object; refuses NaN, Infinity, repeated keys and very deep nesting.

    Args:
        content: UTF-8.
        name: the file's name in messages.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_object_without_repeats,
        )
    except RecursionError as error:
        raise BundleError(f"{name}: nested too deeply. {DAMAGED}") from error
    except ValueError as error:  # not UTF-8, not JSON, too many digits, or refused by a hook
        reason = str(error).splitlines()[0][:120]
        raise BundleError(f"{name}: not valid JSON ({reason}). {DAMAGED}") from error
    if not isinstance(value, dict):
        fail(name, "a JSON object", type(value).__name__)
    _check_depth(value, name)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is not a number of 64 bits")
    return number


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"key {show(repeated)} appears twice")
    return result


def _check_depth(value: object, name: str) -> None:
    """Refuses deep nesting, because code that reads the value later may recurse."""
    level: list[object] = [value]
    for _ in range(MAX_JSON_DEPTH):
        inner: list[object] = []
        for entry in level:
            if isinstance(entry, dict):
                inner.extend(entry.values())
            elif isinstance(entry, list):
                inner.extend(entry)
        level = inner
        if not level:
            return
    raise BundleError(f"{name}: nested deeper than {MAX_JSON_DEPTH} levels. {DAMAGED}")
