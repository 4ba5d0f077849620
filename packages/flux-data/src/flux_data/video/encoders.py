"""Encodes pictures again as a video was encoded: same codec, pixel format, size and rate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError, MissingDependencyError

from .packets import opened_video
from .pictures import all_pictures, bits_of, pictures_of, samples_of
from .scheduling import ordinary_scheduling

MIN_PSNR_DB = 40.0
"""The least quality of every picture against the decoded source."""

CLOCK = 60_000
"""Ticks per second for times that are no multiples of a period; MPEG-4 allows up to 65,535."""

MAX_TIME_S = 1e6
"""Later times are a wall clock's, not those of a video."""

GOP = "2"
"""A keyframe every second frame, as LeRobot and VideoWriter have it: any frame is soon decoded."""

X264 = {"g": GOP, "bf": "0", "sc_threshold": "0", "preset": "veryfast", "threads": "1"}
X265 = f"log-level=none:keyint={GOP}:min-keyint=1:bframes=0:scenecut=0:pools=1:frame-threads=1"
X265_NARROWEST = 64
"""In narrower pictures x265 writes beyond its buffers: the process aborts, or they are wrong."""
VP9 = {"g": GOP, "deadline": "realtime", "cpu-used": "5", "lag-in-frames": "0", "b": "0"}
MPEG4 = {"g": GOP, "bf": "0"}


@dataclass(frozen=True, kw_only=True)
class EncoderSetting:
    """An encoder and its options; `shown` names the quality for the user."""

    encoder: str
    shown: str
    options: Mapping[str, str]


def _x264(crf: int) -> EncoderSetting:
    return EncoderSetting(encoder="libx264", shown=f"crf {crf}", options={**X264, "crf": str(crf)})


def _x265(quality: str, shown: str) -> EncoderSetting:
    options = {"preset": "superfast", "x265-params": f"{X265}:{quality}"}
    return EncoderSetting(encoder="libx265", shown=shown, options=options)


def _svt(crf: int) -> EncoderSetting:
    options = {"g": GOP, "preset": "8", "crf": str(crf), "svtav1-params": "lp=1:pred-struct=1"}
    return EncoderSetting(encoder="libsvtav1", shown=f"crf {crf}", options=options)


def _aom(crf: int) -> EncoderSetting:
    options = {"g": GOP, "cpu-used": "8", "crf": str(crf), "lag-in-frames": "0", "threads": "1"}
    return EncoderSetting(encoder="libaom-av1", shown=f"crf {crf}", options=options)


def _vp9(crf: int) -> EncoderSetting:
    options = {**VP9, "crf": str(crf), "qmin": "0", "qmax": str(crf)}
    return EncoderSetting(encoder="libvpx-vp9", shown=f"crf {crf}", options=options)


def _scaled(encoder: str, quality: int) -> EncoderSetting:
    options = {**MPEG4, "qmin": "1", "qmax": str(quality), "flags": "+qscale"}
    options["global_quality"] = str(118 * quality)  # FF_QP2LAMBDA
    return EncoderSetting(encoder=encoder, shown=f"qscale {quality}", options=options)


HEVC_LOSSLESS = _x265("lossless=1", "lossless")

SETTINGS: dict[str, tuple[EncoderSetting, ...]] = {
    "h264": (_x264(16), _x264(8), _x264(2)),
    "hevc": (_x265("crf=14", "crf 14"), _x265("crf=6", "crf 6"), HEVC_LOSSLESS),
    "av1": (_svt(16), _svt(6), _svt(1), _aom(10), _aom(2), _aom(0)),
    "vp9": (
        *(_vp9(crf) for crf in (12, 4)),
        EncoderSetting(encoder="libvpx-vp9", shown="lossless", options={**VP9, "lossless": "1"}),
    ),
    "mpeg4": (_scaled("mpeg4", 2), _scaled("mpeg4", 1)),
    "mjpeg": (_scaled("mjpeg", 2), _scaled("mjpeg", 1)),
}
"""Codec -> its settings, each of a higher quality than the one before."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a video is encoded."""

    path: Path
    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float
    color_primaries: int
    color_trc: int


