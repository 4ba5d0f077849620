"""`flux-data stats --motion`: velocity, acceleration and jerk of what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flux_data.commands.main import main
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.motion import Motion

from ..small_dataset import ACTION, STATE, write_v30


def test_the_rates_are_numpys_differences_within_each_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_v30(tmp_path / "set")
    source = open_lerobot(tmp_path / "set")
    assert main(["stats", str(tmp_path / "set"), "--motion", "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    for key in (STATE, ACTION):
        episodes = [each[key].astype(np.float64) for each in source.episodes([key])]
        for order, name in enumerate(("velocity", "acceleration", "jerk"), start=1):
            rates = [
                np.abs(np.diff(each, n=order, axis=0)) * source.fps**order for each in episodes
            ]
            every = np.concatenate(rates)
            expected = np.quantile(every, 0.999, axis=0)
            np.testing.assert_allclose(stats[key][name]["q999"], expected, rtol=1e-9)
            np.testing.assert_allclose(stats[key][name]["max"], every.max(axis=0), rtol=1e-9)
    assert "velocity" not in stats["timestamp"] and "velocity" not in stats["index"]


def test_without_the_option_the_output_is_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_v30(tmp_path / "set")
    assert main(["stats", str(tmp_path / "set"), "--json"]) == 0
    assert "velocity" not in json.loads(capsys.readouterr().out)[ACTION]
    assert main(["stats", str(tmp_path / "set"), "--motion"]) == 0
    assert "  velocity q999 " in capsys.readouterr().out


def test_a_sine_has_the_rates_of_its_derivatives() -> None:
    fps, omega = 1000.0, 3.0
    time = np.arange(20_000) / fps
    motion = Motion(1, len(time), fps)
    motion.add(np.sin(omega * time)[:, None])
    for order, (name, rates) in enumerate(motion.result().items(), start=1):
        assert rates["max"][0] == pytest.approx(omega**order, rel=0.01), name
        assert rates["q999"][0] <= rates["max"][0]


def test_a_recording_too_short_for_a_rate_has_none() -> None:
    motion = Motion(2, 2, 50.0)
    motion.add(np.zeros((2, 2)))
    assert motion.result()["velocity"] == {"q999": [0.0, 0.0], "max": [0.0, 0.0]}
    assert np.isnan(motion.result()["jerk"]["q999"]).all()
