"""Converts ALOHA's HDF5 recordings, one file per episode, to a LeRobot dataset.

    /observations/qpos            (T, 14), or (T, 16) with both fingers of each gripper
    /observations/images/CAMERA   (T, height, width, 3) uint8, or JPEGs: (T, bytes) or a list
    /action                       (T, 14) or (T, 16)

and, on request, /observations/qvel, effort, eepose and images_depth/CAMERA (16 bits), and
/base_action (T, 2), the velocities of Mobile ALOHA's base, which are appended to the action.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError, FluxError, MissingDependencyError
from flux_core.incomplete_file import why_incomplete
from flux_core.robots import robot_spec

from ..lerobot.episode_stats import ImageStats
from ..lerobot.recorder import (
    EpisodeRecorder,
    depth_feature,
    vector_feature,
    video_feature,
    video_key,
)
from ..lerobot.stored_columns import narrowed
from ..lerobot.writer import WRITERS, Episode
from ..parquet.arrow import first_line
from ..pictures.stored_image import BROKEN, decode_image
from .aloha_layout import (
    BASE,
    BASE_NAMES,
    DEPTH_FOLDERS,
    check_widths,
    place_of,
    tell_of_unread,
    unread,
    widths_of,
)

INSTALL = "pip install 'flux-data[hdf5]'"
ArmOrder = Literal["left-right", "right-left"]
EXTRAS = ("qvel", "effort", "eepose", "depth", "base")
COLUMNS = ("qvel", "effort", "eepose")
"""The extras that become columns of their own."""

FEATURE_OF = {
    "qpos": "observation.state",
    "action": "action",
    "qvel": "observation.velocity",
    "effort": "observation.effort",
    "eepose": "observation.eepose",
}
SUFFIXES = (".hdf5", ".h5")
ARM_DIM, FINGERS_DIM = 7, 8
MAX_DEPTH = 65535
FINGER_TRAVEL_M, GRIPPER_SCALE = 0.07, 0.1
"""Two fingers move 0.07 m apart; FluxVLA's converter calls that opening 0.1."""


@dataclass(frozen=True, kw_only=True)
class AlohaHdf5:
    """How to read the files.

    Attributes:
        task: what the episodes show.
        order: which arm comes first in the files. The dataset always has the left arm first, like
            the runner. Files do not state the order, and a wrong one swaps the arms.
        fps: frames per second of the recording.
        extras: which of EXTRAS to convert, beside state, action and cameras.
        bgr: whether the files hold blue before red (orange things look blue).
        robot_type: the robot type for info.json.
    """

    task: str
    order: ArmOrder
    fps: float
    extras: tuple[str, ...] = ()
    bgr: bool = False
    robot_type: str = "aloha"


