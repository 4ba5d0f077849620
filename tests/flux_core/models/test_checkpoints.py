"""Checkpoints of all known projects: recognised, loaded strictly, and written back unchanged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flux_core.cli import main
from flux_core.config import bind
from flux_core.errors import CheckpointError
from flux_core.models.pi import PI0FlowMatching, PI05FlowMatching, our_names
from flux_core.models.weights.pretrained import (
    convert_checkpoint,
    inspect_checkpoint,
    load_pretrained,
    open_checkpoint,
)
from flux_core.models.weights.weight_files import open_weights
from flux_train import recipes

KINDS = ("pi0", "pi05")


def small_model(action_dim: int = 14) -> PI05FlowMatching:
    tree = recipes.small_pi05_model(action_horizon=8, width=32)
    tree |= {"actions_per_token": 1, "max_action_dim": action_dim}
    tree["action_in_proj"]["in_dim"] = tree["action_out_proj"]["out_dim"] = action_dim
    return bind(PI05FlowMatching.Config, tree, "model").build()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(small_model().state_dict(), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_lerobot_checkpoint_is_recognised(kind: str, shared_data: Path) -> None:
    folder = shared_data / "parity" / f"{kind}_lerobot_pretrained"
    report = inspect_checkpoint(folder)
    assert (report["format"], report["model"]) == ("lerobot", kind)
    assert report["unexpected"] == []
    shapes = json.loads((shared_data / "parity" / f"{kind}_keys_lerobot.json").read_text())
    count = sum(
        torch.Size(shape).numel()
        for name, shape in shapes.items()
        if "embed_tokens" not in name and "gemma_expert.lm_head" not in name
    )
    assert report["num_parameters"] == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", ["flux", "openpi", "lerobot"])
def test_a_lerobot_checkpoint_round_trips_unchanged(
    kind: str, through: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "parity" / f"{kind}_lerobot_pretrained"
    convert_checkpoint(folder, through, tmp_path / "there")
    convert_checkpoint(tmp_path / "there", "lerobot", tmp_path / "back")
    original = load_file(folder / "model.safetensors")
    returned = load_file(tmp_path / "back" / "model.safetensors")
    assert returned.keys() == original.keys()
    for name, value in original.items():
        assert returned[name].dtype == value.dtype and torch.equal(returned[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_to_openpi_is_what_openpi_wrote(
    kind: str, shared_data: Path, tmp_path: Path
) -> None:
    parity = shared_data / "parity"
    convert_checkpoint(parity / f"{kind}_lerobot_pretrained", "openpi", tmp_path / "x.safetensors")
    expected = load_file(parity / f"{kind}_weights_openpi.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_lerobot_before_0_4_are_read(
    kind: str, shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = load_file(shared_data / "parity" / f"{kind}_lerobot_pretrained" / "model.safetensors")
    old: dict[str, torch.Tensor] = {}
    vlm = "model.paligemma_with_expert.paligemma"
    for name, value in now.items():
        for new, before in (
            (f"{vlm}.model.vision_tower.", f"{vlm}.vision_tower."),
            (f"{vlm}.model.multi_modal_projector.", f"{vlm}.multi_modal_projector."),
            (f"{vlm}.model.language_model.", f"{vlm}.language_model.model."),
            (f"{vlm}.lm_head.", f"{vlm}.language_model.lm_head."),
        ):
            if name.startswith(new):
                name = name.replace(new, before)
                break
        if not name.endswith("language_model.model.embed_tokens.weight"):
            old[name] = value
    old["normalize_inputs.buffer_observation_state.mean"] = torch.zeros(14)
    save_file(old, tmp_path / "old.safetensors")
    found = open_checkpoint(tmp_path / "old.safetensors")
    again = open_checkpoint(shared_data / "parity" / f"{kind}_lerobot_pretrained")
    assert found.form == "lerobot" and not found.unknown
    assert "1 statistics of LeRobot's training data are ignored" in caplog.text
    assert found.tensors.keys() == again.tensors.keys()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor.read(), again.tensors[name].read()), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_size_is_openpis_to_the_last_name_and_shape(kind: str, shared_data: Path) -> None:
    stored = json.loads((shared_data / "parity" / f"full_{kind}_keys_openpi.json").read_text())
    found, unknown = our_names(list(stored), "openpi")
    assert unknown == []
    with torch.device("meta"):
        model = bind(PI0FlowMatching.Config, getattr(recipes, f"{kind}_model")(), "model").build()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == {ours: stored[theirs][0] for ours, theirs in found.items()}


def test_paligemma_as_transformers_writes_it_fills_the_vision_language_part(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = dict(
        model_type="gemma",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=300,
    )
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config={"model_type": "siglip_vision_model", **vision, "vision_use_head": False},
        projection_dim=32,
        image_token_index=299,
    )
    peer = transformers.PaliGemmaForConditionalGeneration(config)
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    peer.save_pretrained(tmp_path)
    tree = recipes.small_pi05_model(action_horizon=8, width=32)
    sizes = {k: v for k, v in text.items() if k not in ("model_type",)}
    expert = {k: v for k, v in sizes.items() if k != "vocab_size"}
    tree |= {
        "vision_backbone": {"type": "SigLIPViTBackbone", "vision_config": vision},
        "projector": {"type": "LinearProjector", "in_dim": 16, "out_dim": 32},
        "llm_backbone": {"type": "ConditionGemmaModel", **sizes},
        "llm_expert": {
            "type": "ConditionGemmaModel",
            **expert,
            "use_adarms": True,
            "adarms_cond_dim": 32,
        },
        "number_tokens": None,
    }
    model = bind(PI05FlowMatching.Config, tree, "model").build()
    # The published file has 64 more embeddings than tokens.
    peer.resize_token_embeddings(364, mean_resizing=False)
    peer.save_pretrained(tmp_path / "padded")
    for adapt in (None, "slice", "reinit"):
        padded = bind(PI05FlowMatching.Config, tree, "model").build()
        load_pretrained(padded, tmp_path / "padded", adapt=adapt)
        embedding = padded.llm_backbone.embed_tokens.weight
        assert torch.equal(embedding, peer.get_input_embeddings().weight[:300])
    peer.resize_token_embeddings(300)
    kept = load_pretrained(model, tmp_path)
    assert all(name.startswith(("llm_expert", "action_", "time_mlp")) for name in kept) and kept
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        features = peer.get_image_features(images)
        expected = getattr(features, "pooler_output", features)
        found = model.projector(model.vision_backbone(images))
    scale = (expected.norm() / found.norm()).item()
    # transformers divides by sqrt(width) in some versions; openpi and we do not.
    assert scale == pytest.approx(1.0, rel=1e-4) or scale == pytest.approx(32**-0.5, rel=1e-4)
    torch.testing.assert_close(found * scale, expected, atol=1e-5, rtol=1e-4)
    # And back: transformers can read the file that we write.
    save_file(model.state_dict(), tmp_path / "ours.safetensors")
    convert_checkpoint(tmp_path / "ours.safetensors", "huggingface", tmp_path / "back")
    config.save_pretrained(tmp_path / "back")
    again = type(peer).from_pretrained(tmp_path / "back").state_dict()
    for name, value in peer.state_dict().items():
        assert torch.equal(again[name], value), name


def test_every_type_and_shape_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    tensors = {
        "llm_backbone.scalar": torch.tensor(3.5, dtype=torch.float64),
        "llm_backbone.empty": torch.zeros(0, 4),
        "llm_backbone.half": torch.randn(3, 5).half(),
        "llm_backbone.bf16": torch.randn(2, 3, 4).bfloat16(),
        "llm_backbone.mask": torch.tensor([True, False, True]),
        "llm_backbone.ids": torch.arange(7),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    expected = load_file(path)
    for name, stored in open_weights(path).tensors.items():
        value = stored.read()
        assert (value.shape, value.dtype) == (stored.shape, stored.dtype)
        assert value.dtype == expected[name].dtype and torch.equal(value, expected[name]), name


def test_a_model_on_the_meta_device_is_filled(saved: Path) -> None:
    with torch.device("meta"):
        model = small_model()
    assert load_pretrained(model, saved) == []
    expected = load_file(saved)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_shards_behind_an_index_are_one_checkpoint(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved)
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, tmp_path / file)
    places = {name: file for file, members in shards.items() for name in members}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    model = small_model()
    assert load_pretrained(model, tmp_path) == []
    assert torch.equal(model.state_dict()[names[0]], weights[names[0]])
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shard b\.safetensors is missing"):
        load_pretrained(model, index)
    index.write_text(json.dumps({"weight_map": {names[0]: "../a.safetensors"}}))
    with pytest.raises(CheckpointError, match="shards in the same folder"):
        load_pretrained(model, index)


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_torch_file_of_tensors_is_read(saved: Path, tmp_path: Path, key: str | None) -> None:
    weights = load_file(saved)
    path = tmp_path / "x.pt"
    torch.save(weights if key is None else {key: weights, "global_step": 3}, path)
    assert open_checkpoint(path).form == "fluxvla"
    model = small_model()
    load_pretrained(model, path)
    assert torch.equal(model.state_dict()[min(weights)], weights[min(weights)])


def test_fluxvlas_unused_expert_embedding_is_left_out(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "fluxvla.safetensors"
    save_file(load_file(saved) | {"llm_expert.embed_tokens.weight": torch.zeros(3, 2)}, path)
    assert load_pretrained(small_model(), path) == []


class Command:
    """Pickles as a function call: the classic attack."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (exec, ("raise SystemError('this code must never run')",))


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"model": Command()}, path)
    with pytest.raises(CheckpointError, match="would run code"):
        open_checkpoint(path)
    path.write_bytes(pickle.dumps(Command()))
    with pytest.raises(CheckpointError, match="would run code|cannot be read"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("time_mlp_in.projector.bias"), "time_mlp_in.projector.bias is missing"),
        (lambda w: w.update({"llm_backbone.x": torch.ones(1)}), "llm_backbone.x is unexpected"),
        (
            lambda w: w.update({"llm_expert.norm.dense.bias": torch.ones(5)}),
            r"llm_expert.norm.dense.bias: expected shape \(96,\), got \(5,\)$",
        ),
    ],
)
def test_a_weight_that_does_not_fit_is_named(
    change: Callable[[dict], object], message: str, saved: Path, tmp_path: Path
) -> None:
    weights = load_file(saved)
    change(weights)
    path = tmp_path / "changed.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(small_model(), path, adapt="slice")


