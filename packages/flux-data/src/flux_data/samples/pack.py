"""Makes a frame cache: decodes every frame once, resizes as training would, and writes shards."""

from __future__ import annotations

import functools
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import ImageResize

from ..lerobot.dataset import LeRobotDataset, VideoSegment, open_lerobot
from ..lerobot.metadata import image_size
from ..pictures.row_pictures import RowPictures
from ..pictures.stored_image import decode_image
from ..repairable import SoundDataError
from ..video.pairing import TOLERANCE
from ..video.reader import VideoReader
from ..whole_file import cannot_be_written, whole_file
from .frame_cache import (
    Encoding,
    FrameCache,
    Shard,
    cache_folder,
    checksum,
    fingerprints,
    is_whole,
    manifest_of,
    read_manifest,
    shard_name,
    shard_path,
    why_stale,
)
from .frame_source import check_cameras
from .resize import resize_frame

JPEG_QUALITY = 95
SAMPLED_FRAMES = 8
CHOOSE = "Choose --out"
"""The advice if a cache cannot be written."""


class Frames(Protocol):
    """The frames of one camera in an episode."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        ...

    def read(self, every: int = 1) -> Iterator[NDArray[np.uint8]]:
        """Yields every `every`-th frame, (height, width, 3) RGB."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoFrames:
    """Frames of a video; `times_s` (frames,) holds their timestamps."""

    segment: VideoSegment
    times_s: NDArray[np.float64]
    fps: float

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.times_s)

    def read(self, every: int = 1) -> Iterator[NDArray[np.uint8]]:
        """Yields every `every`-th frame."""
        reader = VideoReader(max_open=1)
        for time_s in self.times_s[::every]:
            at_s = self.segment.start_s + float(time_s)
            yield reader.frame(self.segment.path, at_s, TOLERANCE / self.fps)


@dataclass(frozen=True, kw_only=True)
class ImageFrames:
    """Frames stored as images in the parquet files of the dataset at `root`."""

    root: Path
    position: int
    camera: str
    frames: int

    def read(self, every: int = 1) -> Iterator[NDArray[np.uint8]]:
        """Yields every `every`-th frame.

        Raises:
            DataError: an image is damaged, has another size than in `info.json`, or is a file of
                its own, whose changes a cache would not notice.
        """
        source = _opened(self.root)
        expected = image_size(source.info["features"][self.camera])
        for frame in range(0, self.frames, every):
            data = source.encoded_image(self.position, self.camera, frame)
            where = f"{source.where(self.position)}, {self.camera}, frame {frame}"
            if isinstance(data, str):
                raise SoundDataError(
                    f"{where}: expected an image in the parquet file, got the path of one. Images "
                    "in files of their own cannot be packed: name the other cameras"
                )
            image = decode_image(data, where)
            if image.shape[:2] != expected:
                raise DataError(
                    f"{where}: expected {expected[0]}x{expected[1]} (info.json), got "
                    f"{image.shape[0]}x{image.shape[1]}"
                )
            yield image


@functools.lru_cache(maxsize=1)
def _opened(root: Path) -> LeRobotDataset:
    """Opens a dataset once per process."""
    return open_lerobot(root)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackJob:
    """One shard to make."""

    name: str
    source: Frames
    folder: Path
    resize: ImageResize
    encoding: Encoding

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.source.frames


