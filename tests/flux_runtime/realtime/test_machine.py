"""What the doctor says about real time, for machines that permit it and machines that do not."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from flux_runtime.cli import main
from flux_runtime.doctor import format_checks
from flux_runtime.doctor.realtime import realtime_checks
from flux_runtime.realtime import MachineFacts, granted_text, machine_facts
from flux_runtime.realtime.machine import preemption_of, read_cpu_list, steal_share_of

READY = MachineFacts(
    fifo_permitted=True,
    max_priority=90,
    memlock_bytes=-1,
    may_lock_any=False,
    preemption="PREEMPT_RT",
    governor="performance",
    num_cpus=8,
    isolated_cpus=(6, 7),
    steal_share=0.0,
)
NAMES = ["real-time priority", "locked memory", "kernel", "CPU governor", "CPUs", "steal time"]


def test_a_prepared_machine_has_nothing_to_fix() -> None:
    checks = realtime_checks(READY)
    assert [check.name for check in checks] == NAMES
    assert all(check.ok and check.section == "real time" for check in checks)


@pytest.mark.parametrize(
    ("changes", "name", "advice"),
    [
        ({"fifo_permitted": False}, "real-time priority", "@realtime - rtprio 90"),
        ({"fifo_permitted": None}, "real-time priority", "--cap-add=SYS_NICE"),
        ({"memlock_bytes": 8 << 20}, "locked memory", "@realtime - memlock unlimited"),
        ({"preemption": "PREEMPT_DYNAMIC"}, "kernel", "Install a PREEMPT_RT kernel"),
        ({"governor": "powersave"}, "CPU governor", "cpupower frequency-set -g performance"),
        ({"num_cpus": 2, "isolated_cpus": ()}, "CPUs", "isolcpus=N"),
        ({"steal_share": 0.08}, "steal time", "drive a robot from a machine of its own"),
    ],
)
def test_each_lack_is_one_note_with_one_line_of_advice(
    changes: dict[str, object], name: str, advice: str
) -> None:
    lacking = [check for check in realtime_checks(replace(READY, **changes)) if not check.ok]
    assert [check.name for check in lacking] == [name]
    assert advice in lacking[0].fix and "\n" not in lacking[0].fix
    assert not lacking[0].required


def test_the_section_has_a_heading_of_its_own() -> None:
    lines = format_checks(realtime_checks(replace(READY, steal_share=None))).splitlines()
    assert lines[:2] == ["", "real time"]
    assert lines[-1].split() == ["ok", "steal", "time", "unknown"]


@pytest.mark.parametrize(
    ("version", "realtime", "expected"),
    [
        ("#1 SMP PREEMPT_RT Debian 6.1.90-1", None, "PREEMPT_RT"),
        ("#35~20.04 SMP PREEMPT RT Wed May 8", None, "PREEMPT_RT"),
        ("#1 SMP", "1", "PREEMPT_RT"),
        ("#1 SMP PREEMPT_DYNAMIC Ubuntu", None, "PREEMPT_DYNAMIC"),
        ("#1 SMP PREEMPT Tegra", None, "PREEMPT"),
        ("#1 SMP", "0", "none"),
        ("Darwin Kernel Version 23", None, "unknown"),
    ],
)
def test_the_kernels_preemption_is_read(version: str, realtime: str | None, expected: str) -> None:
    assert preemption_of(version, realtime) == expected


def test_sets_of_cpus_and_stolen_time_are_read() -> None:
    assert read_cpu_list("2-3,5") == (2, 3, 5) and read_cpu_list("") == ()
    before, after = "cpu  100 0 50 800 10 0 5 35 0 0", "cpu  150 0 60 830 10 0 5 45 0 0"
    assert steal_share_of(before, after) == pytest.approx(0.1)
    assert steal_share_of(before, before) == 0.0
    assert steal_share_of("cpu 1 2 3", "cpu 1 2 3") is None


def test_a_cpu_has_a_number_and_not_a_size() -> None:
    nothing = {"asked": 0, "got": 0, "error": ""}
    assert granted_text("priority", nothing) == "as usual"
    assert granted_text("cpu", nothing) == "asked for 0, got 0"
    assert granted_text("cpu", {"asked": -1, "got": -1, "error": ""}) == "as usual"
    refused = {"asked": 50, "got": 0, "error": "no"}
    assert granted_text("priority", refused) == "asked for 50, got 0 (no)"


def test_looking_changes_nothing_about_this_process() -> None:
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    facts = machine_facts(steal_window_s=0.0)
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before
    assert facts.num_cpus == len(before[1])
    assert json.loads(json.dumps(facts.as_data()))["preemption"] == facts.preemption


def test_the_doctor_prints_the_facts_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", ())
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(NAMES) <= {check["name"] for check in report["checks"]}
    assert {"fifo_permitted", "memlock_bytes", "governor"} <= set(report["real_time"])
