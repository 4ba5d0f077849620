"""The benchmark of the modes: what a border is, which episodes pair up, and what is kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flux_core.robots import robot_spec
from flux_runtime.engines.core import load_core

from ..documents import load_script

SPEC = robot_spec("aloha-sim")


@pytest.fixture(scope="module")
def benchmark(repo_root: Path) -> ModuleType:
    load_script(repo_root / "benchmarks" / "kept_episodes.py")
    return load_script(repo_root / "benchmarks" / "chunk_modes.py")


def options(tmp_path: Path) -> argparse.Namespace:
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "model.safetensors").write_bytes(b"weights")
    return argparse.Namespace(work=tmp_path / "work.jsonl", bundle=bundle)


def episode(seed: int, *, mode: str = "sync", delay: int = 0, **more: Any) -> dict[str, Any]:
    figures = {"jump": 0.01 * seed, "acceleration": 1.0, "jerk": 1.0}
    counts = {"ticks": 100, "limited": 3, "off": 1, "held": 0, "chunks": 7}
    kinds = {"position": 0, "velocity": 1, "acceleration": 2, "jerk": 1}
    success = {"success": True, "strict_success": True}
    cell = {"mode": mode, "delay": delay, "limits": "robot"}
    ends = {"seed": seed, "commands": f"{seed}", "asked": figures, "sent": figures}
    return {**cell, **success, **counts, "limited_by": kinds, **ends, **more}


def test_only_the_ticks_around_a_border_of_two_chunks_count(benchmark: ModuleType) -> None:
    rows = np.zeros((40, SPEC.action_dim), np.float32)
    rows[:, 1] = 0.01 * np.arange(40)
    rows[20:, 1] += 0.03  # the second chunk begins 0.04 rad after the last row of the first
    rows[30:, 2] += 0.5  # within a chunk
    rows[20:, 6] = 1.0  # the gripper, which has no radians
    flags = np.zeros(40, np.int64)
    flags[[0, 20]] = load_core().NEW_CHUNK
    found = benchmark.border_figures(rows, flags, SPEC)
    assert found["jump"] == pytest.approx(0.04, rel=1e-5)
    assert found["acceleration"] == pytest.approx(0.03 * 50**2, rel=1e-4)
    assert found["jerk"] == pytest.approx(0.06 * 50**3, rel=1e-4)
    flags[20] = 0
    assert set(benchmark.border_figures(rows, flags, SPEC).values()) == {0.0}


def test_a_tick_with_several_flags_is_limited_once(benchmark: ModuleType) -> None:
    core = load_core()
    both = core.CLIPPED_JERK | core.CLIPPED_VELOCITY
    found = benchmark.counts(np.array([core.NEW_CHUNK, both, core.HELD, core.CLIPPED_JERK]))
    assert (found["ticks"], found["limited"], found["held"], found["chunks"]) == (4, 2, 1, 1)
    assert found["limited_by"] == {"position": 0, "velocity": 1, "acceleration": 0, "jerk": 2}


def test_limits_of_the_demonstrations_are_never_below_the_defaults(benchmark: ModuleType) -> None:
    spec, usual = (benchmark.limited(SPEC, name) for name in ("demonstrations", "robot"))
    pairs = zip(spec.max_acceleration, usual.max_acceleration, strict=True)
    assert all(ours >= theirs for ours, theirs in pairs)
    assert spec.max_acceleration != usual.max_acceleration
    assert benchmark.limited(SPEC, "velocity") == SPEC


def test_a_command_is_off_by_its_farthest_joint_in_rad(benchmark: ModuleType) -> None:
    asked = np.zeros((2, SPEC.action_dim), np.float32)
    sent = asked.copy()
    sent[1, [3, 6]] = 0.02, 0.5  # the second is the gripper
    np.testing.assert_allclose(benchmark.moved(asked, sent, SPEC), [0.0, 0.02])


def test_an_episode_is_lost_if_sync_without_a_delay_wins_it(benchmark: ModuleType) -> None:
    sync = [episode(1), episode(2, success=False), episode(3)]
    rtc = [episode(seed, mode="rtc", delay=8, success=seed == 2) for seed in (1, 2, 4)]
    cell = benchmark.Cell(mode="rtc", delay=8, limits="robot")
    found = benchmark.summary(cell, [*sync, *rtc])
    assert (found["pairs"], found["lost"], found["won"]) == (2, [1], [2])
    assert (found["episodes"], found["success"]["episodes"]) == (3, 1)
    assert (found["limited"], found["ticks"]) == (9, 300)
    assert found["asked"]["jump"] == pytest.approx(0.04)


def test_finished_episodes_of_the_same_policy_are_not_run_again(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = options(tmp_path)
    benchmark.kept(settings).add([episode(1), episode(2)])
    assert [line["seed"] for line in benchmark.kept(settings).read()] == [1, 2]
    assert benchmark.key_of(benchmark.kept(settings).read()[0]) == benchmark.Cell(
        mode="sync", delay=0, limits="robot"
    )
    missing = benchmark.missing_jobs(
        argparse.Namespace(**vars(settings), seed=1, episodes=4, realtime=0),
        [
            benchmark.Cell(mode="sync", delay=0, limits="robot"),
            benchmark.Cell(mode="sync", delay=3, limits="robot"),
        ],
    )
    assert [list(job.seeds) for job in missing] == [[3, 4], [1, 2, 3, 4]]
    (settings.bundle / "model.safetensors").write_bytes(b"other weights")
    assert benchmark.kept(settings).read() == []
