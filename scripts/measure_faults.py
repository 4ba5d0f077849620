"""Measures what docs/safety.md states of each fault, against the arm of the fault tests.

    python scripts/measure_faults.py            prints a line per kind of fault
    python scripts/measure_faults.py --write    puts the figures into docs/safety.md

Runs every scenario of tests/integration/test_faults_*.py, two at a time. Of each it measures what
the arm received: the largest velocity, acceleration and jerk of a command and the largest step, as
shares of the limits, the longest time without a command in a session by the stamps sent with it,
and the time from the fault until the arm stood, by the arm's own clock.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "safety.md"
sys.path.insert(0, str(ROOT))
MODULES = ("sensors", "commands", "chunks", "processes")


def main() -> int:
    """Runs all scenarios, and prints or writes the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="change docs/safety.md")
    parser.add_argument("names", nargs="*", help="only these scenarios")
    options = parser.parse_args()
    runs = importlib.import_module("tests.integration.fake_arm.runs")
    scenarios = {
        name: scenario
        for module in MODULES
        for name, scenario in importlib.import_module(
            f"tests.integration.test_faults_{module}"
        ).SCENARIOS.items()
        if not options.names or name in options.names
    }
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        outcomes = {
            name: pool.submit(runs.run, Path(folder) / name, scenario)
            for name, scenario in scenarios.items()
        }
        figures = {
            name: measured(outcome.result(), by_differences=scenarios[name].by_differences)
            for name, outcome in outcomes.items()
        }
    for name, text in figures.items():
        print(f"{name}: {text}")
    if options.write:
        PAGE.write_text(written(PAGE.read_text(), figures))
    return 0


def measured(outcome: object, *, by_differences: bool) -> str:
    """Returns the figures of one run in words; a robot of differences has no limits of motion."""
    judge = importlib.import_module("tests.integration.fake_arm.judge")
    runs = importlib.import_module("tests.integration.fake_arm.runs")
    assert isinstance(outcome, runs.Outcome)
    log = outcome.log
    if not log.commands:
        return "no command"
    shares = judge.worst(log, runs.limits_of())
    names = ("velocity", "acceleration", "jerk")
    motion = f"{' / '.join(f'{shares[name] * 100:.0f}' for name in names)} %"
    parts = [
        *(() if by_differences else (motion, f"step {shares['received step'] * 100 / 3:.0f} %")),
        f"gap {judge.largest_stamped_gap_s(log) * 1e3:.0f} ms",
    ]
    if log.times("fault") and outcome.status != 0:
        parts.append(f"rest {judge.time_to_rest_s(log, outcome.fault_ns):.2f} s")
    return ", ".join(parts)


def written(page: str, figures: dict[str, str]) -> str:
    """Returns the page with the figures in the last cell of each row that names its scenario."""

    def row(found: re.Match[str]) -> str:
        text = figures.get(found["name"])
        return found[0] if text is None else f"{found['before']} {text} |"

    pattern = r"^(?P<before>\| (?P<name>[^|]+?) \|.*\|)[^|]*\|$"
    return re.sub(pattern, row, page, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
