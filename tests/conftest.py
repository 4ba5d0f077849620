"""What every test shares: few threads, quiet waiting, the shared data, and honest skips."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

# Before torch or onnxruntime starts its threads: tests share small machines with other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("flux", deadline=None, print_blob=True)
settings.load_profile("flux")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets and reference outputs beside the checkout (read-only)."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data beside the checkout is missing")
    return folder


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """Every file of the project: what git tracks, links and deleted files left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    files = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in files if path.is_file() and not path.is_symlink()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this machine cannot do, saying what is missing."""
    for item in items:
        for marker, why_not in (("gpu", _no_gpu), ("slow", _not_slow), ("hardware", _no_robot)):
            if item.get_closest_marker(marker) and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device, found none"


def _not_slow() -> str:
    return "" if os.environ.get("FLUX_SLOW") == "1" else "takes minutes: set FLUX_SLOW=1"


def _no_robot() -> str:
    return "" if os.environ.get("FLUX_HARDWARE") == "1" else "needs a robot: set FLUX_HARDWARE=1"
