"""A precision is judged by how far it moves actions on a dataset's observations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flux_core.errors import ExportError
from flux_runtime.export.cli import main
from flux_runtime.export.export_progress import ExportSteps
from flux_runtime.export.options import ExportOptions
from flux_runtime.export.precision import moved_actions as module
from flux_runtime.export.precision.moved_actions import MovedActions, moved_actions
from flux_runtime.export.prepare import prepare
from flux_runtime.export.source.policy import TrainedPolicy
from flux_runtime.export.writer import export_bundle

from ..conftest import Exported

MakePolicy = Callable[[str], TrainedPolicy]


def test_the_error_is_compared_with_the_deviation_between_draws() -> None:
    random = np.random.default_rng(0)
    first, second = (
        [2.0 + 0.1 * random.normal(size=(1, 50, 7)) for _ in range(8)] for _ in range(2)
    )
    found = moved_actions(first, second, [actions + 0.05 for actions in first])
    assert found.observations == 8
    assert found.moved == pytest.approx(0.05)
    assert found.spread == pytest.approx(0.1, rel=0.05)
    assert found.share == pytest.approx(0.5, rel=0.05)
    found.check("int8")


def test_a_policy_without_randomness_may_not_move_at_all() -> None:
    assert MovedActions(observations=1, moved=0.0, spread=0.0).share == 0.0
    with pytest.raises(ExportError, match="too coarse"):
        MovedActions(observations=1, moved=1e-6, spread=0.0).check("bf16")


@pytest.mark.parametrize("moved", [0.21, float("nan"), float("inf")])
def test_a_precision_that_moves_actions_farther_than_chance_is_refused(moved: float) -> None:
    found = MovedActions(observations=8, moved=moved, spread=0.2)
    with pytest.raises(ExportError, match=rf"int8: too coarse .* 8 .* at most 0.2.* got {moved}"):
        found.check("int8")


def test_a_coarser_precision_moves_the_actions_of_a_dataset_farther(
    small_policy: MakePolicy, ur3_dataset: Path, tmp_path: Path
) -> None:
    moved: list[float] = []
    for precision in ("bf16", "fp8"):
        policy = small_policy("pi0")
        policy.model.action_out_proj.projector.weight.data *= 0.25  # untrained, and too coarse
        options = ExportOptions(
            precision=precision,  # type: ignore[arg-type]
            calibrate=(str(ur3_dataset),),
            calibration_samples=3,
        )
        found = prepare(policy, tmp_path, options, ExportSteps(lambda *step: None, 0)).moved
        assert found is not None and found.observations == 3
        assert 0.0 < found.moved < found.spread
        moved.append(found.moved)
    assert moved[1] > 2 * moved[0]


def test_the_command_says_how_far(
    exported: Exported, ur3_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = exported("pi0")
    command = [str(bundle.directory), "--out", str(tmp_path / "b"), "--precision", "int8"]
    command += ["--calibrate", str(ur3_dataset), "--calibrate", f"{ur3_dataset}/"]
    assert main([*command, "--calibration-samples", "3"]) == 0
    assert json.loads((tmp_path / "b" / "report.json").read_text())["moved"]["observations"] == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"on 3 observations of {ur3_dataset}, {ur3_dataset}/ it moves actions by" in said


def test_the_export_refuses_it_and_writes_nothing(
    small_policy: MakePolicy,
    ur3_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LARGEST_SHARE", 1e-9)
    options = ExportOptions(precision="int8", calibrate=(str(ur3_dataset),), calibration_samples=2)
    with pytest.raises(ExportError, match="int8: too coarse for this policy: on 2 observations"):
        export_bundle(small_policy("pi05"), tmp_path / "b", lambda *step: None, options)
    assert not list(tmp_path.iterdir())
