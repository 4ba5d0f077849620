"""Datasets converted, merged and split: every row, frame and fact is preserved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError, UsageError
from flux_data.commands.main import main
from flux_data.convert.lerobot import choose_parts, convert, split
from flux_data.lerobot.dataset import LeRobotDataset, open_lerobot
from flux_data.validate.rows import validate
from flux_data.video.reader import VideoReader

from ..lerobot.test_lerobot_writer import FEATURES, LENGTHS, images_of, lines, structure
from ..lerobot.test_lerobot_writer import written as written  # a fixture
from ..lerobot.test_lerobot_writer import written_v30 as written_v30  # a fixture
from ..small_dataset import (
    ACTION,
    DATA,
    STATE,
    WRIST,
    Plant,
    cut,
    edit_column,
    edit_feature,
    edit_info,
    edit_lines,
    edit_table,
    put,
    remove,
    write,
    write_v21,
)
from ..small_dataset import LENGTHS as SMALL_LENGTHS

KEYS = ("observation.state", "action", "timestamp")


def frames(source: LeRobotDataset, position: int, key: str) -> list[np.ndarray]:
    """Returns some frames of an episode, including the first and the last."""
    segment, reader = source.video(key, position), VideoReader()
    last = int(source.lengths[position]) - 1
    return [
        reader.frame(segment.path, segment.start_s + frame / source.fps, 0.5 / source.fps)
        for frame in [*range(0, last, 6), last]
    ]


def assert_same_episode(
    ours: LeRobotDataset, position: int, theirs: LeRobotDataset, other: int, *, pictures: bool
) -> None:
    keys = [*KEYS, "task_index"]
    left, right = ours.episode(position, keys), theirs.episode(other, keys)
    for key in KEYS:
        np.testing.assert_array_equal(left[key], right[key])
    texts = [[s.tasks[int(i)] for i in c["task_index"]] for s, c in ((ours, left), (theirs, right))]
    assert texts[0] == texts[1]
    if pictures:
        for key in ours.video_keys:
            pairs = zip(frames(ours, position, key), frames(theirs, other, key), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "version"), [("v21", "v3.0"), ("v30c", "v2.1"), ("g1_real", "v3.0"), ("v21", "v2.1")]
)
def test_a_converted_dataset_is_the_same_in_every_row_and_pixel(
    shared_data: Path, tmp_path: Path, name: str, version: str
) -> None:
    theirs = open_lerobot(shared_data / "lerobot" / name)
    report = convert([theirs.root], tmp_path / "set", version)
    assert report == {
        "out": str(tmp_path / "set"),
        "num_episodes": theirs.num_episodes,
        "num_frames": theirs.num_frames,
    }
    ours = open_lerobot(tmp_path / "set")
    assert ours.info["codebase_version"] == version
    for position in range(theirs.num_episodes):
        assert_same_episode(ours, position, theirs, position, pictures=position == 5)
    assert validate(tmp_path / "set", decode=False) == []


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as video:
        return [bytes(packet) for packet in video.demux(video=0) if packet.size]


def test_videos_are_copied_and_converting_back_gives_the_original(
    shared_data: Path, tmp_path: Path
) -> None:
    original = shared_data / "lerobot" / "v21"
    convert([original], tmp_path / "v30", "v3.0")
    convert([tmp_path / "v30"], tmp_path / "v21", "v2.1")
    for video in sorted(original.rglob("*.mp4")):
        assert packets(tmp_path / "v21" / video.relative_to(original)) == packets(video)
    for name in ("tasks.jsonl", "episodes.jsonl"):
        ours, theirs = ((root / "meta" / name).read_text() for root in (tmp_path / "v21", original))
        assert list(map(json.loads, ours.splitlines())) == list(
            map(json.loads, theirs.splitlines())
        )
    ours, theirs = (
        [json.loads(line) for line in (root / "meta/episodes_stats.jsonl").open()]
        for root in (tmp_path / "v21", original)
    )
    for left, right in zip(ours, theirs, strict=True):
        assert structure(left) == structure(right)
        for key, stats in right["stats"].items():
            for name, values in stats.items():
                np.testing.assert_allclose(left["stats"][key][name], values, rtol=1e-5, atol=1e-6)


def test_the_official_converter_agrees(shared_data: Path, tmp_path: Path) -> None:
    """v30c is LeRobot's own conversion of v21."""
    convert([shared_data / "lerobot" / "v21"], tmp_path / "set", "v3.0")
    theirs = shared_data / "lerobot" / "v30c"
    name = "meta/episodes/chunk-000/file-000.parquet"
    ours_rows = pq.read_table(tmp_path / "set" / name).to_pylist()
    for left, right in zip(ours_rows, pq.read_table(theirs / name).to_pylist(), strict=True):
        for key, value in right.items():
            if key.startswith("stats/"):
                np.testing.assert_allclose(left[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
            elif isinstance(value, float):
                assert left[key] == pytest.approx(value, abs=1e-6), key
            else:
                assert left[key] == value, key
    ours_stats, their_stats = (
        json.loads((root / "meta/stats.json").read_text()) for root in (tmp_path / "set", theirs)
    )
    for key, stats in their_stats.items():
        for statistic, values in stats.items():
            np.testing.assert_allclose(
                ours_stats[key][statistic], values, rtol=1e-4, atol=1e-4, err_msg=key
            )


def test_versions_can_be_merged_and_tasks_are_joined(shared_data: Path, tmp_path: Path) -> None:
    roots = [shared_data / "lerobot" / name for name in ("v21", "v30c")]
    convert(roots, tmp_path / "set", "v2.1")
    merged, first, second = open_lerobot(tmp_path / "set"), *map(open_lerobot, roots)
    assert merged.num_episodes == 24 and merged.tasks == first.tasks
    assert_same_episode(merged, 3, first, 3, pictures=True)
    assert_same_episode(merged, 12 + 7, second, 7, pictures=True)
    np.testing.assert_array_equal(merged.columns(["index"])["index"], np.arange(3600))
    stats = lines(tmp_path / "set" / "meta" / "episodes_stats.jsonl")[19]["stats"]
    assert stats["index"]["min"] == [19 * 150]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"fps": 30}, "fps: expected 50.0, as in .*, got 30.0"),
        ({"robot_type": "ur3"}, "robot_type: expected aloha, as in .*, got ur3"),
    ],
)
def test_datasets_that_differ_are_not_merged(
    shared_data: Path, tmp_path: Path, edit: dict[str, Any], message: str
) -> None:
    original = shared_data / "lerobot" / "v21"
    shutil.copytree(original / "meta", tmp_path / "other" / "meta", copy_function=shutil.copyfile)
    path = tmp_path / "other" / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(DataError, match=message):
        convert([original, tmp_path / "other"], tmp_path / "set", "v2.1")
    with pytest.raises(DataError, match=r"g1_real: (fps|robot_type|features)"):
        convert([original, shared_data / "lerobot" / "g1_real"], tmp_path / "set", "v2.1")
    assert not (tmp_path / "set").exists()


