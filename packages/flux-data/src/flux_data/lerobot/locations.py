"""Where a dataset lies: a directory, or the local copy of a URL."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flux_core.errors import DataError

from .metadata import json_object

# A Path made of a URL has lost its second slash.
URL = re.compile(r"(?:filecache::)?(?P<scheme>[a-z][a-z0-9+.-]+):/(?P<rest>/?.*)", re.DOTALL)

CHAIN = re.compile(r"(?:filecache::)*(?!filecache::)(?P<protocol>[a-z][a-z0-9+.-]*)::.*", re.DOTALL)
"""One of fsspec's chained URLs of another protocol than `filecache`."""


def local_root(root: str | Path) -> Path:
    """Returns the directory of a path, a `file://` URL, or a URL that is on this machine already.

    `hf://datasets/OWNER/NAME` is looked for in LeRobot's folder and in the hub's cache, any other
    (`s3://`, `gs://`, ...) in fsspec's file cache, the one that FSSPEC_FILECACHE_CACHE_STORAGE
    names. Nothing is downloaded.

    Raises:
        DataError: a URL whose data is not on this machine, or of a cache that cannot be read.
    """
    text = str(root)
    chain = CHAIN.fullmatch(text)
    if chain is not None and not Path(root).exists():
        raise DataError(
            f"{text}: expected filecache::, the one cache of fsspec's that can be read here, got "
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


def _fsspec_copy(path: str, url: str) -> Path:
    """A folder of links into fsspec's file cache, whose files have neither names nor folders."""
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
    # Named after what the links lead to: another state of the cache is another folder.
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
    """Names below `path`, and the cache's files of those that it has whole.

    `cache` is fsspec's own list (fsspec/implementations/cache_metadata.py).
    """
    if not (storage / "cache").is_file():
        return
    for name, details in json_object(storage / "cache").items():
        within = name.lstrip("/")
        if within.startswith(f"{path}/") and details["blocks"] is True:
            yield within.removeprefix(f"{path}/"), (storage / details["fn"]).resolve()
