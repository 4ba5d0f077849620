"""What this machine could do at best: its speed in arithmetic and memory, and a floor from it.

A stage takes at least the longer of its arithmetic at the processor's speed and of its weights at
the memory's. The processor's speeds are measured, in float32, and on as much memory as the smaller
stage reads: weights that stay in a cache are read faster. Of an NVIDIA card only the memory's
is known, from its clock: its floor is that of the weights alone.
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
    """Operations (float32; None where unknown) and bytes read or written, a second."""

    flops_per_s: float | None
    bytes_per_s: float


def card_speeds() -> Speeds:
    """Of the first NVIDIA card."""
    return Speeds(flops_per_s=None, bytes_per_s=nvidia.memory_bytes_per_s())


def processor_speeds(num_threads: int, num_bytes: float = _MOST_COPIED) -> Speeds:
    """Multiplies large arrays and copies some of `num_bytes` together, which may fit a cache.

    In a process of its own, with so many threads.
    """
    environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(num_threads))
    size = int(min(max(num_bytes, _LEAST_COPIED), _MOST_COPIED))
    command = [sys.executable, "-P", "-c", _SPEEDS_PROGRAM, str(size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return Speeds(**json.loads(done.stdout))


def costs_of(bundle: Bundle) -> dict[str, dict[str, float]] | None:
    """`flops` and `bytes` of the stages `prefix` and `step`, as the export counted them.

    None for a bundle whose report has none.

    Raises:
        BundleError: the report is damaged.
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
    """Least milliseconds of `prefix`, `step` and, of a whole inference, `total`."""

    def stage_ms(cost: Mapping[str, float]) -> float:
        memory_s = cost["bytes"] / speeds.bytes_per_s
        arithmetic_s = cost["flops"] / speeds.flops_per_s if speeds.flops_per_s else 0.0
        return 1e3 * max(memory_s, arithmetic_s)

    stages = {name: stage_ms(cost) for name, cost in costs.items()}
    return {**stages, "total": stages["prefix"] + num_inference_steps * stages["step"]}


def hardware() -> dict[str, Any]:
    """What the figures were taken on."""
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
    """Linux says it in a file; elsewhere Python knows as much as there is."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
