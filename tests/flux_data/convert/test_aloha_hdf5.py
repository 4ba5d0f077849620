"""ALOHA's HDF5 files as LeRobot datasets: widths, arm orders, pictures, extras, bad files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_core.errors import DataError
from flux_data.commands.main import main
from flux_data.convert.aloha_hdf5 import AlohaHdf5, convert_aloha_hdf5, hdf5_files
from flux_data.convert.lerobot import convert
from flux_data.lerobot.dataset import open_lerobot
from flux_data.validate.rows import validate
from flux_data.video.reader import VideoReader

h5py = pytest.importorskip("h5py")

HEIGHT, WIDTH, LENGTH = 48, 64, 6
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
Edit = Callable[[dict[str, Any]], None]


def picture(episode: int, frame: int, camera: int) -> np.ndarray:
    """Returns a flat colour: red encodes the frame, green the camera, blue the episode."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = (40 + 30 * frame, 40 + 60 * camera, 60 + 100 * episode)
    return image


def jpeg(image: np.ndarray) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=98, subsampling=0)
    return np.frombuffer(data.getvalue(), np.uint8)


def content(episode: int, width: int = 14) -> dict[str, Any]:
    rng = np.random.default_rng(episode)
    pictures = {
        f"observations/images/{name}": np.stack([picture(episode, t, i) for t in range(LENGTH)])
        for i, name in enumerate(CAMERAS)
    }
    return {
        "observations/qpos": rng.normal(size=(LENGTH, width)).astype(np.float32),
        "observations/qvel": rng.normal(size=(LENGTH, width)).astype(np.float32),
        "observations/eepose": rng.normal(size=(LENGTH, 14)),
        "action": rng.normal(size=(LENGTH, width)),
        **pictures,
    }


def compressed(parts: dict[str, Any]) -> None:
    """Stores JPEGs as ALOHA does: padded to the longest, with their lengths beside them."""
    for key in [k for k in parts if "/images/" in k]:
        files = [jpeg(image) for image in parts[key]]
        padded = np.zeros((LENGTH, max(map(len, files))), np.uint8)
        for row, data in zip(padded, files, strict=True):
            row[: len(data)] = data
        parts[key] = padded
    parts["compress_len"] = np.zeros((3, LENGTH))


def ragged(parts: dict[str, Any]) -> None:
    """Stores JPEGs without padding."""
    for key in [k for k in parts if "/images/" in k]:
        parts[key] = [jpeg(image) for image in parts[key]]


def fixed_length(parts: dict[str, Any]) -> None:
    """Stores JPEGs in the form of np.array([jpeg, ...])."""
    for key in [k for k in parts if "/images/" in k]:
        parts[key] = np.array([jpeg(image).tobytes() for image in parts[key]])


