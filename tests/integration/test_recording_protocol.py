"""The two ends of a recording of what a robot saw and was sent, which share no code: flux-runtime
sends it, and flux-data writes it."""

from __future__ import annotations

import pytest

from flux_data.record import packets
from flux_runtime.recording import recorder_process, steps


def test_both_ends_speak_the_same_version() -> None:
    assert recorder_process.PROTOCOL_VERSION == packets.PROTOCOL_VERSION


@pytest.mark.parametrize(("state", "action", "cameras"), [(14, 14, 3), (7, 6, 0), (1, 1, 1)])
def test_both_ends_lay_out_rows_alike(state: int, action: int, cameras: int) -> None:
    sent = steps.rows_dtype(state, action, cameras)
    assert sent == packets.rows_dtype(state, action, cameras)
    assert sent.itemsize == packets.rows_dtype(state, action, cameras).itemsize
