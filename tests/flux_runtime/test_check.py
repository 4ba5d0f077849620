"""`flux-runtime check`, `flux-runtime doctor`, and the cost of importing the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flux_runtime.cli import main
from flux_runtime.doctor import Check, diagnose, format_checks


def test_check_says_ok_when_the_golden_is_reproduced(
    core: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(toy_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["engine"] == "onnxruntime"
    assert report["max_abs_error"] < 1e-6
    assert report["cosine"] == pytest.approx(1.0)
    assert report["tolerance"] == 1e-4


def test_check_fails_when_the_answer_differs(
    core: Any, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_toy_bundle(tmp_path / "off", golden_error=0.01)
    assert main(["check", str(bundle)]) == 1
    out = capsys.readouterr().out
    assert "max abs error  0.01 (allowed 0.0001)" in out
    assert "FAILED" in out


def test_check_refuses_a_directory_that_is_not_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert "so this is not a bundle" in capsys.readouterr().err


def test_check_reports_an_unknown_operator_in_one_line(
    core: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flux_core.bundle.bundle import Bundle, write_manifest

    manifest = Bundle.open(toy_bundle).manifest
    graph = toy_bundle / "prefix.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Neg", b"Nag"))
    write_manifest(toy_bundle, manifest)
    assert main(["check", str(toy_bundle)]) == 1
    err = capsys.readouterr().err
    assert "the engine rejects the graphs" in err
    assert err.count("\n") == 1


def test_the_doctor_runs_all_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert all(set(check) >= {"name", "ok", "found", "fix"} for check in checks)
    names = [check["name"] for check in checks]
    for name in ("python", "numpy", "C++ core", "libonnxruntime", "headless rendering"):
        assert name in names
    assert all(check["fix"] == "" for check in checks if check["ok"])
    assert all(check["ok"] for check in checks if check["name"] in ("python", "numpy"))


def test_only_a_required_check_fails_the_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = Check(name="luxury", ok=False, found="none", fix="buy one")
    need = Check(name="need", ok=False, found="none", fix="get one", required=True)
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", (lambda: note,))
    assert main(["doctor"]) == 0
    assert "note  luxury  none" in capsys.readouterr().out
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", (lambda: note, lambda: need))
    assert main(["doctor"]) == 1
    assert "-> get one" in format_checks(diagnose())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "--help"]])
def test_every_help_ends_with_an_example(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "example:\n  flux-runtime " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["run", "--robot", "toy", "--episodes", "0"], ["fly"], ["check"]],
)
def test_an_invalid_command_line_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("module", ["flux_runtime", "flux_runtime.cli", "flux_runtime.run.command"])
def test_importing_the_runtime_loads_nothing_heavy(module: str) -> None:
    heavy = "torch mujoco onnxruntime onnx av matplotlib transformers"
    program = (
        f"import sys, {module}\n"
        f"assert not [n for n in {heavy!r}.split() if n in sys.modules], sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
