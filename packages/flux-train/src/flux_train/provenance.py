"""Records how a run was made: command, versions, state of the code, config and data."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flux_core.config import unbind
from flux_core.norm_stats import NormStats, save_stats
from flux_core.tokenizers import save_tokenizer
from flux_core.transforms import Tokenization

from .config.tree import TrainConfig

OURS = ("flux-core", "flux-data", "flux-train", "flux-runtime")


def write_run_files(
    work_dir: Path,
    config: TrainConfig,
    stats: Mapping[str, NormStats],
    facts: Mapping[str, Any],
    step: int,
) -> None:
    """Writes what makes a work dir self-contained: config, environment, statistics, tokenizer.

    Args:
        work_dir: the run's directory, which exists.
        config: the run.
        stats: the training set's statistics, by group.
        facts: what environment.json says besides `provenance`.
        step: where the run begins or resumes.
    """
    (work_dir / "config.json").write_text(json.dumps(unbind(config), indent=1) + "\n")
    write_provenance(work_dir / "environment.json", facts, step)
    save_stats(work_dir / "norm_stats.json", stats)
    for prompts in _prompt_transforms(config):
        save_tokenizer(prompts.tokenizer, work_dir / "tokenizer")


def _prompt_transforms(config: TrainConfig) -> list[Tokenization]:
    """The first one: all groups share their tokenizer."""
    groups = config.train_dataloader.dataset.groups().values()
    pipelines = [dataset.pipeline for group in groups for dataset in group]
    return [step for pipeline in pipelines for step in pipeline.steps(Tokenization)][:1]


def write_provenance(path: Path, facts: Mapping[str, Any], step: int) -> None:
    """Writes a work dir's `environment.json`; each resume adds its step to the list there."""
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
        "packages": versions(),
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git_state(Path(__file__)),
    }


def keep_config(config: Path, work_dir: Path) -> None:
    """Copies the config file as it is; its comments are not in config.json."""
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = work_dir / f"original_config{config.suffix}"
    if config.resolve() != kept.resolve():
        shutil.copyfile(config, kept)


def versions() -> dict[str, str | None]:
    """The versions of flux's packages and of their dependencies that are installed."""
    needed = {_name(text) for ours in OURS for text in _requirements(ours)}
    found = {name: _version(name) for name in sorted(needed - set(OURS))}
    ours = {name: _version(name) for name in OURS}
    return ours | {name: version for name, version in found.items() if version is not None}


def _requirements(package: str) -> list[str]:
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _name(requirement: str) -> str:
    """The name in a requirement: 'numpy' for 'numpy>=1.26; extra == "x"'."""
    found = re.match(r"[\w.-]+", requirement)
    return found[0].lower() if found else requirement


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state(file: Path) -> dict[str, Any] | None:
    """The commit of the checkout that tracks `file`, and whether files differ; None if none does.

    An installed package may lie inside another project's checkout, which does not track it.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "is_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
