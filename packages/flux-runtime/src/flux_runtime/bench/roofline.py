"""The least time that an inference can take on this machine, from its arithmetic and memory speeds.

A stage takes at least as long as its arithmetic or as reading its weights from memory, whichever is
longer. The CPU's speeds are measured, in float32, and with as much memory as the smaller stage
reads, because weights that stay in a cache are read faster. For an NVIDIA card only the memory
bandwidth is known, from its clock rate, so its floor counts the weights alone.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flux_core.bundle import Bundle
from flux_core.errors import BundleError, MissingDependencyError

from ..engines import nvidia

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LEAST_COPIED, _MOST_COPIED = 1 << 18, 1 << 29
_SPEEDS_PROGRAM = """
import json, sys, time
import numpy as np

def best(work, amount, repeat=5):
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return amount / min(seconds)

a = np.ones((1536, 1536), np.float32)
out = np.empty_like(a)
source = np.ones(int(sys.argv[1]) // 8, np.float32)
target = np.empty_like(source)
copies = max(1, (1 << 26) // source.size)

def copy():
    for _ in range(copies):
        np.copyto(target, source)

print(json.dumps({
    'flops_per_s': best(lambda: np.matmul(a, a, out=out), 2 * 1536**3),
    'bytes_per_s': best(copy, 2 * copies * source.nbytes),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Float32 operations per second (None if unknown), and bytes read or written per second."""

    flops_per_s: float | None
    bytes_per_s: float


def card_speeds() -> Speeds:
    """Returns the speeds of the first NVIDIA card."""
    return Speeds(flops_per_s=None, bytes_per_s=nvidia.memory_bytes_per_s())


def processor_speeds(num_threads: int, num_bytes: float = _MOST_COPIED) -> Speeds:
    """Measures the CPU by multiplying large arrays, and by copying arrays of `num_bytes` in total.

    Runs in a separate process with `num_threads` threads. Small arrays may fit in a cache.
    """
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
    size = int(min(max(num_bytes, _LEAST_COPIED), _MOST_COPIED))
    command = [sys.executable, "-P", "-c", _SPEEDS_PROGRAM, str(size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return Speeds(**json.loads(done.stdout))


def costs_of(bundle: Bundle) -> dict[str, dict[str, float]] | None:
    """Returns `flops` and `bytes` of the stages `prefix` and `step`, as counted by the export.

    Returns None if the bundle's report does not contain them.

    Raises:
        BundleError: the bundle's report is damaged.
    """
    file = bundle.directory / "report.json"
    if not file.is_file():
        return None
    try:
        costs = json.loads(file.read_text()).get("costs")
        if not costs:
            return None
        return {
            stage: {key: float(costs[stage][key]) for key in ("flops", "bytes")}
            for stage in ("prefix", "step")
        }
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise BundleError(
            f"{file}: expected the report of flux-export, got something else ({error}). Export "
            "the bundle again."
        ) from error


def floor_ms(
    costs: Mapping[str, Mapping[str, float]], speeds: Speeds, num_inference_steps: int
) -> dict[str, float]:
    """Returns the least milliseconds for `prefix`, `step` and a whole inference (`total`)."""

    def stage_ms(cost: Mapping[str, float]) -> float:
        memory_s = cost["bytes"] / speeds.bytes_per_s
        arithmetic_s = cost["flops"] / speeds.flops_per_s if speeds.flops_per_s else 0.0
        return 1e3 * max(memory_s, arithmetic_s)

    stages = {name: stage_ms(cost) for name, cost in costs.items()}
    return {**stages, "total": stages["prefix"] + num_inference_steps * stages["step"]}


def hardware() -> dict[str, Any]:
    """Describes the machine and the versions that the figures depend on."""
    versions: dict[str, str] = {}
    for name in ("flux-runtime", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    try:
        card = asdict(nvidia.read_card()) if nvidia.has_card() else None
    except MissingDependencyError as error:
        card = str(error)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "card": card,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    """Reads the CPU's name from /proc on Linux, and asks Python elsewhere."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
