"""The scripts that compare: two checkouts in simulation, and the control loop with a bare timer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ..documents import load_script


@pytest.fixture(scope="module")
def comparison(repo_root: Path) -> ModuleType:
    return load_script(repo_root / "scripts" / "compare_simulated.py")


@pytest.fixture(scope="module")
def benchmark(repo_root: Path) -> ModuleType:
    return load_script(repo_root / "benchmarks" / "control_loop.py")


def _write(folder: Path, report: Mapping[str, object], commands: bytes) -> Path:
    folder.mkdir()
    (folder / "run-sync.json").write_text(json.dumps(report))
    (folder / "run-sync.commands").write_bytes(commands)
    return folder


def test_two_checkouts_are_compared_but_not_their_times(
    comparison: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {"ticks": 171, "inference_p50_ms": 3.0, "episodes": [{"seed": 1, "steps": 171}]}
    before = _write(tmp_path / "before", report, b"abcd")
    same = _write(tmp_path / "same", report | {"inference_p50_ms": 4.0, "new": 1}, b"abcd")
    assert comparison.compare(before, same) == 0
    other = report | {"episodes": [{"seed": 1, "steps": 170}]}
    assert comparison.compare(before, _write(tmp_path / "other", other, b"abcd")) == 1
    assert "episodes[0].steps: 171 became 170" in capsys.readouterr().out
    assert comparison.compare(before, _write(tmp_path / "bits", report, b"abce")) == 1


def test_skipped_ticks_count_within_episodes_only(benchmark: ModuleType) -> None:
    period = benchmark.PERIOD_NS
    ticks = np.array([0, 1, 2, 5, 100, 101]) * period
    series = benchmark.Series(deadlines=ticks, sent=ticks + 1_000_000, episodes=(0, 4))
    assert (series.skipped() == np.array([3, 4]) * period).all()
    assert series.intervals_ms().max() == pytest.approx(60.0)
    assert series.lateness_ms() == pytest.approx(1.0)


def test_only_ticks_that_the_timer_met_count_as_skipped_alone(benchmark: ModuleType) -> None:
    period = benchmark.PERIOD_NS
    ticks = np.array([0, 1, 2, 4, 5, 30, 32]) * period
    loop = benchmark.Series(deadlines=ticks, sent=ticks)
    even = np.arange(40) * period + period // 2
    sent = even.copy()
    sent[3] += int(0.9 * period)  # late where the loop skipped tick 3
    timer = benchmark.Series(deadlines=even, sent=sent)
    skipped = set((loop.skipped() // period).tolist())
    assert skipped == {3, *range(6, 30), 31}
    assert benchmark.skipped_alone(loop, timer) == len(skipped) - 1