def convert_aloha_hdf5(
    folder: Path,
    out: Path,
    settings: AlohaHdf5,
    *,
    version: str = "v2.1",
    workers: int = 1,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Converts one `*.hdf5` file, or all of a folder in natural order, to one dataset.

    Raises:
        DataError: a file is damaged, incomplete, or differs from the first one.
    """
    paths = hdf5_files(folder)
    features = read_features(paths[0], settings)
    _check_layouts(paths, settings, folder)
    writer = WRITERS[version](
        out, fps=settings.fps, robot_type=settings.robot_type, features=features
    )
    frames = 0
    with writer:
        jobs = [
            ConversionJob(
                path=path, folder=writer.staging(str(i)), settings=settings, features=features
            )
            for i, path in enumerate(paths)
        ]
        for done, episode in enumerate(_episodes(jobs, workers), start=1):
            writer.add(episode)
            frames += episode.length
            advance(done, len(jobs))
    return {"out": str(out), "num_episodes": len(paths), "num_frames": frames}


@dataclass(frozen=True, kw_only=True)
class ConversionJob:
    """One file to read, and the folder for its videos."""

    path: Path
    folder: Path
    settings: AlohaHdf5
    features: Mapping[str, Any]


def hdf5_files(folder: Path) -> list[Path]:
    """Returns the recordings of a folder, episode_2 before episode_10, or the one given."""
    paths = folder.iterdir() if folder.is_dir() else [folder] if folder.is_file() else []
    found = [path for path in paths if path.suffix in SUFFIXES]
    if not found:
        raise DataError(f"{folder}: expected *.hdf5 files, found none")
    return sorted(found, key=lambda path: [_number(p) for p in re.split(r"(\d+)", path.name)])


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdigit() else (-1, part)


def _episodes(jobs: list[ConversionJob], workers: int) -> Iterator[Episode]:
    if workers <= 1:
        yield from map(read_episode, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(read_episode, jobs)


def _check_layouts(paths: Sequence[Path], settings: AlohaHdf5, folder: Path) -> None:
    """Refuses files with other widths than the first, and names what is not converted."""
    names = ("qpos", "action", *(extra for extra in settings.extras if extra in COLUMNS))
    first: dict[str, int] = {}
    places: dict[str, None] = {}
    for path in paths:
        with _told(path), _opened(path) as file:
            widths = widths_of(file, names)
            first = first or widths
            check_widths(path, widths, first)
            places |= dict.fromkeys(unread(file, settings.extras))
    tell_of_unread(folder, places)


def read_features(path: Path, settings: AlohaHdf5) -> dict[str, Any]:
    """Returns the features for info.json, taken from the first file."""
    joints = robot_spec("aloha").joint_names
    columns = [extra for extra in settings.extras if extra in COLUMNS]
    with _told(path), _opened(path) as file:
        features: dict[str, Any] = {}
        widths_of(file, ("qpos", "action", *columns))
        for name in ("qpos", "action", *columns):
            values = _vectors(file, name, settings)
            width = values.shape[1]
            names = joints if width == len(joints) else tuple(f"dim_{i}" for i in range(width))
            if name == "eepose":
                names = tuple(f"eepose_{i}" for i in range(width))
            if name == "action" and "base" in settings.extras:
                _base(file)
                names = (*names, *BASE_NAMES)
            features[FEATURE_OF[name]] = vector_feature(names)
        for camera, pictures in _cameras(file).items():
            height, width, _ = _picture(pictures, 0, settings, f"{path}: {camera}").shape
            features[video_key(camera)] = video_feature(height, width, settings.fps)
        if "depth" in settings.extras:
            for camera, pictures in _depth_cameras(file).items():
                height, width = _depth(pictures, 0, f"{path}: depth of {camera}").shape
                features[depth_key(camera)] = depth_feature(height, width)
    return features


def depth_key(camera: str) -> str:
    """Returns the feature name of a depth camera."""
    return f"{video_key(camera)}_depth"


def read_episode(job: ConversionJob) -> Episode:
    """Reads a file and encodes its pictures as videos in the job's folder."""
    with _told(job.path), _opened(job.path) as file:
        return _read_episode(file, job)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Puts the file's name into the errors of h5py, numpy and this module."""
    try:
        yield
    except MissingDependencyError:
        raise
    except FluxError as error:
        text = str(error)
        raise type(error)(text if str(path) in text else f"{path}: {text}") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and error.filename not in (None, str(path)):
            raise  # a video could not be written
        # h5py raises these for truncated files and unexpected content.
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error


def _read_episode(file: Any, job: ConversionJob) -> Episode:
    settings, path = job.settings, job.path
    names = ["qpos", "action", *(extra for extra in settings.extras if extra in COLUMNS)]
    vectors = {FEATURE_OF[name]: _vectors(file, name, settings) for name in names}
    if "base" in settings.extras:
        base, action = _base(file), vectors["action"]
        if len(base) != len(action):
            raise DataError(f"{BASE}: expected {len(action)} frames (action), got {len(base)}")
        vectors["action"] = np.concatenate([action, base], axis=1)
    cameras = {video_key(camera): pictures for camera, pictures in _cameras(file).items()}
    depths = {}
    if "depth" in settings.extras:
        depths = {depth_key(camera): pictures for camera, pictures in _depth_cameras(file).items()}
    length = len(vectors["observation.state"])
    for dtype, found in (("video", cameras), ("image", depths)):
        expected = sorted(k for k, feature in job.features.items() if feature["dtype"] == dtype)
        if sorted(found) != expected:
            raise DataError(f"expected the cameras {expected}, got {sorted(found)}")
    for key, rows in {**vectors, **cameras, **depths}.items():
        if len(rows) != length:
            raise DataError(f"{key}: expected {length} frames (qpos), got {len(rows)}")
    flat = {key: feature for key, feature in job.features.items() if feature["dtype"] != "image"}
    with EpisodeRecorder(job.folder, settings.fps, flat) as recorder:
        for frame in range(length):
            images = {
                key: _picture(pictures, frame, settings, f"{path}: {key}, frame {frame}")
                for key, pictures in cameras.items()
            }
            recorder.add({**{key: rows[frame] for key, rows in vectors.items()}, **images})
        episode = recorder.close(settings.task, source=path.name)
    for key, pictures in depths.items():
        size = tuple(job.features[key]["shape"][:2])
        episode = _with_depth(episode, key, pictures, size, path)
    return episode


def _with_depth(
    episode: Episode, key: str, pictures: Any, size: tuple[int, ...], path: Path
) -> Episode:
    """Adds a column of 16-bit PNG files to the episode, each of `size` (height, width)."""
    stats, rows = ImageStats(), []
    for frame in range(episode.length):
        where = f"{path}: {key}, frame {frame}"
        depth = _depth(pictures, frame, where)
        if depth.shape != size:
            raise DataError(f"{where}: expected {size}, as in the first file, got {depth.shape}")
        data = io.BytesIO()
        Image.fromarray(depth).save(data, "PNG")
        rows.append({"bytes": data.getvalue(), "path": None})
        stats.add(depth[..., None])
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    white = float(np.iinfo(np.uint16).max)
    return dataclasses.replace(
        episode,
        table=episode.table.append_column(key, column),
        image_stats={**episode.image_stats, key: stats.result(white)},
    )


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingDependencyError(f"reading HDF5 needs h5py: {INSTALL}") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = why_incomplete(path) or error
        raise DataError(f"{path}: cannot be opened as HDF5 ({reason})") from error


def _vectors(file: Any, name: str, settings: AlohaHdf5) -> NDArray[np.float32]:
    """Reads (T, 14) with the left arm first; only `eepose` may have another width."""
    place = place_of(name)
    values = _numbers(file, place)
    if values.ndim != 2 or values.shape[1] % 2:
        raise DataError(
            f"{file.filename}: {place}: expected (T, 14) or (T, 16), got {values.shape}"
        )
    if not len(values):
        raise DataError(f"{file.filename}: {place}: expected frames, got none")
    _check_finite(values, f"{file.filename}: {place}")
    arms = np.split(values, 2, axis=1)
    if name in ("qpos", "action"):
        arms = [_one_gripper(arm, f"{file.filename}: {place}") for arm in arms]
    if settings.order == "right-left":
        arms.reverse()
    return np.concatenate(arms, axis=1)


def _numbers(file: Any, place: str) -> NDArray[np.float32]:
    """Reads an array; its values must fit float32, in which vectors are stored."""
    values = np.asarray(_dataset(file, place))
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{file.filename}: {place}: cannot be read (expected numbers, got {values.dtype})"
        )
    return narrowed(values, np.dtype(np.float32), f"{file.filename}: {place}")


