"""`flux-data stats`: exact numbers, one episode at a time, with a progress bar."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from flux_core.norm_stats import compute_stats
from flux_data.commands.main import main
from flux_data.lerobot.dataset import LeRobotDataset, open_lerobot

from ..small_dataset import ACTION, LENGTHS, STATE, write_v21, write_v30


@pytest.mark.parametrize("write", [write_v21, write_v30])
def test_no_more_than_an_episode_is_held_and_the_numbers_are_exact(
    write: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert callable(write)
    write(tmp_path / "set")
    source = open_lerobot(tmp_path / "set")
    keys = (STATE, ACTION, "timestamp", "frame_index", "episode_index", "index", "task_index")
    expected = {
        key: asdict(compute_stats(values.reshape(len(values), -1)))
        for key, values in source.columns(keys).items()
    }
    monkeypatch.setattr(LeRobotDataset, "columns", None)
    assert main(["stats", str(tmp_path / "set"), "--json"]) == 0
    captured = capsys.readouterr()
    stats = json.loads(captured.out)
    assert f"{len(LENGTHS)}/{len(LENGTHS)}" in captured.err
    assert set(stats) == set(expected)
    for key, each in expected.items():
        for name, values in each.items():
            exact = name in ("min", "max", "count")
            np.testing.assert_allclose(
                stats[key][name], values, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-12
            )
