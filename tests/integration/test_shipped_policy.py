"""The shipped policies solve their tasks, and their recipes are those on their page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flux_runtime.check import check
from flux_runtime.control.session import policy_folder
from flux_runtime.evaluate.cli import main as evaluate
from flux_runtime.run.command import RunOptions, run

from ..documents import load_script

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ("aloha_sim_transfer_cube", "aloha_sim_both")
SEED = 100_000
EACH = pytest.mark.parametrize("name", POLICIES)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_it_moves_the_cube_from_hand_to_hand(mode: str) -> None:
    report = run(RunOptions(robot="aloha-sim", episodes=4, mode=mode))  # type: ignore[arg-type]
    assert report["success_rate"] == report["strict_success_rate"] == 1.0
    assert report["commands_out_of_limit"] == 0
    violations = report["violations"]
    assert isinstance(violations, dict) and violations["non_finite"] == 0


def test_the_policy_of_both_tasks_does_what_its_words_say_in_either_scene() -> None:
    """The scene's own words succeed; the other sentence gives the other movement, no mixture."""
    load_script(ROOT / "benchmarks" / "kept_episodes.py")
    words = load_script(ROOT / "benchmarks" / "words.py")
    bundle, seeds = policy_folder("aloha_sim_both"), range(SEED, SEED + 3)
    for scene in words.SCENES:
        for said in words.SCENES:
            found = words.measured(bundle, scene, said, seeds)
            if said == scene:
                assert found["successes"] == 3
                assert max(map(abs, found["shares"])) < 0.25
            else:
                assert found["successes"] == 0
                assert max(abs(share - 1.0) for share in found["shares"]) < 0.25


def test_insertion_has_a_shipped_policy(capsys: pytest.CaptureFixture[str]) -> None:
    suite = ["--suite", "aloha-insertion", "--episodes", "3", "--seed", str(SEED)]
    assert evaluate([*suite, "--json"]) == 0
    assert '"success_rate": 1.0' in capsys.readouterr().out


@EACH
def test_it_reproduces_its_golden_on_this_machine(name: str) -> None:
    assert check(policy_folder(name))["ok"]


@EACH
def test_it_holds_its_config_statistics_and_training_log(name: str) -> None:
    names = {path.name for path in policy_folder(name).iterdir()}
    assert {"config.json", "norm_stats.json", "metrics.jsonl", "model.safetensors"} <= names


def test_all_are_small() -> None:
    files = [path for name in POLICIES for path in policy_folder(name).rglob("*")]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 20_000_000
    assert {path.name for path in policy_folder(POLICIES[0]).parent.iterdir()} == {
        *POLICIES,
        "README.md",
    }


@EACH
def test_it_was_trained_as_its_page_says(name: str) -> None:
    """With the config and the options of the command that comes before its export."""
    from flux_core.config import load_config
    from flux_train.config.tree import bind_train_config

    page = (policy_folder(name).parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (block,) = [block for block in blocks if f"policies/{name}\n" in block]
    (command,) = [line for line in block.splitlines() if line.startswith("flux-train ")]
    words = command.split()
    options = words[words.index("--cfg-options") + 1 :] if "--cfg-options" in words else []
    now = bind_train_config(load_config(ROOT / words[1], options))
    shipped = bind_train_config(load_config(policy_folder(name) / "config.json"))
    assert shipped.model == now.model
    assert shipped.train_dataloader == now.train_dataloader
    assert shipped.inference == now.inference
    assert shipped.runner == now.runner
