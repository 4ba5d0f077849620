"""`flux-runtime replay`: a recorded run is the same again, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_runtime import read_recording

from .conftest import RunRecorder

pytestmark = pytest.mark.usefixtures("core", "toy")
EPISODE = "episode_000000.replay"
LOCKSTEP = ("--episodes", "1", "--max-steps", "20")


def test_a_run_with_injected_faults_is_the_same_again(
    runs: RunRecorder, slow_bundle: Path, realtime_options: tuple[str, ...]
) -> None:
    options = (*realtime_options, "--max-steps", "400", "--max-frame-age", "0.2")
    directory = runs.record("toy_arms:Faulty", slow_bundle, *options, code=1)
    episode = read_recording(directory / "episode_000000.npz")
    events = set(episode.arrays["event_name"].tolist())
    assert {"state_stale", "frame_stale", "state_not_finite", "left_limits"} <= events
    report = runs.replay(directory)
    (found,) = report["episodes"]
    assert report["ok"] and found["identical"] and found["made_with"] == {}
    assert found["ticks"] >= episode.num_ticks > 40
    assert found["chunks"] > 3 and found["different_chunks"] == 0
    assert (found["clock"], found["outcome"]) == ("monotonic", "failed")


def test_two_sessions_on_simulated_time_are_the_same_again(
    runs: RunRecorder, toy_bundle: Path
) -> None:
    options = ("--episodes", "2", "--max-steps", "30", "--mode", "async", "--inference-delay", "2")
    directory = runs.record("toy", toy_bundle, *options)
    report = runs.replay(directory)
    assert [episode["identical"] for episode in report["episodes"]] == [True, True]
    assert [episode["seed"] for episode in report["episodes"]] == [10_000, 10_001]
    assert (
        runs.replay(directory, "--episode", "1")["episodes"][0]["file"] == "episode_000001.replay"
    )
    assert "got no episode_000007.replay" in runs.refusal(directory, "--episode", "7", code=2)
