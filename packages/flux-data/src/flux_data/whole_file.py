"""Files that are either complete or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flux_core.errors import DataError


@contextlib.contextmanager
def whole_file(path: Path, hint: str = "Choose another --out") -> Iterator[BinaryIO]:
    """Opens a file for `path`'s content; it gets that name, on disk, when the block ends.

    An older file is replaced; a device or a pipe is written to directly. A block that fails leaves
    nothing behind.

    Raises:
        DataError: it cannot be written; the message ends with `hint`.
    """
    is_special = path.exists() and not path.is_file()
    partial = path if is_special else path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            yield file
            if not is_special:
                file.flush()
                os.fsync(file.fileno())
        if not is_special:
            os.replace(partial, path)
    except OSError as error:
        if error.filename not in (None, str(partial), str(path)):
            raise  # it concerns a file that the block reads
        raise cannot_be_written(path, error, hint) from error
    finally:
        if not is_special:
            # A folder that cannot be written to was already reported above.
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def cannot_be_written(path: Path, error: OSError, hint: str) -> DataError:
    """Returns the error for a failure to write `path`."""
    return DataError(f"{path}: cannot be written ({error.strerror or error}). {hint}")
