"""Frames decoded and resized once, stored beside a dataset and read without decoding anything.

A cache is a folder: `manifest.json`, and one shard per camera and episode, either raw planes (a
memory-mapped `.npy` of (frames, 3, height, width)) or JPEGs one after the other. It replaces the
videos or stored images only for the resize it was made with, and only as long as neither these nor
the timestamps of the rows, which select the frames, have changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.config import unbind
from flux_core.errors import DataError
from flux_core.transforms import ImageResize

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.metadata import json_object
from ..video.reader import VideoReader

logger = logging.getLogger("flux.data")

VERSION = 3
BY_STAMP = "by stamp"
"""How the manifest says that the picture of a row is the one whose stamp is its time."""

FOLDER = "flux_frames"
MAX_OPEN_SHARDS = 512

Encoding = Literal["raw", "jpeg"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One camera's frames of an episode; `offsets` (frames + 1) of the JPEGs, None if raw."""

    frames: int
    num_bytes: int
    crc32: int
    offsets: tuple[int, ...] | None = None


class FrameCache:
    """The frames of a dataset at one size."""

    def __init__(
        self, folder: Path, manifest: Mapping[str, Any], cameras: Sequence[str] = ()
    ) -> None:
        """Opens the cache in `folder`, to read `cameras` from it."""
        self.folder, self.cameras = folder, tuple(cameras)
        self.encoding: Encoding = manifest["encoding"]
        self.shards = {name: _shard(shard) for name, shard in manifest["shards"].items()}
        self._open: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def frame(self, key: str, episode: int, frame: int) -> NDArray[np.uint8]:
        """Returns (height, width, 3) uint8, equal to the decoded and resized frame."""
        name = shard_name(key, episode)
        data = self._shard(name)
        offsets = self.shards[name].offsets
        if offsets is None:
            return data[frame].transpose(1, 2, 0)
        jpeg = data[offsets[frame] : offsets[frame + 1]].tobytes()
        try:
            with Image.open(io.BytesIO(jpeg)) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            path = shard_path(self.folder, name, self.encoding)
            raise DataError(
                f"{path}: frame {frame} is damaged ({error}). Delete it and run `flux-data pack` "
                "again"
            ) from error

    def _shard(self, name: str) -> NDArray[np.uint8]:
        data = self._open.pop(name, None)
        if data is None:
            path = shard_path(self.folder, name, self.encoding)
            data = _map(path, self.shards[name])
        self._open[name] = data
        if len(self._open) > MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        return data

    def verify(self) -> list[str]:
        """Reads everything; returns the shards that are missing or have a wrong checksum."""
        return [
            name
            for name, shard in self.shards.items()
            if not is_whole(shard_path(self.folder, name, self.encoding), shard)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def find_cache(
    source: LeRobotDataset,
    cameras: Sequence[str],
    resize: ImageResize | None,
    folder: Path | None,
) -> FrameCache | None:
    """Returns the dataset's cache for this resize, or None if there is no valid one.

    Args:
        source: the dataset.
        cameras: the cameras to read from it. It must have those that are videos; it may lack stored
            images, which caches made by earlier versions do.
        resize: the resize during decoding; None if there is none.
        folder: where to look; default: beside the dataset.
    """
    if resize is None:
        return None
    for encoding in ("raw", "jpeg"):
        path = cache_folder(folder or source.root, resize, encoding) / "manifest.json"
        if not path.is_file():
            continue
        manifest = read_manifest(path)
        packed = manifest.get("fingerprints", {})
        wanted = [key for key in cameras if key in packed or key not in source.image_keys]
        if not wanted:
            continue
        reason = why_stale(manifest, source, wanted)
        if reason:
            logger.warning("%s: not used: %s. Run `flux-data pack` again", path.parent, reason)
            continue
        files = "images" if set(wanted) <= set(source.image_keys) else "videos"
        logger.info("%s: frames come from this cache, not from the %s", path.parent, files)
        return FrameCache(path.parent, manifest, wanted)
    return None


def read_manifest(path: Path) -> dict[str, Any]:
    """Reads `manifest.json`.

    Raises:
        DataError: it is damaged.
    """
    manifest = json_object(path)
    if manifest.get("version") == VERSION:
        for key in ("encoding", "fingerprints", "shards"):
            if key not in manifest:
                raise DataError(f"{path}: the key {key!r} is missing. Run `flux-data pack` again")
    return manifest


def why_stale(manifest: Mapping[str, Any], source: LeRobotDataset, cameras: Sequence[str]) -> str:
    """Returns why the cache cannot replace these cameras' files; '' if it can."""
    if manifest.get("version") != VERSION:
        return f"it has version {manifest.get('version')}, expected {VERSION}"
    missing = [key for key in cameras if key not in manifest["fingerprints"]]
    if missing:
        return f"it has no {missing[0]}"
    for key, now in fingerprints(source, cameras).items():
        if manifest["fingerprints"][key] != now:
            files = "images" if key in source.image_keys else "videos"
            return f"the {files} of {key}, the data files or the fps have changed"
    if manifest.get("pictures") != BY_STAMP:
        return _late_video(source, [key for key in cameras if key in source.video_keys])
    return ""


def _late_video(source: LeRobotDataset, video_keys: Sequence[str]) -> str:
    """Returns why a cache from before pictures were found by stamp is wrong; '' if it is not.

    Its times count from a video's first picture. Only if that has the stamp 0 is it the same.
    """
    reader = VideoReader(max_open=1)
    positions = range(source.num_episodes)
    paths = dict.fromkeys(source.video(key, i).path for key in video_keys for i in positions)
    for path in paths:
        first_s = reader.extent(path).first_s
        if first_s != 0:
            return f"{path} begins at {first_s:.4f} s, and its times count from there"
    return ""


def cache_folder(root: Path, resize: ImageResize, encoding: Encoding) -> Path:
    """Returns the folder of the cache for a resize."""
    settings = unbind(resize)
    more = {k: v for k, v in settings.items() if k not in ("type", "height", "width")}
    mark = f"_{zlib.crc32(json.dumps(more, sort_keys=True).encode()):08x}" if more else ""
    name = f"{type(resize).__name__}_{resize.height}x{resize.width}{mark}_{encoding}"
    return root / FOLDER / name


def shard_name(key: str, episode: int) -> str:
    """Returns a name like 'observation.images.cam_high/episode_000003'."""
    return f"{key}/episode_{episode:06d}"


def shard_path(folder: Path, name: str, encoding: Encoding) -> Path:
    """Returns the file of a shard."""
    return folder / f"{name}{'.npy' if encoding == 'raw' else '.jpegs'}"


def fingerprints(source: LeRobotDataset, cameras: Sequence[str]) -> dict[str, str]:
    """Hashes what each camera's frames depend on: name, size and time of its videos and of the
    data files (which hold the timestamps and the stored images), the place of each episode in the
    videos, and the fps.

    Raises:
        DataError: a file is missing.
    """
    data = _state_of_data(source)
    return {key: _fingerprint(source, key, data) for key in cameras}


def _state_of_data(source: LeRobotDataset) -> bytes:
    digest = hashlib.sha256(repr((VERSION, source.fps)).encode())
    # In the order of the episodes, which determines the file of each.
    files = source.data_files()
    for path in files:
        digest.update(repr(_state_of(path, "parquet")).encode())
    return digest.digest()


def _fingerprint(source: LeRobotDataset, key: str, data: bytes) -> str:
    digest = hashlib.sha256(data)
    if key in source.image_keys:  # their bytes are in the data files
        return digest.hexdigest()
    for position in range(source.num_episodes):
        segment = source.video(key, position)
        facts = (*_state_of(segment.path, "video"), segment.start_s)
        digest.update(repr((*facts, int(source.lengths[position]))).encode())
    return digest.hexdigest()


def _state_of(path: Path, kind: str) -> tuple[str, int, int]:
    """Returns name, size and modification time of a file."""
    if not path.is_file():
        raise DataError(f"{path}: the {kind} file is missing")
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns


def is_whole(path: Path, shard: Shard) -> bool:
    """Whether a shard's file exists and is unchanged."""
    if not path.is_file() or path.stat().st_size != shard.num_bytes:
        return False
    return checksum(path) == shard.crc32


def checksum(path: Path) -> int:
    """Returns the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def manifest_of(
    resize: ImageResize,
    encoding: Encoding,
    fingerprints: Mapping[str, str],
    shards: Mapping[str, Shard],
) -> dict[str, Any]:
    """Returns the content of `manifest.json`."""
    return {
        "version": VERSION,
        "resize": unbind(resize),
        "encoding": encoding,
        "pictures": BY_STAMP,
        "fingerprints": dict(fingerprints),
        "shards": {name: asdict(shard) for name, shard in sorted(shards.items())},
    }


def _shard(stated: Mapping[str, Any]) -> Shard:
    """Returns a shard as the manifest describes it."""
    offsets = stated["offsets"]
    return Shard(
        frames=stated["frames"],
        num_bytes=stated["num_bytes"],
        crc32=stated["crc32"],
        offsets=None if offsets is None else tuple(offsets),
    )


def _map(path: Path, shard: Shard) -> NDArray[np.uint8]:
    if not path.is_file() or path.stat().st_size != shard.num_bytes:
        found = path.stat().st_size if path.is_file() else "no file"
        raise DataError(
            f"{path}: expected {shard.num_bytes} bytes, got {found}. Run `flux-data pack` again"
        )
    if shard.offsets is None:
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: is damaged ({error}). Delete it and run `flux-data pack` again"
            ) from error
    return np.memmap(path, dtype=np.uint8, mode="r")
