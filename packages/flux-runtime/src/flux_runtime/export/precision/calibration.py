"""Finds the range of each linear layer's inputs on samples of a dataset, for float8.

flux-data reads the dataset in a separate process, so that flux-runtime does not depend on it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flux_core.errors import ExportError, MissingDependencyError
from flux_core.types import Observation


def read_observations(
    datasets: Sequence[str], cameras: Sequence[str], count: int
) -> list[Observation]:
    """Reads observations that are spread evenly over LeRobot datasets.

    Args:
        datasets: the directories of the datasets.
        cameras: the policy's cameras; `cam_high` is the feature `observation.images.cam_high`.
        count: number of observations; the first datasets give one more if it cannot be divided.

    Raises:
        ExportError: a dataset cannot be read, lacks a camera, or has fewer samples.
        MissingDependencyError: flux-data is not installed.
    """
    if importlib.util.find_spec("flux_data") is None:
        raise MissingDependencyError(
            "--calibrate: expected flux-data, which reads the dataset, got none installed. Install "
            "it with: pip install packages/flux-core packages/flux-data"
        )
    return [
        observation
        for index, dataset in enumerate(datasets)
        for observation in _read(dataset, cameras, len(range(index, count, len(datasets))))
    ]


def _read(dataset: str, cameras: Sequence[str], count: int) -> list[Observation]:
    with TemporaryDirectory(prefix="flux-calibration-") as folder:
        file = Path(folder) / "observations.npz"
        command = [sys.executable, "-P", "-m", "flux_data", "observations", dataset]
        command += ["--cameras", *cameras, "--count", str(count), "--out", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip() or "flux-data failed").splitlines()[-1]
            raise ExportError(f"--calibrate: {reason.removeprefix('flux-data: error: ')}")
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    return [
        Observation(
            images={camera: arrays[f"images.{camera}"][index] for camera in cameras},
            state=arrays["state"][index],
            prompt=str(arrays["task"][index]),
            timestamp_s=0.0,
        )
        for index in range(count)
    ]


@contextmanager
def recorded_inputs(model: nn.Module) -> Iterator[dict[str, float]]:
    """Yields a dict that records the largest absolute input of each linear layer that runs."""
    largest: dict[str, float] = {}

    def watch(name: str, layer: nn.Linear) -> RemovableHandle:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))

        return layer.register_forward_pre_hook(record)

    handles = [watch(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()
