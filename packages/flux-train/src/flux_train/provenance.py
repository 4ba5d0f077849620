"""Where a run comes from: command, versions, and the state of the code."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("flux-core", "flux-data", "flux-train", "torch", "numpy", "av", "peft", "transformers")


def write_provenance(path: Path, facts: Mapping[str, Any], step: int) -> None:
    """Writes `environment.json` of a work dir; where it was resumed is kept over all resumes."""
    resumed: list[int] = []
    if path.is_file() and step:
        known = json.loads(path.read_text()).get("resumed_steps", [])
        resumed = [earlier for earlier in known if earlier < step]
    resumed += [step] if step else []
    found = {**provenance(), **facts, "resumed_steps": resumed}
    path.write_text(json.dumps(found, indent=1) + "\n")


def provenance() -> dict[str, Any]:
    """Command, versions, device and commit."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git_state(Path.cwd()),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out, and whether files differ from it; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "is_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
