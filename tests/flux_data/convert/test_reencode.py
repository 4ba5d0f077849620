"""Videos that contradict the rows or cannot be cut: refused by place, and encoded on request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError, MissingDependencyError
from flux_data.commands.main import main
from flux_data.convert.lerobot import convert, split
from flux_data.lerobot.dataset import open_lerobot
from flux_data.validate.rows import validate
from flux_data.video import encoders
from flux_data.video.encoders import Reencoder, source_of, worst_psnr_db
from flux_data.video.packets import packets_of
from flux_data.video.pictures import all_pictures, pictures_of

from ..coded_commands import check_rows
from ..coded_dataset import DEPTH, EPISODES_V3, TOP, Camera, CodedDataset, plain
from ..coded_pictures import Encoding, write_coded_video
from ..coded_rows import renumbered
from ..small_dataset import edit_column

Change = Callable[[Path], object]


def late(dataset: CodedDataset, frames: int) -> CodedDataset:
    """The videos' stamps begin later than the rows' times."""
    cameras = tuple(replace(c, first_stamp_s=frames / dataset.fps) for c in dataset.cameras)
    return replace(dataset, cameras=cameras)


def shifted_starts(*shifts: int) -> Change:
    """Moves the episodes' starts in the joined video by some frames."""

    def change(root: Path) -> None:
        key = f"videos/{TOP}/from_timestamp"
        edit_column(
            EPISODES_V3, key, lambda v: [x + s / 10 for x, s in zip(v, shifts, strict=True)]
        )(root)

    return change


def shifted_rows(root: Path) -> None:
    """Adds one frame to the times of the second episode."""
    name = "data/chunk-000/episode_000001.parquet"
    edit_column(name, "timestamp", lambda v: [x + 0.1 for x in v])(root)


def nothing(_: Path) -> None:
    """Leaves the dataset as it is."""


GOP = Encoding(gop=30)
B_FRAMES = Encoding(gop=30, b_frames=2)
BROKEN: dict[str, tuple[CodedDataset, Change, str]] = {
    "a late video": (
        late(plain("v2.1"), 3),
        nothing,
        r"episode_000000.mp4: episode 0, .*top: frame 0: expected a picture at 0.0000 s .*, got "
        r"the nearest at 0.3000 s, \+0.3000 s off; the video's first picture is at 0.3000 s. Use",
    ),
    "rows one frame late": (
        plain("v2.1"),
        shifted_rows,
        r"episode_000001.mp4: episode 1, .*: frame 2: expected a picture at 0.3000 s",
    ),
    "a start one frame late": (
        plain("v3.0"),
        shifted_starts(0, 1, 0),
        r"file-000.mp4: .*: expected a picture of its own for each row, got the one at 0.8000 s "
        r"for episodes 1 and 2. The from_timestamp of one of them is wrong",
    ),
    "a start one frame early": (
        plain("v3.0"),
        shifted_starts(0, 0, -1),
        r"got the one at 0.7000 s for episodes 1 and 2",
    ),
    "jitter beyond the pictures": (
        plain("v2.1", jitter=0.55),
        nothing,
        r"frame 2: expected a picture of its own, got the one at 0.2000 s, which frame 1 has too",
    ),
    "one keyframe for all": (
        plain("v3.0", cameras=(Camera(encoding=GOP),)),
        nothing,
        r"episode 1, .*: cannot be copied, because it does not begin at a keyframe \(at 0.5000 s\)",
    ),
    "reordered frames": (
        plain("v3.0", lengths=(4, 5, 3), cameras=(Camera(encoding=B_FRAMES),)),
        nothing,
        r"episode 1, .*: cannot be copied, because its pictures are stored among others, which",
    ),
}


def changed(tmp_path: Path, name: str) -> tuple[Path, CodedDataset]:
    dataset, change, _ = BROKEN[name]
    root = dataset.write(tmp_path / "in")
    change(root)
    return root, dataset


@pytest.mark.parametrize("name", BROKEN)
def test_rows_and_pictures_that_contradict_each_other_are_refused_by_place(
    tmp_path: Path, name: str
) -> None:
    root, _ = changed(tmp_path, name)
    for version in ("v2.1", "v3.0"):
        with pytest.raises(DataError, match=BROKEN[name][2]) as caught:
            convert([root], tmp_path / "out", version)
        assert "--reencode" in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