def source_of(path: Path, fps: float) -> Source:
    """Reads how a video is encoded; `fps` is the rate of the dataset.

    Raises:
        DataError: it cannot be read.
    """
    with opened_video(path) as stream:
        context = stream.codec_context
        if context.pix_fmt is None:
            raise DataError(f"{path}: expected a pixel format, found none")
        return Source(
            path=path,
            codec=context.codec.canonical_name,
            pixel_format=context.pix_fmt,
            width=stream.width,
            height=stream.height,
            fps=fps,
            color_primaries=context.color_primaries,
            color_trc=context.color_trc,
        )


def settings_of(source: Source) -> list[EncoderSetting]:
    """Returns the settings that this PyAV can encode the video with, the lowest quality first.

    Raises:
        DataError: the codec is unknown, or its encoder damages memory with pictures that small.
        MissingDependencyError: PyAV lacks the encoder, or the encoder lacks the pixel format.
    """
    import av
    from av.codec.codec import UnknownCodecError

    if source.codec not in SETTINGS:
        raise DataError(
            f"{source.path}: expected one of the codecs {', '.join(SETTINGS)}, got {source.codec}"
        )
    if source.codec == "hevc" and source.width < X265_NARROWEST:
        raise DataError(
            f"{source.path}: expected a width of at least {X265_NARROWEST} to encode hevc, because "
            f"x265 is not safe below, got {source.width}. Copy the episodes without --reencode"
        )
    found: list[EncoderSetting] = []
    for setting in SETTINGS[source.codec]:
        try:
            formats = av.Codec(setting.encoder, "w").video_formats or []
        except UnknownCodecError:
            continue
        if source.pixel_format in [each.name for each in formats]:
            found.append(setting)
    if not found:
        encoders = " or ".join(dict.fromkeys(s.encoder for s in SETTINGS[source.codec]))
        raise MissingDependencyError(
            f"{source.path}: encoding {source.codec} with {source.pixel_format} needs an FFmpeg "
            f"with {encoders}, which the installed PyAV does not have"
        )
    if source.pixel_format.startswith("gray") and found[-1] is HEVC_LOSSLESS:
        return [HEVC_LOSSLESS]  # distances: every error is one in metres
    return found


class Reencoder:
    """Writes new videos like those of one camera; raises the quality if it does not suffice."""

    def __init__(self) -> None:
        self._level: dict[tuple[str, str], int] = {}
        self.worst_db: dict[str, float] = {}
        self.used: dict[str, str] = {}

    def write(
        self,
        key: str,
        like: Path,
        frames: NDArray[np.int64],
        times_s: NDArray[np.float64],
        fps: float,
        path: Path,
    ) -> None:
        """Encodes frames of a video to a new file, one after the other at the given times.

        Args:
            key: the camera, under which the setting is kept in `used`.
            like: the source.
            frames: the pictures to take, counted in the order in which they are shown, ascending.
            times_s: when each is to be shown.
            fps: the rate of the dataset.
            path: the new file.

        Raises:
            DataError: it cannot be decoded or encoded, or no setting reaches MIN_PSNR_DB.
        """
        source = source_of(like, fps)
        settings = settings_of(source)
        kind = (source.codec, source.pixel_format)
        path.parent.mkdir(parents=True, exist_ok=True)
        worst = 0.0
        for level in range(self._level.get(kind, 0), len(settings)):
            worst = encode(source, settings[level], frames, times_s, path)
            if worst >= MIN_PSNR_DB:
                self._level[kind] = level
                shown = (
                    f"{settings[level].encoder} ({settings[level].shown}, {source.pixel_format})"
                )
                self.used[key] = shown
                self.worst_db[key] = min(worst, self.worst_db.get(key, worst))
                return
        raise DataError(
            f"{like}: expected at least {MIN_PSNR_DB:g} dB after encoding, got {worst:.1f} dB with "
            f"{settings[-1].encoder} ({settings[-1].shown})"
        )


