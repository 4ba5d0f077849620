"""Chunks of a policy on another computer, behind the same control loop as those of a bundle."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Manifest
from flux_core.errors import BundleError, UsageError
from flux_core.robots import RobotSpec
from flux_core.types import Observation

from ..control.latency import StageTimes, histogram_of
from ..control.policy_source import PolicySource, decoder_arrays
from ..engines.core import load_core
from ..wire.facts import PolicyFacts
from ..wire.messages import STATE, Continued
from ..wire.pictures import as_jpeg
from .client import PolicyClient
from .connection import Request
from .errors import ServerError
from .frame_socket import never

TICKET = "observation"
"""The only input of the loop's policy: which of the last observations it is asked for."""
_KEPT = 8
"""Observations that are kept for the loop; it asks for one chunk after another."""
MARGIN_S = 0.2
"""How long before the loop's deadline an answer is no longer waited for."""
LONGEST_S = 60.0
"""Of a request on simulated time, in which the robot waits."""
FIRST_LOOK_S, LATER_LOOK_S = 30.0, 5.0
"""Of a request that is not executed: the first one, for which a server may still have to warm up,
and those of an operator who chooses a task."""


@dataclass(frozen=True, kw_only=True)
class RemoteBundle:
    """A bundle on another computer; a `flux_core.bundle.DescribedBundle`.

    Attributes:
        manifest, config: as the server says, with the changes of this run.
        where: the address of the server.
        sha256: of the bytes of manifest.json.
    """

    manifest: Manifest
    config: Mapping[str, Any]
    where: str
    sha256: str

    @classmethod
    def of(cls, facts: PolicyFacts, url: str) -> RemoteBundle:
        """Returns the bundle of a server."""
        return cls(manifest=facts.manifest, config=facts.config, where=url, sha256=facts.sha256)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """An observation, as it will be sent."""

    deadline_s: float
    captured_ns: Mapping[str, int]
    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8] | bytes]
    prompt: str


class _Inference:
    """What the loop's policy calls; it keeps no policy alive, which would keep it alive, too."""

    def __init__(self, client: PolicyClient) -> None:
        self._client, self._facts = client, client.facts
        self.interrupted: Callable[[], bool] = never
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._num_seen = 0

    def keep(self, seen: _Seen) -> int:
        """Keeps an observation, and returns its number."""
        self._num_seen += 1
        self._seen[self._num_seen] = seen
        while len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return self._num_seen

    def __call__(
        self,
        continuation: Mapping[str, Any],
        inputs: Mapping[str, NDArray[Any]],
        noise: NDArray[np.float32],
        previous: NDArray[np.float32] | None,
        prefix_len: int,
        cancelled: Callable[[], bool],
    ) -> NDArray[np.float32]:
        """Returns a chunk in robot units, (H, N); the columns beyond the robot's are 0."""
        width = self._facts.action_dim
        continued = None
        if previous is not None:
            rows = np.ascontiguousarray(previous[:, :width])
            continued = Continued(previous=rows, prefix_len=prefix_len, settings=dict(continuation))
        seen = self._seen[int(inputs[TICKET][0])]
        request = Request(
            captured_ns=seen.captured_ns,
            state=seen.state,
            images=seen.images,
            prompt=seen.prompt,
            noise=noise,
            continued=continued,
        )
        reply = self._client.infer(
            request, seen.deadline_s, lambda: cancelled() or self.interrupted()
        )
        actions = np.zeros_like(noise)
        actions[:, :width] = reply.actions
        return actions


