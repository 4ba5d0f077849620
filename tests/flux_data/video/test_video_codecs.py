"""VideoReader over codecs and containers: every frame carries its number."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flux_core.errors import DataError
from flux_data.video import reader as video_reader
from flux_data.video.reader import VideoReader, video_facts

SIDE, BLOCK = 64, 16
NTSC = Fraction(30_000, 1001)
BT601, BT709 = 5, 1


@dataclass(frozen=True, kw_only=True)
class Video:
    """How to make a test video; `times_s` replaces the steady `fps` of an uneven one."""

    suffix: str
    codec: str
    fps: Fraction = Fraction(30)
    num_frames: int = 72
    options: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, str] = field(default_factory=dict)
    pixels: str = "yuv420p"
    height: int = SIDE
    width: int = SIDE
    start_s: Fraction = Fraction(0)
    time_base: Fraction | None = None
    times_s: Sequence[Fraction] = ()


def x264(gop: int, *more: str) -> dict[str, str]:
    parameters = ":".join(("b-adapt=0", "scenecut=0", *more))
    return {"g": str(gop), "bf": "3", "preset": "veryfast", "x264-params": parameters}


def x265(gop: int, open_gop: int) -> dict[str, str]:
    settings = f"keyint={gop}:open-gop={open_gop}:bframes=4:scenecut=0:pools=1:frame-threads=1"
    return {"preset": "superfast", "x265-params": f"log-level=none:{settings}"}


SVT = {"preset": "8", "crf": "8", "svtav1-params": "lp=1"}
AOM = {"g": "48", "cpu-used": "8", "crf": "8", "lag-in-frames": "19", "threads": "1"}
VP9 = {"g": "48", "cpu-used": "8", "crf": "8", "lag-in-frames": "16", "auto-alt-ref": "1"}

VIDEOS = {
    "h264 closed": Video(suffix=".mp4", codec="libx264", options=x264(12)),
    "h264 open": Video(suffix=".mp4", codec="libx264", options=x264(12, "open-gop=1")),
    "h264 open mkv": Video(suffix=".mkv", codec="libx264", options=x264(12, "open-gop=1")),
    "h264 long": Video(suffix=".mp4", codec="libx264", options=x264(250), num_frames=256),
    "h264 without an edit list": Video(
        suffix=".mp4", codec="libx264", options=x264(12), container={"use_editlist": "0"}
    ),
    "h264 late": Video(
        suffix=".mp4",
        codec="libx264",
        options=x264(12),
        start_s=Fraction(7, 3),
        time_base=Fraction(1, 90_000),
    ),
    "h264 late mkv": Video(
        suffix=".mkv", codec="libx264", options=x264(12), fps=NTSC, start_s=Fraction(7, 3)
    ),
    "h264 transport stream": Video(suffix=".ts", codec="libx264", options=x264(12)),
    "h264 ntsc": Video(suffix=".mp4", codec="libx264", options=x264(30), fps=NTSC),
    "h264 odd size": Video(
        suffix=".mp4", codec="libx264", options=x264(12), pixels="yuv444p", height=67, width=65
    ),
    "hevc open": Video(suffix=".mp4", codec="libx265", options=x265(12, 1)),
    "hevc closed mkv": Video(suffix=".mkv", codec="libx265", options=x265(12, 0), fps=Fraction(50)),
    "hevc long": Video(suffix=".mp4", codec="libx265", options=x265(250, 1)),
    "av1 svt": Video(suffix=".mp4", codec="libsvtav1", options={**SVT, "g": "30"}),
    "av1 svt long mkv": Video(
        suffix=".mkv", codec="libsvtav1", options={**SVT, "g": "250"}, fps=Fraction(50)
    ),
    "av1 aom": Video(suffix=".mp4", codec="libaom-av1", options=AOM, fps=Fraction(15)),
    "vp9": Video(suffix=".mp4", codec="libvpx-vp9", options=VP9, fps=Fraction(15)),
    "vp9 odd size webm": Video(
        suffix=".webm", codec="libvpx-vp9", options=VP9, height=65, width=67
    ),
}


def picture(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Draws sixteen blocks: the number's eight bits, and their complement."""
    grey = np.full((height, width), 128, np.uint8)
    grey[:SIDE, :SIDE] = np.kron(bits_of(number).reshape(4, 4) * 219 + 16, np.ones((BLOCK, BLOCK)))
    return np.repeat(grey[:, :, None], 3, axis=2)


