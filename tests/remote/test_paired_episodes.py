"""On simulated time, a policy behind a bad network sends the robot what a local one does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ..serving import Served, serving
from .proxy import Network, proxied
from .runs import ROBOT, commands, driving

QUICK = 60
NETWORKS = {ms: Network(delay_s=ms / 1e3, stalled=0.02, seed=ms) for ms in (20, QUICK, 150)}
INFERENCE_S = 0.01


def delay_in_steps(network: Network) -> int:
    """How many control steps a chunk takes through a network."""
    return math.ceil((network.delay_s + INFERENCE_S) * ROBOT.control_hz)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of the shipped policy."""
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.mark.parametrize(
    "ms", [pytest.param(ms, marks=() if ms == QUICK else pytest.mark.slow) for ms in NETWORKS]
)
def test_the_commands_are_those_of_a_local_policy_bit_for_bit(
    ms: int, server: Served, tmp_path: Path
) -> None:
    network = NETWORKS[ms]
    options = ("--inference-delay", str(delay_in_steps(network)), "--max-steps", "100")
    with proxied(server.address, network) as proxy:
        with (
            driving(tmp_path / "local", None, *options) as local,
            driving(tmp_path / "remote", f"ws://{proxy.address}", *options) as remote,
        ):
            here, there = local.finished(), remote.finished()
        assert (here.status, there.status) == (0, 0), (here.errors, there.errors)
        assert proxy.passed.messages["answers"] > 5
    assert there.report["rtc"]["delays"] == here.report["rtc"]["delays"]
    (expected,), (found,) = commands(tmp_path / "local"), commands(tmp_path / "remote")
    assert len(expected) == 100
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