def rows_in_order(dataset: CodedDataset, root: Path) -> list[object]:
    """The rows as written, whose times a test may have changed, with their own pictures."""
    times = open_lerobot(root).columns(["timestamp"])["timestamp"].ravel().tolist()
    return [r._replace(time_s=t) for r, t in zip(dataset.rows(by_time=False), times, strict=True)]


@pytest.mark.parametrize("name", BROKEN)
def test_new_videos_hold_exactly_the_pictures_of_the_rows(tmp_path: Path, name: str) -> None:
    root, dataset = changed(tmp_path, name)
    rows = rows_in_order(dataset, root)
    for version in ("v2.1", "v3.0"):
        report = convert([root], tmp_path / version, version, reencode=True)
        assert report["reencoded"][TOP]["encoder"].startswith("libx264 (crf ")
        check_rows(rows, tmp_path / version)
        check_videos(tmp_path / version, root)
    if name in ("a late video", "one keyframe for all"):
        convert([root, root], tmp_path / "merged", "v3.0", reencode=True)
        check_rows(renumbered([rows, rows]), tmp_path / "merged")
        split(root, tmp_path / "parts", {"a": "1", "b": "2,0"}, reencode=True)
        check_rows(renumbered([[r for r in rows if r.episode == 1]]), tmp_path / "parts/a")


def check_videos(root: Path, like: Path) -> None:
    """Every episode begins at a keyframe and has one picture for each row, encoded as before."""
    ours, theirs = open_lerobot(root), open_lerobot(like)
    for position in range(ours.num_episodes):
        segment = ours.video(TOP, position)
        packets = packets_of(segment.path)
        times = segment.start_s + ours.episode(position, ["timestamp"])["timestamp"]
        first, last = (int(np.abs(packets.stamps_s - t).argmin()) for t in (times[0], times[-1]))
        assert packets.is_keyframe[packets.shown[first]]
        assert last - first + 1 == ours.lengths[position]
        # MP4 keeps the first stamp in milliseconds.
        np.testing.assert_allclose(packets.stamps_s[first : last + 1], times, atol=1e-3)
    new, old = (source_of(s.video(TOP, 0).path, 10) for s in (ours, theirs))
    for name in ("codec", "pixel_format", "width", "height"):
        assert getattr(new, name) == getattr(old, name)


def test_fewer_pictures_than_rows_cannot_be_repaired(tmp_path: Path) -> None:
    """Three frames are missing at the beginning: neither times nor numbers tell which."""
    dataset = plain("v2.1", lengths=(5, 3))
    root = dataset.write(tmp_path / "in")
    other = late(plain("v2.1", lengths=(2, 3)), 3).write(tmp_path / "other")
    video = f"videos/chunk-000/{TOP}/episode_000000.mp4"
    (root / video).write_bytes((other / video).read_bytes())
    message = r"frame 0: .*at 0.0000 s.* The file has 2 pictures and its episodes have 5 rows"
    with pytest.raises(DataError, match=message):
        convert([root], tmp_path / "out", "v3.0", reencode=True)
    assert not (tmp_path / "out").exists()


def test_the_setting_is_printed_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = changed(tmp_path, "one keyframe for all")
    command = ["convert", str(root), "--to", "v3.0", "--reencode", "--out"]
    assert main([*command, str(tmp_path / "a")]) == 0
    assert f"encoded {TOP} with libx264 (crf " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reencoded"][TOP]["min_psnr_db"] >= 40
    parts = ["split", str(root), "x=0", "y=1-2", "--reencode", "--out", str(tmp_path / "c")]
    assert main(parts) == 0
    merge = ["merge", str(tmp_path / "c/x"), str(root), "--reencode", "--out", str(tmp_path / "d")]
    assert main(merge) == 0
    assert validate(tmp_path / "d") == []


