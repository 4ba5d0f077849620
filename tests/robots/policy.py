"""A bundle for any robot: pairs of its joints go round in circles, the others keep their place.

The network is two small ONNX graphs. Its actions continue the circle on which the measured state
lies, so that the robot always moves, and moves on from wherever it was held.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from flux_core.bundle import component_sources
from flux_core.bundle.bundle import Manifest, write_manifest

from ..graph_policies import (
    TOKENS,
    Graph,
    circle_config,
    golden,
    graph_tensors,
    save_graph,
    signature,
    unit_stats,
)

LEAD_S = 0.08
"""How far ahead of the state a circle continues: about the lag of the test robots."""
HORIZON = 16
IMAGE_SHAPE = (32, 32, 3)
GREY = 100


def write_bundle(
    folder: Path,
    spec: Mapping[str, Any],
    *,
    rest: Sequence[float],
    pairs: Sequence[tuple[int, int]],
    radius: float = 0.2,
    rate_rad_s: float = 1.0,
    inference: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """Writes the bundle, and returns its folder.

    Args:
        folder: is made.
        spec: the fields of a RobotSpec that the bundle carries.
        rest: where every joint is at the start; the circles begin there.
        pairs: the joints that circle, two and two.
        radius: of the circles, in the joints' unit.
        rate_rad_s: how fast they go round.
        inference: further fields of the config's section, such as `operator`.
        manifest: further fields of the Manifest, such as `data_summary`.
    """
    folder.mkdir(parents=True)
    joints, cameras = len(spec["joint_names"]), tuple(spec["cameras"])
    hz = float(spec["control_hz"])
    circles = _Circles(np.array(rest, np.float32), tuple(pairs), radius, rate_rad_s, hz)
    config = circle_config(spec, HORIZON // 2, IMAGE_SHAPE)
    config["inference"] |= dict(inference or {})
    tensors = graph_tensors(
        cameras=len(cameras), joints=joints, horizon=HORIZON, image_shape=IMAGE_SHAPE
    )
    save_graph(folder / "prefix.onnx", _prefix(), tensors["prefix"])
    save_graph(folder / "denoise.onnx", circles.graph(), tensors["denoise"])
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "norm_stats.json").write_text(json.dumps(unit_stats(spec["name"], joints)))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "byte_tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    answer = circles.actions(circles.rest)[None]
    recorded = golden(
        tensors["prefix"][0], brightness=GREY, state=circles.rest[None], actions=answer
    )
    save_file(recorded, folder / "golden.safetensors")
    facts: dict[str, Any] = {
        "model": "pi0",
        "robot": spec["name"],
        "robots": (spec["name"],),
        "control_hz": hz,
        "cameras": cameras,
        "image_height": IMAGE_SHAPE[0],
        "image_width": IMAGE_SHAPE[1],
        "state_dim": joints,
        "action_dim": joints,
        "action_horizon": HORIZON,
        "execution_horizon": HORIZON // 2,
        "num_inference_steps": 1,
        "rtc_valid_delays": (0,),
        "max_prompt_tokens": TOKENS,
        "prompt": "circle",
        "tasks": {"1": "circle"},
        "precision": "fp32",
        "graphs": {name: signature(f"{name}.onnx", *tensors[name]) for name in tensors},
        "provenance": {"made by": "tests"},
        "components": component_sources(config),
    }
    write_manifest(folder, Manifest(**(facts | manifest)))
    return folder


class _Circles:
    """What the network computes, in numpy and as a graph."""

    def __init__(
        self,
        rest: NDArray[np.float32],
        pairs: tuple[tuple[int, int], ...],
        radius: float,
        rate_rad_s: float,
        hz: float,
    ) -> None:
        self.rest, self.pairs, self.radius = rest, pairs, radius
        self.centre = rest.copy()
        for first, _ in pairs:
            self.centre[first] -= radius
        angles = rate_rad_s * (LEAD_S + np.arange(1, HORIZON + 1) / hz)
        cos, sin = np.cos(angles), np.sin(angles)
        self.turns = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)

    def actions(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the chunk, (HORIZON, joints)."""
        chunk = np.tile(self.rest, (HORIZON, 1))
        for pair in self.pairs:
            found = state[list(pair)] - self.centre[list(pair)]
            unit = found / max(float(np.linalg.norm(found)), 1e-6)
            chunk[:, pair] = self.centre[list(pair)] + self.radius * (unit @ self.turns)
        return chunk.astype(np.float32)

    def graph(self) -> Graph:
        """The same as nodes and constants."""
        node = helper.make_node
        nodes = [
            node("Sub", ["state", "centre"], ["from_centre"]),
            node("Mul", ["x_t", "none"], ["no_noise"]),
            node("ReduceMean", ["past_key_0"], ["brightness"], keepdims=0),
            node("Mul", ["brightness", "none"], ["nothing"]),
            node("Add", ["no_noise", "nothing"], ["zeros"]),
            node("Add", ["zeros", "still"], ["sum_0"]),
            node("Add", ["t", "minus_one"], ["t_next"]),
        ]
        joints = len(self.rest)
        still = self.rest.copy()
        constants: dict[str, NDArray[Any]] = {
            "none": np.array(0, np.float32),
            "minus_one": np.array(-1, np.float32),
            "tiny": np.array(1e-6, np.float32),
            "axis": np.array([1]),
            "centre": self.centre[None],
        }
        for index, pair in enumerate(self.pairs):
            still[list(pair)] = self.centre[list(pair)]
            # (2, HORIZON * joints): what each coordinate of the unit vector adds to each action.
            adds = np.zeros((2, HORIZON, joints), np.float32)
            for step in range(HORIZON):
                adds[:, step, list(pair)] = self.radius * self.turns[step]
            constants |= {
                f"adds_{index}": adds.reshape(2, -1),
                f"pair_{index}": np.array(pair),
                f"shape_{index}": np.array([1, HORIZON, joints]),
            }
            nodes += [
                node("Gather", ["from_centre", f"pair_{index}"], [f"found_{index}"], axis=1),
                node("ReduceL2", [f"found_{index}", "axis"], [f"length_{index}"], keepdims=1),
                node("Max", [f"length_{index}", "tiny"], [f"safe_{index}"]),
                node("Div", [f"found_{index}", f"safe_{index}"], [f"unit_{index}"]),
                node("MatMul", [f"unit_{index}", f"adds_{index}"], [f"flat_{index}"]),
                node("Reshape", [f"flat_{index}", f"shape_{index}"], [f"move_{index}"]),
                node("Add", [f"sum_{index}", f"move_{index}"], [f"sum_{index + 1}"]),
            ]
        nodes.append(node("Identity", [f"sum_{len(self.pairs)}"], ["x_next"]))
        constants["still"] = np.tile(still, (1, HORIZON, 1))
        return nodes, constants


def _prefix() -> Graph:
    """Keys and values that hold the mean brightness of the pictures."""
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["brightness"], keepdims=0),
        node("Concat", ["image_masks", "lang_masks"], ["prefix_pad_masks"], axis=1),
        node("Unsqueeze", ["prefix_pad_masks", "outer"], ["pads_wide"]),
        node("Cast", ["pads_wide"], ["pads"], to=TensorProto.FLOAT),
        node("Mul", ["pads", "none"], ["zeros"]),
        node("Add", ["zeros", "brightness"], ["column"]),
        node("Concat", ["column", "column"], ["past_key_0"], axis=3),
        node("Neg", ["past_key_0"], ["past_value_0"]),
    ]
    return nodes, {"outer": np.array([1, 3]), "none": np.array(0, np.float32)}
