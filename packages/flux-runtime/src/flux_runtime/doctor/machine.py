"""Checks what this machine can run: Python, the C++ core, engines, rendering."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.errors import FluxError

from ..control.session import shipped_policy
from ..engines.core import load_core
from ..engines.names import ENGINES, EngineName
from ..engines.opening import open_flow_policy
from ..engines.status import engine_status
from ..realtime.machine import MachineFacts
from ..robots import installed_robot_names
from .check import Check
from .drivers import check_robot, driver_checks
from .realtime import realtime_checks

OLDEST_PYTHON = (3, 11)
OLDEST_NUMPY = (1, 26)
OLDEST_ONNXRUNTIME = (1, 23)
_RENDER_TIMEOUT_S = 60.0
_RENDER_PROGRAM = """
import os
from flux_core.sim.mujoco_import import import_mujoco
mujoco = import_mujoco()
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/>'
    '<camera name="c" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data, 'c')
    assert renderer.render().max() > 0, 'the image is black'
print('mujoco', mujoco.__version__, 'with', os.environ['MUJOCO_GL'])
"""


def diagnose(facts: MachineFacts | None = None) -> list[Check]:
    """Runs all checks; none of them changes anything on the machine.

    Args:
        facts: what this machine permits a control thread; None leaves these checks out.
    """
    return [
        *(check() for check in CHECKS),
        *driver_checks(),
        *map(check_robot, installed_robot_names()),
        *(realtime_checks(facts) if facts is not None else ()),
    ]


def check_python() -> Check:
    """Checks the version of Python."""
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Check(
        name="python",
        ok=sys.version_info[:2] >= OLDEST_PYTHON,
        found=f"{platform.python_version()} ({platform.machine()})",
        fix=f"Install Python {oldest} or newer.",
        required=True,
    )


def check_numpy() -> Check:
    """Checks the version of numpy."""
    import numpy as np

    return Check(
        name="numpy",
        ok=_version(np.__version__) >= OLDEST_NUMPY,
        found=np.__version__,
        fix="pip install --upgrade numpy",
        required=True,
    )


def check_core() -> Check:
    """Checks that the C++ core can be loaded."""
    try:
        core = load_core()
    except FluxError as error:
        fix = "Install flux-runtime with pip, which compiles it (needs a C++20 compiler)."
        return Check(name="C++ core", ok=False, found=str(error), fix=fix, required=True)
    return Check(name="C++ core", ok=True, found=Path(core.__file__ or "").name, required=True)


def check_onnxruntime() -> Check:
    """Checks the ONNX Runtime library that the C++ core loads."""
    name, fix = "libonnxruntime", "pip install 'onnxruntime>=1.23'"
    try:
        from ..engines.onnxruntime_library import find_library

        library = find_library()
    except (FluxError, ImportError) as error:
        return Check(name=name, ok=False, found=str(error), fix=fix, required=True)
    version = Path(library).name.partition(".so.")[2]
    is_new = not version or _version(version) >= OLDEST_ONNXRUNTIME
    return Check(name=name, ok=is_new, found=str(library), fix=fix, required=True)


def check_engine(name: EngineName) -> Check:
    """Checks that this machine has everything that an engine needs."""
    status = engine_status(name)
    title = f"engine {name}"
    if status.ok and name == "openvino-bf16":
        # It may crash even though everything that it needs is there.
        try:
            open_flow_policy(Bundle.open(shipped_policy("aloha-sim")), engine=name)
        except FluxError as error:
            return Check(name=title, ok=False, found=str(error), fix="Use the engine openvino.")
    return Check(name=title, ok=status.ok, found=status.found, fix=status.fix)


def check_rendering() -> Check:
    """Renders a small image in a separate process, because a broken driver may crash it."""
    name = "headless rendering"
    if importlib.util.find_spec("mujoco") is None:
        fix = "For the simulated robots: pip install 'flux-core[sim]'"
        return Check(name=name, ok=False, found="mujoco is not installed", fix=fix)
    fix = "apt-get install libosmesa6 libegl1, or set MUJOCO_GL to egl, osmesa or glfw."
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _RENDER_PROGRAM],
            capture_output=True,
            text=True,
            timeout=_RENDER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = f"no image within {_RENDER_TIMEOUT_S:.0f} s"
        return Check(name=name, ok=False, found=found, fix=fix)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    found = lines[-1][:120] if lines else f"exit code {done.returncode}"
    return Check(name=name, ok=done.returncode == 0, found=found, fix=fix)


def check_cpu() -> Check:
    """Checks for vector instructions that speed up the network."""
    flags = _proc_value(Path("/proc/cpuinfo"), ("flags", "Features")).split()
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    found = [flag for flag in known if flag in flags]
    return Check(
        name="CPU",
        ok="avx2" in found or "asimd" in found,
        found=f"{os.cpu_count()} threads, {' '.join(found) or 'no known vector instructions'}",
        fix="Inference will be slow on this processor.",
    )


def check_report() -> Check:
    """Checks for the packages that `--report` needs."""
    missing = [name for name in ("matplotlib", "av") if importlib.util.find_spec(name) is None]
    return Check(
        name="run reports",
        ok=not missing,
        found=f"missing: {', '.join(missing)}" if missing else "matplotlib, av",
        fix="pip install 'flux-runtime[report]'",
    )


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_numpy,
    check_core,
    check_onnxruntime,
    *(partial(check_engine, name) for name in ENGINES),
    check_rendering,
    check_cpu,
    check_report,
)


def _version(text: str) -> tuple[int, ...]:
    """Returns (major, minor) of a version string."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split(".")[:2])


def _proc_value(path: Path, names: Sequence[str]) -> str:
    """Returns the first value for one of `names` in a `name : value` file, or an empty string."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value
    return ""
