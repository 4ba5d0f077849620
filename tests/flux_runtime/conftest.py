"""A toy robot, a fake loop with an injected clock, and a bundle with two tiny ONNX graphs."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from flux_core.bundle import component_sources
from flux_core.bundle.bundle import GraphSignature, Manifest, TensorSignature, write_manifest
from flux_core.robots import RobotSpec
from flux_core.types import Observation

if TYPE_CHECKING:
    from flux_core.bundle import Bundle
    from flux_runtime.export.source.policy import TrainedPolicy
    from flux_runtime.export.verify import Verification

    from ..conftest import MakeOnce

Exported = Callable[..., tuple["Bundle", "Verification"]]

HORIZON, ACTION_DIM, TOKENS, CAMERAS, HEIGHT, WIDTH = 6, 3, 4, ("cam_a", "cam_b"), 6, 8
NUM_INFERENCE_STEPS, PREFIX = 4, len(CAMERAS) + TOKENS
ACTIONS = (1, HORIZON, ACTION_DIM)
CONTROL_HZ = 50.0
DTYPES = {
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}
KEYS = (1, 1, PREFIX, 2)
PREFIX_INPUTS = {
    "images": ("uint8", (1, len(CAMERAS), HEIGHT, WIDTH, 3)),
    "image_masks": ("bool", (1, len(CAMERAS))),
    "lang_tokens": ("int64", (1, TOKENS)),
    "lang_masks": ("bool", (1, TOKENS)),
}
PREFIX_OUTPUTS = {
    "prefix_pad_masks": ("bool", (1, PREFIX)),
    "past_key_0": ("float32", KEYS),
    "past_value_0": ("float32", KEYS),
}
DENOISE_INPUTS = {
    "x_t": ("float32", ACTIONS),
    "t": ("float32", (1, HORIZON)),
    **PREFIX_OUTPUTS,
}
DENOISE_OUTPUTS = {"x_next": ("float32", ACTIONS), "t_next": ("float32", (1, HORIZON))}


def toy_spec() -> RobotSpec:
    return RobotSpec(
        name="toy",
        joint_names=("left_a", "left_b", "left_gripper"),
        lower=(-2.0, -2.0, 0.0),
        upper=(2.0, 2.0, 1.0),
        max_velocity=(5.0, 5.0, 10.0),
        units=("rad", "rad", "normalized"),
        cameras=CAMERAS,
        control_hz=CONTROL_HZ,
    )


class ToyRobot:
    """Obeys commands immediately; reaches its stages at given ticks."""

    task = "wave"
    success_stage = "transferred"
    end_state = "held_by_left_only"

    def __init__(self, *, lifted_at: int = 2, transferred_at: int = 5, dropped_at: int = 9999):
        self.spec = toy_spec()
        self.at = {"touched": 1, "lifted": lifted_at, "transferred": transferred_at}
        self.dropped_at = dropped_at
        self.calls: list[str] = []
        self.commands: list[np.ndarray] = []
        self.missing_camera: str | None = None
        self.position = np.zeros(ACTION_DIM, np.float32)

    def connect(self) -> None:
        self.calls.append("connect")

    def reset(self, seed: int) -> None:
        self.calls.append(f"reset {seed}")
        self.commands = []
        self.position = np.array([0.1, -0.1, 0.5], np.float32)

    def state(self) -> np.ndarray:
        return self.position

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        self.calls.append("observe")
        names = [name for name in cameras if name != self.missing_camera]
        return Observation(
            images=self.render(names), state=self.position, prompt=prompt, timestamp_s=0.0
        )

    def render(self, cameras: Sequence[str]) -> Mapping[str, np.ndarray]:
        tick = len(self.commands)
        return {
            name: np.full((HEIGHT * 8, WIDTH * 8, 3), (tick * 5 + 20) % 256, np.uint8)
            for name in cameras
        }

    def command(self, action: np.ndarray) -> None:
        self.commands.append(action.copy())
        self.position = action.copy()

    def stages(self) -> Mapping[str, bool]:
        tick = len(self.commands)
        reached = {stage: tick >= at for stage, at in self.at.items()}
        held = reached["transferred"] and tick < self.dropped_at
        return reached | {"held_by_left_only": held}

    def close(self) -> None:
        self.calls.append("close")


class FakeLoop:
    """A control loop in Python that plays the submitted chunk; its clock is a counter."""

    def __init__(self, execution_horizon: int = 3):
        self.execution_horizon = execution_horizon
        self.queue: list[np.ndarray] = []
        self.submitted: list[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]] = []
        self.ticks = 0
        self.stopped = False
        self.held = np.zeros(ACTION_DIM, np.float32)

    def start(self, command: np.ndarray) -> None:
        self.held = command.copy()

    def needs_observation(self) -> bool:
        return not self.queue

    def submit(self, inputs: Any, state: np.ndarray, noise: np.ndarray) -> None:
        self.submitted.append((inputs, state.copy(), noise))
        self.queue = [self.held + np.float32(0.01)] * self.execution_horizon

    def submit_chunk(self, actions: np.ndarray) -> None:
        self.queue = list(actions)

    def tick(self) -> tuple[np.ndarray, int]:
        self.ticks += 1
        self.held = self.queue.pop(0) if self.queue else self.held
        return self.held, 0

    def stats(self) -> dict[str, Any]:
        return {
            "ticks": self.ticks,
            "deadline_misses": 0,
            "held_ticks": 0,
            "chunks": 1,
            "violations": {"non_finite": 0, "position": 0, "velocity": 0, "stale": 0},
            "histograms": {},
        }

    def stop(self) -> None:
        self.stopped = True


class ToyEncoder:
    """Replaces `flux_core.policy_io.PolicyIO`."""

    scale = np.full(ACTION_DIM, 0.5, np.float32)
    offset = np.array([0.0, 0.0, 0.5], np.float32)
    relative_mask = np.array([True, True, False])
    binary_mask = np.zeros(3, bool)

    @classmethod
    def from_bundle(cls, bundle: Any) -> ToyEncoder:
        return cls()

    def encode(self, observation: Observation) -> dict[str, np.ndarray]:
        images = np.stack([observation.images[name][:HEIGHT, :WIDTH] for name in CAMERAS])
        state = observation.state[None]  # the toy's graphs have no such input
        return golden_inputs() | {"images": images[None], "state": state}


def golden_inputs() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        "images": generator.integers(0, 256, PREFIX_INPUTS["images"][1], np.uint8),
        "image_masks": np.ones((1, len(CAMERAS)), bool),
        "lang_tokens": generator.integers(0, 9, (1, TOKENS)),
        "lang_masks": np.ones((1, TOKENS), bool),
    }


def reference_actions(inputs: Mapping[str, np.ndarray], noise: np.ndarray, steps: int):
    """Repeats the computation of the two tiny graphs in float64 numpy."""
    key = inputs["images"].mean() / 255 + inputs["lang_tokens"].mean() / 10
    x, t = noise.astype(np.float64), 1.0
    for _ in range(steps):
        x = x - (0.5 * x + key * t) / NUM_INFERENCE_STEPS
        t -= 1 / NUM_INFERENCE_STEPS
    return x.astype(np.float32)


def value_infos(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[Any]:
    return [
        helper.make_tensor_value_info(name, DTYPES[dtype], shape)
        for name, (dtype, shape) in tensors.items()
    ]


def save_graph(path: Path, nodes: list[Any], inputs: Any, outputs: Any, constants: Any) -> None:
    initializers = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(
        nodes, path.stem, value_infos(inputs), value_infos(outputs), initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_graphs(directory: Path) -> None:
    node, f32 = helper.make_node, np.float32
    prefix = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels"], ["mean_pixel"], keepdims=0),
        node("Div", ["mean_pixel", "c255"], ["brightness"]),
        node("Cast", ["lang_tokens"], ["tokens"], to=TensorProto.FLOAT),
        node("ReduceMean", ["tokens"], ["mean_token"], keepdims=0),
        node("Div", ["mean_token", "c10"], ["word"]),
        node("Add", ["brightness", "word"], ["key"]),
        node("Expand", ["key", "keys_shape"], ["past_key_0"]),
        node("Neg", ["past_key_0"], ["past_value_0"]),
        node("Concat", ["image_masks", "lang_masks"], ["prefix_pad_masks"], axis=1),
    ]
    constants = {"c255": f32(255), "c10": f32(10), "keys_shape": np.array(KEYS, np.int64)}
    save_graph(directory / "prefix.onnx", prefix, PREFIX_INPUTS, PREFIX_OUTPUTS, constants)
    denoise = [
        node("ReduceMean", ["past_key_0"], ["key_mean"], keepdims=0),
        node("ReduceMean", ["past_value_0"], ["value_mean"], keepdims=0),
        node("Sub", ["key_mean", "value_mean"], ["twice_key"]),
        node("Cast", ["prefix_pad_masks"], ["pads"], to=TensorProto.FLOAT),
        node("ReduceMean", ["pads"], ["share"], keepdims=0),
        node("Mul", ["twice_key", "share"], ["weighted"]),
        node("Mul", ["weighted", "half"], ["key"]),
        node("Unsqueeze", ["t", "last"], ["t_wide"]),
        node("Mul", ["t_wide", "key"], ["pull"]),
        node("Mul", ["x_t", "half"], ["decay"]),
        node("Add", ["decay", "pull"], ["velocity"]),
        node("Mul", ["velocity", "dt"], ["change"]),
        node("Add", ["x_t", "change"], ["x_next"]),
        node("Add", ["t", "dt"], ["t_next"]),
    ]
    constants = {
        "half": f32(0.5),
        "dt": f32(-1 / NUM_INFERENCE_STEPS),
        "last": np.array([2], np.int64),
    }
    save_graph(directory / "denoise.onnx", denoise, DENOISE_INPUTS, DENOISE_OUTPUTS, constants)


def signature(file: str, inputs: Any, outputs: Any) -> GraphSignature:
    def tensors(side: Any) -> tuple[TensorSignature, ...]:
        return tuple(TensorSignature(name=n, dtype=d, shape=s) for n, (d, s) in side.items())

    return GraphSignature(file=file, inputs=tensors(inputs), outputs=tensors(outputs))


def toy_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "model": "pi05",
        "robot": "toy",
        "robots": ("toy",),
        "control_hz": CONTROL_HZ,
        "cameras": CAMERAS,
        "image_height": HEIGHT,
        "image_width": WIDTH,
        "state_dim": ACTION_DIM,
        "action_dim": ACTION_DIM,
        "action_horizon": HORIZON,
        "execution_horizon": 4,
        "num_inference_steps": NUM_INFERENCE_STEPS,
        "max_prompt_tokens": TOKENS,
        "prompt": "wave <b>both</b> hands",
        "tasks": {"0": "wave"},
        "precision": "fp32",
        "graphs": {
            "prefix": signature("prefix.onnx", PREFIX_INPUTS, PREFIX_OUTPUTS),
            "denoise": signature("denoise.onnx", DENOISE_INPUTS, DENOISE_OUTPUTS),
        },
        "provenance": {"recipe": "toy"},
    }
    return Manifest(**(fields | changes))


def write_toy_bundle(
    directory: Path,
    *,
    golden_error: float = 0.0,
    config: Mapping[str, object] | None = None,
    **changes: Any,
) -> Path:
    directory.mkdir(parents=True)
    write_graphs(directory)
    (directory / "config.json").write_text(json.dumps(config or {}))
    (directory / "norm_stats.json").write_text("{}")
    save_file({"weight": np.zeros(2, np.float32)}, directory / "model.safetensors")
    inputs = golden_inputs()
    noise = np.random.default_rng(4).standard_normal(ACTIONS).astype(np.float32)
    save_file(
        {f"input.{name}": value for name, value in inputs.items()}
        | {
            "input.noise": noise,
            "output.actions": reference_actions(inputs, noise, NUM_INFERENCE_STEPS)
            + np.float32(golden_error),
            "output.x_next_first": reference_actions(inputs, noise, 1),
        },
        directory / "golden.safetensors",
    )
    components = component_sources(config or {})
    write_manifest(directory, toy_manifest(**{"components": components, **changes}))
    return directory


@pytest.fixture
def toy_bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "bundle")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyRobot:
    """Makes `flux-runtime run --robot toy` drive a toy robot through a toy encoder."""
    robot = ToyRobot()
    monkeypatch.setattr("flux_runtime.run.command.make_robot", lambda *_: robot)
    monkeypatch.setattr("flux_runtime.run.command.is_simulated_class", lambda name: name == "toy")
    module = ModuleType("flux_core.policy_io")
    module.__dict__["PolicyIO"] = ToyEncoder
    monkeypatch.setitem(sys.modules, "flux_core.policy_io", module)
    return robot


@pytest.fixture
def fakes() -> SimpleNamespace:
    """The classes above, for tests that build their own."""
    return SimpleNamespace(
        ToyRobot=ToyRobot,
        FakeLoop=FakeLoop,
        ToyEncoder=ToyEncoder,
        toy_spec=toy_spec,
        toy_manifest=toy_manifest,
        write_toy_bundle=write_toy_bundle,
        reference_actions=reference_actions,
        golden_inputs=golden_inputs,
    )


@pytest.fixture
def core() -> Any:
    """The compiled core; tests that need it are skipped if it was not built."""
    return pytest.importorskip("flux_runtime._core", reason="the C++ core was not built")


def one_json_object(text: str) -> dict[str, Any]:
    assert text.count("\n") == 1
    return json.loads(text)


@pytest.fixture(scope="session")
def small_policy() -> Callable[[str], TrainedPolicy]:
    """Makes a tiny network with random weights: a pi0 or pi0.5 for `ur3`, a GR00T for `aloha`."""
    import torch

    from flux_core.config import bind, unbind
    from flux_core.deployment import InferenceRunner
    from flux_core.models import FlowPolicy
    from flux_core.norm_stats import compute_stats
    from flux_runtime.export.source.policy import TrainedPolicy

    from .small_gr00t import gr00t_sections

    def make(kind: str) -> TrainedPolicy:
        size, section = gr00t_sections() if kind == "gr00t" else pi_sections(kind)
        inference = bind(InferenceRunner, section, "inference")
        spec = inference.spec
        torch.manual_seed(0)
        model = bind(FlowPolicy.Config, size, "model").build().eval()
        for parameter in model.parameters():
            parameter.data += (0.08 if kind == "gr00t" else 0.01) * torch.randn_like(parameter)
        random = np.random.default_rng(0)
        numbers = {
            name: compute_stats(random.uniform(-1, 1, (100, width)))
            for name, width in (("proprio", spec.state_dim), ("action", spec.action_dim))
        }
        return TrainedPolicy(
            model=model,
            inference=inference,
            config={"model": size, "inference": unbind(inference)},
            norm_stats={spec.name: numbers},
            provenance={"weights": "random"},
            training_log=None,
        )

    return make


def pi_sections(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `inference` of a tiny pi0 or pi0.5 with SigLIP and Gemma blocks."""
    from flux_core.config import unbind
    from flux_core.robots import robot_spec
    from flux_core.tokenizers import ByteTokenizer
    from flux_train import recipes

    tokenizer = ByteTokenizer()
    size = getattr(recipes, f"{kind}_model")(action_horizon=8)
    vision = {"hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 28}
    size["vision_backbone"]["vision_config"] = vision
    block = {"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32}
    size["llm_backbone"] |= {**block, "hidden_size": 48, "intermediate_size": 96}
    size["llm_backbone"]["vocab_size"] = tokenizer.vocab_size
    size["llm_expert"] |= {**block, "hidden_size": 32, "intermediate_size": 64}
    if kind == "pi05":
        size["llm_expert"]["adarms_cond_dim"] = 32
    else:
        size["state_proj"]["out_dim"] = 32
    size["projector"] |= {"in_dim": 36, "out_dim": 48}
    size["action_in_proj"]["out_dim"] = size["action_out_proj"]["in_dim"] = 32
    size |= {"proj_width": 32, "num_inference_steps": 4}
    prompt = {"pi0": ["TaskPrompter"], "pi05": ["PreparePromptWithState"]}[kind]
    section = {
        "type": "URInferenceRunner",
        "task_descriptions": {"0": "push the box"},
        "dataset": {
            "type": "ObservationTransforms",
            "img_keys": list(robot_spec("ur3").cameras),
            "transforms": [
                {"type": "NormalizeStatesAndActions", "norm_type": "mean_std"},
                *({"type": name} for name in prompt),
                {"type": "ProcessPrompts", "tokenizer": unbind(tokenizer), "max_len": 96},
                {"type": "PadKeyToDim", "keys": ["states"], "dim": 32},
                {"type": "ResizeImagesWithPad", "height": 28, "width": 28},
                {"type": "SimpleNormalizeImages"},
            ],
        },
        "denormalize_action": {"type": "DenormalizeActions", "norm_type": "mean_std"},
    }
    return size, section


@pytest.fixture(scope="session")
def exported(small_policy: Callable[[str], TrainedPolicy], made_once: MakeOnce) -> Exported:
    """Exports the small policy of a kind with some options, once per test run; read-only."""
    from flux_core.bundle import Bundle
    from flux_runtime.export.options import ExportOptions
    from flux_runtime.export.writer import export_bundle

    def make(kind: str, **options: Any) -> tuple[Bundle, Verification]:
        settings = ExportOptions(**options)

        def write(folder: Path) -> None:
            figures = export_bundle(small_policy(kind), folder / "b", lambda *_: None, settings)
            (folder / "figures").write_bytes(pickle.dumps(figures))

        name = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
        folder = made_once(f"{kind}_{name}", write)
        return Bundle.open(folder / "b"), pickle.loads((folder / "figures").read_bytes())

    return make


@pytest.fixture(scope="session")
def libero_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pi0.5 with random weights, exported for the robot `libero`."""
    import torch

    from flux_core.config import bind, unbind
    from flux_core.deployment import InferenceRunner
    from flux_core.models.pi import PI0FlowMatching
    from flux_core.norm_stats import compute_stats
    from flux_core.robots import robot_spec
    from flux_core.tokenizers import ByteTokenizer
    from flux_runtime.export.source.policy import TrainedPolicy
    from flux_runtime.export.writer import export_bundle
    from flux_train import recipes

    spec = robot_spec("libero")
    tokenizer = ByteTokenizer(words=("Task:",), number_tables=spec.state_dim)
    size = recipes.small_pi05_model(action_horizon=8, width=16, depth=1)
    size["number_tokens"] |= {"tables": spec.state_dim}
    size["llm_backbone"] |= {"vocab_size": tokenizer.vocab_size}
    size |= {"max_action_dim": spec.action_dim, "n_action_steps": 8, "num_inference_steps": 2}
    size["action_in_proj"] |= {"in_dim": 4 * spec.action_dim}
    size["action_out_proj"] |= {"out_dim": 4 * spec.action_dim}
    size["vision_backbone"] |= {"hidden_size": 8, "stem_channels": 4}
    size["projector"] |= {"in_dim": 8}
    transforms = [
        {"type": "NormalizeStatesAndActions", "norm_type": "quantile"},
        {"type": "PreparePromptWithState"},
        {"type": "ProcessPrompts", "tokenizer": unbind(tokenizer), "max_len": 128},
        {"type": "ResizeImages", "height": 96, "width": 128},
        {"type": "SimpleNormalizeImages"},
    ]
    section = {
        "type": "LiberoInferenceRunner",
        "task_descriptions": {"0": "do something"},
        "dataset": {
            "type": "ObservationTransforms",
            "img_keys": list(spec.cameras),
            "transforms": transforms,
        },
        "denormalize_action": {"type": "DenormalizeActions", "norm_type": "quantile"},
    }
    torch.manual_seed(0)
    inference = bind(InferenceRunner, section, "inference")
    random = np.random.default_rng(0)
    policy = TrainedPolicy(
        model=bind(PI0FlowMatching.Config, size, "model").build().eval(),
        inference=inference,
        config={"model": size, "inference": unbind(inference)},
        norm_stats={
            "libero": {
                "proprio": compute_stats(random.uniform(-1, 1, (100, spec.state_dim))),
                "action": compute_stats(random.uniform(-1, 1, (100, spec.action_dim))),
            }
        },
        provenance={"weights": "random"},
        training_log=None,
    )
    out = tmp_path_factory.mktemp("libero") / "bundle"
    export_bundle(policy, out, lambda *step: None)
    return out


@pytest.fixture(scope="session")
def ur3_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of `ur3` with one episode of 12 noise frames."""
    from flux_core.robots import robot_spec
    from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
    from flux_data.lerobot.writer import WriterV21

    root, spec = tmp_path_factory.mktemp("ur3") / "set", robot_spec("ur3")
    features, random = robot_features(spec, 64, 64), np.random.default_rng(0)
    with (
        WriterV21(root, fps=spec.control_hz, robot_type=spec.name, features=features) as writer,
        EpisodeRecorder(writer.staging("0"), spec.control_hz, features) as recorder,
    ):
        for _ in range(12):
            numbers = {"observation.state": spec.state_dim, "action": spec.action_dim}
            images = (random.integers(0, 256, (64, 64, 3), np.uint8) for _ in spec.cameras)
            recorder.add(
                {key: random.uniform(-1, 1, n).astype(np.float32) for key, n in numbers.items()}
                | dict(zip(map(video_key, spec.cameras), images, strict=True))
            )
        writer.add(recorder.close("push the box"))
    return root
