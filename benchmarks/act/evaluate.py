"""Evaluates the checkpoints of LeRobot's policy in the simulated ALOHA, by LeRobot's own rollout.

    .venv-act/bin/python benchmarks/act/evaluate.py RUN --task insertion

The simulator, its pictures, the seeds, the longest episode and the rules of success are those of
`flux-eval`. Pictures are rendered as the demonstrations were, and reduced to the size of the
checkpoint's as flux does it. Each checkpoint of RUN that has no result yet gets one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout
from numpy.typing import NDArray
from runs import ROOT, Episode, Policy, Run, evaluation_parser, sha256

from flux_core.sim import AlohaInsertionSim, AlohaSim
from flux_core.transforms.images import resize_to

TASKS = {
    "transfer-cube": (AlohaSim, "transfer the cube", "transferred", "held_by_left_only"),
    "insertion": (
        AlohaInsertionSim,
        "insert the peg into the socket",
        "inserted",
        "inserted_and_held",
    ),
}
"""The simulator, the task in words, its stage of success and its end state."""
MAX_STEPS, HOLD_STEPS = 400, 25
"""As in flux-eval: an episode ends early once its end state has held for so many steps."""
AT_ONCE = 10
"""Episodes in one rollout, which share the network's calls."""

Observation = dict[str, Any]


class AlohaEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The simulated ALOHA as LeRobot's rollout expects an environment.

    Args:
        task: a key of TASKS.
        cameras: those that the policy sees.
        size: height and width of the pictures.
        seen_every: the policy looks at the first picture, and at one every so many steps. The
            others are not rendered: rendering takes more time than all else.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": 50}
    _max_episode_steps = MAX_STEPS

    def __init__(
        self, task: str, cameras: tuple[str, ...], size: tuple[int, int], seen_every: int
    ) -> None:
        simulation, self.task_description, self._success, self._end_state = TASKS[task]
        self._sim = simulation(cameras=cameras)
        self._resize, self._seen_every = resize_to(*size), seen_every
        picture = gymnasium.spaces.Box(0, 255, (*size, 3), np.uint8)
        joints = gymnasium.spaces.Box(-np.inf, np.inf, (14,), np.float32)
        pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, picture))
        self.observation_space = gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": joints})
        self.action_space = joints

    @property
    def has_succeeded(self) -> bool:
        """Whether the task has been done at any time of the episode."""
        return self._sim.stages()[self._success]

    @property
    def is_held(self) -> bool:
        """Whether the end state has held long enough."""
        return self._held_steps >= HOLD_STEPS

    @property
    def is_over(self) -> bool:
        """Whether the episode has ended."""
        return self.is_held or self._steps >= MAX_STEPS

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins the episode of a seed. Without one, which is the vector environment's way after an
        episode, the robot stands until the other episodes have ended."""
        if seed is not None:
            self._sim.reset(seed)
            self._steps = self._held_steps = 0
        return self._observation(), {"is_success": self.has_succeeded}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Moves the robot, if the episode has not ended."""
        if not self.is_over:
            self._sim.step(np.asarray(action, np.float32))
            self._steps += 1
            is_held_now = self.has_succeeded and self._sim.stages()[self._end_state]
            self._held_steps = self._held_steps + 1 if is_held_now else 0
        reward, told = float(self.has_succeeded), {"is_success": self.has_succeeded}
        return self._observation(), reward, self.is_held, self._steps >= MAX_STEPS, told

    def _observation(self) -> Observation:
        if self._steps % self._seen_every == 0 and not self.is_over:
            pictures = self._sim.render().items()
            self._pictures = {name: self._resize.resize(picture) for name, picture in pictures}
        return {"pixels": self._pictures, "agent_pos": self._sim.state()}


def main() -> int:
    """Evaluates, and writes a file per checkpoint."""
    parser = evaluation_parser(__doc__, TASKS)
    parser.add_argument(
        "--n-action-steps", type=int, help="steps of a chunk that are executed; default: its own"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    for checkpoint in sorted(options.run.folder.glob("checkpoints/[0-9]*/pretrained_model")):
        steps = int(checkpoint.parent.name)
        is_wanted = options.steps is None or steps in options.steps
        if is_wanted and not options.run.result(steps).exists():
            evaluate(checkpoint, steps, options)
    return 0


def evaluate(checkpoint: Path, steps: int, options: argparse.Namespace) -> None:
    """Evaluates a checkpoint, and keeps what came of it."""
    run: Run = options.run
    config: Any = PreTrainedConfig.from_pretrained(checkpoint)
    if options.n_action_steps is not None:
        config.n_action_steps = options.n_action_steps
    config.device = "cpu"
    policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config).eval()
    weights = checkpoint / "model.safetensors"
    pictures = config.image_features
    (size,) = {tuple(feature.shape[1:]) for feature in pictures.values()}
    facts = Policy(
        parameters=sum(parameter.numel() for parameter in policy.parameters()),
        picture=size,
        cameras=len(pictures),
        chunk=config.chunk_size,
        executed=config.n_action_steps,
        sha256=sha256(weights),
    )
    trained = json.loads((checkpoint / "train_config.json").read_text())
    training = {
        "steps": steps,
        "cpu_s": run.cpu_s(weights),
        "seed": trained["seed"],
        "batch_size": trained["batch_size"],
        "learning_rate": trained["optimizer"]["lr"],
    }
    begin = time.process_time()
    seeds = range(options.seed, options.seed + options.episodes)
    episodes = play(checkpoint, policy, config, options.task, seeds)
    versions = {name: version(name) for name in ("lerobot", "torch", "torchvision")}
    cpu_s = time.process_time() - begin
    run.keep("act", options.task, facts, training, episodes, cpu_s, versions)


def play(checkpoint: Path, policy: Any, config: Any, task: str, seeds: range) -> list[Episode]:
    """Plays an episode per seed, by LeRobot's rollout."""
    before, after = make_pre_post_processors(config, str(checkpoint))
    cameras = tuple(name.removeprefix("observation.images.") for name in config.image_features)
    (size,) = {tuple(feature.shape[1:]) for feature in config.image_features.values()}
    unchanged: Any = PolicyProcessorPipeline(steps=[])
    envs = [AlohaEnv(task, cameras, size, config.n_action_steps) for _ in seeds[:AT_ONCE]]
    episodes: list[Episode] = []
    torch.set_num_threads(1)
    for first in range(0, len(seeds), AT_ONCE):
        some = list(seeds[first : first + AT_ONCE])
        playing = envs[: len(some)]
        batch = gymnasium.vector.SyncVectorEnv([lambda env=env: env for env in playing])
        torch.manual_seed(some[0])
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            rollout(batch, policy, unchanged, unchanged, before, after, seeds=some)
        pairs = zip(some, playing, strict=True)
        episodes += [Episode(seed, env.has_succeeded, env.is_held) for seed, env in pairs]
    return episodes


if __name__ == "__main__":
    sys.exit(main())
