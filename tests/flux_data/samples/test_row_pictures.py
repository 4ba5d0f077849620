"""The picture of a row is the one with its stamp, wherever pictures are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flux_core.transforms import ResizeImages
from flux_data.samples.frame_cache import cache_folder
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..coded_commands import run, train_or_refuse, write_or_refuse
from ..coded_dataset import ACTION, EPISODES_V3, STATE, TOP, Camera, CodedDataset, plain
from ..coded_pictures import SIDE
from ..small_dataset import edit_column

LENGTHS = (5, 3, 4)
SIZE = ResizeImages(height=SIDE, width=SIDE)
FROM, TO = f"videos/{TOP}/from_timestamp", f"videos/{TOP}/to_timestamp"


def cameras(**values: object) -> tuple[Camera, ...]:
    return (Camera(**values),)  # type: ignore[arg-type]


MATCHING: dict[str, CodedDataset] = {
    "rows and video begin at 0.3 s": plain(
        "v2.1", row_start_s=0.3, cameras=cameras(first_stamp_s=0.3)
    ),
    "a joined video begins at 0.3 s": plain("v3.0", cameras=cameras(first_stamp_s=0.3)),
    "a joined video has pictures of nobody": plain("v3.0", cameras=cameras(lead=2, tail=1)),
    "there are more pictures than rows": plain("v2.1", cameras=cameras(tail=3)),
    "there are two pictures per row": plain("v2.1", cameras=cameras(oversampling=2)),
    "rows come a little early or late": plain("v2.1", jitter=0.3),
    "rows are missing, and their times too": plain("v2.1", dropped=((0, 1), (2, 0))),
    "there is one row": plain("v3.0", lengths=(1, 1)),
}


@pytest.mark.parametrize("which", MATCHING)
def test_pictures_are_found_by_their_stamps_although(which: str, tmp_path: Path) -> None:
    dataset = MATCHING[which]
    root = dataset.write(tmp_path / "ds")
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error
    assert not run("view", root, "--out", tmp_path / "page.html").is_refused
    assert not run("pack", root, "--size", SIDE).is_refused
    assert not run("pack", root, "--size", SIDE, "--verify").is_refused
    cached = samples(root)
    assert cached.parts[0].frames.kinds == f"cache {SIDE}x{SIDE}"


def samples(root: Path) -> ParquetDataset:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(TOP,))
    return ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, SIZE),
        action_window_size=1,
        action_key=ACTION,
        window_start_idx=0,
    ).build()


@pytest.mark.parametrize(
    "which", ["rows and video begin at 0.3 s", "a joined video begins at 0.3 s"]
)
def test_a_late_video_whose_rows_match_has_no_faults(which: str, tmp_path: Path) -> None:
    found = run("validate", MATCHING[which].write(tmp_path / "ds"))
    assert not found.is_refused, found.error


def shift(number: int, frames: int) -> Callable[[Path], object]:
    """Moves the place at which an episode begins in its video."""

    def change(root: Path) -> None:
        for key in (FROM, TO):
            edit_column(
                EPISODES_V3,
                key,
                lambda times: [t + frames / 10 * (i == number) for i, t in enumerate(times)],
            )(root)

    return change


OFF = "expected a picture at"
WRONG: dict[str, tuple[CodedDataset, Callable[[Path], object], str]] = {
    "the video begins at 0.3 s": (
        plain("v2.1", cameras=cameras(first_stamp_s=0.3)),
        lambda _: None,
        f"episode 0, frame 0: {OFF} 0.0000 s, the row's time, got 5 pictures from 0.3000 s to "
        "0.7000 s. `flux-data convert --reencode` writes",
    ),
    "the rows begin at 0.3 s": (
        plain("v2.1", row_start_s=0.3),
        lambda _: None,
        "frame 0: expected picture 0 of the video, which has one for each row, got picture 3",
    ),
    "the rows are a frame late, and the video goes on": (
        plain("v2.1", lengths=(5,), row_start_s=0.1, dropped=((0, 4),), is_renumbered=True),
        edit_column(
            "data/chunk-000/episode_000000.parquet", "timestamp", lambda t: [0.2, 0.3, 0.4, 0.5]
        ),
        f"frame 3: {OFF} 0.5000 s, the row's time, got 5 pictures",
    ),
    "times are seconds since 1970": (
        plain("v2.1", epoch_s=1.7e9, time_dtype="float64"),
        lambda _: None,
        f"{OFF} 1700000000.0000 s, the row's time, got 5 pictures from 0.0000 s to 0.4000 s",
    ),
    "an episode begins a frame late": (
        plain("v3.0"),
        shift(1, 1),
        "expected picture 5 of the video, which has one for each row",
    ),
    "an episode begins a frame early": (
        plain("v3.0"),
        shift(1, -1),
        "expected pictures of its own for each episode, got the one at 0.4000 s for episodes 0",
    ),
    "the last episode begins a frame late": (
        plain("v3.0"),
        shift(2, 1),
        "expected picture 8 of the video, which has one for each row, got picture 9",
    ),
    "the first episode begins two frames late": (
        plain("v3.0"),
        shift(0, 2),
        "expected picture 0 of the video, which has one for each row",
    ),
    "an episode begins in another one": (
        plain("v3.0", cameras=cameras(tail=1)),
        shift(1, -4),
        "expected pictures of its own for each episode, got the one at 0.2000 s for episodes 0",
    ),
    "the next episode begins in this one": (
        plain("v3.0", cameras=cameras(lead=1)),
        shift(1, 3),
        "for episodes 1 and 2. The from_timestamp of one of them is wrong",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_every_reader_of_pictures_refuses_when(which: str, tmp_path: Path) -> None:
    dataset, change, reason = WRONG[which]
    root = dataset.write(tmp_path / "ds")
    change(root)
    for outcome in (
        train_or_refuse(dataset, root),
        write_or_refuse(tmp_path, "view", root, "--out", tmp_path / "page.html"),
        run("pack", root, "--size", SIDE),
    ):
        assert outcome.is_refused
        assert reason in outcome.error, outcome.error
        assert ".mp4: " in outcome.error
    assert run("validate", root).is_refused
    assert not run("info", root).is_refused


def test_a_cache_from_before_stamps_counted_is_not_used_for_a_late_video(tmp_path: Path) -> None:
    for number, late_s in enumerate((0.0, 0.3)):
        dataset = plain("v2.1", row_start_s=late_s, cameras=cameras(first_stamp_s=late_s))
        root = dataset.write(tmp_path / f"ds{number}")
        assert not run("pack", root, "--size", SIDE).is_refused
        manifest = cache_folder(root, SIZE, "raw") / "manifest.json"
        content = json.loads(manifest.read_text())
        del content["pictures"]
        manifest.write_text(json.dumps(content))
        expected = "videos" if late_s else f"cache {SIDE}x{SIDE}"
        assert samples(root).parts[0].frames.kinds == expected


def test_an_intact_video_is_not_read_before_its_first_frame_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading all stamps of a large joined video takes as long as reading the file."""
    from flux_data.pictures import row_pictures
    from flux_data.video import packets

    def fail(path: Path) -> None:
        raise AssertionError(f"{path}: read")

    root = plain("v3.0", cameras=cameras(tail=1)).write(tmp_path / "ds")
    monkeypatch.setattr(packets, "packets_of", fail)
    monkeypatch.setattr(row_pictures, "packets_of", fail)
    dataset = samples(root)
    assert len([dataset[number] for number in range(len(dataset))]) == sum(LENGTHS)
