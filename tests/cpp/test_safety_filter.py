"""The C++ safety filter through its bindings, against finite differences computed with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_core = pytest.importorskip("flux_runtime._core")

CONTROL_HZ = 50.0
PERIOD = 1.0 / CONTROL_HZ
LOWER, UPPER = np.array([-1.0, -0.5]), np.array([1.0, 2.0])
VELOCITY, ACCELERATION, JERK = np.array([3.0, 1.0]), np.array([15.0, 4.0]), np.array([150.0, 60.0])
ROUNDING = 2.0**-24 * 2.0
"""Half of a float32's last digit, for positions of up to 2."""


def make_filter(start: tuple[float, float] = (0.0, 0.0)) -> _core.SafetyFilter:
    limits = _core.SafetyLimits(
        lower=LOWER,
        upper=UPPER,
        max_velocity=VELOCITY,
        max_acceleration=ACCELERATION,
        max_jerk=JERK,
    )
    made = _core.SafetyFilter(limits=limits, control_hz=CONTROL_HZ)
    made.reset(np.array(start, np.float32))
    return made


def assert_within_limits(commands: list[np.ndarray], spacings: list[float]) -> None:
    """Checks commands (ticks + 1, A), the first of a robot at rest, and the ticks' spacings."""
    positions = np.array(commands, np.float64)
    dt = np.array(spacings)[:, None]
    velocity = np.diff(positions, axis=0) / dt
    acceleration = np.diff(velocity, axis=0, prepend=0.0) / dt
    jerk = np.diff(acceleration, axis=0, prepend=0.0) / dt
    shortest = float(dt.min())
    assert np.isfinite(positions).all()
    assert ((positions >= LOWER) & (positions <= UPPER)).all()
    assert (np.abs(velocity) <= VELOCITY + 2 * ROUNDING / shortest).all()
    assert (np.abs(acceleration) <= ACCELERATION + 4 * ROUNDING / shortest**2).all()
    assert (np.abs(jerk) <= JERK + 8 * ROUNDING / shortest**3).all()


values = st.floats(width=32) | st.floats(-3.0, 3.0, width=32)
ticks = st.tuples(st.tuples(values, values) | st.none(), st.floats(PERIOD / 4, 3 * PERIOD))


@settings(max_examples=150, deadline=None)
@given(
    start=st.tuples(st.floats(-1.0, 1.0, width=32), st.floats(-0.5, 2.0, width=32)),
    steps=st.lists(ticks, min_size=1, max_size=60),
)
def test_whatever_is_asked_when_the_commands_stay_within_all_limits(
    start: tuple[float, float], steps: list[tuple[tuple[float, float] | None, float]]
) -> None:
    filter_ = make_filter(start)
    commands, spacings = [filter_.command], []
    for row, spacing in steps:
        if row is None:
            filter_.brake(spacing)
        else:
            flags = filter_.apply(np.array(row, np.float32), dt_s=spacing)
            assert bool(flags & _core.NON_FINITE) == (not np.isfinite(row).all())
        commands.append(filter_.command)
        spacings.append(min(spacing, PERIOD))
    for _ in range(int(filter_.rest_time_bound_s() / PERIOD) + 1):
        filter_.brake()
        commands.append(filter_.command)
        spacings.append(PERIOD)
    assert filter_.is_at_rest()
    assert_within_limits(commands, spacings)


@settings(max_examples=50, deadline=None)
@given(
    frequency=st.floats(0.2, 2.0),
    load=st.floats(0.3, 0.8),
    phase=st.floats(0.0, 6.28),
)
def test_a_motion_within_the_limits_is_sent_bit_for_bit(
    frequency: float, load: float, phase: float
) -> None:
    time = np.arange(200) * PERIOD
    s = np.clip(time, 0.0, 1.0)
    growth = s**4 * (35 - 84 * s + 70 * s**2 - 20 * s**3)  # from 0 to 1 without a jump of the jerk
    shape = growth * np.sin(2 * np.pi * frequency * time + phase)
    differences = [np.abs(np.diff(shape, n=order)).max() / PERIOD**order for order in (1, 2, 3)]
    limits = zip((VELOCITY, ACCELERATION, JERK), differences, strict=True)
    scale = load * np.min([limit / largest for limit, largest in limits], axis=0)
    rows = np.outer(shape, np.minimum(scale, 0.4 / np.abs(shape).max())).astype(np.float32)
    filter_ = make_filter()
    for k, row in enumerate(rows):
        assert filter_.apply(row, rows[k + 1 :]) == 0
        np.testing.assert_array_equal(filter_.command, row)


def test_without_limits_of_acceleration_a_hold_repeats_the_command_at_once() -> None:
    limits = _core.SafetyLimits(lower=[-1], upper=[1], max_velocity=[5])
    filter_ = _core.SafetyFilter(limits=limits, control_hz=CONTROL_HZ)
    filter_.reset(np.array([1.25], np.float32))
    filter_.brake()
    assert filter_.command == np.float32(1.25)
    assert filter_.is_at_rest()
    assert not filter_.is_within_limits()
    while not (filter_.is_at_rest() and filter_.is_within_limits()):
        filter_.return_to_limits()
    assert filter_.command == np.float32(1.0)


def test_wrong_arguments_are_named() -> None:
    filter_ = make_filter()
    row = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"action: expected float32 \(2,\), got float64 \(2,\)"):
        filter_.apply(np.zeros(2))
    with pytest.raises(ValueError, match=r"preview: expected float32 \(3, 2\)"):
        filter_.apply(row, np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match="dt_s: expected a number above 0, got -0.02"):
        filter_.brake(-0.02)
    with pytest.raises(ValueError, match="command: expected finite numbers"):
        filter_.reset(np.full(2, np.nan, np.float32))
    with pytest.raises(ValueError, match="max_acceleration and max_jerk both empty or both"):
        _core.SafetyLimits(lower=[0], upper=[1], max_velocity=[1], max_jerk=[1])
