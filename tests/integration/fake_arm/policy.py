"""A bundle whose network draws circles with the fake arm, and misbehaves when a picture says so.

The network is two small ONNX graphs. Its actions continue the circle on which the state lies, so
that the arm always moves. The brightness of the pictures chooses something else:

    NAN           a chunk of NaN
    HUGE          a chunk of constant 1e6
    LEFT, RIGHT   the circle, shifted by 0.5 rad to one side: taken in turns they are 1 rad apart
    ZIGZAG        the circle, with every other row shifted by 0.25 rad
    FAILING       the inference fails
    SLOW          the inference takes about SLOW_S
    STUCK         the inference takes about STUCK_S
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from flux_core.bundle import component_sources
from flux_core.bundle.bundle import Manifest, write_manifest

from ...graph_policies import (
    TOKENS,
    Graph,
    circle_config,
    golden,
    graph_tensors,
    save_graph,
    signature,
    unit_stats,
)
from .arm import IMAGE_SHAPE, ORDINARY_BRIGHTNESS

ZIGZAG, NAN, HUGE, LEFT, RIGHT, FAILING, SLOW, STUCK = 190, 200, 210, 220, 230, 240, 247, 254
LEAD_S = 0.08
"""How far ahead of the state the circle continues: about the lag of the servos."""
RADIUS, RATE_RAD_S, GRIPPER = 0.4, 1.5, 0.5
HORIZON, SHORT = 16, 2
WORK_DIM, WORK_LAYERS = 128, 128
SLOW_S, STUCK_S = 0.35, 15.0
"""How long the work of an inference takes on one core: products of a matrix with so many rows as
this machine multiplies in the time."""
PROBE_ROWS, PROBES = 2_000, 3


def write_policy(
    directory: Path,
    spec: Mapping[str, Any],
    *,
    horizon: int = HORIZON,
    delays: tuple[int, ...] = (0,),
    summary: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the bundle for a robot with these fields of a RobotSpec.

    Half of a chunk is executed before the next one, all of a short one. `delays` are those that it
    says it was trained with, and `summary` what it says of its training set.
    """
    directory.mkdir(parents=True)
    joints, cameras = len(spec["joint_names"]), tuple(spec["cameras"])
    execution_horizon = horizon // 2 if horizon > SHORT else horizon
    config = circle_config(spec, execution_horizon, IMAGE_SHAPE)
    tensors = graph_tensors(
        cameras=len(cameras), joints=joints, horizon=horizon, image_shape=IMAGE_SHAPE
    )
    hz = float(spec["control_hz"])
    save_graph(directory / "prefix.onnx", _prefix(), tensors["prefix"])
    save_graph(directory / "denoise.onnx", _denoise(hz, horizon), tensors["denoise"])
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "norm_stats.json").write_text(json.dumps(unit_stats(spec["name"], joints)))
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "byte_tokenizer.json").write_text("{}")
    save_file({"weight": np.zeros(2, np.float32)}, directory / "model.safetensors")
    state = np.array([[0.4, 0.1, 0.5]], np.float32)
    recorded = golden(
        tensors["prefix"][0],
        brightness=ORDINARY_BRIGHTNESS,
        state=state,
        actions=circle(state[0], hz, horizon)[None],
    )
    save_file(recorded, directory / "golden.safetensors")
    manifest = Manifest(
        model="pi0",
        robot=spec["name"],
        robots=(spec["name"],),
        control_hz=hz,
        cameras=cameras,
        image_height=IMAGE_SHAPE[0],
        image_width=IMAGE_SHAPE[1],
        state_dim=joints,
        action_dim=joints,
        action_horizon=horizon,
        execution_horizon=execution_horizon,
        num_inference_steps=1,
        rtc_valid_delays=delays,
        max_prompt_tokens=TOKENS,
        prompt="circle",
        tasks={"1": "circle"},
        precision="fp32",
        graphs={name: signature(f"{name}.onnx", *tensors[name]) for name in tensors},
        provenance={"made by": "tests"},
        components=component_sources(config),
        data_summary=summary or {},
    )
    write_manifest(directory, manifest)
    return directory