def _check_finite(values: NDArray[np.float32], where: str) -> None:
    for frame in np.flatnonzero(~np.isfinite(values).all(axis=1))[:1]:
        raise DataError(f"{where}: frame {frame}: expected finite values, got NaN or infinity")


def _base(file: Any) -> NDArray[np.float32]:
    """Reads the velocities of the base, (T, 2)."""
    values, where = _numbers(file, BASE), f"{file.filename}: {BASE}"
    if values.ndim != 2 or values.shape[1] != len(BASE_NAMES):
        raise DataError(f"{where}: expected (T, {len(BASE_NAMES)}), got {values.shape}")
    _check_finite(values, where)
    return values


def _one_gripper(arm: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Returns six joints and the gripper; two fingers become the distance between them."""
    if arm.shape[1] == ARM_DIM:
        return arm
    if arm.shape[1] != FINGERS_DIM:
        raise DataError(f"{where}: expected 14 or 16 dimensions, got {2 * arm.shape[1]}")
    opening = (arm[:, 6:7] - arm[:, 7:8]) * (GRIPPER_SCALE / FINGER_TRAVEL_M)
    return np.concatenate([arm[:, :6], opening], axis=1)


def _is_group(item: Any) -> bool:
    import h5py

    return isinstance(item, h5py.Group)


def _item(file: Any, place: str) -> Any:
    parent = place.rpartition("/")[0]
    group = file.get(parent, file) if parent else file
    if not _is_group(group):
        raise DataError(f"{file.filename}: /{parent}: expected a group, got an array")
    if place not in file:
        there = ", ".join(group) or "nothing"
        raise DataError(f"{file.filename}: expected /{place}, got {there} in {group.name}")
    return file[place]


def _dataset(file: Any, place: str) -> Any:
    """Returns an array without reading it from the file."""
    item = _item(file, place)
    if _is_group(item) or not item.shape:
        got = f"a group of {', '.join(item) or 'nothing'}" if _is_group(item) else "one value"
        raise DataError(f"{file.filename}: /{place}: expected an array, got {got}")
    return item


def _arrays(file: Any, place: str) -> dict[str, Any]:
    """Returns the arrays of a group by name."""
    group = _item(file, place)
    if not _is_group(group):
        raise DataError(
            f"{file.filename}: /{place}: expected a group with an array for each camera, got an "
            f"array {group.shape}"
        )
    return {camera: _dataset(file, f"{place}/{camera}") for camera in sorted(group)}


def _cameras(file: Any) -> dict[str, Any]:
    return _arrays(file, "observations/images")


def _depth_cameras(file: Any) -> dict[str, Any]:
    for name in DEPTH_FOLDERS:
        if f"observations/{name}" in file:
            return _arrays(file, f"observations/{name}")
    expected = " or ".join(DEPTH_FOLDERS)
    raise DataError(f"{file.filename}: expected /observations/{expected}, found neither")


def _pixels_or_file(item: Any) -> NDArray[Any] | bytes:
    """Returns a camera's entry for a frame: pixels, or the bytes of an image file."""
    if isinstance(item, bytes):  # np.array([jpeg, ...]): fixed-length strings
        return item
    data = np.asarray(item)
    # JPEGs padded to the longest one end in zeros, which decoders ignore.
    return data.astype(np.uint8).tobytes() if data.ndim == 1 else data


def _picture(pictures: Any, frame: int, settings: AlohaHdf5, where: str) -> NDArray[np.uint8]:
    """Converts pixels or a JPEG to (height, width, 3) uint8 RGB."""
    data = _pixels_or_file(pictures[frame])
    if isinstance(data, bytes):
        data = decode_image(data, where)
    if data.ndim != 3 or data.shape[2] != 3 or data.dtype != np.uint8:
        raise DataError(
            f"{where}: expected (height, width, 3) uint8 or a JPEG, got {data.shape} {data.dtype}"
        )
    return np.ascontiguousarray(data[..., ::-1]) if settings.bgr else data


def _depth(pictures: Any, frame: int, where: str) -> NDArray[np.uint16]:
    """Converts pixels or a PNG to (height, width) uint16."""
    data = _pixels_or_file(pictures[frame])
    if isinstance(data, bytes):
        try:
            with Image.open(io.BytesIO(data)) as image:
                data = np.asarray(image)
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise DataError(f"{where}: the image cannot be decoded ({error})") from error
    if data.ndim != 2 or not np.issubdtype(data.dtype, np.integer):
        raise DataError(f"{where}: expected (height, width) uint16, got {data.shape} {data.dtype}")
    least, most = (int(data.min()), int(data.max())) if data.size else (0, 0)
    if least < 0 or most > MAX_DEPTH:
        raise DataError(f"{where}: expected 0 to {MAX_DEPTH}, got {least} to {most}")
    return data.astype(np.uint16)
