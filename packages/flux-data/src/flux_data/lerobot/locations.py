"""Finds a dataset: a directory, or the local copy of a URL."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flux_core.errors import DataError

from .metadata import json_object

# pathlib.Path turns the two slashes of a URL into one.
URL = re.compile(r"(?:filecache::)?(?P<scheme>[a-z][a-z0-9+.-]+):/(?P<rest>/?.*)", re.DOTALL)

CHAIN = re.compile(r"(?:filecache::)*(?!filecache::)(?P<protocol>[a-z][a-z0-9+.-]*)::.*", re.DOTALL)
"""A chained URL of fsspec with another protocol than `filecache`."""


def local_root(root: str | Path) -> Path:
    """Returns the directory of a path, a `file://` URL, or a URL with a copy on this machine.

    `hf://datasets/OWNER/NAME` is looked up in LeRobot's folder and in the hub's cache, any other
    URL (`s3://`, `gs://`, ...) in fsspec's file cache, which FSSPEC_FILECACHE_CACHE_STORAGE names.
    Nothing is downloaded.

    Raises:
        DataError: the URL's data is not on this machine, or its cache cannot be read.
    """
    text = str(root)
    chain = CHAIN.fullmatch(text)
    if chain is not None and not Path(root).exists():
        raise DataError(
            f"{text}: expected filecache::, the only fsspec cache that can be read here, got "
            f"{chain['protocol']}::. Read all of it once through filecache::, or copy it to a "
            "directory"
        )
    url = URL.fullmatch(text)
    if url is None or Path(root).is_dir():
        return Path(root)
    scheme, rest = url["scheme"], url["rest"]
    if scheme == "file" and not text.startswith("filecache::"):
        return Path("/" + rest.lstrip("/"))
    rest = rest.strip("/")
    if scheme == "hf" and rest.startswith("datasets/"):
        return _hub_copy(rest.removeprefix("datasets/"), text)
    return _fsspec_copy(rest, text)


def _hub_copy(repository: str, url: str) -> Path:
    """Returns LeRobot's own folder for the dataset, or the newest snapshot in the hub's cache."""
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    lerobot = Path(os.environ.get("HF_LEROBOT_HOME", cache / "lerobot"))
    hub = Path(os.environ.get("HF_HUB_CACHE", cache / "hub"))
    snapshots = hub / f"datasets--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    for folder in (lerobot / repository, *reversed(found)):
        if (folder / "meta" / "info.json").is_file():
            return folder
    raise DataError(
        f"{url}: expected a copy in {lerobot} or {hub}, found none. Download it first: "
        f"hf download {repository} --repo-type dataset"
    )


def _fsspec_copy(path: str, url: str) -> Path:
    """Makes a folder of links into fsspec's file cache, which keeps neither names nor folders."""
    how = (
        "Copy it to a directory first, or read all of it once through fsspec's filecache:: and set "
        "FSSPEC_FILECACHE_CACHE_STORAGE to the cache"
    )
    storage = os.environ.get("FSSPEC_FILECACHE_CACHE_STORAGE")
    if storage is None:
        raise DataError(f"{url}: is not on this machine. {how}")
    files = dict(_cached_files(Path(storage), path))
    if "meta/info.json" not in files:
        raise DataError(f"{url}: is not in the cache {storage}. {how}")
    # The name is a hash of the link targets, so another state of the cache gets another folder.
    state = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "flux" / "datasets" / state
    for name, target in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target)
    return folder


def _cached_files(storage: Path, path: str) -> Iterator[tuple[str, Path]]:
    """Yields the name of each complete file below `path`, and the cache's file for it.

    `cache` is fsspec's own list (fsspec/implementations/cache_metadata.py).
    """
    if not (storage / "cache").is_file():
        return
    for name, details in json_object(storage / "cache").items():
        within = name.lstrip("/")
        if within.startswith(f"{path}/") and details["blocks"] is True:
            yield within.removeprefix(f"{path}/"), (storage / details["fn"]).resolve()
