"""Evaluates a checkpoint of LeRobot's policy in the simulated ALOHA, by LeRobot's own rollout.

    .venv-act/bin/python benchmarks/act/evaluate.py CHECKPOINT --task insertion --out act.json

CHECKPOINT is a folder `pretrained_model`. The simulator, its pictures, the seeds, the longest
episode and the rules of success are those of `flux-eval`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
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

from flux_core.sim import AlohaInsertionSim, AlohaSim

TASKS = {
    "transfer-cube": (
        AlohaSim,
        "pick up the cube with the right arm and transfer it to the left arm",
        "transferred",
        "held_by_left_only",
    ),
    "insertion": (
        AlohaInsertionSim,
        "insert the peg into the socket",
        "inserted",
        "inserted_and_held",
    ),
}
MAX_STEPS, HOLD_STEPS = 400, 25
"""As in flux-eval: an episode ends early once its end state has held for so many steps."""

Observation = dict[str, Any]


class AlohaEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The simulated ALOHA as LeRobot's rollout expects an environment."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": 50}
    _max_episode_steps = MAX_STEPS

    def __init__(self, task: str, cameras: tuple[str, ...]) -> None:
        simulation, self.task_description, self._success, self._end_state = TASKS[task]
        self._sim = simulation(cameras=cameras)
        picture = gymnasium.spaces.Box(0, 255, (self._sim.height, self._sim.width, 3), np.uint8)
        joints = gymnasium.spaces.Box(-np.inf, np.inf, (14,), np.float32)
        pixels = gymnasium.spaces.Dict(dict.fromkeys(cameras, picture))
        self.observation_space = gymnasium.spaces.Dict({"pixels": pixels, "agent_pos": joints})
        self.action_space = joints

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        assert seed is not None, "every episode has its seed"
        self._sim.reset(seed)
        self._steps = self._held_steps = 0
        return self._observation(), {"is_success": False}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._sim.step(np.asarray(action, np.float32))
        self._steps += 1
        stages = self._sim.stages()
        has_succeeded = stages[self._success]
        is_held = has_succeeded and stages[self._end_state]
        self._held_steps = self._held_steps + 1 if is_held else 0
        is_done = self._held_steps >= HOLD_STEPS
        told = {"is_success": has_succeeded}
        return self._observation(), float(has_succeeded), is_done, self._steps >= MAX_STEPS, told

    def _observation(self) -> Observation:
        return {"pixels": self._sim.render(), "agent_pos": self._sim.state()}


def main() -> int:
    """Evaluates, and writes a line per episode and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT")
    add("--task", choices=TASKS, required=True)
    add("--episodes", type=int, default=200)
    add("--seed", type=int, default=10_000)
    add("--n-action-steps", type=int, help="steps of a chunk that are executed; default: its own")
    add("--out", type=Path, required=True, help="JSON")
    options = parser.parse_args()
    config = PreTrainedConfig.from_pretrained(options.checkpoint)
    if options.n_action_steps is not None:
        config.n_action_steps = options.n_action_steps  # type: ignore[attr-defined]
    config.device = "cpu"
    policy = get_policy_class(config.type).from_pretrained(options.checkpoint, config=config).eval()
    before, after = make_pre_post_processors(config, str(options.checkpoint))
    cameras = tuple(name.removeprefix("observation.images.") for name in config.image_features)
    env = gymnasium.vector.SyncVectorEnv([lambda: AlohaEnv(options.task, cameras)])
    unchanged: Any = PolicyProcessorPipeline(steps=[])
    episodes: list[dict[str, Any]] = []
    begin = time.process_time()
    for seed in range(options.seed, options.seed + options.episodes):
        torch.manual_seed(seed)
        ran = rollout(env, policy, unchanged, unchanged, before, after, seeds=[seed])
        steps = int(ran["done"][0].int().argmax()) + 1
        episodes.append({"seed": seed, "success": bool(ran["reward"][0].any()), "steps": steps})
    won = sum(episode["success"] for episode in episodes)
    weights = (options.checkpoint / "model.safetensors").read_bytes()
    report = {
        "task": options.task,
        "success": won,
        "episodes": len(episodes),
        "n_action_steps": config.n_action_steps,  # type: ignore[attr-defined]
        "sha256": hashlib.sha256(weights).hexdigest(),
        "cpu_s": time.process_time() - begin,
        "each": episodes,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{options.task}: {won} of {len(episodes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
