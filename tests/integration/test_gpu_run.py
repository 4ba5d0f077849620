"""benchmarks/gpu: what of it can be checked without a card."""

from __future__ import annotations

import json
import math
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..documents import load_script

WRITES = """
import json, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(json.dumps(json.loads(sys.argv[2])))
"""
CHECK = {"name": "error", "found": 1.0, "ok": True, "at_most": 2.0}


@pytest.fixture(scope="module")
def folder(repo_root: Path) -> Path:
    return repo_root / "benchmarks" / "gpu"


@pytest.fixture(scope="module")
def prepared_folder(folder: Path) -> ModuleType:
    return load_script(folder / "prepared_folder.py")


@pytest.fixture(scope="module")
def record(folder: Path) -> ModuleType:
    return load_script(folder / "record.py")


@pytest.fixture(scope="module")
def run(folder: Path, prepared_folder: ModuleType) -> ModuleType:
    return load_script(folder / "run.py")


def result(has_card: bool = True, *checks: dict[str, Any], **figures: Any) -> dict[str, Any]:
    """As a stage writes it."""
    return {"has_card": has_card, "figures": figures, "checks": list(checks)}


def python(code: str, *arguments: str) -> list[str]:
    """A command that needs no more than Python."""
    return [sys.executable, "-c", code, *arguments]


def test_a_stage_that_fails_or_hangs_stops_no_other(run: ModuleType, tmp_path: Path) -> None:
    names = ("good", "raises", "hangs", "absent", "bad", "vacuous", "last")
    stages = [run.Stage(name, 2.0 if name == "hangs" else 30.0, name) for name in names]
    child = tmp_path / "child"
    hangs = (
        "import subprocess, sys, time\n"
        "print('begun', flush=True)\n"
        "code = f'import time, pathlib; time.sleep(4); pathlib.Path({sys.argv[1]!r}).touch()'\n"
        "subprocess.Popen([sys.executable, '-c', code])\n"
        "time.sleep(60)"
    )
    seen: dict[str, dict[str, str]] = {}
    report = run.Report(tmp_path / "run.json", stages, hidden=[str(tmp_path)])

    def command(stage: Any, path: Path) -> Sequence[str]:
        seen[stage.name] = statuses(tmp_path / "run.json")
        given = {
            "good": result(True, CHECK, ms=1.5),
            "absent": result(False),
            "bad": result(True, CHECK, CHECK | {"ok": False}),
            "vacuous": result(True, ms=1.5),
            "last": result(True, CHECK),
        }
        if stage.name in given:
            return python(WRITES, str(path), json.dumps(given[stage.name]))
        failure = f"raise SystemExit('{tmp_path}/x: error: broken')"
        return python(hangs, str(child)) if stage.name == "hangs" else python(failure)

    begin = time.monotonic()
    run.run_stages(stages, command, report, tmp_path / "run.log", begin + 300)
    assert report.statuses() == {
        "good": "passed",
        "raises": "failed",
        "hangs": "timed out",
        "absent": "no card",
        "bad": "failed",
        "vacuous": "nothing checked",
        "last": "passed",
    }
    # run.json is complete after each stage, and before the first one.
    assert set(seen["good"].values()) == {"not run"}
    assert seen["hangs"] | {"good": "passed", "raises": "failed"} == seen["hangs"]
    content = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert content["good"]["figures"] == {"ms": 1.5} and content["good"]["checks"] == [CHECK]
    assert content["raises"]["message"] == ".../x: error: broken"
    assert content["hangs"]["seconds"] == pytest.approx(2.0, abs=1.5)
    assert "== hangs\nbegun\n" in (tmp_path / "run.log").read_text()
    time.sleep(max(0.0, 4.5 - (time.monotonic() - begin)))
    assert not child.exists(), "what a stage has started must end with it"


def statuses(path: Path) -> dict[str, str]:
    """What run.json says at a moment."""
    return {name: one["status"] for name, one in json.loads(path.read_text())["stages"].items()}


def test_stages_without_time_are_named_and_the_last_gets_what_is_left(
    run: ModuleType, tmp_path: Path
) -> None:
    stages = [run.Stage("cut", 100.0, ""), run.Stage("late", 100.0, "")]
    report = run.Report(tmp_path / "run.json", stages)
    deadline = time.monotonic() + run.LEAST_S + 1.0
    run.run_stages(
        stages,
        lambda stage, path: python("import time; time.sleep(1.5)"),
        report,
        tmp_path / "run.log",
        deadline,
    )
    assert report.statuses() == {"cut": "failed", "late": "no time left"}
    content = json.loads((tmp_path / "run.json").read_text())["stages"]
    assert content["cut"]["limit_s"] == pytest.approx(run.LEAST_S + 1.0, abs=0.5)