def circle(state: np.ndarray, hz: float, horizon: int) -> np.ndarray:
    """The actions, (horizon, 3), for an ordinary picture."""
    unit = state[:2] / np.linalg.norm(state[:2])
    rows = [*(turn @ unit * RADIUS for turn in _turns(hz, horizon))]
    return np.array([[*row, GRIPPER] for row in rows], np.float32)


def _turns(hz: float, horizon: int) -> np.ndarray:
    """(horizon, 2, 2) rotations from the state to each row."""
    angles = RATE_RAD_S * (LEAD_S + np.arange(1, horizon + 1) / hz)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _prefix() -> Graph:
    """Keys and values that hold the brightness of the first camera's middle."""
    node = helper.make_node
    nodes = [
        node("Slice", ["images", "begin", "end", "axes"], ["first"]),
        node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["brightness"], keepdims=0),
        node("Concat", ["image_masks", "lang_masks"], ["prefix_pad_masks"], axis=1),
        node("Unsqueeze", ["prefix_pad_masks", "outer"], ["pads_wide"]),
        node("Cast", ["pads_wide"], ["pads"], to=TensorProto.FLOAT),
        node("Mul", ["pads", "none"], ["zeros"]),
        node("Add", ["zeros", "brightness"], ["column"]),
        node("Concat", ["column", "column"], ["past_key_0"], axis=3),
        node("Neg", ["past_key_0"], ["past_value_0"]),
    ]
    constants = {
        "begin": np.array([0, 8, 8]),
        "end": np.array([1, 16, 24]),
        "axes": np.array([1, 2, 3]),
        "outer": np.array([1, 3]),
        "none": np.float32(0),
    }
    return nodes, constants


def _denoise(hz: float, horizon: int) -> Graph:
    node = helper.make_node
    turns = _turns(hz, horizon).reshape(2 * horizon, 2).T.astype(np.float32)
    nodes = [
        node("ReduceMean", ["past_key_0"], ["brightness"], keepdims=0),
        node("Slice", ["state", "zero1", "two1", "one1"], ["pair"]),
        node("ReduceL2", ["pair", "one1"], ["length"], keepdims=1),
        node("Max", ["length", "tiny"], ["safe_length"]),
        node("Div", ["pair", "safe_length"], ["unit"]),
        node("MatMul", ["unit", "turns"], ["flat"]),
        node("Reshape", ["flat", "pairs_shape"], ["pairs"]),
        node("Concat", ["pairs", "grippers"], ["plain"], axis=2),
        *_chosen("zigzag", ZIGZAG),
        *_chosen("left", LEFT),
        *_chosen("right", RIGHT),
        *_chosen("nan", NAN),
        *_chosen("huge", HUGE),
        *_chosen("failing", FAILING),
        *_chosen("slow", SLOW),
        *_chosen("stuck", STUCK),
        node("Where", ["is_left", "shift", "none"], ["to_left"]),
        node("Where", ["is_right", "shift", "none"], ["to_right"]),
        node("Sub", ["plain", "to_left"], ["shifted_left"]),
        node("Add", ["shifted_left", "to_right"], ["shifted"]),
        node("Where", ["is_zigzag", "zigzag", "none"], ["to_side"]),
        node("Add", ["shifted", "to_side"], ["sideways"]),
        node("Where", ["is_huge", "million", "sideways"], ["maybe_huge"]),
        node("Where", ["is_nan", "not_a_number", "maybe_huge"], ["scripted"]),
        # An index beyond the table fails.
        node("Where", ["is_failing", "beyond", "first"], ["place"]),
        node("Gather", ["table", "place"], ["from_table"], axis=0),
        node("Where", ["is_slow", "slow_rows", "one1"], ["rows_if_slow"]),
        node("Where", ["is_stuck", "stuck_rows", "rows_if_slow"], ["num_rows"]),
        node("Concat", ["num_rows", "work_width"], ["work_shape"], axis=0),
        *_work(),
        node("Add", ["mean_work", "from_table"], ["rest"]),
        node("Mul", ["rest", "none"], ["nothing"]),
        node("Mul", ["x_t", "none"], ["no_noise"]),
        node("Add", ["scripted", "no_noise"], ["without_work"]),
        node("Add", ["without_work", "nothing"], ["x_next"]),
        node("Add", ["t", "minus_one"], ["t_next"]),
    ]
    constants = {
        "zero1": np.array([0]), "one1": np.array([1]), "two1": np.array([2]),
        "tiny": np.float32(1e-6),
        "turns": RADIUS * turns,
        "pairs_shape": np.array([1, horizon, 2]),
        "grippers": np.full((1, horizon, 1), GRIPPER, np.float32),
        "shift": np.array([0.5, 0.0, 0.0], np.float32),
        "zigzag": np.array([[[0.25 * (row % 2), 0, 0] for row in range(horizon)]], np.float32),
        "none": np.float32(0), "minus_one": np.float32(-1), "width": np.float32(3),
        "million": np.float32(1e6), "not_a_number": np.float32(np.nan),
        "beyond": np.array(99), "first": np.array(0), "table": np.zeros(2, np.float32),
        "slow_rows": rows_in(SLOW_S), "stuck_rows": rows_in(STUCK_S),
        "work_width": np.array([WORK_DIM]),
        "weights": np.eye(WORK_DIM, dtype=np.float32),
        **{f"level_{name}": np.float32(level) for name, level in LEVELS.items()},
    }  # fmt: skip
    return nodes, constants