def encode(
    source: Source,
    setting: EncoderSetting,
    frames: NDArray[np.int64],
    times_s: NDArray[np.float64],
    path: Path,
) -> float:
    """Encodes frames of `source` with a setting; returns the PSNR of the worst one in dB.

    Raises:
        DataError: a file cannot be read or written, or another number of frames comes out.
    """
    import av
    from av.error import FFmpegError

    base, ticks = _ticks(times_s, source)
    # SVT-AV1 prints thirty lines per video otherwise; 1 stands for errors.
    os.environ.setdefault("SVT_LOG", "1")
    try:
        with ordinary_scheduling() as restore, av.open(str(path), "w") as container:
            stream = None
            for picture, tick in zip(pictures_of(source.path, frames), ticks, strict=True):
                if stream is None:
                    stream = _stream(container, source, setting, base, picture)
                    stream.codec_context.open()  # which starts the encoder's threads
                    restore()
                picture.pts, picture.time_base = int(tick), base
                picture.pict_type = 0  # the encoder chooses keyframes, not the source
                container.mux(stream.encode(picture))
            if stream is not None:
                container.mux(stream.encode())
    except FFmpegError as error:
        raise DataError(
            f"{source.path}: cannot be encoded with {setting.encoder} as {source.pixel_format} "
            f"{source.width}x{source.height} ({error})"
        ) from error
    return worst_psnr_db(pictures_of(source.path, frames), all_pictures(path))


def _ticks(times_s: NDArray[np.float64], source: Source) -> tuple[Fraction, NDArray[np.int64]]:
    """Returns a time base, and the times in it: periods if they fit, else a fine clock."""
    if not 0 <= times_s[0] < MAX_TIME_S:
        raise DataError(
            f"{source.path}: expected rows whose times begin near 0 s, got {times_s[0]:.4f} s. "
            "Subtract the time of its first row from each episode's timestamps"
        )
    rate = Fraction(source.fps).limit_denominator(1001)
    periods = times_s * float(rate)
    whole = np.round(periods).astype(np.int64)
    if np.abs(periods - whole).max() < 0.01 and (np.diff(whole) > 0).all():
        return 1 / rate, whole
    ticks = np.round(times_s * CLOCK).astype(np.int64)
    if (np.diff(ticks) <= 0).any():
        raise DataError(f"{source.path}: expected rows at least {1 / CLOCK:.6f} s apart")
    return Fraction(1, CLOCK), ticks


def _stream(
    container: Any, source: Source, setting: EncoderSetting, base: Fraction, like: Any
) -> Any:
    rate = Fraction(source.fps).limit_denominator(1001)
    stream = container.add_stream(setting.encoder, rate=rate, options=dict(setting.options))
    stream.width, stream.height, stream.pix_fmt = source.width, source.height, source.pixel_format
    context = stream.codec_context
    context.time_base = base
    # Colours are converted by these: without them, they would be shown differently.
    context.colorspace, context.color_range = like.colorspace, like.color_range
    context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
    return stream


def worst_psnr_db(before: Iterable[Any], after: Iterable[Any]) -> float:
    """Returns the PSNR of the worst of all pictures, in the samples and as shown in RGB.

    Raises:
        DataError: the numbers of pictures differ.
    """
    worst = float("inf")
    for left, right in zip_longest(before, after):
        if left is None or right is None:
            raise DataError("expected as many pictures after encoding as before, got others")
        white = 2.0 ** bits_of(left.format) - 1
        worst = min(worst, _psnr_db(samples_of(left), samples_of(right), white))
        if white == 255.0:
            first, second = (x.to_ndarray(format="rgb24") for x in (left, right))
            worst = min(worst, _psnr_db(first, second, white))
    return worst


def _psnr_db(left: NDArray[np.generic], right: NDArray[np.generic], white: float) -> float:
    wide = np.int32 if left.dtype == np.uint8 else np.int64  # of which squares still fit
    difference = left.astype(wide) - right.astype(wide)
    error = float(np.mean(difference * difference))
    return float("inf") if error == 0 else 10 * float(np.log10(white**2 / error))
