"""openpi's own client, unmodified and with a numpy of its own, gets what local inference gives."""

from __future__ import annotations

import os
import secrets
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.robots import robot_spec
from flux_core.types import Observation
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.policy_source import ChunkRequest, chunk_noise
from flux_runtime.control.session import RunOptions, open_policy

from ..environments import Environment
from ..serving import SHIPPED, Served, serving
from .certificate import made_certificate

PROGRAM = Path(__file__).parent / "openpi_robot.py"
ROBOT = robot_spec("aloha-sim")
TASK = "transfer the cube"
IS_SLOW = os.environ.get("FLUX_SLOW") == "1"
INFERENCES = 1000
OBSERVATIONS = 16
DISTINCT = INFERENCES if IS_SLOW else 16 * OBSERVATIONS
"""So many noises; when they are used up, they are sent again, under the keys of another kind."""
OVER_TLS = INFERENCES if IS_SLOW else 100
SEED = 7


@dataclass(frozen=True)
class Cases:
    """What is asked, and what this process answers to it."""

    folder: Path
    answers: Future[NDArray[np.float32]]

    def asked(self, python: Path, server: Served, count: int, **variables: str) -> dict[str, Any]:
        """Returns what openpi's client gets from a server in answer to `count` requests.

        Args:
            python: of its environment.
            server: is asked.
            count: of inferences.
            variables: of its process; `TOKEN` is its api_key.
        """
        requests, answers = (self.folder / name for name in ("requests.npz", "answers.npz"))
        with np.load(self.folder / "cases.npz") as cases:
            np.savez(requests, **cases, count=count)
        token = [variables.pop("TOKEN")] if "TOKEN" in variables else []
        done = subprocess.run(
            [python, PROGRAM, requests, answers, server.url, *token],
            env={**without_flux(), **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr}\n{server.log.read_text()}"
        with np.load(answers) as found:
            return dict(found)


def without_flux() -> dict[str, str]:
    """The variables of this process but those that lead Python to flux."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The cases; they are answered here while the client and the server start."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(SEED)
    lower, upper = np.array(ROBOT.lower), np.array(ROBOT.upper)
    shares = rng.uniform(0.2, 0.8, (OBSERVATIONS, len(lower)))
    states = (lower + shares * (upper - lower)).astype(np.float32)
    pictures = rng.integers(0, 256, (OBSERVATIONS, 96, 128, 3), np.uint8)
    policy = open_policy(RunOptions(robot=ROBOT.name, bundle=SHIPPED), ROBOT, StageTimes())
    assert policy is not None
    shape = (policy.manifest.action_horizon, policy.manifest.action_dim)
    noise = [chunk_noise(SEED, index, shape) for index in range(DISTINCT)]
    np.savez(folder / "cases.npz", task=TASK, states=states, pictures=pictures, noise=noise)
    source = policy.source

    def answered() -> NDArray[np.float32]:
        answers = []
        for index in range(DISTINCT):
            state = states[index % OBSERVATIONS]
            images = {"cam_high": pictures[index % OBSERVATIONS]}
            observation = Observation(images=images, state=state, prompt=TASK, timestamp_s=0.0)
            request = ChunkRequest(seed=SEED, chunk_index=index, prompt=TASK)
            answers.append(source.infer(observation, ROBOT.hold(state), request))
        return np.stack(answers)

    with ThreadPoolExecutor(1) as pool:
        yield Cases(folder, pool.submit(answered))


def check(found: dict[str, Any], expected: NDArray[np.float32], count: int) -> None:
    """Compares the bits of the answers."""
    actions = found["actions"]
    assert (actions.shape, actions.dtype) == ((count, *expected.shape[1:]), np.float32)
    wanted = expected[np.arange(count) % DISTINCT]
    assert np.array_equal(actions.view(np.uint32), wanted.view(np.uint32))
    assert len({row.tobytes() for row in actions}) == min(count, DISTINCT)


def test_openpis_client_gets_what_is_inferred_locally(
    cases: Cases, environment: Environment, tmp_path: Path
) -> None:
    python = environment("openpi")
    with serving(tmp_path) as server:
        found = cases.asked(python, server, INFERENCES)
    check(found, cases.answers.result(), INFERENCES)
    print(f"{np.median(found['times_s']) * 1e3:.1f} ms per inference")


def test_openpis_client_gets_the_same_over_tls_with_a_token(
    cases: Cases, environment: Environment, tmp_path: Path
) -> None:
    python = environment("openpi")
    certificate, key = made_certificate(tmp_path, "127.0.0.1")
    token = secrets.token_urlsafe(24)
    (tmp_path / "tokens").write_text(f"# of the lab\n{token}\n")
    (tmp_path / "tokens").chmod(0o600)
    options = ("--token-file", tmp_path / "tokens", "--tls-cert", certificate, "--tls-key", key)
    with serving(tmp_path, *options) as server:
        assert server.url.startswith("wss://")
        found = cases.asked(python, server, OVER_TLS, SSL_CERT_FILE=str(certificate), TOKEN=token)
        check(found, cases.answers.result(), OVER_TLS)
        for kind, variables in {
            "401": {"SSL_CERT_FILE": str(certificate)},
            "CERTIFICATE_VERIFY_FAILED": {"TOKEN": token},
        }.items():
            with pytest.raises(AssertionError, match=kind):
                cases.asked(python, server, 1, **variables)