def test_an_encoder_prints_nothing_of_its_own_and_takes_no_priority(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "in.mp4"
    write_noise(out, "av1")
    capfd.readouterr()
    usual = os.sched_getscheduler(0)
    Reencoder().write("top", out, np.arange(4), np.arange(4) / 10, 10, tmp_path / "out.mp4")
    assert capfd.readouterr() == ("", "")
    assert os.sched_getscheduler(0) == usual


def test_times_of_a_wall_clock_cannot_become_stamps(tmp_path: Path) -> None:
    dataset = plain("v2.1", epoch_s=1.7e9, time_dtype="float64")
    root = dataset.write(tmp_path / "in")
    with pytest.raises(DataError, match=r"expected rows whose times begin near 0 s, got 17000000"):
        convert([root], tmp_path / "out", "v3.0", reencode=True)


def test_depth_is_encoded_without_any_loss(tmp_path: Path) -> None:
    camera = Camera(key=DEPTH, kind="depth video", encoding=GOP)
    dataset = plain("v3.0", cameras=(Camera(), camera))
    root = dataset.write(tmp_path / "in")
    with pytest.raises(DataError, match=f"{DEPTH}: cannot be copied, because it does not begin"):
        convert([root], tmp_path / "out", "v2.1")
    report = convert([root], tmp_path / "out", "v2.1", reencode=True)
    assert report["reencoded"][DEPTH] == {
        "encoder": "libx265 (lossless, gray12le)",
        "min_psnr_db": None,
    }
    check_rows(dataset.rows(), tmp_path / "out")
    assert validate(tmp_path / "out") == []


SIZE = (64, 96)
CODECS = {
    "h264": ("libx264", "yuv420p", {"g": "30"}),
    "h264 full range": ("libx264", "yuvj420p", {}),
    "h264 4:4:4": ("libx264", "yuv444p", {}),
    "hevc": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "hevc 10 bits": ("libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    "av1": ("libsvtav1", "yuv420p", {"crf": "30", "preset": "8", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"crf": "20", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", "yuv420p", {}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
}


def pictures(count: int) -> Sequence[np.ndarray]:
    """Moving gradients under noise, which is hard to encode."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[: SIZE[0], : SIZE[1]]
    smooth = [np.stack([x * 2 + 5 * i, y * 3, x + y + 9 * i], -1) % 255 for i in range(count)]
    return [(0.7 * s + 0.3 * rng.integers(0, 255, s.shape)).astype(np.uint8) for s in smooth]


def write_noise(path: Path, name: str) -> None:
    encoder, pixel_format, options = CODECS[name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(10), options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, pixel_format
        for image in pictures(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", CODECS)
def test_noise_keeps_40_db_in_every_codec(tmp_path: Path, name: str) -> None:
    write_noise(tmp_path / "in.mp4", name)
    reencoder, frames = Reencoder(), np.arange(1, 7)
    out = tmp_path / "out.mp4"
    reencoder.write("top", tmp_path / "in.mp4", frames, np.arange(6) / 10, 10, out)
    pairs = pictures_of(tmp_path / "in.mp4", frames), all_pictures(out)
    assert worst_psnr_db(*pairs) == reencoder.worst_db["top"] >= 40
    before, after = source_of(tmp_path / "in.mp4", 10), source_of(out, 10)
    assert (before.codec, before.pixel_format) == (after.codec, after.pixel_format)
    packets = packets_of(out)
    assert packets.is_keyframe[0]
    np.testing.assert_allclose(packets.stamps_s, np.arange(6) / 10, atol=1e-4)
    with av.open(str(out)) as container:
        assert container.streams.video[0].average_rate == 10


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = changed(tmp_path, "one keyframe for all")
    setting = replace(encoders.SETTINGS["h264"][0], encoder="libnowhere")
    monkeypatch.setitem(encoders.SETTINGS, "h264", (setting,))
    with pytest.raises(MissingDependencyError, match=r"encoding h264 with yuv420p needs .*libnowh"):
        convert([root], tmp_path / "out", "v3.0", reencode=True)
    monkeypatch.delitem(encoders.SETTINGS, "h264")
    with pytest.raises(DataError, match=r"expected one of the codecs hevc, av1, .*, got h264"):
        convert([root], tmp_path / "out", "v3.0", reencode=True)
    assert not (tmp_path / "out").exists()


def test_pictures_too_narrow_for_x265_are_refused(tmp_path: Path) -> None:
    write_noise(tmp_path / "in.mp4", "hevc")
    source = source_of(tmp_path / "in.mp4", 10)
    assert encoders.settings_of(source)
    with pytest.raises(DataError, match=r"a width of at least 64 to encode hevc.* got 48"):
        encoders.settings_of(replace(source, width=48))


def test_a_quality_that_no_setting_reaches_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = changed(tmp_path, "one keyframe for all")
    monkeypatch.setattr(encoders, "MIN_PSNR_DB", float("inf"))
    monkeypatch.setattr(encoders, "worst_psnr_db", lambda *_: 39.9)
    with pytest.raises(DataError, match=r"expected at least inf dB after encoding, got 39.9 dB"):
        convert([root], tmp_path / "out", "v3.0", reencode=True)
    assert not (tmp_path / "out").exists()


SITUATIONS = {
    "late rows and video": late(plain("v2.1", row_start_s=0.3), 3),
    "a late joined video": late(plain("v3.0"), 3),
    "pictures before and after": plain("v3.0", cameras=(Camera(lead=2, tail=1),)),
    "a picture too many": plain("v2.1", cameras=(Camera(tail=1),)),
    "twice as many pictures": plain("v3.0", cameras=(Camera(oversampling=2),)),
    "rows left out": plain("v2.1", dropped=((0, 1), (2, 0)), is_renumbered=False),
    "jitter": plain("v2.1", jitter=0.3),
    "reordered frames": plain("v2.1", cameras=(Camera(encoding=B_FRAMES),)),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_row_keeps_its_picture_where_times_match_stamps(tmp_path: Path, name: str) -> None:
    dataset = SITUATIONS[name]
    root, rows = dataset.write(tmp_path / "in"), dataset.rows()
    for version, other in (("v2.1", "v3.0"), ("v3.0", "v2.1")):
        convert([root], tmp_path / version, version)
        check_rows(rows, tmp_path / version)
        convert([tmp_path / version], tmp_path / "back", other)
        check_rows(rows, tmp_path / "back")
        convert([root, tmp_path / version], tmp_path / "twice", other)
        check_rows(renumbered([rows, rows]), tmp_path / "twice")
        split(tmp_path / version, tmp_path / "parts", {"a": "0,2"})
        check_rows(renumbered([[r for r in rows if r.episode != 1]]), tmp_path / "parts/a")
        for folder in ("back", "twice", "parts"):
            (tmp_path / folder).rename(tmp_path / f"{folder} {version}")


def test_uneven_times_keep_their_pictures(tmp_path: Path) -> None:
    """Rows and stamps at the same uneven times, with a gap of two seconds."""
    dataset = plain("v2.1", lengths=(5, 3))
    root, rows = dataset.write(tmp_path / "in"), dataset.rows()
    times = [0.0, 0.13, 0.31, 2.35, 2.46]
    edit_column("data/chunk-000/episode_000000.parquet", "timestamp", lambda _: times)(root)
    codes = tuple(dataset.code(0, 0, frame) for frame in range(5))
    path = root / f"videos/chunk-000/{TOP}/episode_000000.mp4"
    write_coded_video(path, codes, tuple(times), 10, Encoding())
    rows = [
        row._replace(time_s=float(np.float32(time_s)))
        for row, time_s in zip(rows, [*times, 0.0, 0.1, 0.2], strict=True)
    ]
    for number, is_new in enumerate((False, True)):
        folder = tmp_path / str(number)
        convert([root], folder / "v30", "v3.0", reencode=is_new)
        check_rows(rows, folder / "v30")
        convert([folder / "v30"], folder / "v21", "v2.1", reencode=is_new)
        check_rows(rows, folder / "v21")
        convert([root, folder / "v30"], folder / "twice", "v3.0", reencode=is_new)
        check_rows(renumbered([rows, rows]), folder / "twice")


def test_an_index_with_gaps_is_kept(tmp_path: Path) -> None:
    root = SITUATIONS["rows left out"].write(tmp_path / "in")
    convert([root], tmp_path / "out", "v3.0")
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert table["frame_index"].to_pylist() == [0, 2, 3, 4, 0, 1, 2, 1, 2, 3]
    assert table["index"].to_pylist() == list(range(10))


@pytest.mark.parametrize("gop", [1, 2])
def test_frames_that_an_edit_list_hides_stay_out(tmp_path: Path, gop: int) -> None:
    """The file stores three more frames, which players do not show."""
    dataset = plain("v2.1", cameras=(Camera(encoding=Encoding(gop=gop)),))
    root, rows = dataset.write(tmp_path / "in"), dataset.rows()
    camera = Camera(encoding=Encoding(gop=gop), lead=3)
    more = plain("v3.0", lengths=(5,), cameras=(camera,)).write(tmp_path / "more")
    path = root / f"videos/chunk-000/{TOP}/episode_000000.mp4"
    hide_first(more / f"videos/{TOP}/chunk-000/file-000.mp4", path, 3)
    # FFmpeg leaves out hidden frames that no other frame needs.
    assert packets_of(path).is_shown.tolist() == [False] * (gop - 1) + [True] * 5
    convert([root], tmp_path / "v21", "v2.1")
    check_rows(rows, tmp_path / "v21")
    if gop == 1:
        convert([root], tmp_path / "v30", "v3.0")
        check_rows(rows, tmp_path / "v30")
    else:
        with pytest.raises(DataError, match="episode 0, .*: cannot be copied, because it does not"):
            convert([root], tmp_path / "v30", "v3.0")
    convert([root], tmp_path / "new", "v3.0", reencode=True)
    check_rows(rows, tmp_path / "new")


def hide_first(source_path: Path, path: Path, count: int) -> None:
    with av.open(str(source_path)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = count * packet.duration
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift,
                    packet.dts - shift,
                    video,
                )
                target.mux(packet)


def test_lost_sound_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = plain("v2.1").write(tmp_path / "in")
    paths = sorted((root / f"videos/chunk-000/{TOP}").iterdir())
    for path in paths:
        add_sound(path)
    convert([root], tmp_path / "v21", "v2.1")
    assert caplog.messages == []
    assert packets_of(tmp_path / "v21" / paths[1].relative_to(root)).num_sound_tracks == 1
    convert([root], tmp_path / "v30", "v3.0")
    assert caplog.messages == [f"{paths[0]}: the sound of {TOP} is not copied"]


def add_sound(path: Path) -> None:
    with av.open(str(path)) as source, av.open(str(path.with_suffix(".new.mp4")), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=16_000, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                target.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        target.mux(sound.encode(frame))
        target.mux(sound.encode())
    path.with_suffix(".new.mp4").replace(path)


def test_language_keeps_its_type_in_files_without_any(tmp_path: Path) -> None:
    """A file whose lists are all empty does not know what they would hold."""
    from ..coded_dataset import Column

    column = Column(key="language_events", dtype="language", stored="language", kind="events")
    dataset = plain("v2.1", columns=(column,), info=(("tools", [{"type": "function"}]),))
    root = dataset.write(tmp_path / "in")
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    empty = pa.array([[]] * len(table), pa.list_(pa.null()))
    at = table.column_names.index(column.key)
    pq.write_table(table.set_column(at, column.key, empty), path)
    said = [pq.read_table(p)[column.key].to_pylist() for p in sorted(path.parent.iterdir())]
    convert([root], tmp_path / "v30", "v3.0")
    joined = pq.read_table(tmp_path / "v30/data/chunk-000/file-000.parquet")
    assert joined[column.key].to_pylist() == [row for rows in said for row in rows]
    assert validate(tmp_path / "v30") == []
    convert([tmp_path / "v30"], tmp_path / "v21", "v2.1")
    again = pq.read_table(tmp_path / "v21/data/chunk-000/episode_000001.parquet")
    assert again[column.key].to_pylist() == said[1]
    for name in ("v30", "v21"):
        info = json.loads((tmp_path / name / "meta/info.json").read_text())
        assert info["features"][column.key]["dtype"] == "language"
        assert info["tools"] == [{"type": "function"}]
