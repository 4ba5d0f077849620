"""A run of 30 s at 50 Hz against an arm of its own: nothing grows, and no command is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def test_half_a_minute_misses_no_command_and_grows_nothing(repo_root: Path) -> None:
    pytest.importorskip("flux_runtime._core", reason="the C++ core was not built")
    done = subprocess.run(
        [
            sys.executable,
            str(repo_root / "scripts" / "soak.py"),
            "--seconds",
            "30",
            "--may-be-busy",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