def write_files(
    folder: Path, edit: Edit = lambda _: None, *, width: int = 14, episodes: int = 2
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for episode in range(episodes):
        parts = content(episode, width)
        edit(parts)
        with h5py.File(folder / f"episode_{episode}.hdf5", "w") as file:
            file.attrs["sim"] = False
            for key, values in parts.items():
                if isinstance(values, list):
                    kind = h5py.vlen_dtype(np.uint8)
                    rows = file.create_dataset(key, (len(values),), dtype=kind)
                    for row, value in enumerate(values):
                        rows[row] = value
                else:
                    file[key] = values
    return folder


def settings(**changes: Any) -> AlohaHdf5:
    defaults = {"task": "fold the towel", "order": "left-right", "fps": 30.0}
    return AlohaHdf5(**{**defaults, **changes})


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(
    "edit",
    [lambda _: None, compressed, ragged, fixed_length],
    ids=["raw", "jpeg", "vlen", "fixed"],
)
def test_rows_and_pictures_are_converted(tmp_path: Path, edit: Edit, version: str) -> None:
    folder = write_files(tmp_path / "in", edit)
    report = convert_aloha_hdf5(folder, tmp_path / "set", settings(), version=version)
    assert report == {"out": str(tmp_path / "set"), "num_episodes": 2, "num_frames": 2 * LENGTH}
    source, reader = open_lerobot(tmp_path / "set"), VideoReader()
    assert source.info["codebase_version"] == version and source.fps == 30
    assert source.info["robot_type"] == "aloha" and source.tasks == {0: "fold the towel"}
    assert source.info["features"]["action"]["names"][0] == "left_waist"
    for episode in range(2):
        expected = content(episode)
        columns = source.episode(episode, ["observation.state", "action"])
        np.testing.assert_array_equal(columns["observation.state"], expected["observations/qpos"])
        np.testing.assert_array_equal(columns["action"], expected["action"].astype(np.float32))
        for camera, name in enumerate(CAMERAS):
            segment = source.video(f"observation.images.{name}", episode)
            for frame in range(LENGTH):
                time_s = segment.start_s + frame / 30
                found = reader.frame(segment.path, time_s, 0.01).reshape(-1, 3).mean(axis=0)
                wanted = picture(episode, frame, camera)[0, 0]
                assert np.abs(found - wanted).max() < 6, (name, frame)
    assert validate(tmp_path / "set") == []


def test_two_fingers_become_one_gripper(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in", width=16)
    convert_aloha_hdf5(folder, tmp_path / "set", settings())
    columns = open_lerobot(tmp_path / "set").episode(0, ["observation.state", "action"])
    expected = content(0, 16)
    for key, given in (("observation.state", "observations/qpos"), ("action", "action")):
        raw = expected[given].astype(np.float64)
        np.testing.assert_allclose(columns[key][:, :6], raw[:, :6], rtol=1e-6)
        np.testing.assert_allclose(columns[key][:, 7:13], raw[:, 8:14], rtol=1e-6)
        left, right = (raw[:, i] - raw[:, i + 1] for i in (6, 14))
        np.testing.assert_allclose(columns[key][:, 6], left * 0.1 / 0.07, rtol=1e-5)
        np.testing.assert_allclose(columns[key][:, 13], right * 0.1 / 0.07, rtol=1e-5)


def test_the_left_arm_comes_first_whatever_the_file_has(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in")
    convert_aloha_hdf5(folder, tmp_path / "set", settings(order="right-left", extras=("eepose",)))
    keys = ["observation.state", "action", "observation.eepose"]
    columns = open_lerobot(tmp_path / "set").episode(1, keys)
    given = content(1)
    for key, name in zip(keys, ("observations/qpos", "action", "observations/eepose"), strict=True):
        swapped = np.roll(given[name], 7, axis=1).astype(np.float32)
        np.testing.assert_array_equal(columns[key], swapped)


def test_bgr_pictures_become_rgb(tmp_path: Path) -> None:
    def swap(parts: dict[str, Any]) -> None:
        for key in [k for k in parts if "/images/" in k]:
            parts[key] = parts[key][..., ::-1]

    convert_aloha_hdf5(write_files(tmp_path / "in", swap), tmp_path / "set", settings(bgr=True))
    source = open_lerobot(tmp_path / "set")
    path = source.video("observation.images.cam_high", 1).path
    found = VideoReader().frame(path, 0.0, 0.01).reshape(-1, 3).mean(axis=0)
    assert np.abs(found - picture(1, 0, 0)[0, 0]).max() < 6


@pytest.mark.parametrize("folder", ["images_depth", "depths"])
def test_all_16_bits_of_depth_are_kept(tmp_path: Path, folder: str) -> None:
    depth = np.random.default_rng(0).integers(0, 65536, (LENGTH, HEIGHT, WIDTH), dtype=np.uint16)

    def add(parts: dict[str, Any]) -> None:
        parts[f"observations/{folder}/cam_high"] = depth

    source = write_files(tmp_path / "in", add)
    extras = ("qvel", "eepose", "depth")
    convert_aloha_hdf5(source, tmp_path / "set", settings(extras=extras), workers=2)
    table = pq.read_table(tmp_path / "set/data/chunk-000/episode_000001.parquet")
    rows = table.column("observation.images.cam_high_depth").to_pylist()
    for frame, row in enumerate(rows):
        with Image.open(io.BytesIO(row["bytes"])) as image:
            np.testing.assert_array_equal(np.asarray(image), depth[frame])
    info = open_lerobot(tmp_path / "set").info["features"]
    assert info["observation.images.cam_high_depth"]["shape"] == [HEIGHT, WIDTH, 1]
    assert info["observation.velocity"]["names"][7] == "right_waist"
    # It does not count as a camera, and it is copied when the dataset is converted.
    assert "observation.images.cam_high_depth" not in open_lerobot(tmp_path / "set").image_keys
    assert validate(tmp_path / "set") == []
    convert([tmp_path / "set"], tmp_path / "v30", "v3.0")
    again = pq.read_table(tmp_path / "v30/data/chunk-000/file-000.parquet")
    assert again.column("observation.images.cam_high_depth").to_pylist()[LENGTH:] == rows
    stats = json.loads((tmp_path / "v30" / "meta" / "stats.json").read_text())
    assert stats["observation.images.cam_high_depth"]["count"] == [2 * LENGTH]


def test_files_are_sorted_by_number(tmp_path: Path) -> None:
    for name in ("episode_10.hdf5", "episode_9.hdf5", "episode_100.hdf5", "note.txt"):
        (tmp_path / name).touch()
    names = [path.name for path in hdf5_files(tmp_path)]
    assert names == ["episode_9.hdf5", "episode_10.hdf5", "episode_100.hdf5"]


def drop(key: str) -> Edit:
    def edit(parts: dict[str, Any]) -> None:
        del parts[key]

    return edit


def put(key: str, change: Callable[[Any], Any]) -> Edit:
    def edit(parts: dict[str, Any]) -> None:
        parts[key] = change(parts[key])

    return edit


def with_nan(values: np.ndarray) -> np.ndarray:
    values[3, 5] = np.nan
    return values


def nested(key: str) -> Edit:
    """Moves the array one level too deep."""

    def edit(parts: dict[str, Any]) -> None:
        parts[f"{key}/color"] = parts.pop(key)

    return edit


def replace(parts: dict[str, Any], key: str, values: Any) -> None:
    """Puts an array where a group was."""
    for inner in [k for k in parts if k.startswith(key)]:
        del parts[inner]
    parts[key] = values


HIGH = "observations/images/cam_high"
FAULTS: dict[str, tuple[Edit, str]] = {
    "no state": (
        drop("observations/qpos"),
        r"expected /observations/qpos, got .* in /observations",
    ),
    "no action": (drop("action"), r"expected /action, got"),
    "13 joints": (put("action", lambda a: a[:, :13]), r"action: expected \(T, 14\) or \(T, 16\)"),
    "12 joints": (put("action", lambda a: a[:, :12]), r"expected 14 or 16 dimensions, got 12"),
    "more joints in the action": (
        put("action", lambda a: np.concatenate([a, a[:, :2]], axis=1)),
        r"/action is 16 wide and /observations/qpos 14: expected the same joints",
    ),
    "more joints in the state": (
        put("observations/qpos", lambda a: np.concatenate([a, a[:, :2]], axis=1)),
        r"/action is 14 wide and /observations/qpos 16: expected the same joints",
    ),
    "fingers or a base": (
        lambda parts: parts.update(
            {
                "action": np.zeros((LENGTH, 16)),
                "observations/qpos": np.zeros((LENGTH, 16)),
                "base_action": np.zeros((LENGTH, 2)),
            }
        ),
        r"/action is 16 wide and /base_action 2: the last 2 may be",
    ),
    "too large for float32": (put("action", lambda a: a * 1e300), "which would become"),
    "nan": (put("action", with_nan), r"action: frame 3: expected finite values"),
    "fewer actions": (put("action", lambda a: a[:4]), r"action: expected 6 frames \(qpos\), got 4"),
    "fewer pictures": (put(HIGH, lambda p: p[:5]), r"cam_high: expected 6 frames \(qpos\), got 5"),
    "float pictures": (put(HIGH, lambda p: p / 255), r"expected \(height, width, 3\) uint8 or a"),
    "broken jpeg": (put(HIGH, lambda p: p[:, 0, :, 0]), r"the image cannot be decoded"),
    "no frames": (put("observations/qpos", lambda q: q[:0]), r"qpos: expected frames, got none"),
    "text": (put("action", lambda a: a.astype("S4")), r"cannot be read \("),
    "a group of joints": (nested("action"), r"/action: expected an array, got a group of color"),
    "a group of pictures": (nested(HIGH), r"cam_high: expected an array, got a group of color"),
    "pictures without names": (
        lambda parts: replace(parts, "observations/images", np.zeros((LENGTH, 2, 48, 64, 3))),
        r"/observations/images: expected a group with an array for each camera, got an array",
    ),
    "odd size": (put(HIGH, lambda p: p[:, :47]), r"expected even height and width, got 47x64"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    edit, message = FAULTS[name]
    folder = write_files(tmp_path / "in", edit)
    with pytest.raises(DataError, match=message) as caught:
        convert_aloha_hdf5(folder, tmp_path / "set", settings())
    assert "episode_0.hdf5" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def mobile(parts: dict[str, Any]) -> None:
    parts["base_action"] = np.arange(2 * LENGTH).reshape(LENGTH, 2) / 8
    parts["compress_len"] = np.zeros((3, LENGTH))
    parts["observations/base_vel/wheels"] = np.zeros((LENGTH, 4))


@pytest.mark.parametrize("order", ["left-right", "right-left"])
def test_the_velocities_of_a_mobile_base_are_appended_to_the_action(
    tmp_path: Path, order: str
) -> None:
    folder = write_files(tmp_path / "in", mobile)
    chosen = settings(extras=("base",), order=order)
    convert_aloha_hdf5(folder, tmp_path / "set", chosen, version="v3.0")
    source = open_lerobot(tmp_path / "set")
    feature = source.info["features"]["action"]
    assert feature["shape"] == [16]
    assert feature["names"][-3:] == [
        "right_gripper",
        "base_linear_velocity",
        "base_angular_velocity",
    ]
    actions = source.episode(1, ["action"])["action"]
    np.testing.assert_array_equal(actions[:, 14:], np.arange(12).reshape(6, 2) / 8)
    arms = content(1)["action"].astype(np.float32)
    arms = arms if order == "left-right" else np.roll(arms, 7, axis=1)
    np.testing.assert_array_equal(actions[:, :14], arms)
    assert validate(tmp_path / "set") == []


def test_what_is_not_converted_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_files(tmp_path / "in", mobile)
    convert_aloha_hdf5(folder, tmp_path / "a", settings(extras=("qvel",)))
    assert caplog.messages == [
        f"{folder}: not converted: /base_action, /observations/base_vel/wheels, "
        "/observations/eepose. Add --also eepose base for some"
    ]
    caplog.clear()
    plain = write_files(tmp_path / "plain", drop("observations/eepose"))
    convert_aloha_hdf5(plain, tmp_path / "b", settings(extras=("qvel",)))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("key", "width", "message"),
    [
        ("base_action", 3, r"base_action: expected \(T, 2\), got \(6, 3\)"),
        ("observations/qvel", 16, r"/observations/qvel is 16 wide and /observations/qpos 14"),
    ],
)
def test_widths_that_contradict_each_other_are_refused(
    tmp_path: Path, key: str, width: int, message: str
) -> None:
    folder = write_files(
        tmp_path / "in", lambda parts: parts.update({key: np.zeros((LENGTH, width))})
    )
    with pytest.raises(DataError, match=message):
        convert_aloha_hdf5(folder, tmp_path / "set", settings(extras=("qvel", "base")))
    assert not (tmp_path / "set").exists()


def test_a_later_file_with_other_widths_is_refused(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in")
    write_files(tmp_path / "wide", width=16)
    (tmp_path / "wide/episode_1.hdf5").rename(folder / "episode_1.hdf5")
    message = (
        r"episode_1.hdf5: /observations/qpos: expected 14 dimensions, as in the first file, got 16"
    )
    with pytest.raises(DataError, match=message):
        convert_aloha_hdf5(folder, tmp_path / "set", settings())


def test_a_later_file_that_differs_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in")
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file["observations/images/cam_high"]
    with pytest.raises(DataError, match=r"episode_1.hdf5: expected the cameras"):
        convert_aloha_hdf5(folder, tmp_path / "set", settings())
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        file["observations/images/cam_high"] = np.zeros((LENGTH, 24, 32, 3), np.uint8)
    with pytest.raises(DataError, match=r"episode_1.hdf5: .*expected \(48, 64, 3\) uint8"):
        convert_aloha_hdf5(folder, tmp_path / "set", settings(), workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


DEPTH = "observations/images_depth/cam_high"


@pytest.mark.parametrize(
    ("value", "message"), [(70000, "got 70000 to 70000"), (-1, "got -1 to -1")]
)
def test_depth_beyond_16_bits_is_refused(tmp_path: Path, value: int, message: str) -> None:
    folder = write_files(
        tmp_path / "in",
        lambda parts: parts.update({DEPTH: np.full((LENGTH, HEIGHT, WIDTH), value, np.int32)}),
    )
    with pytest.raises(DataError, match=f"episode_0.hdf5: .*expected 0 to 65535, {message}"):
        convert_aloha_hdf5(folder, tmp_path / "set", settings(extras=("depth",)))


@pytest.mark.parametrize(
    ("camera", "size", "message"),
    [
        ("cam_low", (HEIGHT, WIDTH), r"expected the cameras .*cam_high_depth.*, got .*cam_low"),
        (
            "cam_high",
            (24, 32),
            r"frame 0: expected \(48, 64\), as in the first file, got \(24, 32\)",
        ),
    ],
)
def test_later_depth_that_differs_is_named(
    tmp_path: Path, camera: str, size: tuple[int, int], message: str
) -> None:
    depth = np.zeros((LENGTH, HEIGHT, WIDTH), np.uint16)
    folder = write_files(tmp_path / "in", lambda parts: parts.update({DEPTH: depth}))
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file[DEPTH]
        file[f"observations/images_depth/{camera}"] = np.zeros((LENGTH, *size), np.uint16)
    with pytest.raises(DataError, match=f"episode_1.hdf5: .*{message}"):
        convert_aloha_hdf5(folder, tmp_path / "set", settings(extras=("depth",)))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_depth_may_be_pngs_in_strings(tmp_path: Path) -> None:
    def png(frame: int) -> bytes:
        data = io.BytesIO()
        Image.fromarray(np.full((HEIGHT, WIDTH), 1000 + frame, np.uint16)).save(data, "PNG")
        return data.getvalue()

    pngs = np.array([png(frame) for frame in range(LENGTH)])
    folder = write_files(tmp_path / "in", lambda parts: parts.update({DEPTH: pngs}))
    convert_aloha_hdf5(folder, tmp_path / "set", settings(extras=("depth",)))
    table = pq.read_table(tmp_path / "set/data/chunk-000/episode_000000.parquet")
    row = table.column("observation.images.cam_high_depth").to_pylist()[4]
    with Image.open(io.BytesIO(row["bytes"])) as image:
        assert np.asarray(image).max() == 1004


def test_a_later_file_without_frames_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in")
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        del file["observations/qpos"]
        file["observations/qpos"] = np.zeros((0, 14))
    with pytest.raises(DataError, match=r"episode_1.hdf5: observations/qpos: expected frames"):
        convert_aloha_hdf5(folder, tmp_path / "set", settings())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--fps", "nan", "--fps: expected 0.1 to 1000, got nan"),
        ("--fps", "inf", "--fps: expected 0.1 to 1000, got inf"),
        ("--fps", "0.02", "--fps: expected 0.1 to 1000, got 0.02"),
        ("--task", "  ", "--task: expected the task in words, got a blank text"),
        ("--workers", "0", "--workers: expected at least 1, got 0"),
    ],
)
def test_invalid_options_are_refused(
    tmp_path: Path, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--task": "fold", "--order": "left-right", "--fps": "30", option: value}
    command = ["convert", "aloha-hdf5", str(tmp_path), "--out", str(tmp_path / "set")]
    assert main([*command, *(word for pair in options.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err


def test_one_file_is_a_dataset_of_one_episode(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "in")
    report = convert_aloha_hdf5(folder / "episode_1.hdf5", tmp_path / "set", settings())
    assert report["num_episodes"] == 1


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write_files(tmp_path / "in") / "episode_1.hdf5"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"episode_1.hdf5: cannot be (opened as HDF5|read)"):
        convert_aloha_hdf5(tmp_path / "in", tmp_path / "set", settings())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_files(tmp_path / "in"), tmp_path / "set"
    command = ["convert", "aloha-hdf5", str(folder), "--out", str(out)]
    options = ["--task", "fold", "--order", "left-right", "--fps", "30"]
    for missing in ("--task", "--order", "--fps"):
        at = options.index(missing)
        assert main([*command, *options[:at], *options[at + 2 :]]) == 2
        assert f"{missing}: expected a value" in capsys.readouterr().err
    assert main([*command, *options, "--to", "v3.0", "--workers", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"out": str(out), "num_episodes": 2, "num_frames": 12}
    assert main(["convert", "aloha-hdf5", str(tmp_path / "no"), "--out", "x", *options]) == 1
    assert "expected *.hdf5 files, found none" in capsys.readouterr().err
