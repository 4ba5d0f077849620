"""Makes a frame cache: every video decoded once, resized as training would, written to shards."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError

from .frame_cache import (
    Encoding,
    FrameCache,
    Resize,
    Shard,
    cache_folder,
    checksum,
    fingerprint,
    manifest_of,
    read_manifest,
    shard_name,
    shard_path,
)
from .lerobot import LeRobotDataset, VideoSegment, open_lerobot
from .resize import resize_frame
from .video_reader import VideoReader

JPEG_QUALITY = 95
SAMPLED_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class PackJob:
    """One shard to be made."""

    name: str
    segment: VideoSegment
    frames: int
    fps: float
    folder: Path
    resize: Resize
    encoding: Encoding


def pack(
    root: Path,
    resize: Resize,
    *,
    encoding: Encoding = "raw",
    out: Path | None = None,
    workers: int = 1,
    cameras: Sequence[str] | None = None,
    announce: Callable[[int, int, int], None] = lambda frames, todo, size: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the cache of a dataset; an interrupted one is gone on with.

    Args:
        root: the dataset.
        resize: the transform that training uses.
        encoding: raw pixels, or JPEG at quality 95 (4:4:4).
        out: where the cache goes; default: beside the dataset.
        workers: processes.
        cameras: default: all.
        announce: called once before anything is written, with all frames, those still to be
            written, and the expected bytes of the whole cache.
        advance: called with the frames written so far, and those to be written.

    Returns:
        `out`, `bytes` and `frames`.
    """
    source = open_lerobot(root)
    keys = tuple(cameras or source.video_keys)
    if not keys:
        raise DataError(f"{root}: has no videos to pack")
    folder = cache_folder(out or source.root, resize, encoding)
    fingerprints = {key: fingerprint(source, key) for key in keys}
    done = _finished(folder, fingerprints)
    jobs = [job for job in _jobs(source, keys, folder, resize, encoding) if job.name not in done]
    frames = source.num_frames * len(keys)
    todo, written = sum(job.frames for job in jobs), 0
    announce(frames, todo, frames * _frame_bytes(source, keys, jobs))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "progress.jsonl").open("a") as progress:
        progress.write(json.dumps({"fingerprints": fingerprints}) + "\n")
        for job, shard in _run(jobs, workers):
            done[job.name] = shard
            progress.write(json.dumps({"name": job.name, **asdict(shard)}) + "\n")
            progress.flush()
            written += job.frames
            advance(written, todo)
    _write_manifest(folder, manifest_of(resize, encoding, fingerprints, done))
    size = sum(shard.num_bytes for shard in done.values())
    return {"out": str(folder), "bytes": size, "frames": frames}


def verify_cache(
    root: Path, resize: Resize, *, encoding: Encoding = "raw", out: Path | None = None
) -> dict[str, Any]:
    """Reads a whole cache and compares its checksums.

    Raises:
        DataError: there is no cache, or a shard that is not what was written.
    """
    folder = cache_folder(out or open_lerobot(root).root, resize, encoding)
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(f"{path}: not found. Run `flux-data pack` first")
    cache = FrameCache(folder, read_manifest(path))
    if damaged := cache.verify():
        raise DataError(
            f"{shard_path(folder, damaged[0], encoding)}: is damaged ({len(damaged)} shards of "
            f"{len(cache.shards)}). Delete it and run `flux-data pack` again"
        )
    shards = cache.shards.values()
    frames, size = (sum(getattr(s, name) for s in shards) for name in ("frames", "num_bytes"))
    return {"out": str(folder), "bytes": size, "frames": frames}


def _jobs(
    source: LeRobotDataset,
    keys: Sequence[str],
    folder: Path,
    resize: Resize,
    encoding: Encoding,
) -> Iterator[PackJob]:
    for position in range(source.num_episodes):
        for key in keys:
            yield PackJob(
                name=shard_name(key, int(source.episode_indices[position])),
                segment=source.video(key, position),
                frames=int(source.lengths[position]),
                fps=source.fps,
                folder=folder,
                resize=resize,
                encoding=encoding,
            )


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
    """Decodes, resizes and writes one shard; under its own name only when it is whole."""
    path = shard_path(job.folder, job.name, job.encoding)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    offsets = None
    try:
        with partial.open("wb") as file:
            if job.encoding == "raw":
                shape = (job.frames, 3, job.resize.height, job.resize.width)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for image in _resized(job):
                    file.write(image.transpose(2, 0, 1).tobytes())
            else:
                offsets = [0]
                for image in _resized(job):
                    file.write(encode_jpeg(image))
                    offsets.append(file.tell())
            file.flush()
            os.fsync(file.fileno())
        crc32, size = checksum(partial), partial.stat().st_size
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)
    return Shard(
        frames=job.frames,
        num_bytes=size,
        crc32=crc32,
        offsets=None if offsets is None else tuple(offsets),
    )


def _resized(job: PackJob, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    reader = VideoReader(max_open=1)
    for frame in range(0, job.frames, every):
        time_s = job.segment.start_s + frame / job.fps
        frame = reader.frame(job.segment.path, time_s, 0.5 / job.fps)
        yield resize_frame(frame, job.resize)


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Quality 95 without colour subsampling: no difference is seen."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _frame_bytes(source: LeRobotDataset, keys: Sequence[str], jobs: Sequence[PackJob]) -> int:
    """Bytes a frame: known for raw pixels, measured on a few frames for JPEG."""
    if not jobs:
        return 0
    job = jobs[0]
    if job.encoding == "raw":
        return job.resize.height * job.resize.width * 3
    images = _resized(job, every=max(job.frames // SAMPLED_FRAMES, 1))
    sizes = [len(encode_jpeg(image)) for image in images]
    return round(sum(sizes) / len(sizes))


def _finished(folder: Path, fingerprints: dict[str, str]) -> dict[str, Shard]:
    """Shards of an earlier run over the same videos that are still whole."""
    path = folder / "progress.jsonl"
    if not path.is_file():
        return {}
    done: dict[str, Shard] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if "fingerprints" in entry:
            stale = [k for k, v in entry["fingerprints"].items() if fingerprints.get(k, v) != v]
            done = {} if stale else done
            continue
        name = entry.pop("name")
        offsets = entry["offsets"]
        entry["offsets"] = None if offsets is None else tuple(offsets)
        done[name] = Shard(**entry)
    encoding: Encoding = "raw" if folder.name.endswith("raw") else "jpeg"
    return {
        name: shard
        for name, shard in done.items()
        if (file := shard_path(folder, name, encoding)).is_file()
        and file.stat().st_size == shard.num_bytes
    }


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    partial = folder / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(partial, folder / "manifest.json")
