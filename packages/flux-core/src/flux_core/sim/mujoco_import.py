"""The one place that imports mujoco and finds gym-aloha's scenes."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import MissingDependencyError

INSTALL_SIM = "pip install 'flux-core[sim]'"
INSTALL_GL = "apt-get install libosmesa6 libegl1 libgl1-mesa-dri"
# MUJOCO_GL backend -> the shared library that it needs; the one that starts faster comes first
_HEADLESS_BACKENDS = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}


def import_mujoco() -> ModuleType:
    """Imports mujoco, with a headless MUJOCO_GL unless the user has chosen one.

    Raises:
        MissingDependencyError: mujoco is not installed, or its OpenGL backend cannot be loaded.
    """
    if "mujoco" not in sys.modules:
        _choose_backend()
        _load_triton()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"the simulator needs {error.name}: {INSTALL_SIM}") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise MissingDependencyError(opengl_message(error)) from error
    return mujoco


def scene_path(name: str) -> Path:
    """Returns the path of one of gym-aloha's MJCF scenes, without importing gym-aloha."""
    spec = importlib.util.find_spec("gym_aloha")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"the simulator needs gym-aloha: {INSTALL_SIM}")
    return Path(spec.origin).parent / "assets" / name


def opengl_message(error: Exception) -> str:
    """Returns one line saying that rendering is impossible, why, and what to install."""
    backend = os.environ.get("MUJOCO_GL", "")
    reason = " ".join(str(error).split())
    return f"mujoco cannot render with MUJOCO_GL={backend!r} ({reason}): {INSTALL_GL}"


def require_opengl() -> None:
    """Refuses to render if mujoco would look for a window system that does not exist.

    mujoco reads MUJOCO_GL when it is imported; without it and a display it aborts the process.

    Raises:
        MissingDependencyError: on Linux, without MUJOCO_GL and without a display.
    """
    chosen = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in chosen):
        raise MissingDependencyError(
            f"mujoco cannot render without a display: {INSTALL_GL}, "
            "and set MUJOCO_GL=egl before mujoco is imported"
        )


def close_at_exit(renderer: Any) -> None:
    """Closes a `mujoco.Renderer` that is still open at the end, before OpenGL is shut down.

    mujoco shuts OpenGL down in its own exit handler, registered at its import; handlers run last
    in, first out, and a renderer that is collected after that handler prints an ignored exception.
    """
    atexit.unregister(_close_renderers)
    atexit.register(_close_renderers)
    _open_renderers.add(renderer)


_open_renderers: weakref.WeakSet[Any] = weakref.WeakSet()


def _close_renderers() -> None:
    for renderer in list(_open_renderers):
        renderer.close()


def _choose_backend() -> None:
    """Sets MUJOCO_GL to the first headless backend whose library loads (Linux only)."""
    if os.environ.get("MUJOCO_GL") or sys.platform != "linux":
        return
    for backend, library in _HEADLESS_BACKENDS.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        os.environ["MUJOCO_GL"] = backend
        return


def _load_triton() -> None:
    """Loads triton's library, if there is one, before Mesa renders for the first time.

    Both contain an LLVM. Mesa's is loaded with global symbols, which triton's would take for its
    own: the import of triton, as by torch, would end a process that has rendered. What is wrong
    with a library that cannot be loaded is said by that import.
    """
    spec = importlib.util.find_spec("triton") if sys.platform == "linux" else None
    if spec is not None and spec.origin is not None:
        with suppress(OSError):
            ctypes.CDLL(str(Path(spec.origin).parent / "_C" / "libtriton.so"))
