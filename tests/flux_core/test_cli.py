"""What all commands share: exit codes, one-line errors, valid JSON."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flux_core.command_line import finite, new_parser, print_json, run_cli


def run(handler: Callable[[argparse.Namespace], None], *argv: str) -> int:
    parser = new_parser("flux-test", "Tests.", "  flux-test")
    parser.set_defaults(handler=handler)
    return run_cli(parser, argv)


def test_a_file_error_is_one_line_that_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "file"
    assert run(lambda _: missing.write_text("x") and None) == 1
    assert capsys.readouterr().err == f"flux-test: error: {missing}: No such file or directory\n"
    assert run(lambda _: missing.write_text("x") and None, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"error": float("inf"), "engines": [{"nan": float("nan"), "ok": 1.5}]})
    found = json.loads(capsys.readouterr().out)
    assert found == {"error": None, "engines": [{"nan": None, "ok": 1.5}]}
    assert finite(("a", 2, True, None)) == ["a", 2, True, None]


def test_sigterm_removes_half_written_output(tmp_path: Path) -> None:
    partial = tmp_path / "partial"

    def write(_: argparse.Namespace) -> None:
        partial.touch()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            partial.unlink()

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run(write)
    assert left.value.code == 143 and not partial.exists()
    assert signal.getsignal(signal.SIGTERM) is before
