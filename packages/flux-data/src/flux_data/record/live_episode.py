"""The episode that is being recorded: rows in memory, pictures encoded as they arrive."""

from __future__ import annotations

import io
import queue
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError

from ..lerobot.dataset import VideoSegment
from ..lerobot.episode_stats import ImageStats
from ..lerobot.stored_columns import Features, to_arrow
from ..lerobot.writer import Episode
from ..parquet.spilled import SpilledImages
from ..video.writer import FAST_PRESET, VideoWriter

SAMPLES_PER_S = 2.0
"""Pictures per second that count for the statistics; LeRobot takes at most 100 of a video."""
FAST_PNG = 1
"""The compression of depth maps, which are encoded while the robot moves."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a camera, in memory that another process fills again after `release`."""

    pixels: NDArray[Any]
    release: Callable[[], None]


class _Store(Protocol):
    """Takes the pictures of one camera."""

    def add(self, pixels: NDArray[Any], /) -> None:
        """Takes the next picture."""
        ...

    def repeat(self) -> None:
        """Takes the last picture once more."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...

    def abandon(self) -> None:
        """Closes the file in whatever state it is."""
        ...


class _DepthFile:
    """Depth maps as PNG files of 16 bits, one after the other in one file until the end."""

    def __init__(self, path: Path) -> None:
        self.images = SpilledImages(path)

    def add(self, pixels: NDArray[Any]) -> None:
        """Takes the next map."""
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG", compress_level=FAST_PNG)
        self.images.add(data.getvalue())

    def repeat(self) -> None:
        """Takes the last map once more."""
        self.images.repeat()

    def close(self) -> None:
        """Completes the file."""
        self.images.close()

    def abandon(self) -> None:
        """Closes the file."""
        self.images.close()


class CameraTrack:
    """One camera of an episode, encoded on a thread of its own.

    Attributes:
        stats: of some of the pictures; complete after `close`.
        failure: what has ended the encoding; None while it goes on.
    """

    def __init__(self, store: _Store, sample_every: int) -> None:
        self.stats = ImageStats()
        self.failure: DataError | None = None
        self._store = store
        self._sample_every = sample_every
        self._queue: queue.SimpleQueue[Picture | bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="flux-encoder", daemon=True)
        self._thread.start()

    def add(self, picture: Picture | None) -> None:
        """Appends a picture; None appends the last one again."""
        self._queue.put(True if picture is None else picture)

    def close(self) -> None:
        """Waits until every picture is in the file.

        Raises:
            DataError: one could not be encoded or written.
        """
        self._end()
        if self.failure is None:
            self._store.close()
        else:
            self._store.abandon()
            raise self.failure

    def abandon(self) -> None:
        """Ends the thread, and leaves the file as it is."""
        self._end()
        self._store.abandon()

    def _end(self) -> None:
        self._queue.put(False)
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while (item := self._queue.get()) is not False:
            if self.failure is None:
                try:
                    self._take(item, number)
                except DataError as error:
                    self.failure = error
                except (OSError, ValueError, MemoryError) as error:
                    self.failure = DataError(f"a picture could not be stored ({error})")
            if isinstance(item, Picture):
                item.release()
            number += 1

    def _take(self, item: Picture | bool, number: int) -> None:
        if not isinstance(item, Picture):
            self._store.repeat()
            return
        self._store.add(item.pixels)
        if number % self._sample_every == 0 or number == 0:
            self.stats.add(item.pixels if item.pixels.ndim == 3 else item.pixels[..., None])


class LiveEpisode:
    """Collects one episode, with its files in `folder`. Use it in a `with`."""

    def __init__(self, folder: Path, fps: float, features: Features) -> None:
        """`features` are vectors, videos and depth maps, as info.json describes them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._fps = folder, fps
        self._rows: dict[str, list[NDArray[np.float32]]] = {}
        self._paths: dict[str, Path] = {}
        self._depths: dict[str, _DepthFile] = {}
        self._tracks: dict[str, CameraTrack] = {}
        self.length = 0
        for key, feature in features.items():
            if feature["dtype"] in ("video", "image"):
                self._tracks[key] = self._track(folder, key, feature)
            else:
                self._rows[key] = []

    def _track(self, folder: Path, key: str, feature: Mapping[str, Any]) -> CameraTrack:
        if feature["dtype"] == "image":
            store: _Store = _DepthFile(folder / f"{key}.png_files")
            self._depths[key] = store
        else:
            self._paths[key] = folder / f"{key}.mp4"
            store = VideoWriter(
                self._paths[key], self._fps, *feature["shape"][:2], preset=FAST_PRESET
            )
        return CameraTrack(store, max(1, round(self._fps / SAMPLES_PER_S)))

    @property
    def failure(self) -> DataError | None:
        """What has made the episode incomplete; None while it is whole."""
        return next((t.failure for t in self._tracks.values() if t.failure is not None), None)

    def add(
        self,
        vectors: Mapping[str, NDArray[np.float32]],
        pictures: Mapping[str, Picture | None],
    ) -> None:
        """Appends a row.

        Args:
            vectors: a copy of each, (dim,).
            pictures: of each camera; None for the one of the row before.
        """
        for key, rows in self._rows.items():
            rows.append(vectors[key])
        for key, track in self._tracks.items():
            track.add(pictures[key])
        self.length += 1

    def __enter__(self) -> LiveEpisode:
        return self

    def __exit__(self, *_: object) -> None:
        for track in self._tracks.values():
            track.abandon()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self, task: str, facts: Mapping[str, object]) -> Episode:
        """Completes the files and returns the episode.

        Raises:
            DataError: a picture could not be encoded or written.
        """
        for track in self._tracks.values():
            track.close()
        columns: dict[str, Any] = {
            key: to_arrow(np.stack(rows)) for key, rows in self._rows.items()
        }
        columns |= {key: depth.images.column() for key, depth in self._depths.items()}
        timestamp = (np.arange(self.length) / self._fps).astype(np.float32)
        white = {key: 65535.0 if key in self._depths else 255.0 for key in self._tracks}
        return Episode(
            table=pa.table({**columns, "timestamp": pa.array(timestamp)}),
            tasks=(task,) * self.length,
            videos={key: VideoSegment(path=path) for key, path in self._paths.items()},
            image_stats={key: t.stats.result(white[key]) for key, t in self._tracks.items()},
            is_temporary=True,
            facts=facts,
        )