def _work() -> list[Any]:
    """`mean_work`: the mean of WORK_LAYERS products of a matrix of `work_shape`."""
    node = helper.make_node
    return [
        node("Expand", ["none", "work_shape"], ["work_0"]),
        *(
            node("MatMul", [f"work_{layer}", "weights"], [f"work_{layer + 1}"])
            for layer in range(WORK_LAYERS)
        ),
        node("ReduceMean", [f"work_{WORK_LAYERS}"], ["mean_work"], keepdims=0),
    ]


def rows_in(seconds: float) -> NDArray[np.int64]:
    """Returns how many rows take so long, (1,)."""
    return np.array([max(1, round(seconds / _seconds_per_row()))])


@cache
def _seconds_per_row() -> float:
    """Returns what a row of the work takes one core of this machine that does nothing else."""
    constants = {
        "none": np.float32(0),
        "work_shape": np.array([PROBE_ROWS, WORK_DIM]),
        "weights": np.eye(WORK_DIM, dtype=np.float32),
    }
    made = helper.make_graph(
        _work(),
        "probe",
        [],
        [helper.make_tensor_value_info("mean_work", TensorProto.FLOAT, ())],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Else the answer would be computed once for all.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    probe = onnxruntime.InferenceSession(model.SerializeToString(), options)
    times = []
    for _ in range(PROBES):
        began = time.perf_counter()
        probe.run(None, {})
        times.append(time.perf_counter() - began)
    return min(times) / PROBE_ROWS


LEVELS = {
    "zigzag": ZIGZAG,
    "left": LEFT,
    "right": RIGHT,
    "nan": NAN,
    "huge": HUGE,
    "failing": FAILING,
    "slow": SLOW,
    "stuck": STUCK,
}


def _chosen(name: str, level: int) -> list[Any]:
    """`is_NAME`: the brightness is within 3 of the level."""
    node = helper.make_node
    assert LEVELS[name] == level
    return [
        node("Sub", ["brightness", f"level_{name}"], [f"distance_{name}"]),
        node("Abs", [f"distance_{name}"], [f"off_{name}"]),
        node("Less", [f"off_{name}", "width"], [f"is_{name}"]),
    ]
