"""The shipped policy solves its task, and its recipe is the one in the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_runtime.check import check
from flux_runtime.run.command import RunOptions, run, shipped_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle_dir() -> Path:
    return shipped_policy("aloha-sim")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_it_moves_the_cube_from_hand_to_hand(mode: str) -> None:
    report = run(RunOptions(robot="aloha-sim", episodes=4, mode=mode))  # type: ignore[arg-type]
    assert report["success_rate"] == report["strict_success_rate"] == 1.0
    assert report["commands_out_of_limit"] == 0
    violations = report["violations"]
    assert isinstance(violations, dict) and violations["non_finite"] == 0


def test_it_reproduces_its_golden_on_this_machine(bundle_dir: Path) -> None:
    assert check(bundle_dir)["ok"]


def test_it_is_small_and_holds_its_config_statistics_and_training_log(bundle_dir: Path) -> None:
    files = [path for path in bundle_dir.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16 << 20
    names = {path.name for path in files}
    assert {"config.json", "norm_stats.json", "metrics.jsonl", "model.safetensors"} <= names


def test_it_was_trained_as_its_page_says(bundle_dir: Path) -> None:
    """With the config of the demo, and the options of the command beside the bundle."""
    from flux_core.config import load_config
    from flux_train.config.tree import bind_train_config

    page = (bundle_dir.parent / "README.md").read_text(encoding="utf-8")
    (command,) = [line for line in page.splitlines() if line.startswith("flux-train ")]
    words = command.split()
    options = words[words.index("--cfg-options") + 1 :]
    now = bind_train_config(load_config(ROOT / words[1], options))
    shipped = bind_train_config(load_config(bundle_dir / "config.json"))
    assert shipped.model == now.model
    assert shipped.train_dataloader == now.train_dataloader
    assert shipped.inference == now.inference
    assert shipped.runner == now.runner
