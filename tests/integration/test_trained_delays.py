"""A small policy trained with random prefixes, from the command line to the bundle."""

from __future__ import annotations

import json
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.config import bind
from flux_core.models import network_facts
from flux_core.models.pi import PI0FlowMatching
from flux_runtime.export.cli import main as export
from flux_train import recipes
from flux_train.cli import main as train

ROOT = Path(__file__).resolve().parents[2]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")


def test_the_small_recipe_takes_delays_as_an_argument() -> None:
    delays = dict(max_delay=17, distribution="uniform")
    tree = recipes.small_pi05_model(action_horizon=32, rtc_training_config=delays)
    config = bind(PI0FlowMatching.Config, tree, "model")
    assert network_facts(config).rtc_delays == (0, 4, 8, 12, 16)
    plain = bind(PI0FlowMatching.Config, recipes.small_pi05_model(action_horizon=32), "model")
    assert plain.rtc_training_config is None


def test_delays_that_an_option_adds_reach_the_bundle(
    tiny_options: list[str], tmp_path: Path
) -> None:
    options = [*tiny_options, "model.rtc_training_config.max_delay=9", "runner.max_steps=1"]
    assert train([SMALL, str(tmp_path / "run"), "--cfg-options", *options]) == 0
    # The written config has all values of the section, so that an option can change one of them.
    written = tmp_path / "run" / "config.json"
    assert json.loads(written.read_text())["model"]["rtc_training_config"]["max_delay"] == 9
    checkpoint, bundle = tmp_path / "run" / "checkpoint_epoch_1.pt", tmp_path / "bundle"
    assert export([str(checkpoint), "--out", str(bundle)]) == 0
    assert Bundle.open(bundle).manifest.rtc_valid_delays == (0, 4, 8)
