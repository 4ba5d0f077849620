"""The benchmark of success: which rows there are, how they pair up, and what disturbs the robot."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flux_core.robots import robot_spec
from flux_core.sim import AlohaInsertionSim, AlohaSim

from ..documents import load_script

SUITE = "aloha-transfer-cube"


@pytest.fixture(scope="module")
def disturbed(repo_root: Path) -> ModuleType:
    return load_script(repo_root / "benchmarks" / "disturbed_robot.py")


@pytest.fixture(scope="module")
def benchmark(disturbed: ModuleType, repo_root: Path) -> ModuleType:
    load_script(repo_root / "benchmarks" / "kept_episodes.py")
    return load_script(repo_root / "benchmarks" / "success.py")


def options(tmp_path: Path, **more: Any) -> argparse.Namespace:
    bundle = tmp_path / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "model.safetensors").write_bytes(b"weights")
    given = dict(work=tmp_path, bundle=bundle, seed=1, episodes=4, calibrate=[])
    return argparse.Namespace(**given, **more)


def episode(
    benchmark: ModuleType, seed: int, *, success: bool = True, **row: Any
) -> dict[str, Any]:
    fields = vars(benchmark.Row(suite=SUITE, **row))
    return {**fields, "seed": seed, "success": success, "strict_success": success}


def test_rows_are_paired_with_the_undisturbed_reference(benchmark: ModuleType) -> None:
    reference = [episode(benchmark, seed, success=seed != 2) for seed in (1, 2, 3)]
    rtc = [episode(benchmark, seed, mode="rtc", delay=8, success=seed == 2) for seed in (1, 2, 4)]
    row = benchmark.Row(suite=SUITE, mode="rtc", delay=8)
    found = benchmark.summary(row, [*reference, *rtc], None)
    assert (found["episodes"], found["pairs"], found["lost"], found["won"]) == (3, 2, [1], [2])
    assert found["success"]["episodes"] == 1
    assert found["points"] == 0.0
    other = benchmark.Row(suite="aloha-insertion", mode="rtc", delay=8)
    assert benchmark.summary(other, [*reference, *rtc], None)["episodes"] == 0


def test_a_refused_precision_is_a_row_with_the_reason(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(command: str, *arguments: object) -> None:
        if "int8" in arguments:
            raise subprocess.CalledProcessError(1, command, stderr="more\nflux-export: error: far")

    monkeypatch.setattr(benchmark, "run", refuse)
    monkeypatch.setattr(benchmark, "missing_jobs", lambda options, rows, bundles: [])
    rows = [benchmark.Row(suite=SUITE), benchmark.Row(suite=SUITE, precision="int8")]
    refused = benchmark.measure(options(tmp_path, jobs=1), rows)
    assert refused == {("int8", "onnxruntime"): "flux-export: error: far"}
    figures = [benchmark.summary(row, [], refused.get(benchmark.variant(row))) for row in rows]
    (line,) = list(benchmark.table_rows(figures))[1:]
    assert line[:3] == [
        SUITE,
        "sync, delay 0; int8 on onnxruntime",
        f"refused: {refused.popitem()[1]}",
    ]


def test_finished_episodes_of_the_same_policy_are_not_run_again(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    settings = options(tmp_path)
    benchmark.kept(settings).add([episode(benchmark, 1), episode(benchmark, 2)])
    rows = [benchmark.Row(suite=SUITE), benchmark.Row(suite=SUITE, horizon=8)]
    bundles = {("fp32", "onnxruntime"): settings.bundle}
    missing = benchmark.missing_jobs(settings, rows, bundles)
    assert [list(job.seeds) for job in missing] == [[3, 4], [1, 2, 3, 4]]
    (settings.bundle / "model.safetensors").write_bytes(b"other weights")
    assert benchmark.kept(settings).read() == []


def test_pictures_and_joints_are_disturbed_as_said(disturbed: ModuleType) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    bright = disturbed.Brightness(1.3).picture(picture)
    np.testing.assert_allclose(bright, np.minimum(picture * 1.3, 255), atol=0.5)
    occlusion = disturbed.Occlusion(0.05)
    occlusion.begin(random)
    covered = (occlusion.picture(picture) != picture).any(axis=2).mean()
    assert covered == pytest.approx(0.05, rel=0.15)
    blurred = disturbed.Blur(2.0).picture(picture)
    assert blurred.std() < 0.5 * picture.std()
    assert blurred.mean() == pytest.approx(picture.mean(), rel=0.02)

    spec = robot_spec("aloha-sim")
    joints = disturbed.NoisyJoints(0.01, spec)
    joints.begin(random)
    state = np.zeros(spec.state_dim, np.float32)
    noise = np.stack([joints.state(state) for _ in range(2000)])
    is_rad = np.array(spec.units) == "rad"
    np.testing.assert_allclose(noise[:, is_rad].std(axis=0), 0.01, rtol=0.1)
    assert not noise[:, ~is_rad].any()


@pytest.mark.parametrize("simulation", [AlohaSim, AlohaInsertionSim])
def test_an_object_jumps_once_and_stays_within_its_range(
    disturbed: ModuleType, simulation: type[AlohaSim] | type[AlohaInsertionSim]
) -> None:
    sim = simulation(cameras=())
    moved = disturbed.MovedObject(0.03, at_step=2)
    object_of = slice(-7, -5) if simulation is AlohaSim else slice(-14, -12)
    for seed in range(5):
        sim.reset(seed)
        moved.begin(np.random.default_rng(seed))
        before = np.array(sim.data.qpos)
        for steps in (1, 2, 3):
            moved.after_step(sim, steps)
        now = np.array(sim.data.qpos)
        assert np.linalg.norm(now[object_of] - before[object_of]) == pytest.approx(0.03)
        now[object_of] = before[object_of]
        np.testing.assert_array_equal(now, before)  # nothing else has moved


def test_numbers_md_has_the_table_of_what_was_measured(
    benchmark: ModuleType, repo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = repo_root / "benchmarks" / "results" / "success_both_2cores.json"
    rows = benchmark.table_rows(json.loads(results.read_text())["rows"])
    benchmark.print_rows(rows, is_markdown=True, width=0)
    assert capsys.readouterr().out in (repo_root / "docs" / "numbers.md").read_text()
