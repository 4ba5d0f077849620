"""A bundle whose robot contradicts its training does not run, and what may change has options."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_core.agreement import Changes
from flux_core.bundle import Bundle
from flux_core.bundle.bundle import parse_manifest, write_manifest
from flux_core.errors import BundleError, UsageError
from flux_runtime.cli import main
from flux_runtime.control.agreement import agreed_bundle
from flux_runtime.control.session import shipped_policy

Edit = Callable[[dict[str, Any]], object]


def edited(folder: Path, edit: Edit, **provenance: Any) -> Bundle:
    """The shipped bundle with another config, whole and valid otherwise."""
    root = folder / "bundle"
    shutil.copytree(shipped_policy("aloha-sim"), root)
    config = json.loads((root / "config.json").read_text())
    edit(config)
    (root / "config.json").write_text(json.dumps(config))
    manifest = parse_manifest(json.loads((root / "manifest.json").read_text()))
    write_manifest(root, replace(manifest, provenance={**manifest.provenance, **provenance}))
    return Bundle.open(root)


def inference(config: dict[str, Any]) -> dict[str, Any]:
    return config["inference"]


def trained(config: dict[str, Any]) -> list[dict[str, Any]]:
    return config["train_dataloader"]["dataset"]["datasets"]["transforms"]


CONTRADICTIONS: dict[str, tuple[Edit, list[str]]] = {
    "action_key": (
        lambda c: inference(c)["denormalize_action"].update(action_key="proprio"),
        ["inference.denormalize_action.action_key: expected 'action'", "got 'proprio'"],
    ),
    "action_dim": (
        lambda c: inference(c)["denormalize_action"].update(action_dim=7),
        ["denormalize_action.action_dim: expected at least 14", "got 7. Leave it out", "--config"],
    ),
    "another camera": (
        lambda c: trained(c)[0].update(video_keys=["observation.images.cam_left_wrist"]),
        ["inference.dataset.img_keys: expected ('observation.images.cam_left_wrist',)", "cam_high"],
    ),
    "another size": (
        lambda c: inference(c)["dataset"]["transforms"][3].update(height=90),
        ["ResizeImages differs from training in height: expected 96, got 90"],
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_bundle_that_contradicts_its_training_is_refused(case: str, tmp_path: Path) -> None:
    edit, parts = CONTRADICTIONS[case]
    bundle = edited(tmp_path, edit)
    with pytest.raises(BundleError) as error:
        agreed_bundle(bundle, Changes(), None)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_bundle_of_an_earlier_version_may_lack_cameras_in_order(tmp_path: Path) -> None:
    columns = [f"observation.images.{name}" for name in ("cam_low", "cam_high")]
    bundle = edited(tmp_path, lambda c: trained(c)[0].update(video_keys=columns))
    assert agreed_bundle(bundle, Changes(), None) is bundle


def test_the_rate_of_the_recordings_is_compared_when_the_bundle_states_it(tmp_path: Path) -> None:
    data = {"fps": 25.0, "state_dim": 14, "action_dim": 14, "tasks": ["transfer the cube"]}
    bundle = edited(tmp_path, lambda c: None, data=data)
    with pytest.raises(BundleError, match=r"control_hz: expected 25, the fps of .*, got 50"):
        agreed_bundle(bundle, Changes(), None)
    allowed = {**bundle.config, "inference": {**bundle.config["inference"]}}  # type: ignore[dict-item]
    allowed["inference"]["allow_rate_change"] = True  # type: ignore[index]
    agreed_bundle(replace(bundle, config=allowed), Changes(), None)


@pytest.mark.parametrize("data", [[], {"fps": "fast"}, {"fps": 1.0}, 3])
def test_damaged_facts_about_the_data_are_one_line(data: Any, tmp_path: Path) -> None:
    bundle = edited(tmp_path, lambda c: None, data=data)
    with pytest.raises(BundleError, match=r"provenance\.data"):
        agreed_bundle(bundle, Changes(), None)


def test_a_run_may_execute_other_steps_and_says_so(
    capsys: pytest.CaptureFixture[str], core: Any
) -> None:
    run = ["run", "--robot", "aloha-sim", "--dry-run", "--json"]
    assert main([*run, "--execution-horizon", "8", "--action-chunk", "12"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["execution_horizon"] == 8
    assert report["changed_after_training"] == {"execution_horizon": 8, "action_chunk": 12}


def test_what_does_not_fit_the_network_is_refused_before_anything_moves() -> None:
    bundle = Bundle.open(shipped_policy("aloha-sim"))
    for changes, message in (
        (Changes(execution_horizon=33), "inference.execution_horizon: expected 1 to 32"),
        (Changes(action_chunk=8), "inference.execution_horizon: expected 1 to 8"),
        (Changes(rtc={"prefix_len": 3}), "inference.rtc_config.prefix_len: expected (0, 4, 8"),
        (Changes(topics={"img_front_topic": "/x"}), "--topic: expected a robot with an operator"),
    ):
        with pytest.raises(UsageError) as error:
            agreed_bundle(bundle, changes, None)
        assert message in str(error.value)


def test_a_new_task_is_one_warning_with_the_nearest_one(caplog: pytest.LogCaptureFixture) -> None:
    bundle = Bundle.open(shipped_policy("aloha-sim"))
    agreed_bundle(bundle, Changes(), "transfer the cube")
    assert caplog.messages == []
    agreed_bundle(bundle, Changes(), "transfer a cube")
    assert caplog.messages == [
        "--task: not among the 1 tasks of training: 'transfer a cube' (nearest: 'transfer the "
        "cube')"
    ]
