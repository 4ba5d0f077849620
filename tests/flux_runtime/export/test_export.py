"""flux-export: what it writes, and that it refuses graphs that differ from the checkpoint."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flux_core.bundle.bundle import Bundle, write_manifest
from flux_core.errors import BundleError, ExportError
from flux_core.models import PrefixCache
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_runtime.export import writer
from flux_runtime.export.cli import main
from flux_runtime.export.graphs import DenoiseGraph
from flux_runtime.export.onnx_file import tensor_offsets
from flux_runtime.export.source.policy import TrainedPolicy, load_policy
from flux_runtime.export.verify import replay


@pytest.fixture(scope="module")
def checkpoint(tiny_run: Path) -> Path:
    return tiny_run / "checkpoint_epoch_1.pt"


@pytest.fixture(scope="module")
def bundle_dir(tiny_export: Path) -> Path:
    return tiny_export / "bundle"


def test_the_command_reports_what_it_verified(tiny_export: Path) -> None:
    report = json.loads((tiny_export / "printed.json").read_text())
    assert report["precision"] == "fp32" and report["max_abs_error"] < 1e-4
    assert report["cosine"] > 0.9999 and "prefix.onnx" in report["files"]


def test_the_bundle_opens_and_replays_its_golden(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    golden = bundle.golden()
    found = replay(bundle)["actions"]
    np.testing.assert_allclose(found, golden["output.actions"], atol=1e-4)
    assert bundle.manifest.cameras == ("cam_high",)
    assert bundle.manifest.robots == ("aloha-sim",)
    assert bundle.manifest.action_horizon == 32


def test_the_bundles_weights_are_the_checkpoints_averaged_weights(
    bundle_dir: Path, checkpoint: Path
) -> None:
    exported = load_file(bundle_dir / "model.safetensors")
    for name, value in load_checkpoint(checkpoint)["ema"].items():
        assert torch.equal(exported[name], value), name


def test_both_graphs_keep_their_weights_in_the_one_weight_file(bundle_dir: Path) -> None:
    import onnx

    offsets = tensor_offsets(bundle_dir / "model.safetensors")
    for name in ("prefix.onnx", "denoise.onnx"):
        graph = onnx.load(bundle_dir / name, load_external_data=False)
        external = [i for i in graph.graph.initializer if i.external_data]
        assert external
        for initializer in external:
            place = {entry.key: entry.value for entry in initializer.external_data}
            assert place["location"] == "model.safetensors"
            key = initializer.name.removeprefix("model.")
            assert (int(place["offset"]), int(place["length"])) == offsets[key]
        assert str(Path.cwd()).encode() not in (bundle_dir / name).read_bytes()


def perturb(directory: Path) -> None:
    """Slightly changes one weight that affects the actions."""
    weights = load_file(directory / "model.safetensors")
    weights["action_out_proj.projector.weight"][0, 0] += 0.05
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_changed_between_writing_and_verifying_fails_the_export(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = writer.verify_bundle

    def tampered(directory: Path, *answers: Any) -> object:
        perturb(directory)
        write_manifest(directory, Bundle.open(directory, verify=False).manifest)
        return verify(directory, *answers)

    monkeypatch.setattr(writer, "verify_bundle", tampered)
    with pytest.raises(ExportError, match="expected a difference from PyTorch of at most 1e-04"):
        writer.export_bundle(load_policy(checkpoint), tmp_path / "bundle", lambda *step: None)
    assert not (tmp_path / "bundle").exists()


def test_nothing_holds_the_networks_weights_while_the_bundle_is_replayed(
    small_policy: Callable[[str], TrainedPolicy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, verify = small_policy("pi0"), writer.verify_bundle
    weights = {p.untyped_storage().data_ptr(): p.nbytes for p in policy.model.parameters()}
    held: list[int] = []

    def look(*args: Any) -> object:
        tensors = [o for o in gc.get_objects() if type(o) in (Tensor, nn.Parameter)]
        tensors = [t for t in tensors if t.device.type == "cpu" and t.layout == torch.strided]
        pointers = {t.untyped_storage().data_ptr() for t in tensors}
        held.append(sum(size for pointer, size in weights.items() if pointer in pointers))
        return verify(*args)

    monkeypatch.setattr(writer, "verify_bundle", look)
    writer.export_bundle(policy, tmp_path / "b", lambda *step: None)
    assert len(held) == 1 and held[0] < 0.02 * sum(weights.values())


def test_a_weight_changed_after_the_export_is_refused_when_the_bundle_is_opened(
    bundle_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle_dir, tmp_path / "b", dirs_exist_ok=True)
    perturb(tmp_path / "b")
    with pytest.raises(BundleError, match=r"model\.safetensors: sha256"):
        Bundle.open(tmp_path / "b")


def test_an_unrelated_directory_is_never_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ExportError, match="expected a new directory or a bundle"):
        writer.export_bundle(load_policy(checkpoint), tmp_path, lambda *step: None)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_checkpoint_whose_weights_are_another_networks_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["config"]["model"]["vision_backbone"]["num_keypoints"] = 4
    torch.save(state, tmp_path / "checkpoint_epoch_1.pt")
    assert main([str(tmp_path / "checkpoint_epoch_1.pt")]) == 1
    error = capsys.readouterr().err
    assert "weights do not fit the config's network" in error and "expected shape" in error


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_tables_of_the_times_change_nothing(kind: str, small_policy: Any) -> None:
    model = small_policy(kind).model
    config = model.config
    cache = PrefixCache(
        [torch.randn(1, 1, 7, config.llm_expert.head_dim) for _ in range(4)][:2],
        [torch.randn(1, 1, 7, config.llm_expert.head_dim) for _ in range(4)][:2],
        torch.ones(1, 7, dtype=torch.bool),
    )
    state = torch.randn(1, config.action_dim)
    x_t = torch.randn(1, config.n_action_steps, config.action_dim)
    # Steps of a known prefix have time 0; all other steps have their own times.
    t = torch.arange(config.n_action_steps)[None] % 11 / 10
    with torch.no_grad():
        before = model.denoise(state, x_t, t, cache)
        model.tabulate(10, 7)
        after = model.denoise(state, x_t, t, cache)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0.0)


@torch.no_grad()
def test_tables_of_the_angles_change_no_bit(small_policy: Any) -> None:
    model = small_policy("pi0").model
    tokens = torch.randint(0, 20, (1, 9))
    # After padding, positions start at -1.
    masks = torch.arange(9)[None] >= 2
    images = torch.randn(1, 1, 3, *model.config.vision_backbone.image_size)
    inputs = images, torch.zeros(1, 1, dtype=torch.bool), tokens, masks
    before = model.prefix(*inputs)
    model.tabulate(10, before.pad_masks.shape[1])
    after = model.prefix(*inputs)
    for found, expected in zip(after.keys, before.keys, strict=True):
        valid = before.pad_masks[0]
        assert torch.equal(found[0, :, valid], expected[0, :, valid])


@pytest.mark.parametrize("name", ["prefix.onnx", "denoise.onnx"])
def test_no_graph_makes_angles_from_positions(bundle_dir: Path, name: str) -> None:
    """OpenVINO's bfloat16 would round the positions: an error of 0.08 instead of 0.01."""
    graph = onnx.load(bundle_dir / name, load_external_data=False).graph
    assert not {"Cos", "Sin"} & {node.op_type for node in graph.node}


