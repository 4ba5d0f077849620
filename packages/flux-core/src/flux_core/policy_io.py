"""Turns an observation into the graphs' inputs, and the network's output into robot units.

It is built from the files that training wrote, so that a policy always runs with the preprocessing
that it was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .bundle.bundle import Bundle, Manifest
from .bundle.checks import AGAIN, one_line, show
from .config import bind
from .deployment import InferenceRunner
from .errors import BundleError, ConfigError, DataError
from .norm_stats import FeatureStats, NormStats, statistics_of, stats_from_json
from .tokenizers import (
    BYTE_TOKENIZER_FILE,
    TOKENIZER_FILES,
    ByteTokenizer,
    PretrainedTokenizer,
    Tokenizer,
)
from .transforms import (
    ActionInverse,
    ImageNormalization,
    Normalization,
    Padding,
    Pipeline,
    Sample,
    Tokenization,
)
from .transforms.prompts import NUM_BINS
from .types import Observation, image_fault

STATES = np.linspace(-1.0, 1.0, NUM_BINS + 1) - 0.5 / NUM_BINS
"""One normalised state value in each bin of the prompt."""


@dataclass(frozen=True)
class PolicyIO:
    """The transforms of one robot, with its statistics.

    Image normalisation is left out: it is the first operation of the prefix graph.
    """

    inference: InferenceRunner
    stats: NormStats
    tokenizer: Tokenizer

    @classmethod
    def from_policy(
        cls, inference: InferenceRunner, norm_stats: Mapping[str, NormStats]
    ) -> PolicyIO:
        """Builds it from the parts of a training run; the config names the tokenizer's path."""
        prompts = inference.pipeline.one(Tokenization)
        stats = _robot_stats(norm_stats, inference)
        return cls(inference, stats, prompts.tokenizer.load())

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> PolicyIO:
        """Builds it from a bundle, with the statistics of the bundle's robot.

        Raises:
            BundleError: config, statistics, tokenizer or manifest contradict each other.
        """
        try:
            inference = bind(InferenceRunner, bundle.config.get("inference"), "inference")
            stats = _robot_stats(stats_from_json(bundle.norm_stats), inference)
            tokenizer = _load_bundled(inference.pipeline.one(Tokenization).tokenizer, bundle)
            # The graphs may take shorter prompts than training did.
            max_len = bundle.manifest.max_prompt_tokens
            inference = inference.with_pipeline(
                inference.pipeline.replace(Tokenization, max_len=max_len)
            )
            io = cls(inference, stats, tokenizer)
            _check_manifest(io, bundle.manifest)
        except (ConfigError, DataError) as error:
            reason = one_line(str(error)).rstrip(". ")
            raise BundleError(f"{bundle.directory}: {reason}. {AGAIN}") from error
        return io

    def most_tokens(self, prompt: str) -> int:
        """Returns the largest number of tokens of a task's prompt, over all states."""
        sample: Sample = {"task_description": prompt, "num_state_dims": self.state_dim}
        states = STATES if self.pipeline.prompt_uses_state else STATES[:1]
        prompted = [
            self.pipeline.prompt({**sample, "states": np.full(self.state_dim, value, np.float32)})
            for value in states
        ]
        return max(len(self.tokenizer.encode(one["prompt"])) for one in prompted)

    def encode(self, observation: Observation) -> dict[str, NDArray[np.generic]]:
        """Returns the graphs' user inputs, each with a leading batch axis of 1.

        Raises:
            DataError: a camera is missing, an image, the state or the task cannot be used.
        """
        sample: Sample = {
            "images": self._images(observation),
            "image_masks": np.ones(len(self.inference.dataset.img_keys), dtype=np.bool_),
            "states": self._state(observation),
            "task_description": self._prompt(observation),
            "stats": self.stats,
        }
        sample = self.pipeline.encode(sample, self.tokenizer)
        return {
            "images": np.asarray(sample["images"])[None],
            "image_masks": sample["image_masks"][None],
            "lang_tokens": sample["lang_tokens"][None],
            "lang_masks": sample["lang_masks"][None],
            "state": sample["states"][None].astype(np.float32),
        }

    def decode(
        self, actions: NDArray[np.float32], state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Returns normalised actions (H, A) in robot units; `state` (A,) is the observation's."""
        return self._inverse(actions, state)

    @property
    def pipeline(self) -> Pipeline:
        """The robot's transforms."""
        return self.inference.pipeline

    @property
    def scale(self) -> NDArray[np.float32]:
        """(A,) factor from normalised actions to robot units."""
        return self._inverse.scale

    @property
    def offset(self) -> NDArray[np.float32]:
        """(A,) summand from normalised actions to robot units."""
        return self._inverse.offset

    @property
    def relative_mask(self) -> NDArray[np.bool_]:
        """(A,) True where an action is relative to the observed state."""
        return self._inverse.relative_mask

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """(A,) True where an action is 1 if the network's is above 0.5, else 0."""
        mask = self._inverse.binary_mask
        return np.zeros(len(self._inverse.scale), np.bool_) if mask is None else mask

    @property
    def state_stats(self) -> FeatureStats:
        """Statistics of the state."""
        return statistics_of(self.stats, self.pipeline.one(Normalization).state_key)

    @property
    def mean_state(self) -> NDArray[np.float32]:
        """(state_dim,) the mean state of the training data, in robot units."""
        mean = np.asarray(self.state_stats.mean, dtype=np.float32)[: self.state_dim]
        return self.pipeline.state_inverse(mean)

    @property
    def image_affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(C, 3) scale and offset of the image normalisation."""
        return self.pipeline.one(ImageNormalization).affine(len(self.inference.dataset.img_keys))

    @property
    def tokenizer_config(self) -> ByteTokenizer | PretrainedTokenizer:
        """The config of the tokenizer."""
        return self.pipeline.one(Tokenization).tokenizer

    @property
    def max_prompt_tokens(self) -> int:
        """Width of `lang_tokens`."""
        return self.pipeline.one(Tokenization).max_len

    @property
    def state_dim(self) -> int:
        """Dimensions of the robot's state, before padding."""
        is_padded = self.pipeline.maybe(Padding) is not None
        real = self.inference.spec.state_dim
        return min(real, self.state_stats.dim) if is_padded else self.state_stats.dim

    @cached_property
    def _inverse(self) -> ActionInverse:
        # With padding, the statistics have more dimensions than the robot has joints.
        return self.pipeline.action_inverse(self.stats, self.inference.spec.action_dim)

    def _images(self, observation: Observation) -> list[NDArray[np.uint8]]:
        keys, images = self.inference.dataset.img_keys, observation.images
        if not isinstance(images, Mapping):
            raise DataError(
                "observation.images: expected camera name -> image, got "
                f"{type(images).__name__}. The cameras are {', '.join(keys)}"
            )
        missing = [key for key in keys if key not in images]
        if missing:
            raise DataError(
                f"observation.images: expected camera {missing[0]!r}, got "
                f"{', '.join(map(str, images)) or 'none'}"
            )
        for key in keys:
            if fault := image_fault(images[key]):
                raise DataError(
                    f"observation.images.{key}: expected (height, width, 3) uint8 RGB, {fault}"
                )
        return [images[key] for key in keys]

    def _state(self, observation: Observation) -> NDArray[np.float32]:
        where, dims = "observation.state", self.state_dim
        if observation.state is None:
            raise DataError(f"{where}: expected {dims} numbers, got None. Read the robot's joints")
        try:
            state = np.asarray(observation.state, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{where}: expected {dims} numbers, got {observation.state!r:.60}"
            ) from error
        if state.shape != (dims,):
            raise DataError(
                f"{where}: expected shape ({dims},), got {state.shape}{self._state_hint(state)}"
            )
        if not np.isfinite(state).all():
            raise DataError(
                f"{where}: expected finite numbers, got NaN or infinity at joint "
                f"{int(np.argmin(np.isfinite(state)))}"
            )
        return state

    def _state_hint(self, state: NDArray[np.float32]) -> str:
        if state.shape == (1, self.state_dim):
            return ", a batch of one. Give the state itself: state[0]"
        return f". Is it the state of {self.inference.spec.name}?"

    def _prompt(self, observation: Observation) -> str:
        prompt = observation.prompt
        if not isinstance(prompt, str):
            raise DataError(f"observation.prompt: expected the task in words, got {prompt!r:.60}")
        return prompt


def _robot_stats(norm_stats: Mapping[str, NormStats], inference: InferenceRunner) -> NormStats:
    """Returns the statistics of the robot that `inference` names."""
    try:
        return norm_stats[inference.statistics_group(norm_stats)]
    except ConfigError as error:
        raise DataError(f"norm_stats: {error}") from error


def _load_bundled(config: ByteTokenizer | PretrainedTokenizer, bundle: Bundle) -> Tokenizer:
    files = TOKENIZER_FILES if isinstance(config, PretrainedTokenizer) else (BYTE_TOKENIZER_FILE,)
    names = [f"tokenizer/{name}" for name in files if f"tokenizer/{name}" in bundle.manifest.files]
    if not names:
        raise BundleError(
            f"tokenizer: the bundle has no tokenizer/{' or '.join(files)}, which config.json's "
            f"{type(config).__name__} needs. Export the bundle again."
        )
    if isinstance(config, ByteTokenizer):
        return config.load()
    return PretrainedTokenizer().load(bundle.path(names[0]))


def _check_manifest(io: PolicyIO, manifest: Manifest) -> None:
    """Refuses a config and statistics that do not match the manifest's robot and graphs."""
    dataset, joints = io.inference.dataset, io.inference.spec.action_dim
    for where, expected, found in (
        ("config.json: inference: robot", manifest.robot, io.inference.spec.name),
        ("config.json: inference: cameras", manifest.cameras, dataset.img_keys),
        ("norm_stats.json: dimensions of the state", manifest.state_dim, io.state_dim),
        ("norm_stats.json: dimensions of actions", joints, len(io.scale)),
        ("config.json: entries of relative actions", joints, len(io.relative_mask)),
        ("manifest.json: action_dim", max(joints, manifest.action_dim), manifest.action_dim),
    ):
        if expected != found:
            raise BundleError(
                f"{where}: expected {show(expected)} as in manifest and robot, got {show(found)}. "
                f"{AGAIN}"
            )