def test_shares_are_drawn_and_every_episode_is_in_one_part(
    written: Path, shared_data: Path, tmp_path: Path
) -> None:
    source = open_lerobot(shared_data / "lerobot" / "v30c")
    parts = {"train": "0.75", "validation": "0.25"}
    chosen = choose_parts(source, parts, seed=1)
    assert sorted([*chosen["train"], *chosen["validation"]]) == list(range(12))
    assert [len(part) for part in chosen.values()] == [9, 3]
    assert chosen == choose_parts(source, parts, seed=1)
    assert chosen != choose_parts(source, parts, seed=2)
    reports = split(source.root, tmp_path, parts, seed=1)
    assert {name: report["num_episodes"] for name, report in reports.items()} == {
        "train": 9,
        "validation": 3,
    }
    part = open_lerobot(tmp_path / "validation")
    assert part.info["codebase_version"] == "v3.0"
    for position, other in enumerate(chosen["validation"]):
        assert_same_episode(part, position, source, other, pictures=True)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": "0.5", "b": "0.6"}, "shares: expected a sum of at most 1, got 1.1"),
        ({"a": "0.99", "b": "0.01"}, "b=0.01: expected at least one of 12 episodes, got none"),
        ({"a": "0-3", "b": "3"}, "b=3: expected disjoint parts, got episode 3 of 'a' again"),
        ({"a": "0-12"}, "expected episodes up to 11, the last, got 12"),
        ({"a": "most"}, "a=most: expected a share like 0.9 or episodes like 0-39,45"),
        ({"a": "5-2"}, "a=5-2: expected at least one episode, got none"),
        ({"a": "0-99999999999"}, "expected episodes up to 11, the last, got 99999999999"),
        ({"a": "0.5", "b": "1"}, "b=1: expected a share like 0.9, as other parts have"),
    ],
)
def test_invalid_parts_are_refused(shared_data: Path, parts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_parts(open_lerobot(shared_data / "lerobot" / "v21"), parts, 0)


def test_an_episode_cut_short_is_an_error_and_nothing_is_written(
    shared_data: Path, tmp_path: Path
) -> None:
    original = shared_data / "lerobot" / "v30c"
    shutil.copytree(original / "meta", tmp_path / "bad" / "meta", copy_function=shutil.copyfile)
    for name in ("data", "videos"):
        shutil.copytree(original / name, tmp_path / "bad" / name, copy_function=shutil.copyfile)
    name = "observation.images.cam_high/chunk-000/file-000.mp4"
    convert([original], tmp_path / "short", "v2.1")
    single = tmp_path / "short/videos/chunk-000/observation.images.cam_high/episode_000000.mp4"
    shutil.copyfile(single, tmp_path / "bad" / "videos" / name)
    with pytest.raises(
        DataError,
        match=r"file-000.mp4: episode 1, .*cam_high: frame 0: expected a picture at 3.0000 s",
    ):
        convert([tmp_path / "bad"], tmp_path / "set", "v2.1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "short"]


def test_a_table_with_other_rows_than_the_metadata_is_named(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "bad")
    path = tmp_path / "bad" / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    with pytest.raises(DataError, match=r"episode_000001.parquet: episode 1: expected 5 rows"):
        convert([tmp_path / "bad"], tmp_path / "set", "v3.0")


def test_the_commands(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v30"
    assert main(["convert", str(written), "--to", "v3.0", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "num_episodes": 2,
        "num_frames": sum(LENGTHS),
    }
    week = tmp_path / "week"
    assert main(["merge", str(written), str(out), "--out", str(week), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_episodes"] == 4
    assert open_lerobot(week).info["codebase_version"] == "v2.1"
    command = ["split", str(week), "--out", str(tmp_path / "parts"), "a=0-2", "b=3", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_episodes"] == 4 and report["parts"]["a"]["num_episodes"] == 3
    assert main(["validate", str(tmp_path / "parts" / "b")]) == 0
    assert main(["convert", str(written), "--out", str(tmp_path / "x")]) == 2
    assert "--to: expected one of" in capsys.readouterr().err
    assert main(["merge", str(written), "--out", str(week)]) == 2
    assert "expected an empty folder, got files" in capsys.readouterr().err


def test_image_columns_are_copied(tmp_path: Path) -> None:
    """Images in tables instead of videos: bytes are unchanged, statistics are computed."""
    import io

    from PIL import Image

    from flux_data.lerobot.writer import Episode, WriterV21

    key = "observation.images.cam_high"
    features = {
        "observation.state": FEATURES["observation.state"],
        key: {"dtype": "image", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
    }
    pictures = []
    for seed in range(4):
        data = io.BytesIO()
        Image.fromarray(images_of(seed)[key]).save(data, "PNG")
        pictures.append({"bytes": data.getvalue(), "path": None})
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    state = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(56, np.float32)), 14)
    times = pa.array((np.arange(4) / 50).astype(np.float32))
    columns = {"observation.state": state, key: pa.array(pictures, struct), "timestamp": times}
    with WriterV21(tmp_path / "a", fps=50, robot_type="aloha", features=features) as writer:
        writer.add(Episode(table=pa.table(columns), tasks=("stir",) * 4))
    convert([tmp_path / "a"], tmp_path / "b", "v3.0")
    table = pq.read_table(tmp_path / "b" / "data/chunk-000/file-000.parquet")
    assert table.column(key).to_pylist() == pictures
    stats = json.loads((tmp_path / "b" / "meta" / "stats.json").read_text())[key]
    pixels = np.stack([images_of(seed)[key] for seed in range(4)]).reshape(-1, 3) / 255
    np.testing.assert_allclose(np.ravel(stats["mean"]), pixels.mean(axis=0), rtol=1e-6)
    assert validate(tmp_path / "b") == []


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small") / "set"
    write_v21(root)
    return root


def planted(small: Path, folder: Path, *plants: Plant) -> Path:
    shutil.copytree(small, folder)
    for plant in plants:
        plant(folder)
    return folder


def named(*names: str) -> Plant:
    return edit_feature(STATE, {"dtype": "float32", "shape": [3], "names": {"motors": [*names]}})


def test_datasets_with_different_joint_names_are_not_merged(small: Path, tmp_path: Path) -> None:
    left = planted(small, tmp_path / "left", named("left_a", "left_b", "grip"))
    right = planted(small, tmp_path / "right", named("left_a", "right_b", "grip"))
    message = (
        r"right: features.observation.state: dimension 1: expected 'left_b', as in .*left, got"
    )
    with pytest.raises(DataError, match=message):
        convert([left, right], tmp_path / "set", "v2.1")
    convert([left, small], tmp_path / "set", "v2.1")  # one dataset has no names


STATS = "meta/episodes_stats.jsonl"
TABLE = DATA["v21"]


def number_of(column: list[Any]) -> list[Any]:
    return [5] * len(column)


DAMAGE: dict[str, tuple[Plant, str]] = {
    "no table": (remove(TABLE), "the parquet file of episode 1 is missing"),
    "a cut table": (cut(TABLE), "cannot be read as parquet"),
    "an empty table": (write(TABLE, b""), "cannot be read as parquet"),
    "a pointer": (write(TABLE, "version https://git-lfs"), "cannot be read as parquet"),
    "cut stats": (cut(STATS), r"episodes_stats.jsonl:2: expected JSON"),
    "no tasks": (
        edit_table(TABLE, lambda t: t.drop(["task_index"])),
        "expected column 'task_index'",
    ),
    "no index": (edit_table(TABLE, lambda t: t.drop(["episode_index"])), "column 'episode_index'"),
    "numbers as images": (
        edit_column(TABLE, WRIST, number_of, pa.int64()),
        r"wrist, frame 0: expected an image \{bytes, path\}, got 5",
    ),
    "nan": (
        edit_column(TABLE, ACTION, put(4, 0, np.nan)),
        "action: frame 4: expected a finite value, got nan",
    ),
    "text": (
        edit_column(TABLE, ACTION, lambda rows: ["a"] * len(rows), pa.string()),
        "action: expected float32, got",
    ),
    "time goes back": (
        edit_column(TABLE, "timestamp", put(3, 0.0)),
        "timestamp: frame 3: expected a later time than that of frame 2",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_nothing_is_written(small: Path, tmp_path: Path, name: str) -> None:
    plant, message = DAMAGE[name]
    root = planted(small, tmp_path / "bad", plant)
    with pytest.raises(DataError, match=message) as caught:
        convert([root], tmp_path / "a" / "set", "v3.0")
    assert str(root) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_statistics_without_a_count_are_computed_again(small: Path, tmp_path: Path) -> None:
    """The small dataset's statistics have no counts, and a blank last line is legal."""
    root = planted(small, tmp_path / "in")
    with (root / STATS).open("a") as file:
        file.write("\n")
    convert([root], tmp_path / "set", "v3.0")
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    assert stats["observation.images.top"]["count"] == [sum(SMALL_LENGTHS)]
    assert stats["observation.images.top"]["max"] != [[[0.0]]] * 3


def test_facts_of_several_types_become_json(small: Path, tmp_path: Path) -> None:
    def say(**facts: Any) -> Plant:
        return edit_lines("meta/episodes.jsonl", lambda rows: [row.update(facts) for row in rows])

    roots = [
        planted(small, tmp_path / "a", say(source="x", note={}, late=3)),
        planted(small, tmp_path / "b", say(source=5)),
    ]
    convert(roots, tmp_path / "set", "v3.0")
    table = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet")
    assert table["source"].to_pylist() == ['"x"'] * 3 + ["5"] * 3
    assert table["note"].to_pylist() == ["{}"] * 3 + [None] * 3
    assert table["late"].to_pylist() == [3] * 3 + [None] * 3


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_files_and_keys_unknown_to_lerobot_are_copied(
    small: Path, tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    splits = {"train": "0:2", "val": "2:3"}
    pose = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(24, dtype=np.float64)), 3)
    root = planted(
        small,
        tmp_path / "in",
        edit_info(splits=splits, robot_serial="A7"),
        write("meta/modality.json", "{}"),
        write("README.md", "hello"),
        *(
            edit_table(
                f"data/chunk-000/episode_{episode:06d}.parquet",
                lambda t: (
                    t.append_column("next.reward", pa.array(np.arange(len(t)) / 8))
                    .append_column("pose", pose.slice(0, len(t)))
                    .append_column("note", pa.array(["x"] * len(t)))
                    .append_column("__index_level_0__", pa.array(range(len(t))))
                ),
            )
            for episode in range(3)
        ),
    )
    convert([root], tmp_path / "set", version)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["splits"] == splits and info["robot_serial"] == "A7"
    assert info["codebase_version"] == version and info["total_episodes"] == 3
    assert (tmp_path / "set/meta/modality.json").read_text() == "{}"
    assert (tmp_path / "set/README.md").read_text() == "hello"
    assert info["features"]["next.reward"] == {"dtype": "float64", "shape": [1], "names": None}
    assert info["features"]["pose"]["shape"] == [3] and "__index_level_0__" not in info["features"]
    source = open_lerobot(tmp_path / "set")
    rows = source.episode(2, ["next.reward", "pose", "note"])
    np.testing.assert_array_equal(rows["next.reward"], np.arange(7) / 8)
    np.testing.assert_array_equal(rows["pose"], np.arange(21).reshape(7, 3))
    assert rows["note"].tolist() == ["x"] * 7
    assert caplog.messages == []
    assert validate(tmp_path / "set") == []


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pa.array([{"a": 1}] * SMALL_LENGTHS[1]),
            r"note: .* its type struct<a: int64> has no dtype",
        ),
        (pa.array([1] * SMALL_LENGTHS[1]), r"note: info.json does not list this column, and"),
    ],
)
def test_a_column_that_cannot_be_copied_is_named(
    small: Path, tmp_path: Path, column: pa.Array, message: str
) -> None:
    add = edit_table(TABLE, lambda t: t.append_column("note", column))
    with pytest.raises(DataError, match=message):
        convert([planted(small, tmp_path / "in", add)], tmp_path / "set", "v3.0")
    assert not (tmp_path / "set").exists()


def test_a_split_that_fails_leaves_no_part(small: Path, tmp_path: Path) -> None:
    root = planted(small, tmp_path / "in", DAMAGE["nan"][0])
    with pytest.raises(DataError, match="expected a finite value, got nan"):
        split(root, tmp_path / "out" / "parts", {"a": "0", "b": "1"})
    (tmp_path / "taken" / "b" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="expected an empty folder, got files"):
        split(small, tmp_path / "taken", {"a": "0", "b": "1"})
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "taken"]


def test_a_whole_number_is_an_episode(small: Path) -> None:
    source = open_lerobot(small)
    assert choose_parts(source, {"a": "1"}, 0) == {"a": [1]}
    assert choose_parts(source, {"a": "1.0"}, 0) == {"a": [0, 1, 2]}


@pytest.mark.parametrize("name", [".", ".."])
def test_each_part_gets_its_own_folder(
    small: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", str(small), "--out", str(tmp_path / "out"), f"{name}=1"]) == 2
    assert "expected NAME=PART" in capsys.readouterr().err