def test_the_stages_fit_one_call_and_all_exist(run: ModuleType, folder: Path) -> None:
    assert run.LIMIT_S <= 480
    source = (folder / "stage.py").read_text()
    assert [one.name for one in run.STAGES if f'"{one.name}": ' not in source] == []


def test_a_stage_without_a_driver_does_nothing_and_says_so(folder: Path, tmp_path: Path) -> None:
    import subprocess

    from flux_runtime.engines.nvidia import has_card

    if has_card():
        pytest.skip("this machine has a card")
    out = tmp_path / "result.json"
    command = [sys.executable, str(folder / "stage.py"), "pi0", str(out)]
    subprocess.run(command, check=True, timeout=60)
    assert json.loads(out.read_text()) == result(False)


def test_a_record_is_on_disk_after_each_addition(record: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    kept = record.Record(path, True)
    assert json.loads(path.read_text()) == result(True)
    kept.add(ms=1.0, cosines={"prefix": [1.0, math.nan]})
    kept.check("cosine", 0.99, least=0.9999)
    kept.check("error", math.nan, most=1.0)
    kept.check("error", 0.5, most=1.0)
    assert json.loads(path.read_text()) == result(
        True,
        {"name": "cosine", "found": 0.99, "ok": False, "at_least": 0.9999},
        {"name": "error", "found": "nan", "ok": False, "at_most": 1.0},
        {"name": "error", "found": 0.5, "ok": True, "at_most": 1.0},
        ms=1.0,
        cosines={"prefix": [1.0, "nan"]},
    )


def test_without_a_card_no_check_is_met(record: ModuleType, tmp_path: Path) -> None:
    kept = record.Record(tmp_path / "result.json", False)
    kept.check("error", 0.5, most=1.0)
    assert [one["ok"] for one in kept.checks] == [None]


def test_what_is_too_large_to_travel_is_refused(
    prepared_folder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib = prepared_folder.MIB
    assert 60 * mib == prepared_folder.MOST_BYTES
    assert prepared_folder.too_large(20 * mib, 40 * mib) == ""
    why = prepared_folder.too_large(20 * mib, 40 * mib + mib // 2)
    assert why.startswith("expected at most 60 MiB of tracked and prepared files, got 60.5.")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x" * 1000)
    assert prepared_folder.folder_bytes(tmp_path) == 1000
    monkeypatch.setattr(sys, "argv", ["prepared_folder.py", str(tmp_path)])
    monkeypatch.setattr(prepared_folder, "tracked_bytes", lambda root: 60 * mib - 1000)
    assert prepared_folder.main() == 0
    monkeypatch.setattr(prepared_folder, "tracked_bytes", lambda root: 60 * mib - 999)
    assert prepared_folder.main() == 1


def test_the_tracked_files_leave_room_for_what_is_prepared(
    prepared_folder: ModuleType, repo_root: Path, tracked_files: list[Path]
) -> None:
    assert prepared_folder.tracked_bytes(repo_root) < 30 * prepared_folder.MIB


def test_only_missing_packages_are_unpacked_and_ours_always(
    prepared_folder: ModuleType, tmp_path: Path
) -> None:
    def wheel(name: str, *files: str) -> Path:
        path = tmp_path / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (*files, f"{name}-1.0.dist-info/METADATA"):
                archive.writestr(file, "")
        return path

    wheels = [
        wheel("flux_core", "flux_core/__init__.py"),
        wheel("there", "there/__init__.py", "there_too.cpython-312-x86_64-linux-gnu.so"),
        wheel("half", "there/__init__.py", "absent.py"),
    ]
    names = prepared_folder.unpack_missing(
        wheels, tmp_path / "site", lambda name: name in ("flux_core", "there", "there_too")
    )
    assert names == [wheels[0].name, wheels[2].name]
    assert (tmp_path / "site" / "absent.py").exists()
    assert (tmp_path / "site" / "flux_core" / "__init__.py").exists()
    assert not (tmp_path / "site" / "there_too.cpython-312-x86_64-linux-gnu.so").exists()
