"""How chunks follow each other in a run: the mode, why it was chosen, and real-time chunking."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flux_core.errors import UsageError
from flux_core.rtc import RTCConfig, RTCTrainingConfig

from .engines.core import load_core

if TYPE_CHECKING:
    from flux_core.bundle import Manifest

logger = logging.getLogger("flux.runtime")

Mode = Literal["sync", "async", "ensemble", "rtc"]
MODES: tuple[Mode, ...] = ("sync", "async", "ensemble", "rtc")
MODE_WITHOUT_RTC: Mode = "sync"
"""The mode of a real robot whose policy cannot continue chunks; see docs/numbers.md."""
DEFAULT_DELAY = 5
_OTHER_MODES = "--mode sync, async or ensemble"


class HasManifest(Protocol):
    """A bundle, or what a policy server says of one."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def config(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ChunkFacts:
    """What decides whether the chunks of a policy can continue each other.

    Attributes:
        rtc: the `rtc_config` in force.
        trained_delays: of real-time chunking, in control steps.
        execution_horizon: steps of a chunk that are executed before the next one.
        action_horizon: steps of a chunk.
        engine: its name.
        can_continue: whether the engine takes known rows.
    """

    rtc: RTCConfig
    trained_delays: tuple[int, ...]
    execution_horizon: int
    action_horizon: int
    engine: str
    can_continue: bool

    @classmethod
    def of_bundle(cls, bundle: HasManifest, *, engine: str, can_continue: bool) -> ChunkFacts:
        """Returns the facts of a bundle with the changes of a run."""
        return cls(
            rtc=_rtc_config(bundle),
            trained_delays=trained_delays(bundle),
            execution_horizon=bundle.manifest.execution_horizon,
            action_horizon=bundle.manifest.action_horizon,
            engine=engine,
            can_continue=can_continue,
        )

    def obstacle(self) -> str | None:
        """Returns why chunks cannot continue each other, in a few words; None if they can."""
        if not self.rtc.enabled:
            return "rtc_config.enabled is false"
        if self.rtc.use_vjp:
            return "rtc_config.use_vjp needs the network's Jacobian, which a bundle lacks"
        if self.rtc.method == "prefix" and max(self.trained_delays) == 0:
            return "the policy was not trained for real-time chunking (its only delay is 0)"
        if not self.can_continue:
            return f"engine {self.engine} captures the whole inference"
        if self.rtc.method == "guidance" and self._is_prefix_only:
            return (
                f"engine {self.engine} captures the whole inference, and method guidance needs the "
                f"velocity of every step"
            )
        return None

    def remedy(self) -> str:
        """Returns what to do about the obstacle."""
        if not self.rtc.enabled:
            return "Add --rtc enabled=true"
        if self.rtc.use_vjp:
            return "Add --rtc use_vjp=false"
        if self.rtc.method == "prefix" and max(self.trained_delays) == 0:
            needs = ", and another --engine" if self._is_prefix_only else ""
            return f"Add --rtc method=guidance, which needs no training{needs}"
        if self._is_prefix_only and max(self.trained_delays) > 0:
            return "Add --rtc method=prefix, or use another --engine"
        return "Use another --engine"

    @property
    def _is_prefix_only(self) -> bool:
        """Whether the engine takes known rows, but nothing reaches its Euler steps."""
        return self.engine == "cuda"


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How chunks follow each other.

    Attributes:
        mode: 'sync', 'async', 'ensemble' or 'rtc'.
        reason: why.
        rtc: how chunks continue each other; None unless the mode is 'rtc'.
        trained_delays: of the policy, in control steps.
    """

    mode: Mode
    reason: str
    rtc: RTCConfig | None = None
    trained_delays: tuple[int, ...] = (0,)

    def continuation(self) -> dict[str, Any]:
        """Returns the arguments of `_core.ContinuationSettings`, as plain data."""
        if self.rtc is None:
            return {}
        fields = asdict(self.rtc)
        del fields["enabled"]
        return fields | {"delays": list(self.trained_delays)}

    def as_data(self) -> dict[str, object]:
        """Returns the mode, its reason and the settings of real-time chunking for a report."""
        rtc = self.continuation()
        rtc.pop("delays", None)
        return {
            "mode": self.mode,
            "mode_reason": self.reason,
            "rtc": {**rtc, "trained_delays": list(self.trained_delays)} if rtc else None,
        }

    def line(self) -> str:
        """Returns what an operator should read before a robot moves."""
        method = f", method {self.rtc.method}" if self.rtc else ""
        return f"mode: {self.mode}{method}: {self.reason}"

    def require_delay(
        self,
        rows: int,
        *,
        execution_horizon: int,
        action_horizon: int,
        what: str,
        remedy: str = "a faster engine",
    ) -> int:
        """Returns the smallest usable delay of at least `rows` steps of a chunk.

        Args:
            rows: steps that are executed while a chunk is inferred.
            execution_horizon: steps of a chunk that are executed before the next one.
            action_horizon: steps of a chunk.
            what: the option, or what else determined `rows`; the message begins with it.
            remedy: what makes `rows` smaller.

        Raises:
            UsageError: there is none; the message has the numbers.
        """
        settings = load_core().ContinuationSettings(**self.continuation())
        delay = settings.usable_delay(
            rows, execution_horizon=execution_horizon, action_horizon=action_horizon
        )
        if delay is None:
            raise UsageError(
                f"{what}: expected a delay d of at least {rows} steps with d <= execution horizon "
                f"{execution_horizon} <= action horizon {action_horizon} - d, got none "
                f"({self._known_delays()}). Use {remedy}, another --execution-horizon, a lower "
                f"--speed{self._other_rtc(rows, execution_horizon, action_horizon)} or "
                f"{_OTHER_MODES}"
            )
        return delay

    def _known_delays(self) -> str:
        assert self.rtc is not None
        if self.rtc.prefix_len is not None:
            return f"the fixed prefix_len is {self.rtc.prefix_len}"
        if self.rtc.method == "prefix":
            return f"trained: {_listed(self.trained_delays)}"
        return "method guidance takes any"

    def _other_rtc(self, rows: int, execution_horizon: int, action_horizon: int) -> str:
        """Returns the change to `rtc_config` that makes `rows` possible, if one does."""
        assert self.rtc is not None
        if rows > min(execution_horizon, action_horizon - execution_horizon):
            return ""
        if self.rtc.prefix_len is not None:
            return ", --rtc prefix_len=null"
        return ", --rtc method=guidance"


def resolve_chunking(
    wanted: Mode | None, policy: ChunkFacts | None, *, has_rtc_option: bool, is_real: bool
) -> Chunking:
    """Returns how chunks follow each other in a run.

    A simulated robot runs in sync mode unless the options say otherwise. A real one continues
    chunks (rtc) where its policy can do so.

    Args:
        wanted: the mode that the options name, if they do.
        policy: of the run; None with `--policy hold`.
        has_rtc_option: whether the options change `rtc_config`.
        is_real: whether the robot is a real one.

    Raises:
        UsageError: the policy or its engine cannot do what the options ask for.
    """
    wants_rtc = has_rtc_option and policy is not None and policy.rtc.enabled
    if wanted == "rtc" or (wanted is None and wants_rtc):
        return _required("--mode rtc" if wanted else "--rtc", policy)
    delays = policy.trained_delays if policy else (0,)
    if wanted is not None:
        if wants_rtc:
            logger.warning("--rtc: has no effect with --mode %s", wanted)
        return Chunking(mode=wanted, reason="--mode", trained_delays=delays)
    if not is_real:
        reason = "the default of a simulated robot"
        return Chunking(mode="sync", reason=reason, trained_delays=delays)
    if policy is None:
        return Chunking(mode=MODE_WITHOUT_RTC, reason="no policy")
    return _default(policy)


def _required(option: str, policy: ChunkFacts | None) -> Chunking:
    if policy is None:
        raise UsageError(
            f"{option}: expected a policy that predicts chunks, got --policy hold. Use "
            f"{_OTHER_MODES}"
        )
    obstacle = policy.obstacle()
    if obstacle is not None:
        raise UsageError(
            f"{option}: expected a policy whose chunks can continue each other, but {obstacle}. "
            f"{policy.remedy()}, or use {_OTHER_MODES}"
        )
    return Chunking(mode="rtc", reason=option, rtc=policy.rtc, trained_delays=policy.trained_delays)


def _default(policy: ChunkFacts) -> Chunking:
    """Returns the default of a real robot."""
    obstacle = policy.obstacle()
    if obstacle is not None:
        return Chunking(
            mode=MODE_WITHOUT_RTC, reason=obstacle, trained_delays=policy.trained_delays
        )
    is_guided = policy.rtc.method == "guidance"
    chunking = Chunking(
        mode="rtc",
        reason="the bundle's rtc_config guides chunks"
        if is_guided
        else "the policy was trained for it",
        rtc=policy.rtc,
        trained_delays=policy.trained_delays,
    )
    settings = load_core().ContinuationSettings(**chunking.continuation())
    largest = settings.largest_usable_delay(
        execution_horizon=policy.execution_horizon, action_horizon=policy.action_horizon
    )
    if largest:
        return chunking
    reason = (
        f"no delay fits execution horizon {policy.execution_horizon} of "
        f"{policy.action_horizon} steps"
    )
    return replace(chunking, mode=MODE_WITHOUT_RTC, reason=reason, rtc=None)


def trained_delays(bundle: HasManifest) -> tuple[int, ...]:
    """Returns the delays of real-time chunking that a bundle was trained with, in control steps.

    Older bundles have them in their config only.
    """
    from flux_core.config import bind

    model: Any = bundle.config.get("model")
    section = model.get("rtc_training_config") if isinstance(model, Mapping) else None
    if bundle.manifest.rtc_valid_delays != (0,) or section is None:
        return bundle.manifest.rtc_valid_delays
    rtc: RTCTrainingConfig = bind(RTCTrainingConfig, section, "model.rtc_training_config")
    group = model.get("actions_per_token", 1)
    return rtc.delays(group if isinstance(group, int) and group > 0 else 1) if rtc.enabled else (0,)


def _rtc_config(bundle: HasManifest) -> RTCConfig:
    """Returns the `rtc_config` of a bundle's robot section; the defaults if it has none."""
    from flux_core.config import bind

    section = bundle.config.get("inference")
    fields = section.get("rtc_config") if isinstance(section, Mapping) else None
    return bind(RTCConfig, fields or {}, "inference.rtc_config")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
