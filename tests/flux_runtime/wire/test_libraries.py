"""The packages of the extra `remote` are imported only where they are used."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from flux_core.errors import MissingDependencyError
from flux_runtime.wire import Bounds, as_jpeg, as_picture, pack, unpack

CHECK = """
import sys
import flux_runtime.wire, flux_runtime.wire.messages, flux_runtime.wire.openpi
print([name for name in ("msgpack", "websockets") if name in sys.modules])
"""


def test_the_room_is_imported_without_them() -> None:
    run = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("use", [lambda: pack({}), lambda: unpack(b"\x80", Bounds())])
def test_a_missing_msgpack_is_named(monkeypatch: pytest.MonkeyPatch, use: object) -> None:
    assert callable(use)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(MissingDependencyError, match=r'msgpack.*pip install "flux-runtime\[remo'):
        use()


def test_a_missing_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match="expected pillow, got none"):
        as_picture(b"\xff\xd8", "images/cam")
    with pytest.raises(MissingDependencyError, match="--jpeg: expected pillow"):
        as_jpeg(np.zeros((2, 2, 3), np.uint8), 90)
    assert as_picture(np.zeros((2, 2, 3), np.uint8), "images/cam").shape == (2, 2, 3)
