"""Missing files, empty files and pointers of Git LFS are named before anything is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import CheckpointError, DataError
from flux_core.incomplete_file import POINTER, why_incomplete
from flux_data.lerobot.dataset import open_lerobot
from flux_data.run_files import check_files
from flux_data.samples import mixture
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..coded_commands import run
from ..coded_dataset import ACTION, EPISODES_V3, STATE, TOP, Camera, plain
from ..small_dataset import edit_column

POINTER_FILE = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
LAST_VIDEO = f"videos/chunk-000/{TOP}/episode_000002.mp4"
DATA = "data/chunk-000/episode_{:06d}.parquet"


@pytest.fixture(autouse=True)
def no_kept_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def dataset_config(root: Path) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(TOP,))
    return ParquetDataset.Config(
        data_root_path=str(root), transforms=(inputs,), action_key=ACTION, window_start_idx=0
    )


def start(*roots: Path) -> DistributedRepeatingDataset:
    return DistributedRepeatingDataset.Config(datasets=tuple(map(dataset_config, roots))).build()


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if the statistics, the first thing to read whole files, are computed."""

    def fail(*_: object) -> None:
        raise AssertionError("statistics were computed")

    monkeypatch.setattr(mixture, "group_stats", fail)


@pytest.mark.usefixtures("unread")
def test_the_first_missing_file_of_all_datasets_is_named_with_the_number_of_others(
    tmp_path: Path,
) -> None:
    roots = [plain(number=number).write(tmp_path / f"ds{number}") for number in (0, 1)]
    (roots[0] / LAST_VIDEO).unlink()
    (roots[1] / DATA.format(1)).unlink()
    (roots[1] / LAST_VIDEO).unlink()
    with pytest.raises(DataError) as error:
        start(*roots)
    assert str(error.value).startswith(
        f"{roots[0] / LAST_VIDEO}: the video file is missing (2 more of the run's files cannot be "
        "read either)"
    )


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", [LAST_VIDEO, DATA.format(2)])
@pytest.mark.parametrize(
    ("content", "reason"), [(POINTER_FILE, f"got {POINTER}"), ("", "got an empty file")]
)
def test_a_file_that_is_not_there_yet_is_named(
    name: str, content: str, reason: str, tmp_path: Path
) -> None:
    root = plain().write(tmp_path / "ds")
    (root / name).write_text(content)
    with pytest.raises(DataError) as error:
        start(root)
    kind = "video" if name.endswith("mp4") else "parquet"
    assert str(error.value).startswith(f"{root / name}: expected a {kind} file, {reason}")


@pytest.mark.usefixtures("unread")
def test_missing_files_of_v30_are_named_too(tmp_path: Path) -> None:
    dataset = plain("v3.0", data_files=(0, 1, 1), cameras=(Camera(files=(0, 0, 1)),))
    for name in ("data/chunk-000/file-001.parquet", f"videos/{TOP}/chunk-000/file-001.mp4"):
        root = dataset.write(tmp_path / "ds")
        (root / name).unlink()
        with pytest.raises(DataError, match=f"{root / name}: the .* file is missing"):
            start(root)
        shutil.rmtree(root)


def with_image_files(root: Path, *, is_text: bool) -> None:
    """Moves the stored images of every episode into files, as a struct or as plain paths."""
    for episode in range(3):
        table = pq.read_table(root / DATA.format(episode))
        names = []
        for frame, image in enumerate(table[TOP].to_pylist()):
            path = root / f"images/{TOP}/episode_{episode:06d}/frame_{frame:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image["bytes"])
            names.append(str(path.relative_to(root)))
        rows = names if is_text else [{"bytes": None, "path": name} for name in names]
        kind = pa.string() if is_text else table[TOP].type
        edit_column(DATA.format(episode), TOP, lambda _, rows=rows: rows, kind)(root)


@pytest.mark.parametrize("is_text", [False, True])
def test_images_that_are_files_are_looked_for_too(is_text: bool, tmp_path: Path) -> None:
    root = plain(cameras=(Camera(kind="image"),)).write(tmp_path / "ds")
    check_files([(open_lerobot(root), (TOP,))])
    with_image_files(root, is_text=is_text)
    check_files([(open_lerobot(root), (TOP,))])
    missing = root / f"images/{TOP}/episode_000001/frame_000002.png"
    missing.unlink()
    (root / f"images/{TOP}/episode_000002/frame_000000.png").unlink()
    with pytest.raises(DataError) as error:
        check_files([(open_lerobot(root), (TOP,))])
    assert str(error.value).startswith(f"{missing}: the image file is missing (1 more of")
    check_files([(open_lerobot(root), ())])  # the run does not use the camera


EVERYWHERE = {
    "v2.1": ("meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", DATA.format(0)),
    "v3.0": (
        "meta/info.json",
        "meta/tasks.parquet",
        EPISODES_V3,
        "data/chunk-000/file-000.parquet",
    ),
}


@pytest.mark.parametrize(("version", "name"), [(v, n) for v in EVERYWHERE for n in EVERYWHERE[v]])
def test_every_command_calls_a_pointer_of_git_lfs_by_its_name(
    version: str, name: str, tmp_path: Path
) -> None:
    root = plain(version).write(tmp_path / "ds")  # type: ignore[arg-type]
    (root / name).write_text(POINTER_FILE)
    for command in (
        ["validate", root],
        ["stats", root],
        ["convert", root, "--to", "v2.1", "--out", tmp_path / "out"],
    ):
        outcome = run(*command)
        assert outcome.is_refused
        assert str(root / name) in outcome.error and POINTER in outcome.error, outcome.error


@pytest.mark.parametrize("command", ["validate", "view", "pack"])
def test_a_video_that_is_a_pointer_is_called_so(command: str, tmp_path: Path) -> None:
    root = plain().write(tmp_path / "ds")
    (root / LAST_VIDEO).write_text(POINTER_FILE)
    more = ["--out", tmp_path / "page.html"] if command == "view" else []
    outcome = run(command, root, *more)
    assert outcome.is_refused
    assert LAST_VIDEO in outcome.error and POINTER in outcome.error, outcome.error


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint_step_1.pt"])
def test_weights_that_are_a_pointer_are_called_so(name: str, tmp_path: Path) -> None:
    from flux_core.models.weights.weight_files import open_weights

    (tmp_path / name).write_text(POINTER_FILE)
    with pytest.raises(CheckpointError) as error:
        open_weights(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and POINTER in str(error.value)


def test_a_whole_or_missing_file_is_not_incomplete(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("version 1")
    assert why_incomplete(tmp_path / "short") == why_incomplete(tmp_path / "missing") == ""


@pytest.mark.parametrize(
    ("stated", "is_told"), [(10, False), (10.01, False), (30, True), (5, True)]
)
def test_rows_at_another_rate_than_info_json_says_are_told_before_training(
    tmp_path: Path, stated: float, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A robot runs at the stated rate, so a policy of such data would move too fast or slowly."""
    images = (Camera(kind="image"),)
    root = plain(lengths=(4, 3), cameras=images, info=(("fps", stated),)).write(tmp_path / "in")
    start(root)
    told = [line for line in caplog.messages if "the rate of the rows' timestamps" in line]
    assert len(told) == is_told
    assert not is_told or f"expected 10, the rate of the rows' timestamps, got {stated}" in told[0]
