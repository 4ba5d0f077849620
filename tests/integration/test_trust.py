"""A bundle or checkpoint runs only code of installed distributions that it is allowed to name.

Each module here creates a file when it is imported, so that the tests can see that no command that
opens a bundle imports it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flux_core.bundle import Bundle, ComponentSource, write_manifest
from flux_core.config.deployable import uses
from flux_runtime.cli import main as runtime
from flux_runtime.control.session import shipped_policy
from flux_runtime.evaluate.cli import main as evaluate
from flux_runtime.export.cli import main as export

from ..distributions import install, write_distribution, write_module

Change = Callable[[dict[str, Any]], object]
PLACES: dict[str, Change] = {
    "model.type": lambda c: c["model"].update(type=NAME),
    "model.vision_backbone.type": lambda c: c["model"]["vision_backbone"].update(type=NAME),
    "inference.dataset.transforms[0].type": lambda c: c["inference"]["dataset"]["transforms"][
        0
    ].update(type=NAME),
    "train_dataloader.dataset.datasets.transforms[1].type": lambda c: c["train_dataloader"][
        "dataset"
    ]["datasets"]["transforms"][1].update(type=NAME),
    "runner.collator.type": lambda c: c["runner"]["collator"].update(type=NAME),
    "made_up.deep[1].type": lambda c: c.update(made_up={"deep": [0, {"type": NAME}]}),
}
NAME = "acme_parts:Recorder"
COMMANDS: dict[str, Callable[[Path, Path], int]] = {
    "export": lambda b, out: export([str(b), "--out", str(out)]),
    "check": lambda b, _: runtime(["check", str(b)]),
    "run": lambda b, _: runtime(["run", "--robot", "aloha-sim", "--bundle", str(b)]),
    "bench": lambda b, _: runtime(["bench", str(b), "--repeat", "1", "--warm-up", "1"]),
    "eval": lambda b, _: evaluate(["--suite", "aloha-sim", "--bundle", str(b)]),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the module path, like site-packages."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)
    return folder


def forged(
    folder: Path, change: Change, components: dict[str, ComponentSource] | None = None
) -> Path:
    """Writes the shipped policy with another config, a matching manifest and valid hashes."""
    bundle = Bundle.open(shutil.copytree(shipped_policy("aloha-sim"), folder))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    flux = ComponentSource(distribution="flux-core", version="2020.1.0")
    names = {str(use.name): flux for use in uses(config)} | (components or {})
    write_manifest(folder, replace(bundle.manifest, schema_version=3, components=names))
    return folder


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_module_that_is_not_registered_is_not_imported(
    place: str, command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_module(site, "acme_parts")
    bundle = forged(tmp_path / "bundle", PLACES[place])
    assert COMMANDS[command](bundle, tmp_path / "out") == 1
    line = refusal(capsys)
    assert f"config.json: {place}: " in line
    assert "is the path of a class" in line or "no component is expected here" in line
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_registered_name_in_a_wrong_field_is_not_imported(
    command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_distribution(site, "acme-parts", "1.0", {"Recorder": NAME})
    source = ComponentSource(distribution="acme-parts", version="1.0")
    change: Change = lambda c: c["model"].update(type="Recorder")  # noqa: E731
    bundle = forged(tmp_path / "bundle", change, {"Recorder": source})
    assert COMMANDS[command](bundle, tmp_path / "out") == 1
    assert refusal(capsys).endswith(
        "config.json: model.type: expected a component of kind 'model', got 'Recorder', which "
        "acme-parts registers as 'transform'."
    )
    assert not mark.exists()


def with_recorder(config: dict[str, Any]) -> None:
    """Adds a transform for training, which no command for the robot binds."""
    config["train_dataloader"]["dataset"]["datasets"]["transforms"].append({"type": "Recorder"})


@pytest.mark.parametrize("command", COMMANDS)
def test_another_version_is_not_imported_unless_it_is_accepted(
    command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_distribution(site, "Acme.Parts", "1.0", {"Recorder": "Acme.Parts:Recorder"})
    source = ComponentSource(distribution="acme-parts", version="0.9")
    bundle = forged(tmp_path / "bundle", with_recorder, {"Recorder": source})
    assert COMMANDS[command](bundle, tmp_path / "out") == 1
    assert refusal(capsys).endswith(
        "transforms[6].type: expected 'Recorder' of Acme.Parts 0.9 as in the manifest, got 1.0. "
        "Install that version, or add --accept-version Acme.Parts."
    )
    assert not mark.exists()


@pytest.mark.parametrize("command", ["check", "bench", "run"])
def test_an_accepted_version_is_used(
    command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_distribution(site, "acme-parts", "1.0", {"Recorder": NAME})
    source = ComponentSource(distribution="acme-parts", version="0.9")
    bundle = forged(tmp_path / "bundle", with_recorder, {"Recorder": source})
    options = {
        "check": ["check", str(bundle)],
        "bench": ["bench", str(bundle), "--repeat", "1", "--warm-up", "1"],
        "run": ["run", "--robot", "aloha-sim", "--bundle", str(bundle), "--dry-run"],
    }[command]
    accept = ["--accept-version", "other", "--accept-version", "ACME_parts"]
    assert runtime([*options, *accept]) == 0, capsys.readouterr().err
    assert not mark.exists(), "unused components must not be imported"


def test_a_transform_of_another_distribution_runs_on_the_robot(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_distribution(site, "acme-waves", "1.0", {"Waves": "acme_waves:Recorder"})
    source = ComponentSource(distribution="acme-waves", version="1.0")

    def change(config: dict[str, Any]) -> None:
        for section in (config["inference"]["dataset"], config["train_dataloader"]["dataset"]):
            section.get("datasets", section)["transforms"].insert(1, {"type": "Waves"})

    bundle = forged(tmp_path / "bundle", change, {"Waves": source})
    command = ["run", "--robot", "aloha-sim", "--bundle", str(bundle), "--dry-run"]
    assert runtime(command) == 0, capsys.readouterr().err
    assert mark.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_robot_that_flux_does_not_describe_is_not_looked_up(
    command: str, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_module(site, "acme_robot")
    install(site, "acme-robot", {"flux.robots": {"my-arm": "acme_robot:SPEC"}})
    change: Change = lambda c: c["inference"].update(robot="my-arm")  # noqa: E731
    bundle = forged(tmp_path / "bundle", change)
    assert COMMANDS[command](bundle, tmp_path / "out") == 1
    assert "config.json: inference.robot: expected the description of a robot" in refusal(capsys)
    assert not mark.exists()


def test_an_exported_bundle_records_the_version_that_was_verified(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_distribution(site, "acme-parts", "1.0", {"Recorder": NAME})
    source = ComponentSource(distribution="acme-parts", version="0.9")
    bundle = forged(tmp_path / "bundle", with_recorder, {"Recorder": source})
    out = tmp_path / "out"
    assert export([str(bundle), "--out", str(out), "--accept-version", "acme-parts"]) == 0
    manifest = Bundle.open(out).manifest
    assert manifest.schema_version == 3
    assert manifest.components["Recorder"] == replace(source, version="1.0")
    assert manifest.components["TrainConfig"].distribution == "flux-train"
    assert not [name for name in manifest.components if ":" in name]
    assert json.loads((out / "config.json").read_text())["type"] == "TrainConfig"


def test_another_distribution_of_the_same_name_is_refused(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write_distribution(site, "acme-parts", "1.0", {"Recorder": NAME})
    source = ComponentSource(distribution="other-parts", version="1.0")
    bundle = forged(tmp_path / "bundle", with_recorder, {"Recorder": source})
    assert runtime(["check", str(bundle), "--accept-version", "acme-parts"]) == 1
    assert "expected 'Recorder' of 'other-parts' as in the manifest, got that of acme-parts" in (
        refusal(capsys)
    )
    assert not mark.exists()


def test_two_distributions_that_offer_a_name_are_refused(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = [
        write_distribution(site, name, "1.0", {"ByteTokenizer": f"{name}:Recorder"})
        for name in ("acme", "thief")
    ]
    assert runtime(["check", str(shipped_policy("aloha-sim"))]) == 1
    line = refusal(capsys)
    assert "'ByteTokenizer' is registered by flux-core" in line and "thief (thief:Rec" in line
    assert not any(mark.exists() for mark in marks)


def test_a_bundle_of_schema_2_has_no_version_to_compare(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_distribution(site, "acme-parts", "1.0", {"Recorder": NAME})
    bundle = forged(tmp_path / "bundle", with_recorder)
    manifest = Bundle.open(shipped_policy("aloha-sim")).manifest
    write_manifest(bundle, manifest)
    written = json.loads((bundle / "manifest.json").read_text())
    of_version_3 = ("components", "data_summary", "robot_spec", "model_kind", "options")
    kept = {name: value for name, value in written.items() if name not in of_version_3}
    (bundle / "manifest.json").write_text(json.dumps(kept | {"schema_version": 2}))
    assert runtime(["check", str(bundle)]) == 1
    assert "does not state its version" in refusal(capsys)
    assert runtime(["check", str(bundle), "--accept-version", "acme-parts"]) == 0


PROGRAMS = {
    "python -m flux_runtime.evaluate": ["-m", "flux_runtime.evaluate", "--suite", "aloha-sim"],
    "flux-runtime check": ["-c", "import sys; from flux_runtime.cli import main; sys.exit(main())"],
    "flux-export": [
        "-c",
        "import sys; from flux_runtime.export.cli import main; sys.exit(main())",
    ],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_modules_in_the_current_directory_are_not_imported(program: str, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        write_distribution(folder, "acme-parts", "1.0", {"runner.Recorder": NAME})
    source = ComponentSource(distribution="acme-parts", version="1.0")
    change: Change = lambda c: c["model"].update(type="Recorder")  # noqa: E731
    bundle = forged(tmp_path / "bundle", change, {"Recorder": source})
    arguments = {
        "python -m flux_runtime.evaluate": ["--bundle", str(bundle)],
        "flux-runtime check": ["check", str(bundle)],
        "flux-export": [str(bundle), "--out", str(tmp_path / "out")],
    }[program]

    def message(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, *PROGRAMS[program], *arguments],
            cwd=here,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        return line

    assert "'Recorder' has no entry point of its own" in message()
    assert "'Recorder' has no entry point of its own" in message(PYTHONPATH=str(here))
    assert "which acme-parts registers as 'runner'" in message(PYTHONPATH=str(elsewhere))
    assert not list(tmp_path.rglob("*.imported"))


@pytest.mark.parametrize("command", ["flux-export", "flux-eval"])
@pytest.mark.parametrize("place", PLACES)
def test_a_checkpoint_that_names_a_module_is_refused_without_importing_it(
    place: str,
    command: str,
    tiny_run: Path,
    site: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    mark = write_module(site, "acme_parts")
    state = torch.load(tiny_run / "checkpoint_epoch_1.pt", weights_only=True)
    PLACES[place](state["config"])
    checkpoint = tmp_path / "checkpoint_epoch_1.pt"
    torch.save(state, checkpoint)
    if command == "flux-export":
        assert export([str(checkpoint)]) == 1
    else:
        assert evaluate(["--suite", "aloha-sim", "--checkpoint", str(checkpoint)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{checkpoint}: config: {place}: " in line
    assert not mark.exists() and not checkpoint.with_suffix("").exists()
