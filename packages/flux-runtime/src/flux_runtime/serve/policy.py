"""The policy that is served: a bundle that has reproduced its golden here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.agreement import Changes
from flux_core.bundle import Bundle
from flux_core.types import Observation

from ..control.agreement import agreed_bundle
from ..control.latency import StageTimes
from ..control.policy_source import BundleSource, chunk_noise
from ..control.preflight import check_binary, check_decoder, check_golden
from ..engines.core import load_core
from ..engines.golden_replay import GoldenResult
from ..engines.opening import choose_engine, engine_tolerance, open_flow_policy
from ..wire.bounds import WireError
from ..wire.facts import PolicyFacts
from ..wire.messages import Continued

LONGEST_TOKEN = 32
"""Characters. A prompt with more per token has too many tokens without counting them."""
KNOWN_PROMPTS = 256


@dataclass(frozen=True, kw_only=True)
class PolicyRequest:
    """Which bundle to open, and how.

    Attributes:
        bundle: its directory.
        engine: its name, or 'auto'.
        threads: of the CPU.
        accept_versions: see `Bundle.open`.
        tasks: the only ones, besides the bundle's own, that will be asked for; empty for any.
    """

    bundle: Path
    engine: str
    threads: int
    accept_versions: Collection[str] = ()
    tasks: Sequence[str] = ()


class ServedPolicy:
    """Infers chunks in robot units. One thread at a time.

    Attributes:
        facts: its description in the greeting of every client.
        reason: why this engine.
        golden: how far this machine's actions are from the reference's.
        threads: CPU threads.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        encoder: Any,
        policy: Any,
        engine: str,
        reason: str,
        golden: GoldenResult,
    ) -> None:
        self.facts = PolicyFacts.of(bundle, engine, policy.can_continue)
        self.reason, self.golden = reason, golden
        self._policy, self._encoder = policy, encoder
        self._source = BundleSource(
            bundle=bundle, encoder=encoder, policy=policy, engine=engine, times=StageTimes()
        )
        self._decoder = load_core().ActionDecoder(**self._source.decoder_arrays())
        manifest = bundle.manifest
        self._noise_shape = (manifest.action_horizon, manifest.action_dim)
        self._max_tokens = manifest.max_prompt_tokens
        self._num_tokens: dict[str, int] = {}

    @classmethod
    def open(cls, request: PolicyRequest) -> ServedPolicy:
        """Opens a bundle and replays its golden.

        Raises:
            FluxError: it cannot be opened, or does not reproduce its golden here.
        """
        from flux_core.policy_io import PolicyIO

        bundle = Bundle.open(request.bundle, accept_versions=request.accept_versions)
        bundle = agreed_bundle(bundle, Changes(), None)
        if request.tasks and bundle.manifest.prompt_buckets:
            io = PolicyIO.from_bundle(bundle)
            words = [*request.tasks, *bundle.manifest.tasks.values(), bundle.manifest.prompt]
            bundle = bundle.for_prompts(max(io.most_tokens(text) for text in words if text))
        encoder = PolicyIO.from_bundle(bundle)
        check_decoder(encoder.scale, encoder.inference.spec)
        check_binary(encoder.binary_mask, encoder.inference.spec)
        choice = choose_engine(request.engine, bundle.manifest.precision, bundle)
        policy = open_flow_policy(bundle, engine=choice.name, num_threads=request.threads)
        golden = check_golden(
            bundle, policy, choice.name, engine_tolerance(bundle.manifest, choice.name)
        )
        return cls(
            bundle=bundle,
            encoder=encoder,
            policy=policy,
            engine=choice.name,
            reason=choice.reason,
            golden=golden,
        )

    def noise(self, seed: int, index: int) -> NDArray[np.float32]:
        """Returns the noise of a chunk, (action_horizon, action_dim of the network)."""
        return chunk_noise(seed, index, self._noise_shape)

    def encode(self, observation: Observation) -> dict[str, NDArray[Any]]:
        """Returns the network's inputs.

        Raises:
            FluxError: the observation does not fit the policy.
        """
        inputs = self._source.encode(observation)
        if inputs["lang_masks"].all():  # it fits exactly, or was cut
            self._check_prompt(observation.prompt)
        return inputs

    def _check_prompt(self, prompt: str) -> None:
        """Refuses a prompt that would be cut."""
        num_tokens = self._num_tokens.get(prompt)
        if num_tokens is None:
            # To count the tokens of a whole book would take long.
            is_long = len(prompt) > LONGEST_TOKEN * self._max_tokens
            num_tokens = len(prompt) if is_long else self._encoder.most_tokens(prompt)
            if len(self._num_tokens) >= KNOWN_PROMPTS:
                del self._num_tokens[next(iter(self._num_tokens))]
            self._num_tokens[prompt] = num_tokens
        if num_tokens > self._max_tokens:
            raise WireError(
                f"prompt: expected at most {self._max_tokens} tokens, got {num_tokens}. Shorten it"
            )

    def infer(
        self,
        inputs: dict[str, NDArray[Any]],
        state: NDArray[np.float32],
        noise: NDArray[np.float32],
        continued: Continued | None = None,
    ) -> NDArray[np.float32]:
        """Returns a chunk, (action_horizon, action_dim) float32 in robot units.

        Args:
            inputs: of the network; see `encode`.
            state: (state_dim,) in robot units.
            noise: see `noise`.
            continued: the running chunk, if the new one continues it.

        Raises:
            WireError: the running chunk does not fit, or an action is not finite.
            RuntimeError: the engine failed.
        """
        base = self.facts.spec.hold(state)
        if continued is None:
            normalised = self._policy.infer(inputs, noise)
        else:
            normalised = self._continue(inputs, base, noise, continued)
        actions = self._decoder.decode(normalised, base)
        if not np.isfinite(actions).all():
            raise RuntimeError("the network's actions are not finite")
        return actions

    def _continue(
        self,
        inputs: dict[str, NDArray[Any]],
        base: NDArray[np.float32],
        noise: NDArray[np.float32],
        continued: Continued,
    ) -> NDArray[np.float32]:
        try:
            settings = load_core().ContinuationSettings(**continued.settings)
            previous = self._decoder.encode(continued.previous, self._noise_shape[1], base)
            return self._policy.infer(
                inputs,
                noise,
                previous=previous,
                prefix_len=continued.prefix_len,
                continuation=settings,
            )
        except ValueError as error:
            raise WireError(f"infer.continued: {' '.join(str(error).split())}") from error


class StageClock:
    """Times the stages of a request, in seconds.

    Attributes:
        times_s: stage -> its time.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._last_s = now_s()
        self.times_s: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """Says that a stage ends now, and the next one begins."""
        now_s = self._now_s()
        self.times_s[stage] = now_s - self._last_s
        self._last_s = now_s
