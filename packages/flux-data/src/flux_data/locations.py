"""Where a dataset lies: a directory, or the local copy of a URL."""

from __future__ import annotations

import os
from pathlib import Path

from flux_core.errors import DataError


def local_root(root: str | Path) -> Path:
    """Returns the directory of a path, a `file://` URL or a cached `hf://datasets/OWNER/NAME`.

    Nothing is downloaded.

    Raises:
        DataError: a URL whose data is not on this machine.
    """
    text = str(root)
    if "://" not in text:
        return Path(root)
    scheme, _, rest = text.partition("://")
    if scheme == "file":
        return Path(rest)
    if scheme == "hf" and rest.startswith("datasets/"):
        return _hub_copy(rest.removeprefix("datasets/").strip("/"), text)
    raise DataError(
        f"{text}: expected a directory, file:// or hf://datasets/OWNER/NAME, got {scheme}://"
    )


def _hub_copy(repository: str, url: str) -> Path:
    """LeRobot's own folder for the dataset, or the hub cache's newest snapshot."""
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    lerobot = Path(os.environ.get("HF_LEROBOT_HOME", cache / "lerobot"))
    hub = Path(os.environ.get("HF_HUB_CACHE", cache / "hub"))
    snapshots = hub / f"datasets--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    for folder in (lerobot / repository, *reversed(found)):
        if (folder / "meta" / "info.json").is_file():
            return folder
    raise DataError(
        f"{url}: is not on this machine (looked in {lerobot} and {hub}). Download it first: "
        f"hf download {repository} --repo-type dataset"
    )
