"""Which signals stop a run at once, and which are the same request forwarded."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from flux_train.stop_signals import StopSignals

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}


class Acted(Exception):
    """Raised by the handler that was installed before."""


def act(number: int, _: object) -> None:
    raise Acted(signal.Signals(number).name)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.signal(number, act) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("first", "second", "after_s", "environment", "acts"),
    [
        ("SIGTERM", "SIGTERM", 0.1, {}, False),
        ("SIGTERM", "SIGTERM", 9.9, {}, False),
        ("SIGTERM", "SIGTERM", 10.0, {}, True),
        ("SIGINT", "SIGTERM", 1.0, {}, False),
        ("SIGINT", "SIGINT", 0.1, {}, True),
        ("SIGTERM", "SIGINT", 0.1, {}, True),
        ("SIGTERM", "SIGTERM", 0.1, TORCHRUN, False),
        ("SIGTERM", "SIGTERM", 600.0, TORCHRUN, False),
        ("SIGINT", "SIGINT", 0.1, TORCHRUN, False),
        ("SIGINT", "SIGINT", 2.0, TORCHRUN, True),
    ],
)
def test_only_a_repeated_signal_takes_effect_at_once(
    first: str, second: str, after_s: float, environment: dict[str, str], acts: bool
) -> None:
    now = [100.0]
    with StopSignals(lambda: now[0], environment) as signals:
        signal.raise_signal(signal.Signals[first])
        assert signals.received is signal.Signals[first]
        now[0] += after_s
        if acts:
            with pytest.raises(Acted, match=second):
                signal.raise_signal(signal.Signals[second])
        else:
            signal.raise_signal(signal.Signals[second])
            signal.raise_signal(signal.Signals[second])
        assert signals.received is signal.Signals[first]
    with pytest.raises(Acted):
        signal.raise_signal(signal.SIGTERM)