def bits_of(number: int) -> np.ndarray:
    bits = (number >> np.arange(8)) & 1
    return np.concatenate([bits, 1 - bits])


def number_in(image: np.ndarray) -> int:
    blocks = image[:SIDE, :SIDE, 1].reshape(4, BLOCK, 4, BLOCK)[:, 4:12, :, 4:12].mean(axis=(1, 3))
    bits = blocks.ravel() > 127
    assert np.array_equal(bits[:8], ~bits[8:]), "the picture's number cannot be read"
    return int(np.dot(bits[:8], 1 << np.arange(8)))


def write_video(path: Path, video: Video) -> Path:
    try:
        av.codec.Codec(video.codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV has no encoder {video.codec}")
    times = video.times_s or [video.start_s + i / video.fps for i in range(video.num_frames)]
    with av.open(str(path), "w", options=dict(video.container)) as container:
        stream = container.add_stream(video.codec, rate=video.fps, options=dict(video.options))
        stream.height, stream.width, stream.pix_fmt = video.height, video.width, video.pixels
        base = video.time_base or 1 / video.fps
        stream.codec_context.time_base = base
        for number, time_s in enumerate(times):
            image = picture(number % 256, video.height, video.width)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time_s / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Decodes a whole video: its stamps, and its pictures."""
    with av.open(str(path)) as container:
        frames = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]
    return [time_s for time_s, _ in frames], [image for _, image in frames]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a video of the table; later calls reuse it."""
    folder = tmp_path_factory.mktemp("videos")

    def write(name: str) -> Path:
        path = folder / f"{name.replace(' ', '_')}{VIDEOS[name].suffix}"
        return path if path.is_file() else write_video(path, VIDEOS[name])

    return write


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_the_one_asked_for(name: str, make: Callable[[str], Path]) -> None:
    path, video = make(name), VIDEOS[name]
    times, images = decode_all(path)
    # The inputs first: the file itself holds every frame, in order.
    assert [number_in(image) for image in images] == list(range(video.num_frames))
    np.testing.assert_array_equal(video_facts(path).times_s.round(6), np.round(times, 6))
    rng, last = np.random.default_rng(0), video.num_frames - 1
    forward = list(range(video.num_frames))
    shuffled = rng.permutation(video.num_frames)[:72].tolist()
    steps = [min(i + step, last) for i in shuffled[:12] for step in (0, 1, 3, 2, 0)]
    backward = forward[:-40:-1]
    reader, tolerance_s = VideoReader(), float(0.5 / video.fps)
    for number in (*forward, *shuffled, *steps, *backward):
        time_s = times[0] + float(np.float32(number / video.fps))  # as LeRobot stores it
        image = reader.frame(path, time_s, tolerance_s)
        assert number_in(image) == number
        np.testing.assert_array_equal(image, images[number])


@pytest.mark.parametrize("fps", [Fraction(30), NTSC, Fraction(50)], ids=str)
def test_float32_times_still_hit_at_frame_100_000(
    fps: Fraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file with a gap of an hour; a float32 there is off by up to 0.1 ms, nine ticks."""
    numbers = [*range(10), *range(99_990, 100_030)]
    video = Video(
        suffix=".mp4",
        codec="libx264",
        options={**x264(12), "bf": "0"},
        fps=fps,
        time_base=Fraction(1, 90_000),
        times_s=[number / fps for number in numbers],
    )
    path = write_video(tmp_path / "hour.mp4", video)
    seeks: list[float] = []
    go_to = video_reader._Decoder._go_to
    monkeypatch.setattr(video_reader._Decoder, "_go_to", lambda *a: seeks.append(a[1]) or go_to(*a))
    reader = VideoReader()
    for order in (np.arange(50), np.random.default_rng(0).permutation(50)):
        for row in order:
            time_s = float(np.float32(numbers[row] / fps))
            assert number_in(reader.frame(path, time_s, float(0.5 / fps))) == row
        if order[1] == 1:
            assert len(seeks) == 2  # in order: to the start, and over the gap


def test_the_nearest_of_uneven_frames_is_returned(tmp_path: Path) -> None:
    times = [Fraction(i, 10) + Fraction(i % 3, 200) for i in range(40)]
    times += [times[-1] + Fraction(i, 30) for i in range(1, 20)]
    video = Video(
        suffix=".mp4",
        codec="libx264",
        options=x264(12),
        time_base=Fraction(1, 90_000),
        times_s=times,
    )
    path = write_video(tmp_path / "uneven.mp4", video)
    reader = VideoReader()
    for row in np.random.default_rng(0).permutation(len(times)):
        assert number_in(reader.frame(path, float(times[row]), 0.05)) == row


@pytest.mark.parametrize(
    ("time_s", "nearest_s"), [(0.117, 0.1333), (2.4, 2.3667), (1e9, 2.3667), (-0.02, 0.0)]
)
def test_a_time_without_a_frame_names_file_time_and_nearest(
    time_s: float, nearest_s: float, make: Callable[[str], Path]
) -> None:
    path = make("h264 closed")
    with pytest.raises(DataError) as error:
        VideoReader().frame(path, time_s, 0.01)
    assert str(error.value) == (
        f"{path}: no frame within 0.0100 s of {time_s:.4f} s (the nearest is at {nearest_s:.4f} s)"
    )


@pytest.mark.parametrize("time_s", [np.nan, np.inf, -np.inf, 1e30])
def test_an_invalid_time_is_refused(time_s: float, make: Callable[[str], Path]) -> None:
    path = make("h264 closed")
    with pytest.raises(DataError, match=rf"{path}: expected a time within the video, got .* s"):
        VideoReader().frame(path, time_s, 0.01)


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 48_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


NO_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "the video file is missing"),
    "folder": (Path.mkdir, "the video file is missing"),
    "empty": (Path.touch, "cannot be opened as a video"),
    "text": (lambda path: path.write_text("version https://git-lfs\n" * 9), "cannot be opened"),
    "only sound": (write_sound, "has no video stream"),
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_a_file_that_is_no_video_is_named(name: str, tmp_path: Path) -> None:
    write, message = NO_VIDEOS[name]
    path = tmp_path / "episode_000000.mp4"
    write(path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError, match=f"{path}: {message}"):
        VideoReader().frame(path, 0.0, 0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_cut_video_whose_index_is_lost_cannot_be_opened(
    tmp_path: Path, make: Callable[[str], Path]
) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(make("h264 closed").read_bytes()[:-2000])
    with pytest.raises(DataError, match=f"{path}: cannot be opened as a video"):
        VideoReader().frame(path, 0.0, 0.01)


@pytest.mark.parametrize("codec", ["h264 closed", "h264 open mkv", "hevc open", "av1 svt", "vp9"])
def test_frames_before_a_cut_are_right_and_those_after_it_an_error(
    codec: str, tmp_path: Path, make: Callable[[str], Path]
) -> None:
    make(codec)
    video = VIDEOS[codec]
    # The index is at the front, as in an aborted download.
    front = Video(**{**vars(video), "container": {"movflags": "faststart"}})
    whole = write_video(tmp_path / f"whole{video.suffix}", front)
    path = tmp_path / f"cut{video.suffix}"
    content = whole.read_bytes()
    begin = max(content.find(b"mdat"), 0)
    path.write_bytes(content[: begin + int(0.6 * (len(content) - begin))])
    check_right_or_refused(path, whole, video, least=(20, 5))


def check_right_or_refused(path: Path, whole: Path, video: Video, least: tuple[int, int]) -> None:
    """Whatever the order of requests, no frame is wrong, and the counts are as expected."""
    images = decode_all(whole)[1]
    reader, right, refused = VideoReader(), set[int](), set[int]()
    orders = range(len(images)), np.random.default_rng(0).permutation(len(images)).tolist()
    for order in orders:
        for number in order:
            try:
                image = reader.frame(path, float(number / video.fps), float(0.5 / video.fps))
            except DataError as error:
                assert str(error).startswith(f"{path}: ")
                refused.add(number)
            else:
                np.testing.assert_array_equal(image, images[number])
                right.add(number)
    assert not right & refused
    assert len(right) >= least[0] and len(refused) >= least[1]


@pytest.mark.parametrize("codec", ["h264 closed", "h264 long", "hevc open", "av1 svt"])
def test_pictures_made_of_data_that_the_decoder_finds_damaged_are_refused(
    codec: str, tmp_path: Path, make: Callable[[str], Path]
) -> None:
    whole, video = make(codec), VIDEOS[codec]
    content = bytearray(whole.read_bytes())
    at = content.index(b"mdat")
    middle = at + int.from_bytes(content[at - 4 : at], "big") // 2
    content[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    check_right_or_refused(path, whole, video, least=(20, 1))


def test_open_files_are_bounded_without_the_garbage_collector(
    tmp_path: Path, make: Callable[[str], Path]
) -> None:
    content = make("h264 closed").read_bytes()
    paths = [tmp_path / f"{i}.mp4" for i in range(12)]
    for path in paths:
        path.write_bytes(content)
    reader = VideoReader(max_open=3)
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for path in paths * 3:
            reader.frame(path, 1.0, 0.01)
            assert len(os.listdir("/proc/self/fd")) <= before + 4
        del reader
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


def test_threads_share_a_reader_that_closes_files_in_use(
    tmp_path: Path, make: Callable[[str], Path]
) -> None:
    content = make("h264 open").read_bytes()
    paths = [tmp_path / f"{i}.mp4" for i in range(4)]
    for path in paths:
        path.write_bytes(content)
    reader, failures = VideoReader(max_open=1), list[object]()

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                number = int(rng.integers(72))
                image = reader.frame(paths[rng.integers(4)], number / 30, 0.01)
                if number_in(image) != number:
                    failures.append((number, number_in(image)))
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


COLOURS = np.array([(220, 40, 30), (30, 200, 60), (40, 60, 210), (200, 200, 200)])


def yuv_of(colours: np.ndarray, matrix: int, is_full: bool) -> np.ndarray:
    """ITU-R BT.601 and BT.709, in 8 bits."""
    red, blue = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722)}[matrix]
    r, g, b = (colours / 255).T
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    low, luma, chroma = (0, 255, 255) if is_full else (16, 219, 224)
    return np.stack([low + luma * y, 128 + chroma * cb, 128 + chroma * cr], axis=1).round()


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("is_full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [BT601, BT709], ids=["bt601", "bt709"])
def test_colours_are_converted_with_the_matrix_and_range_of_the_file(
    matrix: int, is_full: bool, codec: str, tmp_path: Path
) -> None:
    path = tmp_path / "colours.mp4"
    options = {"qp": "1"} if codec == "libx264" else {"crf": "1", "svtav1-params": "lp=1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuvj420p" if is_full and codec == "libx264" else "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if is_full else 1
        for levels in yuv_of(COLOURS, matrix, is_full).astype(np.uint8):
            frame = av.VideoFrame(SIDE, SIDE, stream.pix_fmt)
            frame.colorspace, frame.color_range = matrix, 2 if is_full else 1
            for plane, level in zip(frame.planes, levels, strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    reader = VideoReader()
    for number, colour in enumerate(COLOURS):
        image = reader.frame(path, number / 30, 0.01)
        # The levels are rounded to 8 bits; blue weighs 2.1 in BT.601: off by 2 at most.
        assert np.abs(image[SIDE // 2, SIDE // 2] - colour).max() <= 2