class RemoteSource(PolicySource):
    """Asks a server for chunks.

    The loop's policy answers in robot units, so that its decoder changes nothing.
    """

    name = "remote"
    may_stall = True

    def __init__(
        self,
        *,
        client: PolicyClient,
        bundle: RemoteBundle,
        times: StageTimes,
        jpeg: int | None = None,
        budget_s: float | None = None,
    ) -> None:
        """Takes an open connection.

        Args:
            client: of the server.
            bundle: the server's, with the changes of this run.
            times: records the times of the stages.
            jpeg: the quality of pictures sent as JPEG; None: they are sent as they are.
            budget_s: from an observation to its chunk, in real time; None on simulated time.
        """
        super().__init__(manifest=bundle.manifest, engine=client.facts.engine, times=times)
        self._client, self._bundle, self._jpeg = client, bundle, jpeg
        self._budget_s = LONGEST_S if budget_s is None else budget_s
        self._inference = _Inference(client)

    @property
    def stop_reason(self) -> str | None:
        """Why nothing that the server says may be executed any more."""
        return self._client.stop_reason

    @property
    def trouble(self) -> str | None:
        """What is wrong with the server now."""
        return self._client.trouble

    def _encoded(
        self, observation: Observation, captured_ns: Mapping[str, int] | None
    ) -> dict[str, NDArray[Any]]:
        return self._kept(observation, captured_ns, self._budget_s)

    def _kept(
        self, observation: Observation, captured_ns: Mapping[str, int] | None, budget_s: float
    ) -> dict[str, NDArray[Any]]:
        """Keeps an observation, to be answered within a time from now."""
        deadline_s = time.monotonic() + budget_s
        if captured_ns is None:
            captured_ns = {STATE: max(0, round(1e9 * observation.timestamp_s))}
        images = {name: self._picture(observation.images[name]) for name in self.cameras}
        number = self._inference.keep(
            _Seen(
                deadline_s=deadline_s,
                captured_ns=captured_ns,
                state=observation.state.copy(),
                images=images,
                prompt=observation.prompt,
            )
        )
        return {TICKET: np.array([number], np.int64)}

    def _picture(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | bytes:
        # A copy: a simulator may use its arrays again.
        return image.copy() if self._jpeg is None else as_jpeg(image, self._jpeg)

    def recorded_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Returns nothing: the network's inputs are made on the server."""
        return {}

    def end_waiting_if(self, interrupted: Callable[[], bool]) -> None:
        """Ends waiting for the server once the operator has interrupted the run."""
        self._inference.interrupted = interrupted

    def check_observation(self, observation: Observation, spec: RobotSpec) -> None:
        """Asks the server for a chunk, which is not executed, and looks at it.

        Raises:
            UsageError: the server does not take the observation or the task.
            BundleError: the chunk is far outside the robot's limits.
            ServerError: the server does not answer.
        """
        is_first = not self._client.round_trips_ms
        inputs = self._kept(observation, None, FIRST_LOOK_S if is_first else LATER_LOOK_S)
        with _explained():
            chunk = self._policy_for({}).infer(inputs, self.noise(0, 0))
        check_first_chunk(chunk[:, : spec.action_dim], spec, self._client.url)

    def measure_s(self, observation: Observation, continuation: Mapping[str, Any]) -> float:
        """Returns how long a chunk takes, with the way to the server and back.

        Raises:
            ServerError: the server does not answer.
        """
        with _explained():
            return super().measure_s(observation, continuation)

    def _policy_for(self, continuation: Mapping[str, Any]) -> Any:
        return load_core().CallbackPolicy(
            partial(self._inference, dict(continuation)),
            inputs={TICKET: ("int64", (1,))},
            action_shape=self._action_shape,
            can_continue=self._client.facts.can_continue,
        )

    def decoder_arrays(self) -> dict[str, NDArray[Any]]:
        """Returns arrays that change nothing: the server answers in robot units."""
        width = self._client.facts.action_dim
        return decoder_arrays(
            np.ones(width, np.float32),
            np.zeros(width, np.float32),
            np.zeros(width, np.bool_),
            self._client.facts.binary_mask,
        )

    def describe(self) -> dict[str, object]:
        """Returns where the policy is, and how the connection has been."""
        trips = histogram_of(self._client.round_trips_ms)
        clock = self._client.clock
        return {
            "remote": {
                "url": self._client.url,
                "sha256": self._bundle.sha256,
                "engine": self.engine,
                "server_version": self._client.facts.server_version,
                "reconnects": self._client.reconnects,
                "late_answers": self._client.late_answers,
                "round_trip_ms": {"p50": trips["p50_ms"], "p95": trips["p95_ms"]},
                "clock_offset_s": None if clock is None else clock.offset_s,
                "jpeg": self._jpeg,
            }
        }


@contextmanager
def _explained() -> Iterator[None]:
    """Makes of the loop's policy's error what the client has said."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "refused (bad_request)" in text:
            raise UsageError(text) from error
        raise ServerError(text) from error


def check_first_chunk(actions: NDArray[np.float32], spec: RobotSpec, url: str) -> None:
    """Refuses a server whose first chunk is in other units than the robot's.

    A policy may ask for a little more than the limits, which the safety filter clips; one that is
    a whole range away means something else.

    Raises:
        BundleError: it does.
    """
    if spec.is_commanded_by_differences:
        return
    lower, upper = np.asarray(spec.lower), np.asarray(spec.upper)
    span = upper - lower
    outside = (actions < lower - span) | (actions > upper + span)
    if not outside.any():
        return
    row, joint = (int(place) for place in np.argwhere(outside)[0])
    raise BundleError(
        f"{url}: joint {spec.joint_names[joint]}: expected a chunk near {lower[joint]:g} to "
        f"{upper[joint]:g}, got {float(actions[row, joint]):.4g}. Does the server's policy use the "
        f"units of this robot?"
    )