def pack_dataset(
    root: Path,
    resize: ImageResize,
    *,
    encoding: Encoding = "raw",
    out: Path | None = None,
    workers: int = 1,
    cameras: Sequence[str] | None = None,
    announce: Callable[[int, int, int], None] = lambda frames, todo, size: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the cache of a dataset; continues where an interrupted run stopped.

    Args:
        root: the dataset.
        resize: the transform that training uses.
        encoding: raw pixels, or JPEG at quality 95 (4:4:4).
        out: where the cache goes; default: beside the dataset.
        workers: number of processes.
        cameras: columns of the cameras; default: all.
        announce: called once before anything is written, with the number of frames, the number of
            frames still to write, and the expected size of the whole cache in bytes.
        advance: called with the number of frames written so far, and the number to write.

    Returns:
        `out`, `bytes` and `frames`.

    Raises:
        DataError: there are no cameras, a video or image is missing or damaged, or the cache cannot
            be written or does not fit on the disk.
    """
    source = open_lerobot(root)
    keys = tuple(cameras or source.camera_keys)
    if not keys:
        raise DataError(f"{root}: expected cameras to pack, found none")
    check_cameras(source, keys)
    folder = cache_folder(out or source.root, resize, encoding)
    current = fingerprints(source, keys)
    done = _finished(source, keys, folder, encoding, current, workers)
    jobs = list(_jobs(source, keys, folder, resize, encoding, done))
    frames, todo, written = source.num_frames * len(keys), sum(job.frames for job in jobs), 0
    missing = todo * _frame_bytes(jobs)
    announce(frames, todo, _num_bytes(done) + missing)
    _prepare(folder, missing if encoding == "raw" else 0)
    # The last line of a killed run may be incomplete.
    _note(folder, "\n" + json.dumps({"fingerprints": current}))
    for job, shard in _run(jobs, workers):
        done[job.name] = shard
        _note(folder, json.dumps({"name": job.name, **asdict(shard)}))
        written += job.frames
        advance(written, todo)
    _write_manifest(folder, manifest_of(resize, encoding, current, done))
    return {"out": str(folder), "bytes": _num_bytes(done), "frames": frames}


def verify_cache(
    root: Path, resize: ImageResize, *, encoding: Encoding = "raw", out: Path | None = None
) -> dict[str, Any]:
    """Reads a whole cache and compares its checksums.

    Raises:
        DataError: there is no cache, the dataset has changed since, or a shard is missing or
            damaged.
    """
    source = open_lerobot(root)
    folder = cache_folder(out or source.root, resize, encoding)
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{path}: not found. Run `flux-data pack` first")
    manifest = read_manifest(path)
    known = source.camera_keys
    keys = [key for key in known if key in manifest.get("fingerprints", ())]
    if reason := why_stale(manifest, source, keys or known):
        raise DataError(f"{folder}: is stale: {reason}. Run `flux-data pack` again")
    cache = FrameCache(folder, manifest)
    if damaged := cache.verify():
        raise DataError(
            f"{shard_path(folder, damaged[0], encoding)}: is damaged ({len(damaged)} shards of "
            f"{len(cache.shards)}). Run `flux-data pack` again"
        )
    frames = sum(shard.frames for shard in cache.shards.values())
    return {"out": str(folder), "bytes": _num_bytes(cache.shards), "frames": frames}


def _jobs(
    source: LeRobotDataset,
    keys: Sequence[str],
    folder: Path,
    resize: ImageResize,
    encoding: Encoding,
    done: Mapping[str, Shard],
) -> Iterator[PackJob]:
    """Yields the jobs that are not `done`."""
    # As in training, the frame of a row is the one at its `timestamp`.
    pictures, reader = RowPictures(source), VideoReader(max_open=1)
    for position, columns in enumerate(source.episodes(["timestamp"])):
        times_s = columns["timestamp"].ravel().astype(np.float64)
        for key in keys:
            name = shard_name(key, int(source.episode_indices[position]))
            if name not in done:
                yield PackJob(
                    name=name,
                    source=_frames(pictures, key, position, times_s, reader),
                    folder=folder,
                    resize=resize,
                    encoding=encoding,
                )


def _frames(
    pictures: RowPictures,
    camera: str,
    position: int,
    times_s: NDArray[np.float64],
    reader: VideoReader,
) -> Frames:
    source = pictures.source
    if camera in source.image_keys:
        frames = len(times_s)
        return ImageFrames(root=source.root, position=position, camera=camera, frames=frames)
    segment = pictures.check(camera, position, times_s, reader)
    return VideoFrames(segment=segment, times_s=times_s, fps=source.fps)


def _prepare(folder: Path, num_bytes: int) -> None:
    """Makes the folder, removes leftovers of killed runs, and checks that `num_bytes` fit."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob("*.partial*"):
            leftover.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_be_written(folder, error, CHOOSE) from error
    if free < num_bytes:
        raise DataError(
            f"{folder}: expected {num_bytes / 1e6:,.1f} MB of free space, got {free / 1e6:,.1f}. "
            f"{CHOOSE}, a smaller --size or --encoding jpeg"
        )


def _note(folder: Path, line: str) -> None:
    """Appends a line to the list of finished shards."""
    path = folder / "progress.jsonl"
    try:
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise cannot_be_written(path, error, CHOOSE) from error


def _run(jobs: Sequence[PackJob], workers: int) -> Iterator[tuple[PackJob, Shard]]:
    if workers <= 1:
        yield from ((job, pack_shard(job)) for job in jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(pack_shard, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def pack_shard(job: PackJob) -> Shard:
    """Decodes, resizes and writes one shard, which gets its name once it is complete."""
    path = shard_path(job.folder, job.name, job.encoding)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_written(path, error, CHOOSE) from error
    with whole_file(path, CHOOSE) as file:
        offsets = _write_planes(file, job) if job.encoding == "raw" else _write_jpegs(file, job)
    return Shard(
        frames=job.frames, num_bytes=path.stat().st_size, crc32=checksum(path), offsets=offsets
    )


def _write_planes(file: BinaryIO, job: PackJob) -> None:
    shape = (job.frames, 3, job.resize.height, job.resize.width)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for image in _resized(job):
        file.write(image.transpose(2, 0, 1).tobytes())


def _write_jpegs(file: BinaryIO, job: PackJob) -> tuple[int, ...]:
    """Returns the offset of each JPEG, and the end of the last."""
    offsets = [0]
    for image in _resized(job):
        file.write(encode_jpeg(image))
        offsets.append(file.tell())
    return tuple(offsets)


def _resized(job: PackJob, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    return (resize_frame(frame, job.resize) for frame in job.source.read(every))


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encodes at quality 95 without colour subsampling: no difference is visible."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _num_bytes(shards: Mapping[str, Shard]) -> int:
    return sum(shard.num_bytes for shard in shards.values())


def _frame_bytes(jobs: Sequence[PackJob]) -> int:
    """Returns the bytes per frame: exact for raw pixels, estimated from a few frames for JPEG."""
    if not jobs:
        return 0
    job = jobs[0]
    if job.encoding == "raw":
        return job.resize.height * job.resize.width * 3
    images = _resized(job, every=max(job.frames // SAMPLED_FRAMES, 1))
    sizes = [len(encode_jpeg(image)) for image in images]
    return round(sum(sizes) / len(sizes))


def _finished(
    source: LeRobotDataset,
    keys: Sequence[str],
    folder: Path,
    encoding: Encoding,
    current: Mapping[str, str],
    workers: int,
) -> dict[str, Shard]:
    """Returns intact shards that earlier runs made of the same videos and rows."""
    frames = {
        shard_name(key, int(index)): int(length)
        for index, length in zip(source.episode_indices, source.lengths, strict=True)
        for key in keys
    }
    noted = {
        name: shard
        for name, shard in _noted(folder, current).items()
        if shard.frames == frames.get(name)
    }
    paths = [shard_path(folder, name, encoding) for name in noted]
    # Reading releases the interpreter's lock.
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        whole = pool.map(is_whole, paths, noted.values())
        return {name: noted[name] for name, is_good in zip(noted, whole, strict=True) if is_good}


def _noted(folder: Path, current: Mapping[str, str]) -> dict[str, Shard]:
    """Returns the shards in `progress.jsonl` that belong to the `current` fingerprints."""
    path = folder / "progress.jsonl"
    noted: dict[str, Shard] = {}
    if not path.is_file():
        return noted
    are_valid: set[str] = set()
    for line in path.read_text(errors="replace").splitlines():
        entry = _entry(line)
        if isinstance(entry.get("fingerprints"), dict):
            # The lines below belong to these videos; they replaced shards of any other videos.
            found = entry["fingerprints"]
            are_valid = {key for key, value in current.items() if found.get(key) == value}
            stale = {key for key in found if key not in are_valid}
            noted = {n: shard for n, shard in noted.items() if _camera(n) not in stale}
            continue
        shard = _shard_of(entry)
        if shard is not None and _camera(entry["name"]) in are_valid:
            noted[entry["name"]] = shard
    return noted


def _camera(name: str) -> str:
    """Returns the camera of a shard, given its name."""
    return name.rpartition("/")[0]


def _entry(line: str) -> dict[str, Any]:
    """Parses a line; returns {} for a broken one, like the last line of a killed run."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _shard_of(entry: Mapping[str, Any]) -> Shard | None:
    """Returns the shard that a line describes, or None if it describes none."""
    numbers = [entry.get(name) for name in ("frames", "num_bytes", "crc32")]
    offsets = entry.get("offsets")
    numbers += offsets if isinstance(offsets, list) else []
    are_whole = all(isinstance(number, int) for number in numbers)
    if not are_whole or not isinstance(entry.get("name"), str):
        return None
    return Shard(
        frames=entry["frames"],
        num_bytes=entry["num_bytes"],
        crc32=entry["crc32"],
        offsets=tuple(offsets) if isinstance(offsets, list) else None,
    )


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    with whole_file(folder / "manifest.json", CHOOSE) as file:
        file.write((json.dumps(manifest, indent=1) + "\n").encode())
