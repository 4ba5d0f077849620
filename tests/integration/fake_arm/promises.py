"""What every run against the fake arm must keep, whatever goes wrong."""

from __future__ import annotations

import numpy as np

from flux_runtime import read_recording
from flux_runtime.replay import ReplayOptions, replay

from .judge import Limits, judge, largest_gap_s, time_to_rest_s
from .runs import Outcome, limits_of

PERIOD_S = 0.04
ROUGHLY_S = 0.35
"""What a busy machine with two cores may add to a time that is measured from outside."""
REST_S = 0.6
"""The longest that the arm's limits let it take from any motion to rest, and its servos' lag."""


def assert_kept(
    outcome: Outcome, *, limits: Limits | None = None, knows_observations: bool = True
) -> None:
    """What the arm received was within every limit, in order, and from fresh observations; and the
    control loop decides the same again."""
    found = judge(outcome.log, limits or limits_of(), max_age_s(outcome))
    if not knows_observations:
        found = [text for text in found if "observation" not in text]
    assert found == [], f"{len(found)} violations, first: {found[:5]}"
    assert_same_again(outcome)


def assert_same_again(outcome: Outcome) -> None:
    """A replay of the recorded session is the same bit for bit, whatever went wrong in it."""
    if not list(outcome.record.glob("episode_*.npz")):
        return  # killed
    report = replay(ReplayOptions(directory=outcome.record, recorded_chunks=True))
    assert report["ok"], report["episodes"]


def max_age_s(outcome: Outcome) -> float | None:
    """The bound of an observation's age that the run printed; None if it printed nothing."""
    if not any(line.startswith("{") for line in outcome.output.splitlines()):
        return None
    return outcome.report["max_observation_age_s"]


def assert_ended_by(outcome: Outcome, *faults: str) -> None:
    """A run that one of these faults ended: exit 1 and one line with the reason.

    A hold that lasted too long ends a run as `held_too_long`, and the reason names what held.
    """
    assert outcome.status == 1, (outcome.status, outcome.errors, outcome.output[-2000:])
    report = outcome.report
    ended_by = report["stopped_by"]
    held_by = [fault for fault in faults if fault in report["reason"]]
    is_held = ended_by == "held_too_long" and held_by
    assert ended_by in faults or is_held, (ended_by, report["reason"])
    assert_told(outcome)


def assert_stopped(outcome: Outcome, *faults: str, within_s: float) -> None:
    """The same, and the arm was at rest in time and its driver was told to stop."""
    assert_ended_by(outcome, *faults)
    rest_s = time_to_rest_s(outcome.log, outcome.fault_ns)
    assert rest_s <= within_s + REST_S + ROUGHLY_S, f"at rest after {rest_s:.2f} s"
    assert outcome.log.times("stop"), "the driver was not told to stop"


def assert_told(outcome: Outcome) -> None:
    """One line for people, and no traceback."""
    assert "Traceback" not in outcome.errors, outcome.errors
    lines = [line for line in outcome.errors.splitlines() if line.startswith("flux-runtime: error")]
    assert len(lines) == 1, outcome.errors


def assert_went_on(outcome: Outcome, *, steps: int = 75, episodes: int = 1) -> None:
    """A run that a fault did not end: it has all its steps, and every tick has its command."""
    assert outcome.status == 0, (outcome.status, outcome.errors, outcome.output[-2000:])
    assert outcome.report["outcome"] == "finished"
    # At the end of an episode the arm is braked, which takes some more commands.
    braking = episodes * REST_S / PERIOD_S
    assert steps <= outcome.report["ticks"] <= steps + braking, outcome.report["ticks"]
    assert_no_gap(outcome)


def assert_no_gap(outcome: Outcome) -> None:
    """In no session three ticks in a row were missed, and the arm heard of the loop all the time.

    Between two sessions nothing is sent: the arm rests, as the judge requires, for as long as the
    operator and the disk take.
    """
    for arrays in recordings(outcome):
        gap_s = float(np.diff(arrays["sent_s"]).max())
        assert gap_s <= 3 * PERIOD_S, f"nothing was sent for {gap_s * 1e3:.0f} ms"
    gap_s = largest_gap_s(outcome.log)
    assert gap_s <= 3 * PERIOD_S + ROUGHLY_S, f"the arm heard nothing for {gap_s * 1e3:.0f} ms"


def assert_refused(outcome: Outcome, *words: str) -> None:
    """A run that never began: exit 1 with the reason, and the arm received nothing."""
    assert outcome.status == 1, (outcome.status, outcome.errors)
    assert_told(outcome)
    for word in words:
        assert word in outcome.errors, f"{word!r} is not in {outcome.errors!r}"
    assert outcome.log.commands == []


def events(outcome: Outcome, name: str) -> list[dict[str, object]]:
    """The events of a name in the report."""
    return [event for event in outcome.report["events"] if event["name"] == name]


def recorded(outcome: Outcome) -> dict[str, np.ndarray]:
    """The arrays of the first recorded episode."""
    return recordings(outcome)[0]


def recordings(outcome: Outcome) -> list[dict[str, np.ndarray]]:
    """The arrays of each recorded episode, also of one whose process was killed."""
    paths = sorted(
        path for path in outcome.record.glob("episode_*") if path.suffix in (".npz", ".stream")
    )
    assert paths, "nothing was recorded"
    arrays = [read_recording(path).arrays for path in paths]
    return [{name: np.asarray(array) for name, array in each.items()} for each in arrays]
