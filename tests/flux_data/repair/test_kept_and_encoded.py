"""`flux-data repair` keeps statistics only if they are right, and encodes late videos again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..coded_dataset import Camera, CodedDataset, plain
from ..coded_pictures import Code, Encoding, write_coded_video
from ..coded_rows import rows_of
from ..small_dataset import write
from .conftest import Repaired, data_v2, video_v2, video_v3


@pytest.mark.parametrize("missing", [(), (("data", 1),)], ids=["whole", "one is missing"])
@pytest.mark.parametrize("text", ['{"action": {"mean": [1, 1, 1, 1]}}', '{"action": '])
def test_statistics_of_other_episodes_are_not_kept(
    repair: Callable[..., Repaired], tmp_path: Path, text: str, missing: tuple[Any, ...]
) -> None:
    """v2.1 has no such file, but other programs read it; the writer only keeps it."""
    dataset = CodedDataset(missing=missing, files=(("meta/stats.json", text),))
    done = repair(dataset.write(tmp_path / "in"))
    assert done.code == bool(missing)
    is_right = not missing and text.endswith("}}")
    assert (done.root / "meta/stats.json").is_file() == is_right
    assert any("meta/stats.json" in line for line in done.said("corrected")) != is_right


def test_a_table_that_is_a_pointer_is_called_by_its_name(
    repair: Callable[..., Repaired], tmp_path: Path
) -> None:
    root = CodedDataset().write(tmp_path / "in")
    write(data_v2(1), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")(root)
    (line,) = repair(root).said("left out")
    assert "git lfs pull" in line


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_late_video_is_encoded_again_where_its_order_tells(
    repair: Callable[..., Repaired], tmp_path: Path, version: Any
) -> None:
    """As by `convert --reencode`; without it the episode is left out."""
    cameras = (Camera(files=(0, 1, 2)),)
    dataset = plain(version, lengths=(3, 4, 3), cameras=cameras)
    root = dataset.write(tmp_path / "in")
    codes = tuple(Code(0, 1, frame) for frame in range(4))
    name = video_v2(1) if version == "v2.1" else video_v3(1)
    write_coded_video(root / name, codes, (0.1, 0.2, 0.3, 0.4), 10, Encoding())
    done = repair(root, "--reencode")
    assert done.code == 0, done.lines
    (line,) = done.said("corrected: episode 1")
    assert f"{name}: encoded again: " in line
    assert rows_of(done.root) == dataset.rows()
