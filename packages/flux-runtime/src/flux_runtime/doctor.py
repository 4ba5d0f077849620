"""`flux-runtime doctor`: checks what this machine can run, and says how to fix the rest."""

from __future__ import annotations

import importlib.util
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.errors import FluxError, MissingDependencyError
from flux_core.robots import DRIVER_GROUP, describe, load, provider

from .control.session import shipped_policy
from .engines.core import load_core
from .engines.names import ENGINES, EngineName
from .engines.opening import open_flow_policy
from .engines.status import engine_status
from .realtime.machine import MAX_STEAL_SHARE, NEEDED_MEMLOCK_BYTES, MachineFacts
from .robots import installed_robot_names, make_robot, spec_of
from .robots.interpreter import python_with
from .robots.shipped import LEROBOT_DRIVER, REAL, Transport

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


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: what was checked.
        ok: whether it is as it should be.
        found: what was found.
        fix: what to do if it is not ok; may be empty.
        required: whether flux-runtime cannot work without it; all other checks are informative.
        section: the heading under which it is printed; may be empty.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    required: bool = False
    section: str = ""

    def to_json(self) -> dict[str, object]:
        """Returns the check as plain data."""
        return {
            "name": self.name,
            "ok": self.ok,
            "found": self.found,
            "fix": "" if self.ok else self.fix,
            "required": self.required,
            "section": self.section,
        }


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


def format_checks(checks: Sequence[Check]) -> str:
    """Returns the checks as text, with the fix below each one that failed."""
    lines: list[str] = []
    for section, group in groupby(checks, key=lambda check: check.section):
        members = list(group)
        width = max(len(check.name) for check in members)
        lines += ["", section] if section else []
        for check in members:
            mark = "ok  " if check.ok else ("FAIL" if check.required else "note")
            lines.append(f"{mark}  {check.name:<{width}}  {check.found}")
            if not check.ok and check.fix:
                lines.append(f"      {'':<{width}}  -> {check.fix}")
    return "\n".join(lines)


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
        from .engines.onnxruntime_library import find_library

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


def driver_checks() -> list[Check]:
    """Looks for what the drivers of real robots need, in the Pythons that a run would take."""
    robots: dict[str, tuple[Transport, list[str]]] = {}
    for robot, transports in REAL.items():
        for name, transport in transports.items():
            of_name = f"{name} ({transport.module})"
            robots.setdefault(of_name, (transport, []))[1].append(robot)
    robots[f"LeRobot ({LEROBOT_DRIVER.module})"] = (LEROBOT_DRIVER, ["lerobot:TYPE"])
    return [
        _driver_check(name, transport, ", ".join(dict.fromkeys(driven)))
        for name, (transport, driven) in robots.items()
    ]


def _driver_check(name: str, transport: Transport, driven: str) -> Check:
    try:
        python, _ = python_with(name, transport, name, None)
    except MissingDependencyError:
        python, found = None, f"{transport.module} not found; needed for {driven}"
        is_there = False
    else:
        found = f"found in {python or 'this Python'}; drives {driven}"
        is_there = True
    return Check(
        name=name,
        ok=is_there,
        found=found,
        fix=f"{transport.remedy}, or name the Python that has it with --driver-python",
        section="robot drivers",
    )


def check_robot(name: str) -> Check:
    """Loads a driver from another package and describes its robot, without connecting to it."""
    title, fix = f"robot {name}", "Correct or reinstall the package, or ask its author."
    try:
        point = provider(DRIVER_GROUP, name)
        if point is not None and (needed := _needed_arguments(load(point))):
            found = f"{describe(point)}: needs {', '.join(needed)} from --robot-config"
            return Check(name=title, ok=True, found=found)
        spec = spec_of(make_robot(name))
    except FluxError as error:
        return Check(name=title, ok=False, found=str(error), fix=fix)
    source = describe(point) if point else ""
    cameras = ", ".join(spec.cameras) or "no camera"
    found = f"{source}: {spec.action_dim} joints, {spec.control_hz:g} Hz, {cameras}"
    return Check(name=title, ok=True, found=found)


def _needed_arguments(driver: object) -> list[str]:
    """Returns the names of the arguments without which a driver cannot be made."""
    if not isinstance(driver, type):
        return []
    parameters = inspect.signature(driver).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variable]


def realtime_checks(facts: MachineFacts) -> list[Check]:
    """Returns what a real robot needs of this machine; all of it is informative."""
    return [
        _check_priority(facts),
        _check_memory(facts),
        _realtime(
            "kernel",
            facts.preemption in ("PREEMPT_RT", "unknown"),
            f"{platform.release()}, {facts.preemption}",
            "Install a PREEMPT_RT kernel (Ubuntu: pro enable realtime-kernel; Debian: apt-get "
            "install linux-image-rt-amd64); without one, ticks may be some milliseconds late.",
        ),
        _realtime(
            "CPU governor",
            facts.governor in ("performance", None),
            facts.governor or "not shown by this system",
            "cpupower frequency-set -g performance",
        ),
        _check_cpus(facts),
        _realtime(
            "steal time",
            facts.steal_share is None or facts.steal_share <= MAX_STEAL_SHARE,
            "unknown" if facts.steal_share is None else f"{facts.steal_share:.1%}",
            "This is a virtual machine whose host is busy: drive a robot from a machine of its "
            "own.",
        ),
    ]


def _check_priority(facts: MachineFacts) -> Check:
    limit = "unknown" if facts.max_priority is None else facts.max_priority
    got = {True: "permitted", False: "refused", None: "not on this system"}[facts.fifo_permitted]
    return _realtime(
        "real-time priority",
        facts.fifo_permitted is True,
        f"SCHED_FIFO {got}, ulimit -r {limit}",
        "groupadd -f realtime; usermod -aG realtime $USER; echo '@realtime - rtprio 90' > "
        "/etc/security/limits.d/99-realtime.conf; log in again. In a container: --cap-add=SYS_NICE",
    )


def _check_memory(facts: MachineFacts) -> Check:
    size = facts.memlock_bytes
    text = {None: "unknown", -1: "unlimited"}.get(size) or f"{(size or 0) / 2**20:.0f} MiB"
    is_enough = size is not None and (size < 0 or size >= NEEDED_MEMLOCK_BYTES)
    return _realtime(
        "locked memory",
        facts.may_lock_any or is_enough,
        f"ulimit -l {text}{', CAP_IPC_LOCK' if facts.may_lock_any else ''}",
        "echo '@realtime - memlock unlimited' >> /etc/security/limits.d/99-realtime.conf; log in "
        "again. In a container: --ulimit memlock=-1",
    )


def _check_cpus(facts: MachineFacts) -> Check:
    isolated = ", ".join(map(str, facts.isolated_cpus)) or "none"
    return _realtime(
        "CPUs",
        facts.num_cpus >= 4 or bool(facts.isolated_cpus),
        f"{facts.num_cpus} usable, isolated: {isolated}",
        "Use a machine with four CPUs or more, or add isolcpus=N to the kernel's command line and "
        "run with --cpu N.",
    )


def _realtime(name: str, ok: bool, found: str, fix: str) -> Check:
    return Check(name=name, ok=ok, found=found, fix=fix, section="real time")


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
