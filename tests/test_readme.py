"""Every code block of the README and the other documents is run or checked, here or by `make demo`.

An HTML comment on the line above a block says how:

    <!-- test: run -->    this module runs it in an empty folder, with .venv/bin on the PATH
    <!-- test: demo -->   each of its command lines is a target of the Makefile or one of COMMANDS
                          in scripts/demo.py
    <!-- test: check -->  takes too long, or needs a GPU or a dataset: this module checks that its
                          commands, options, configs and files exist
    <!-- test: six -->    the README's six commands: this module runs them on two short recordings,
                          with a few training steps
    <!-- test: own -->    tests/integration/test_your_own.py runs it, in a directory outside the
                          repository and an environment of its own
    <!-- test: refused -->  the same, and expects each command to fail
    <!-- file: NAME -->   the same test writes this file
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .documents import (
    DOCUMENTS,
    ROOT,
    YOUR_OWN,
    Block,
    demo_commands,
    faults_of,
    make_commands,
    name_of,
    read_blocks,
    unknown_names,
)

README = ROOT / "README.md"
BLOCKS = [
    pytest.param(document, block, id=f"{name_of(document)}:{block.line}")
    for document in DOCUMENTS
    if document.is_file()
    for block in read_blocks(document.read_text(encoding="utf-8"))
    if block.language != "yaml" or document in YOUR_OWN
]
MARKS = {"run", "demo", "check", "six"}
OWN_MARKS = {"own", "refused"}
EPISODES, FRAMES = 2, 40


@pytest.mark.parametrize(("document", "block"), BLOCKS)
def test_a_block_of_a_document_does_what_it_says(
    document: Path, block: Block, tmp_path: Path
) -> None:
    where = f"{name_of(document)}:{block.line}"
    if document in YOUR_OWN and (block.file or block.mark in OWN_MARKS):
        return  # what another module follows to the letter
    assert block.mark in MARKS, f"{where}: expected a line '<!-- test: run -->' (or demo) above it"
    if block.mark == "run":
        _run(block, tmp_path, where)
    elif block.mark == "demo":
        known = make_commands() | demo_commands()
        unknown = [command for command in block.commands if _made(command) not in known]
        assert not unknown, f"{where}: `make demo` does not run {unknown}"
    elif block.mark == "check":
        if block.language.startswith("py"):
            assert not unknown_names(block.code), where
            return
        assert not [fault for command in block.commands for fault in faults_of(command)], where


def test_the_readme_exists_and_shows_code() -> None:
    assert README.is_file(), "README.md is missing"
    assert read_blocks(README.read_text(encoding="utf-8")), "README.md has no bash or python block"


def test_the_six_commands_lead_from_recordings_to_a_moving_robot(tmp_path: Path) -> None:
    (block,) = (b for b in read_blocks(README.read_text(encoding="utf-8")) if b.mark == "six")
    assert len(block.commands) == 6
    _write_recordings(tmp_path / "recordings")
    code = (
        block.code.replace("checkpoint_epoch_N.pt", "checkpoint_epoch_*.pt")
        .replace("--cfg-options", "--cfg-options runner.max_steps=2 runner.log_interval=1")
        .replace("--robot aloha-sim", "--robot aloha-sim --episodes 1 --max-steps 20")
    )
    _run(Block(line=block.line, mark="run", language="bash", code=code), tmp_path, "README.md, six")
    for name in ("mine.html", "mine.bundle/manifest.json", "mine_report.html"):
        assert (tmp_path / name).is_file()


def test_an_import_that_does_not_exist_is_found() -> None:
    assert unknown_names("from flux_runtime import read_recording\nfrom os import nowhere\n") == [
        "os.nowhere"
    ]


def test_reading_blocks_sees_marks_lines_and_commands() -> None:
    text = (
        "# T\n\n<!-- test: run -->\n```bash\n# why\na \\\n  b  # c\n```\n\n```python\nx = 1\n```\n"
    )
    first, second = read_blocks(text)
    assert (first.line, first.mark, first.commands) == (5, "run", ["a b"])
    assert (second.line, second.mark, second.code) == (11, None, "x = 1\n")


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("make demoo", "no target 'demoo'"),
        ("flux-datta info", "no command 'flux-datta'"),
        ("flux-data view DIR --outt page.html", "flux-data view has no option --outt"),
        ("flux-data demo aloha-sim --tusk 3", "flux-data demo aloha-sim has no option --tusk"),
        ("flux-train configs/none.py work", "no file configs/none.py"),
        ("flux-train report WORK --cfg-options a=1", "flux-train report has no option --cfg-opt"),
        ("python benchmarks/none.py", "no file benchmarks/none.py"),
        ("python benchmarks/train.py --sizes small", "benchmarks/train.py has no option --sizes"),
        ("python -m pytest tests/none", "no file tests/none"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, fault: str) -> None:
    (found,) = faults_of(command)
    assert found.startswith(fault)


def _run(block: Block, folder: Path, where: str) -> None:
    shutil.copytree(ROOT / "configs", folder / "configs", dirs_exist_ok=True)
    is_python = block.language.startswith("py")
    command = [sys.executable, "-c"] if is_python else ["bash", "-euo", "pipefail", "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*command, block.code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"


def _made(command: str) -> str:
    """'make demo ARGS=...' -> 'make demo'."""
    return " ".join(command.split()[:2]) if command.startswith("make") else command


def _write_recordings(folder: Path) -> None:
    """Writes short recordings in the layout of ALOHA's own recorder."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for episode in range(EPISODES):
        steps = rng.normal(scale=0.01, size=(FRAMES, 14)).cumsum(axis=0)
        with h5py.File(folder / f"episode_{episode}.hdf5", "w") as file:
            file.attrs["sim"] = True
            file["observations/qpos"] = steps.astype(np.float32)
            file["action"] = steps.astype(np.float32)
            for camera in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
                images = rng.integers(0, 255, (FRAMES, 96, 128, 3), dtype=np.uint8)
                file[f"observations/images/{camera}"] = images