def test_a_step_of_the_denoise_graph_leaves_finished_positions_alone(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    graph = DenoiseGraph(policy.model, 10, action_dims=14)
    config = policy.model.config
    x_t = torch.randn(1, config.n_action_steps, config.action_dim)
    t = torch.full((1, config.n_action_steps), 0.3)
    t[0, :5] = 0.0
    layers = config.llm_backbone.num_hidden_layers
    cache = [torch.zeros(1, 1, 7, config.llm_backbone.head_dim) for _ in range(2 * layers)]
    x_next, t_next = graph(None, x_t, t, torch.ones(1, 7, dtype=torch.bool), *cache)
    assert torch.equal(x_next[0, :5], x_t[0, :5])
    assert torch.equal(t_next[0, 5:], torch.full((27,), 0.2)) and not t_next[0, :5].any()


def test_the_bundle_says_what_the_training_set_looks_like(
    checkpoint: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_dir)
    summary = bundle.manifest.data_summary
    assert {"fps", "episodes", "frames", "state", "action", "start"} <= set(summary)
    assert len(summary["start"]["state"]["min"]) == bundle.manifest.state_dim
    assert tuple(summary["cameras"]) == bundle.manifest.cameras
    # A bundle that is exported again keeps it; a checkpoint of before has none.
    assert load_policy(bundle_dir).data_summary == summary
    state = torch.load(checkpoint, weights_only=True)
    del state["data_summary"]
    torch.save(state, tmp_path / checkpoint.name)
    assert load_policy(tmp_path / checkpoint.name).data_summary == {}
