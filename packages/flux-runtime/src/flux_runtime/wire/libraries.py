"""The packages that only remote inference needs."""

from __future__ import annotations

import importlib
from typing import Any

from flux_core.errors import MissingDependencyError


def load(module: str, what: str) -> Any:
    """Imports a module of the extra `remote`.

    Args:
        module: its name, such as 'msgpack'.
        what: needs it; the message begins with it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingDependencyError(
            f"{what}: expected {package}, got none. Install it with: "
            f'pip install "flux-runtime[remote]"'
        ) from error