def test_projections_of_a_wider_robot_are_adapted_only_on_request(saved: Path) -> None:
    weights, model = load_file(saved), small_model(action_dim=7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="Set adapt='slice' or adapt='reinit'"):
        load_pretrained(model, saved)
    kept = load_pretrained(model, saved, adapt="reinit")
    name = "action_out_proj.projector.weight"
    assert name in kept and torch.equal(model.state_dict()[name], before[name])
    assert load_pretrained(model, saved, adapt="slice") == []
    assert torch.equal(model.state_dict()[name], weights[name][:7])
    name = "action_in_proj.projector.weight"
    assert torch.equal(model.state_dict()[name], weights[name][:, :7])


def test_a_narrower_robot_cannot_be_sliced(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="action_in_proj"):
        load_pretrained(small_model(action_dim=20), saved, adapt="slice")


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_a_truncated_file_is_refused(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="expected an intact safetensors file"):
        open_checkpoint(saved)


def test_weights_of_an_unknown_project_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"encoder.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r"got tensors like encoder\.weight"):
        open_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(
    saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    target = tmp_path / "taken" / "x.safetensors"
    target.mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        convert_checkpoint(saved, "flux", target)
    assert [path.name for path in target.parent.iterdir()] == ["x.safetensors"]


def test_the_command_line_offers_every_format() -> None:
    from flux_core.cli import FORMATS
    from flux_core.models.weights.families import formats

    assert formats() == FORMATS


def test_the_command_line_describes_a_checkpoint(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(saved), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == "pi05" and report["format"] == "fluxvla"
    out = tmp_path / "out" / "x.safetensors"
    assert main(["convert", str(saved), "--to", "flux", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tensors"] == len(load_file(saved))
    assert main(["inspect", str(out)]) == 0
    assert "format      flux" in capsys.readouterr().out
    config = str(Path(__file__).parents[3] / "configs/pi05/pi05_small_aloha_sim.py")
    assert main(["inspect", str(out), "--config", config, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["missing"] == [] and report["unexpected"] == []
    mismatched = report["mismatched"]["action_in_proj.projector.bias"]
    assert mismatched == {"expected": [128], "found": [32]}
    assert main(["inspect", str(tmp_path / "nothing.pt")]) == 1
    assert capsys.readouterr().err.startswith("flux-core: error: ")
