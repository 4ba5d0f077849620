"""GR00T's checkpoints on disk, as each project leaves them: inspected, loaded and converted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flux_core.cli import main
from flux_core.config import unbind
from flux_core.models.weights.pretrained import load_pretrained

from ...parity.gr00t_reference import tiny_config, tiny_model
from .test_gr00t_checkpoints import EMBEDDING, LANGUAGE_HEAD, as_written_by

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "parity-gr00t"


@pytest.fixture(scope="module")
def config(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose network the tiny weights fit."""
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps({"model": unbind(tiny_config(folder))}))
    return path


def nvidia(out: Path, tensors: dict[str, Tensor]) -> Path:
    """Shards, with both copies of the tied weight, as after NVIDIA's fine-tuning."""
    tensors = {**tensors, LANGUAGE_HEAD: torch.randn_like(tensors[EMBEDDING])}
    places = {name: SHARDS[index % 2] for index, name in enumerate(tensors)}
    for shard in SHARDS:
        held = {name: value for name, value in tensors.items() if places[name] == shard}
        save_file(held, out / shard, metadata={"format": "pt"})
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (out / "config.json").write_text('{"model_type": "gr00t_n1_5"}')
    (out / "experiment_cfg").mkdir()
    (out / "experiment_cfg" / "metadata.json").write_text("{}")
    return out


def lerobot(out: Path, tensors: dict[str, Tensor]) -> Path:
    """One file, without the embedding's own name, beside files of the processors."""
    tensors = {as_written_by("lerobot", name): value for name, value in tensors.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text('{"type": "groot"}')
    statistics = {"observation.state.min": torch.zeros(6)}
    save_file(statistics, out / "policy_preprocessor_step_3_groot_pack_inputs.safetensors")
    return out


def fluxvla(out: Path, tensors: dict[str, Tensor]) -> Path:
    """A file of torch.save with the names that DDP adds."""
    tensors = {f"module.{as_written_by('fluxvla', n)}": value for n, value in tensors.items()}
    torch.save({"model": tensors}, out / "checkpoint.pt")
    return out / "checkpoint.pt"


def flux(out: Path, tensors: dict[str, Tensor]) -> Path:
    """Our converted file, with the vision head that nobody runs."""
    save_file(tensors, out / "model.safetensors")
    assert main(["convert", str(out), "--to", "flux", "--out", str(out / "ours.safetensors")]) == 0
    return out / "ours.safetensors"


WRITERS = {"nvidia": nvidia, "lerobot": lerobot, "fluxvla": fluxvla, "flux": flux}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_projects_files_are_recognised_loaded_and_converted(
    writer: str, folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = load_file(folder / "weights" / "model.safetensors")
    file = WRITERS[writer](tmp_path, original)
    capsys.readouterr()
    assert main(["inspect", str(file), "--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["model"]) == (writer, "gr00t")
    expected = tiny_model(folder)
    weights = expected.state_dict()
    assert report["num_parameters"] == sum(value.numel() for value in weights.values())
    assert set(report["parts"]) == {name.split(".")[0] for name in weights}

    with torch.device("meta"):
        model = tiny_config(folder).build()
    assert load_pretrained(model, file) == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name

    out = tmp_path / "again"
    assert main(["convert", str(file), "--to", "nvidia", "--out", str(out)]) == 0
    back = load_file(out / "model.safetensors")
    assert back.keys() == original.keys()
    for name, value in original.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value), name


def test_another_networks_config_shows_what_does_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller = unbind(tiny_config(folder, num_future_tokens=3, num_embodiments=1))
    (tmp_path / "config.json").write_text(json.dumps({"model": smaller}))
    file, config = str(folder / "weights"), str(tmp_path / "config.json")
    assert main(["inspect", file, "--config", config, "--json"]) == 1
    mismatched = json.loads(capsys.readouterr().out)["mismatched"]
    assert mismatched["future_tokens.weight"] == {"expected": [3, 48], "found": [5, 48]}
    heads = {"state_encoder", "action_encoder", "action_decoder", "future_tokens"}
    assert {name.split(".")[0] for name in mismatched} == heads
