"""Opens the policy of a server for a robot, with the checks that a bundle passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flux_core.errors import BundleError, UsageError
from flux_core.robots import RobotSpec

from ..control.agreement import agreed_bundle
from ..control.latency import StageTimes
from ..control.preflight import check_bundle_fits, spec_in_force
from ..control.session import OpenedPolicy, RunOptions
from ..engines.names import AUTO
from ..engines.opening import DEFAULT_THREADS
from ..realtime.settings import inference_deadline_s
from ..robots import has_topics
from .access import access_to
from .client import PolicyClient
from .source import MARGIN_S, RemoteBundle, RemoteSource


@dataclass(frozen=True, kw_only=True)
class PolicyServer:
    """A connected server.

    Attributes:
        client: of the server.
        bundle: what it serves.
    """

    client: PolicyClient
    bundle: RemoteBundle

    def opened(
        self, options: RunOptions, spec: RobotSpec, times: StageTimes, *, is_realtime: bool
    ) -> OpenedPolicy:
        """Returns the server's policy for a robot.

        Args:
            options: of the run.
            spec: the robot's spec.
            times: records the times of the stages.
            is_realtime: whether the robot does not wait for its chunks.

        Raises:
            FluxError: the policy does not fit the robot or the options.
        """
        assert options.remote is not None, "there is a server"
        manifest, facts = self.bundle.manifest, self.client.facts
        check_bundle_fits(manifest, spec)
        spec_in_force(self.bundle.config, spec)
        _check_joints(facts.spec, spec, self.client.url)
        section = self.bundle.config.get("inference")
        has_operator = isinstance(section, dict) and "operator" in section
        changes = options.changes
        if has_topics(spec.name) and not has_operator:  # they go to the driver alone
            changes = replace(changes, topics={})
        bundle = agreed_bundle(self.bundle, changes, options.task)
        budget_s = None
        if is_realtime:
            deadline_s = inference_deadline_s(
                options.realtime_options.speed, spec.control_hz, manifest.action_horizon
            )
            budget_s = deadline_s - MARGIN_S
        source = RemoteSource(
            client=self.client,
            bundle=bundle,
            times=times,
            jpeg=options.remote.jpeg,
            budget_s=budget_s,
        )
        return OpenedPolicy(
            bundle=bundle, source=source, golden=None, can_continue=facts.can_continue
        )


@contextmanager
def policy_server(options: RunOptions) -> Iterator[PolicyServer | None]:
    """Connects the server that the options name, and closes the connection at the end; yields None
    if they name none.

    Raises:
        UsageError: other options contradict `--remote`.
        ServerError: there is no server, or what it says cannot be used.
    """
    if options.remote is None:
        yield None
        return
    check_beside_remote(options)
    client = PolicyClient(
        access_to(options.remote),
        reconnect_for_s=options.remote.reconnect_for_s,
        accept_versions=options.accept_versions,
    )
    try:
        yield PolicyServer(client=client, bundle=RemoteBundle.of(client.facts, client.url))
    finally:
        client.close()


def check_beside_remote(options: RunOptions) -> None:
    """Refuses options that are for a policy on this computer.

    Raises:
        UsageError: the message begins with one.
    """
    on_the_server = {
        "--engine": options.engine != AUTO,
        "--threads": options.threads != DEFAULT_THREADS,
    }
    for option, is_given in on_the_server.items():
        if is_given:
            raise UsageError(
                f"{option}: expected none beside --remote, because the server runs the network. "
                f"Give it to 'flux-runtime serve'"
            )
    if options.bundle is not None:
        raise UsageError(
            "--bundle: expected none beside --remote, whose server has the bundle. Leave one of "
            "them out"
        )
    if options.policy == "hold":
        raise UsageError("--policy hold: expected no --remote, got one. Leave one of them out")


def _check_joints(served: RobotSpec, spec: RobotSpec, url: str) -> None:
    """Refuses chunks for other joints."""
    ours, theirs = tuple(spec.joint_names), tuple(served.joint_names)
    if spec.action_dim != served.action_dim or (ours != theirs and set(ours) == set(theirs)):
        raise BundleError(
            f"{url}: joints: expected {', '.join(ours)}, as robot {spec.name} has them, got "
            f"{', '.join(theirs)}. Serve a policy of this robot"
        )


__all__ = ["PolicyServer", "check_beside_remote", "policy_server"]
