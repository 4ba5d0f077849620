"""What is known of a bundle without its files, such as of one on another computer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .manifest import Manifest


class DescribedBundle(Protocol):
    """A bundle as far as a robot is checked against it."""

    @property
    def manifest(self) -> Manifest:
        """manifest.json, checked."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json as plain data, or the part of it that robots need."""
        ...

    @property
    def where(self) -> str:
        """Where the bundle is, for messages."""
        ...

    @property
    def sha256(self) -> str:
        """Of the bytes of manifest.json, which has those of all other files."""
        ...
