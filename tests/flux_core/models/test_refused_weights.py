"""Weights that cannot be used are refused where they are loaded, by name and with a remedy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flux_core.errors import CheckpointError
from flux_core.models.pi import from_ours
from flux_core.models.pi.checkpoints import Format
from flux_core.models.weights import load_weights
from flux_core.models.weights.pretrained import (
    Adapt,
    convert_checkpoint,
    load_pretrained,
    open_checkpoint,
)

from .test_checkpoints import small_model

NAME = "llm_expert.norm.dense.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(small_model().state_dict(), path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_not_finite_is_named_where_it_is_loaded(
    value: float, dtype: torch.dtype, saved: Path, tmp_path: Path
) -> None:
    weights = {name: weight.to(dtype) for name, weight in load_file(saved).items()}
    weights[NAME][1, 2] = value
    weights[NAME][3, 0] = value
    path = tmp_path / "bad.safetensors"
    save_file(weights, path)
    message = rf"bad\.safetensors: {NAME}: expected finite weights, got {value} at \[1, 2\] and 1 "
    for load in (
        lambda: load_pretrained(small_model(), path),
        lambda: load_weights(small_model(), weights, str(path)),
        lambda: convert_checkpoint(path, "fluxvla", tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_is_not_loaded_need_not_be_finite(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "with_unused.safetensors"
    unused = {"llm_expert.embed_tokens.weight": torch.full((3, 2), torch.nan)}
    save_file(load_file(saved) | unused, path)
    assert load_pretrained(small_model(), path) == []


WRAPPED: dict[str, Callable[[str], str]] = {
    "DDP": lambda name: f"module.{name}",
    "compile": lambda name: f"_orig_mod.{name}",
    "FSDP": lambda name: name.replace(".", "._fsdp_wrapped_module.", 1),
    "compile in DDP": lambda name: f"module._orig_mod.{name}",
    "DDP in compile": lambda name: f"_orig_mod.module.{name}",
    "FSDP of compiled layers": lambda name: f"_fsdp_wrapped_module.{name}".replace(
        ".layers.", "._fsdp_wrapped_module.layers._orig_mod."
    ),
    "checkpointed layers": lambda name: name.replace(
        ".layers.0.", ".layers.0._checkpoint_wrapped_module."
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_lose_what_wrappers_add_with_one_warning(
    kind: str, suffix: str, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = load_file(saved)
    wrapped = {WRAPPED[kind](name): weight for name, weight in weights.items()}
    path = tmp_path / f"wrapped{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": wrapped}, path)
    else:
        save_file(wrapped, path)
    model = small_model()
    with caplog.at_level(logging.WARNING, logger="flux.checkpoint"):
        assert load_pretrained(model, path) == []
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    changed = sum(WRAPPED[kind](name) != name for name in weights)
    assert len(caplog.messages) == 1
    assert f"{path}: {changed} names lose the prefixes of DDP" in caplog.messages[0]


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("project", ["openpi", "lerobot"])
def test_wrapped_names_of_other_projects_are_recognised(
    kind: str, project: Format, saved: Path, tmp_path: Path
) -> None:
    ours = [name for name in load_file(saved) if name.startswith(("llm_", "action_", "time_"))]
    theirs = [from_ours(name, project) for name in ours]
    path = tmp_path / "wrapped.pt"
    torch.save({"model": {WRAPPED[kind](name): torch.zeros(1) for name in theirs}}, path)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.form, checkpoint.unknown) == (project, ())
    assert sorted(checkpoint.tensors) == sorted(ours)


def test_wrapped_names_that_collide_are_refused(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved)
    path = tmp_path / "both.pt"
    torch.save({**weights, f"module.{NAME}": weights[NAME]}, path)
    with pytest.raises(CheckpointError, match=f"expected each weight once, got {NAME} and module"):
        open_checkpoint(path)


def adapter(folder: Path, **config: str) -> Path:
    folder.mkdir()
    names = [f"base_model.model.llm_backbone.layers.0.q_proj.lora_{x}.weight" for x in "AB"]
    save_file({name: torch.zeros(2, 2) for name in names}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_says_what_to_merge_and_how(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "mine", base_model_name_or_path="lerobot/pi05_base")
    for path in (folder, folder / "adapter_model.safetensors"):
        with pytest.raises(CheckpointError) as error:
            load_pretrained(small_model(), path)
        assert "expected a whole network, got a LoRA adapter" in str(error.value)
        assert "Load lerobot/pi05_base with the program that made it" in str(error.value)
        assert f"from_pretrained(base, '{folder}').merge_and_unload()" in str(error.value)


def test_our_adapter_names_the_checkpoint_that_holds_it_merged(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "checkpoint_epoch_3_adapter")
    merged = tmp_path / "checkpoint_epoch_3.safetensors"
    merged.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"Use {merged} as weights"):
        open_checkpoint(folder)
    whole = tmp_path / "checkpoint_epoch_3.pt"
    whole.write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"Use {whole} to export it"):
        open_checkpoint(folder)


ADAPT: dict[str, tuple[int, Adapt | None, str]] = {
    "wider": (7, None, r"Set adapt='slice' or adapt='reinit' \(model\.pretrained_adapt"),
    "narrower": (20, None, r"adapt='slice' \(model\.pretrained_adapt.*cannot help: it takes"),
    "narrower, sliced": (
        20,
        "slice",
        r"adapt='slice' \(model\.pretrained_adapt in a config\) did not help: it takes the first "
        r"dimensions, and the file has 14 where the network needs 20\. Set adapt='reinit'",
    ),
}


@pytest.mark.parametrize("name", ADAPT)
def test_a_robot_of_another_width_names_the_setting_and_why_it_did_not_help(
    name: str, saved: Path
) -> None:
    dims, adapt, message = ADAPT[name]
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(small_model(action_dim=dims), saved, adapt=adapt)


def test_a_model_of_another_width_is_not_adapted(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved)
    weights["action_in_proj.projector.weight"] = torch.ones(5, 20)
    path = tmp_path / "other.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="did not help: the network's width differs too"):
        load_pretrained(small_model(), path, adapt="slice")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_a_weight_that_is_no_plain_number_is_named_with_its_type(
    dtype: torch.dtype, saved: Path, tmp_path: Path
) -> None:
    weights = load_file(saved)
    path = tmp_path / "other.pt"
    torch.save(weights | {NAME: torch.ones_like(weights[NAME]).to(dtype)}, path)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"{NAME}: expected weights of type .*, got {kind}"):
        load_pretrained(small_model(), path)


def test_a_weight_that_is_infinite_in_float32_is_named(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved)
    path = tmp_path / "wide.pt"
    torch.save(weights | {NAME: torch.full_like(weights[NAME], 1e200, dtype=torch.float64)}, path)
    with pytest.raises(CheckpointError, match=rf"{NAME}: expected finite weights, got inf at"):
        load_pretrained(small_model(), path)


def test_weights_inside_several_keys_and_in_the_old_format_are_found(
    saved: Path, tmp_path: Path
) -> None:
    weights = load_file(saved)
    nested, old = tmp_path / "nested.pt", tmp_path / "old.pth"
    torch.save({"epoch": 3, "model": {"state_dict": weights, "step": 1}}, nested)
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    for path in (nested, old):
        assert load_pretrained(small_model(), path) == []


def test_files_that_hold_no_named_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    for content in ({1: torch.zeros(2)}, {"model": {"model": {}}}, [torch.zeros(2)]):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="expected tensors by name"):
            load_pretrained(small_model(), path)
    path.write_text('{"model": 1}')
    with pytest.raises(CheckpointError, match=r"expected a file of torch\.save, got another file"):
        load_pretrained(small_model(), path)
