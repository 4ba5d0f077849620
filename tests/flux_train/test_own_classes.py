"""Custom classes in a training config: where they are found, and what training says first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_runtime.export.cli import main as export
from flux_train.cli import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py"
MODULE = """
from dataclasses import dataclass

from flux_core.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class MyTransform(Transform):
    def __call__(self, sample):
        return dict(sample)
"""
USED = """
train_dataloader["dataset"]["datasets"]["transforms"].append({{"type": {name!r}}})
inference["dataset"]["transforms"].append({{"type": {name!r}}})
"""


@pytest.mark.parametrize("place", ["beside", "current"])
def test_it_may_lie_beside_the_config_or_in_the_current_directory(
    place: str,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, current = tmp_path / "configs" / SMALL.name, tmp_path / "current"
    for folder in (config.parent, current):
        folder.mkdir()
    module = f"my_transform_{place}"
    name = f"{module}:MyTransform"
    config.write_text(SMALL.read_text() + USED.format(name=name))
    folder = config.parent if place == "beside" else current
    (folder / f"{module}.py").write_text(MODULE)
    monkeypatch.chdir(current)
    # As the console script has it.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(current))])
    before = list(sys.path)
    work_dir = tmp_path / "run"
    options = [*tiny_options, "runner.max_steps=1"]
    assert main([str(config), str(work_dir), "--cfg-options", *options]) == 0
    assert sys.path == before
    places = "train_dataloader.dataset.datasets.transforms[6]", "inference.dataset.transforms[5]"
    assert [text for text in caplog.messages if "flux-export" in text] == [
        f"flux-export will refuse this run's checkpoint: {place}.type: '{name}' is the path of a "
        "class, not a registered name. Register it as an entry point of flux.components."
        for place in places
    ]
    checkpoint = work_dir / "checkpoint_epoch_1.pt"
    transforms = load_checkpoint(checkpoint)["config"]["inference"]["dataset"]["transforms"]
    assert transforms[5] == {"type": name}
    capsys.readouterr()
    assert export([str(checkpoint)]) == 1
    assert f"{checkpoint}: config: {places[0]}.type: " in capsys.readouterr().err


def test_an_installed_module_is_not_hidden_by_one_beside_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.py"
    config.write_text("import chunk_of_nothing\nraise SystemError(chunk_of_nothing.__file__)\n")
    for folder in ("installed", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "chunk_of_nothing.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert main([str(config), str(tmp_path / "run"), "--debug"]) == 1
    assert Path(sys.modules.pop("chunk_of_nothing").__file__ or "").parent.name == "installed"


def test_a_run_that_can_be_deployed_warns_of_nothing(
    tiny_options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([str(SMALL), str(tmp_path), "--dry-run", "--cfg-options", *tiny_options]) == 0
    assert not [text for text in caplog.messages if "flux-export" in text]
