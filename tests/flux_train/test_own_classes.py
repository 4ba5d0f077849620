"""Custom classes in a training config: where they are found, and what training says first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_runtime.cli import main as runtime
from flux_runtime.evaluate.cli import main as evaluate
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
COLLATOR = (
    MODULE
    + """

from flux_data.samples import DictCollator


@dataclass(frozen=True, kw_only=True)
class MyCollator(DictCollator):
    pass
"""
)
TRAINED = """
train_dataloader["dataset"]["datasets"]["transforms"].append({{"type": {name!r}}})
"""
DEPLOYED = """
inference["dataset"]["transforms"].append({{"type": {name!r}}})
"""
NO_ROBOT = """
inference = None
"""
TRAINING_ONLY = MODULE.replace("    def", "    training_only = True\n\n    def")


@pytest.fixture
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, which is not on the module path, as a console script has it."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    return folder


@pytest.mark.parametrize("place", ["beside", "current"])
def test_it_may_lie_beside_the_config_or_in_the_current_directory(
    place: str,
    current: Path,
    tiny_options: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "configs" / SMALL.name
    config.parent.mkdir()
    module = f"my_transform_{place}"
    name = f"{module}:MyTransform"
    config.write_text(SMALL.read_text() + TRAINED.format(name=name))
    folder = config.parent if place == "beside" else current
    (folder / f"{module}.py").write_text(TRAINING_ONLY)
    before = list(sys.path)
    work_dir = tmp_path / "run"
    options = [*tiny_options, "runner.max_steps=1"]
    assert main([str(config), str(work_dir), "--cfg-options", *options]) == 0
    assert sys.path == before
    where = "train_dataloader.dataset.datasets.transforms[6].type"
    assert [text for text in caplog.messages if "flux-export" in text] == [
        f"{where}: flux-export finds '{name}' only if it is run in the directory of its module"
    ]
    checkpoint = work_dir / "checkpoint_epoch_1.pt"
    config_of = load_checkpoint(checkpoint)["config"]
    assert config_of["train_dataloader"]["dataset"]["datasets"]["transforms"][6] == {"type": name}
    check_export(checkpoint, name, module, folder, current, capsys)
    assert sys.path == before


def check_export(
    checkpoint: Path,
    name: str,
    module: str,
    folder: Path,
    current: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """flux-export finds the class in the current directory only, and the robot needs no module."""
    where = "config: train_dataloader.dataset.datasets.transforms[6].type"
    capsys.readouterr()
    sys.modules.pop(module)
    if folder != current:
        assert export([str(checkpoint)]) == 1
        assert (
            f"{where}: '{name}' is the path of a class, and its module is not in the current "
            in (capsys.readouterr().err)
        )
        assert module not in sys.modules
        return
    assert evaluate(["--suite", "aloha-sim", "--checkpoint", str(checkpoint)]) == 1
    assert "is the path of a class, not a registered name" in capsys.readouterr().err
    assert module not in sys.modules, "a robot's commands never look in the current directory"
    assert export([str(checkpoint)]) == 0
    sys.modules.pop(module)
    (current / f"{module}.py").unlink()
    bundle = checkpoint.with_suffix("")
    carried = json.loads((bundle / "config.json").read_text())["train_dataloader"]["dataset"]
    assert len(carried["datasets"]["transforms"]) == 6
    recorded = json.loads((bundle / "manifest.json").read_text())["provenance"]["training_only"]
    assert recorded == {"train_dataloader.dataset.datasets.transforms[6]": name}
    assert runtime(["check", str(bundle)]) == 0
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("trained", "deployed", "kind"),
    [
        (True, True, "transform"),
        (False, True, "transform"),
        (True, True, "training only"),
        (False, False, "collator"),
    ],
)
def test_a_class_that_a_bundle_cannot_carry_is_refused_before_the_first_step(
    trained: bool,
    deployed: bool,
    kind: str,
    current: Path,
    tiny_options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"my_refused_{trained}_{deployed}_{kind[:8]}".lower().strip() + ":MyTransform"
    module = name.partition(":")[0]
    parts = [SMALL.read_text()]
    if trained:
        parts.append(TRAINED.format(name=name))
    if deployed:
        parts.append(DEPLOYED.format(name=name))
    if kind == "collator":
        name = f"{module}:MyCollator"
        parts.append(f'runner["collator"]["type"] = {name!r}\n')
    (current / f"{module}.py").write_text(TRAINING_ONLY if kind == "training only" else COLLATOR)
    (current / "config.py").write_text("".join(parts))
    work_dir = tmp_path / "run"
    arguments = ["config.py", str(work_dir), "--cfg-options", *tiny_options, "runner.max_steps=1"]
    assert main(arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    expected = f"'{name}' is the path of a class, not a registered name. Register it as an entry "
    if (kind == "transform" and trained == deployed) or kind == "collator":
        assert expected in line
        assert line.endswith("to train without a robot, add --cfg-options inference=none.")
    assert not work_dir.exists()


def test_without_a_robot_it_trains_and_says_what_export_would_refuse(
    current: Path, tiny_options: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (current / "my_robotless.py").write_text(MODULE)
    text = SMALL.read_text() + TRAINED.format(name="my_robotless:MyTransform") + NO_ROBOT
    (current / "config.py").write_text(text)
    options = [option for option in tiny_options if not option.startswith("inference.")]
    assert main(["config.py", str(tmp_path), "--dry-run", "--cfg-options", *options]) == 0
    assert [text for text in caplog.messages if "flux-export" in text] == [
        "flux-export will refuse this run's checkpoint: train_dataloader.dataset.datasets."
        "transforms[6].type: 'my_robotless:MyTransform' is the path of a class, not a registered "
        "name. Register it as an entry point of flux.components."
    ]


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
