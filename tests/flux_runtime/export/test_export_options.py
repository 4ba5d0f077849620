"""Precisions, opsets, steps, cameras and prompt lengths of an exported bundle."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_core.bundle.bundle import Bundle, write_manifest
from flux_core.errors import ExportError, UsageError
from flux_core.models import sample_actions
from flux_core.policy_io import PolicyIO
from flux_core.types import Observation
from flux_runtime.check import check
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.session import RunOptions, open_policy
from flux_runtime.export import verify
from flux_runtime.export.cli import main
from flux_runtime.export.options import ExportOptions, apply_options
from flux_runtime.export.precision.emulation import emulate_bfloat16
from flux_runtime.export.source.policy import TrainedPolicy, load_policy
from flux_runtime.export.writer import export_bundle

from ..conftest import Exported

MakePolicy = Callable[[str], TrainedPolicy]


def export(policy: TrainedPolicy, out: Path, **options: Any) -> tuple[Bundle, verify.Verification]:
    figures = export_bundle(policy, out, lambda *step: None, ExportOptions(**options))
    return Bundle.open(out), figures


@pytest.fixture(scope="module")
def bucketed(exported: Exported) -> tuple[Bundle, verify.Verification]:
    """A pi0 with additional graphs for prompts of 16 and 48 tokens; read-only."""
    return exported("pi0", prompt_tokens=(48, 16))


def graph(bundle: Bundle, name: str = "denoise") -> onnx.ModelProto:
    file = bundle.path(bundle.manifest.graphs[name].file)
    return onnx.load(file, load_external_data=False)


def check_attention(bundle: Bundle) -> None:
    """The mask is added to the scores, and softmax needs no guard against rows without keys."""
    for name in ("prefix", "denoise"):
        nodes = graph(bundle, name).graph.node
        # ONNX Runtime's CUDA provider has no Tile of bool.
        assert not {"Tile", "IsNaN"} & {node.op_type for node in nodes}
        weights = {node.output[0] for node in nodes if node.op_type == "Softmax"}
        users = {node.op_type for node in nodes if weights & set(node.input)}
        assert users <= {"MatMul", "Cast"}, users


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("pi0", "fp32"), ("pi0", "bf16"), ("pi05", "bf16"), ("pi05", "fp16"), ("pi0", "int8")],
)
def test_every_precision_is_exported_and_verified_against_float32(
    kind: str, precision: str, exported: Exported
) -> None:
    bundle, figures = exported(kind, precision=precision)
    assert bundle.manifest.precision == precision
    assert figures.max_abs_error <= figures.tolerance == bundle.manifest.tolerance
    if precision == "fp32":
        assert figures.tolerance == 1e-4 and figures.own_error == 0.0
    else:
        assert 0 < figures.own_error <= figures.tolerance
    ends = {
        t.name: t.dtype
        for t in (
            *bundle.manifest.graphs["denoise"].inputs,
            *bundle.manifest.graphs["denoise"].outputs,
        )
    }
    half = {"bf16": "bfloat16", "fp16": "float16"}.get(precision, "float32")
    assert ends["past_key_0"] == ends["past_value_1"] == half
    assert {ends[name] for name in ("x_t", "t", "x_next", "t_next")} == {"float32"}
    opsets = {entry.domain: entry.version for entry in graph(bundle).opset_import}
    assert opsets[""] == (22 if precision in ("bf16", "fp16") else 20)
    check_attention(bundle)


@pytest.mark.parametrize(
    ("kind", "opset"), [pytest.param("pi0", 22, marks=pytest.mark.slow), ("pi05", 24)]
)
def test_bf16_is_verified_without_openvino_too(
    kind: str, opset: int, small_policy: MakePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    bundle, figures = export(small_policy(kind), tmp_path / "b", precision="bf16", opset=opset)
    assert figures.engine == "ONNX Runtime with emulated bfloat16"
    assert 0 < figures.max_abs_error <= figures.tolerance
    found = verify.replay(bundle)
    assert found["past_key_0"].dtype == np.float32
    np.testing.assert_array_equal(rounded(found["past_key_0"]), found["past_key_0"])
    monkeypatch.undo()
    pytest.importorskip("openvino", reason="openvino, the peer, is not installed")
    peers = verify.replay(bundle)
    for name, value in found.items():
        assert np.abs(value.astype(float) - peers[name].astype(float)).max() <= 0.1, name


def rounded(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().float().numpy()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_an_emulated_operator_is_the_bfloat16_operator_of_pytorch(seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(5, 24), torch.randn(24, 7), torch.randn(7)
    constants = [
        onnx.helper.make_tensor(name, onnx.TensorProto.BFLOAT16, value.shape, value.flatten())
        for name, value in (("weight", weight), ("bias", bias))
    ]
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, shape)
        for name, shape in (("x", (5, 24)), ("y", (5, 7)))
    }
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weight"], ["product"]),
        onnx.helper.make_node("Add", ["product", "bias"], ["sum"]),
        onnx.helper.make_node("Sigmoid", ["sum"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"]], [values["y"]], constants)
    opsets = [onnx.helper.make_opsetid("", 22)]
    model = emulate_bfloat16(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    half = x.bfloat16()
    found = torch.from_numpy(session.run(None, {"x": half.float().numpy()})[0])
    expected = (half @ weight.bfloat16() + bias.bfloat16()).sigmoid()
    torch.testing.assert_close(found, expected.float(), atol=2**-8, rtol=2**-7)


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_opset_24_has_attention_as_one_operator(
    precision: str, small_policy: MakePolicy, tmp_path: Path
) -> None:
    bundle, _ = export(small_policy("pi0"), tmp_path / "b", precision=precision, opset=24)
    for name in ("prefix", "denoise"):
        assert any(node.op_type == "Attention" for node in graph(bundle, name).graph.node)
        onnx.checker.check_model(bundle.path(f"{name}.onnx"), full_check=True)
    check_attention(bundle)


def test_nothing_in_the_step_of_pi05_computes_what_the_time_decides(
    exported: Exported,
) -> None:
    bundle, _ = exported("pi05")
    names = {entry.name for entry in graph(bundle).graph.initializer}
    assert any(name.endswith("input_layernorm.dense.table") for name in names)
    assert not any("dense.weight" in name or "time_mlp" in name for name in names)
    assert "llm_expert.norm.dense.weight" in verify_names(bundle)
    check_attention(bundle)


def verify_names(bundle: Bundle) -> set[str]:
    from safetensors import safe_open

    with safe_open(bundle.path("model.safetensors"), "pt") as file:
        return set(file.keys())


def test_a_bundle_can_be_exported_again_in_another_way(exported: Exported, tmp_path: Path) -> None:
    first, _ = exported("pi05")
    again, _ = export(load_policy(first.directory), tmp_path / "again", precision="fp16")
    assert again.manifest.precision == "fp16"
    for name, value in first.golden().items():
        np.testing.assert_array_equal(again.golden()[name], value)
    with pytest.raises(ExportError, match="bundle in fp32, got one in fp16"):
        load_policy(again.directory)
    with pytest.raises(ExportError, match="of robot aloha, as named by --robot, got one of ur3"):
        load_policy(first.directory, "aloha")


def test_pictures_of_the_cameras_can_be_left_out(small_policy: MakePolicy) -> None:
    camera = {"mean": [1, 2, 3], "contrast": 4, "thumbnail": [[[1, 2, 3]]], "start": {"frames": 1}}
    policy = small_policy("pi0")
    name = policy.inference.dataset.img_keys[0]
    policy = replace(policy, data_summary={"fps": 50, "cameras": {name: camera}})
    assert apply_options(policy, ExportOptions()).data_summary == policy.data_summary
    without = apply_options(policy, ExportOptions(camera_pictures=False)).data_summary
    assert without == {"fps": 50, "cameras": {name: {"mean": [1, 2, 3], "contrast": 4}}}


def test_leaving_a_camera_out_is_masking_it(small_policy: MakePolicy, tmp_path: Path) -> None:
    policy = small_policy("pi0")
    cameras = {name: {"contrast": at} for at, name in enumerate(policy.inference.dataset.img_keys)}
    policy = replace(policy, data_summary={"fps": 50, "cameras": cameras})
    kept = policy.inference.dataset.img_keys[0]
    io = PolicyIO.from_policy(policy.inference, policy.norm_stats)
    generator = np.random.default_rng(1)
    images = {
        name: generator.integers(0, 256, (28, 28, 3), np.uint8)
        for name in policy.inference.dataset.img_keys
    }
    state = np.zeros(policy.inference.spec.state_dim, np.float32)
    observation = Observation(images=images, state=state, prompt="push it", timestamp_s=0.0)
    encoded = {k: torch.from_numpy(np.array(v)) for k, v in io.encode(observation).items()}
    noise = torch.randn(1, 8, 32)
    with torch.no_grad():
        pixels = encoded["images"].movedim(-1, 2).float() * 2 / 255 - 1
        masks = torch.tensor([[True, *[False] * (len(images) - 1)]])
        cache = policy.model.prefix(pixels, masks, encoded["lang_tokens"], encoded["lang_masks"])
        dims = policy.inference.spec.action_dim
        expected = sample_actions(policy.model, encoded["state"], cache, noise, action_dims=dims)
    bundle, _ = export(policy, tmp_path / "b", cameras=(kept,))
    assert bundle.manifest.cameras == (kept,)
    assert bundle.manifest.data_summary == {"fps": 50, "cameras": {kept: {"contrast": 0}}}
    one = PolicyIO.from_bundle(bundle).encode(replace(observation, images={kept: images[kept]}))
    found = verify.run_loop(*verify.open_sessions(bundle, 1), {**one, "noise": noise.numpy()}, 4)
    np.testing.assert_allclose(found["actions"], expected, atol=1e-5)


def test_graphs_for_short_prompts_give_the_same_actions_as_the_others(
    bucketed: tuple[Bundle, verify.Verification],
) -> None:
    bundle, figures = bucketed
    manifest = bundle.manifest
    assert list(manifest.prompt_buckets) == [16, 48]
    short = bundle.for_prompts(15)
    assert short.manifest.graphs["prefix"].file == "prefix_16.onnx"
    assert PolicyIO.from_bundle(short).max_prompt_tokens == 16
    assert [manifest.bucket_for(n) for n in (3, 16, 17, 48, 49)] == [16, 16, 48, 48, None]
    assert {"actions_16", "x_next_first_48"} <= figures.stages.keys()
    full = verify.replay(bundle)["actions"]
    np.testing.assert_allclose(verify.replay(short)["actions"], full, atol=1e-5)


def test_check_replays_the_graphs_for_short_prompts_too(
    bucketed: tuple[Bundle, verify.Verification], tmp_path: Path
) -> None:
    bundle = Bundle.open(shutil.copytree(bucketed[0].directory, tmp_path / "b"))
    report = check(bundle.directory)
    assert report["ok"] and sorted(report["graphs"]) == [16, 48, 96]
    # The Euler update of one graph now has the wrong sign.
    graph = bundle.directory / "denoise_16.onnx"
    model = onnx.load(graph, load_external_data=False)
    update = next(node for node in model.graph.node if "x_next" in node.output)
    update.op_type = {"Add": "Sub"}[update.op_type]
    graph.write_bytes(model.SerializeToString())
    write_manifest(bundle.directory, bundle.manifest)
    report = check(bundle.directory)
    assert not report["ok"]
    assert {n for n, graphs in report["graphs"].items() if graphs["max_abs_error"] < 1e-4} == {
        48,
        96,
    }


def test_no_graph_in_half_precision_has_what_onnxruntime_lacks_on_a_card(
    small_policy: MakePolicy, tmp_path: Path, tiny_run: Path
) -> None:
    """Its CUDA provider has no Einsum of bfloat16."""
    out = tmp_path / "b"
    checkpoint = str(tiny_run / "checkpoint_epoch_1.pt")
    assert main([checkpoint, "--out", str(out), "--precision", "bf16"]) == 0
    for name in ("prefix.onnx", "denoise.onnx"):
        graph = onnx.load(out / name, load_external_data=False).graph
        assert not {"Einsum", "Cos", "Sin"} & {node.op_type for node in graph.node}


def test_an_export_cannot_replace_what_it_is_made_from(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = exported("pi0")
    place = str(bundle.directory)
    assert main([place, "--out", f"{place}/../b", "--precision", "fp16"]) == 2
    assert "which is the input" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([place, "--out", str(tmp_path / "file")]) == 1
    assert "expected a directory, got a file" in capsys.readouterr().err
    assert Bundle.open(bundle.directory).manifest.precision == "fp32"


def test_an_engine_that_this_machine_lacks_is_an_error_before_anything_is_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, _ = exported("pi0")
    monkeypatch.setattr("flux_runtime.engines.nvidia.has_card", lambda: False)
    out = tmp_path / "again"
    assert main([str(bundle.directory), "--out", str(out), "--engine", "tensorrt"]) == 1
    assert not out.exists()


def test_the_runtime_opens_the_shortest_graphs_that_its_tasks_fit(
    small_policy: MakePolicy, bucketed: tuple[Bundle, verify.Verification]
) -> None:
    bundle, spec = bucketed[0], small_policy("pi0").inference.spec
    lengths = {}
    for task in (None, "push the box there", "push " * 10):
        options = RunOptions(robot="ur3", bundle=bundle.directory, task=task)
        opened = open_policy(options, spec, StageTimes())
        assert opened is not None and opened.golden.ok
        images = {name: np.zeros((28, 28, 3), np.uint8) for name in bundle.manifest.cameras}
        state = np.zeros(spec.state_dim, np.float32)
        observation = Observation(images=images, state=state, prompt=task or "", timestamp_s=0.0)
        lengths[task] = opened.source.encode(observation)["lang_tokens"].shape[1]
    assert lengths == {None: 16, "push the box there": 48, "push " * 10: 96}
    options = RunOptions(robot="ur3", bundle=bundle.directory)
    opened = open_policy(options, spec, StageTimes(), ("push the box there",))
    assert opened is not None and opened.manifest.max_prompt_tokens == 48


def test_the_export_can_check_an_engine_of_this_machine_and_change_the_number_of_steps(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = exported("pi05")
    arguments = [str(first.directory), "--out", str(tmp_path / "again"), "--num-steps", "2"]
    assert main([*arguments, "--engine", "onnxruntime"]) == 0
    bundle = Bundle.open(tmp_path / "again")
    assert bundle.manifest.num_inference_steps == bundle.config["model"]["num_inference_steps"] == 2
    assert "this machine reproduces the reference" in capsys.readouterr().err
    assert main([str(first.directory)]) == 2
    assert "--out: expected a directory for the bundle" in capsys.readouterr().err


def test_the_longest_prompt_is_found_over_all_states_of_the_robot(small_policy: MakePolicy) -> None:
    policy = small_policy("pi05")
    io = PolicyIO.from_policy(policy.inference, policy.norm_stats)
    io = replace(io, tokenizer=_Characters())
    longest = f"Task: push, State: {' '.join(['255'] * io.state_dim)};\nAction: "
    assert io.most_tokens("push") == len(longest)
    flat = small_policy("pi0")
    io = PolicyIO.from_policy(flat.inference, flat.norm_stats)
    assert replace(io, tokenizer=_Characters()).most_tokens("push_it") == len("push it\n")


class _Characters:
    vocab_size = 0x110000

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp7"}, "--precision: expected one of .*fp8.*, got 'fp7'"),
        ({"opset": 23}, "--opset: expected one of 20, 22, 24, got 23"),
        ({"opset": 20, "precision": "bf16"}, "--opset: expected 22 or later for bf16, got 20"),
        ({"num_inference_steps": 0}, "--num-steps: expected 1 to 1000, got 0"),
        ({"cameras": ("cam_high",) * 2}, "--cameras: expected each once, got cam_high, cam_high"),
        ({"cameras": ("cam_moon",)}, "--cameras: expected some of .*, got cam_moon"),
        ({"prompt_tokens": (4,)}, r"--prompt-tokens: expected \d+ .* to 95 .*, got 4"),
        ({"prompt_tokens": (96,)}, r"--prompt-tokens: expected .* got 96"),
    ],
)
def test_an_impossible_option_is_named(
    options: dict[str, Any], message: str, small_policy: MakePolicy, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        export(small_policy("pi0"), tmp_path / "b", **options)
    assert not list(tmp_path.iterdir())


def test_a_precision_that_is_too_coarse_for_the_policy_is_refused_with_the_figures(
    small_policy: MakePolicy, tmp_path: Path
) -> None:
    policy = small_policy("pi05")
    for layer in policy.model.llm_expert.blocks:
        layer.mlp.down_proj.weight.data *= 300.0
    policy.model.action_out_proj.projector.weight.data *= 30.0
    with pytest.raises(ExportError, match=r"too coarse .* move by at most [\d.]+, got [\d.]+"):
        export_bundle(policy, tmp_path / "b", lambda *s: None, ExportOptions(precision="int8"))
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_fails_its_check_leaves_nothing_behind(
    small_policy: MakePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="expected a difference from PyTorch"):
        export(small_policy("pi0"), tmp_path / "b")
    assert not list(tmp_path.iterdir())
