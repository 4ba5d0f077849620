"""The names of GR00T-N1.5's weights in NVIDIA's, LeRobot's and FluxVLA's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flux_core.errors import CheckpointError
from flux_core.models.flow import StoredTensor
from flux_core.models.gr00t import GR00TFlowMatching
from flux_core.models.gr00t.checkpoints import GR00T_CHECKPOINTS as FAMILY
from flux_core.models.gr00t.checkpoints import from_ours
from flux_core.models.gr00t.embodiments import EmbodimentLinear

EAGLE = "backbone.eagle_model."
EMBEDDING = f"{EAGLE}language_model.model.embed_tokens.weight"
LANGUAGE_HEAD = f"{EAGLE}language_model.lm_head.weight"
FORMS = ("nvidia", "lerobot", "fluxvla")


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, tuple[int, ...]]:
    """NVIDIA's name -> shape, at full size."""
    keys = json.loads((shared_data / "parity-gr00t" / "full_keys.json").read_text())
    return {name: tuple(shape) for name, shape in keys["nvidia"].items()}


@pytest.fixture(scope="module")
def full_size() -> GR00TFlowMatching:
    with torch.device("meta"):
        return GR00TFlowMatching.Config().build()


def as_written_by(form: str, nvidia: str) -> str:
    """The rules of the other two, written down a second time."""
    if form == "lerobot":
        return "_groot_model." + nvidia.replace("model.embed_tokens", "lm_head")
    if form == "fluxvla":
        renamed = nvidia.replace("backbone.eagle_model", "vlm_backbone.vlm", 1)
        return renamed.replace("action_head", "vla_head", 1)
    return nvidia


@pytest.mark.parametrize("form", FORMS)
def test_all_published_keys_fill_the_full_network_strictly(
    published: Mapping[str, tuple[int, ...]], full_size: GR00TFlowMatching, form: str
) -> None:
    theirs = {as_written_by(form, name): shape for name, shape in published.items()}
    assert len(theirs) == 898
    assert FAMILY.recognise(theirs, is_ours=False) == form
    names, unknown = FAMILY.our_names(theirs, form)
    assert unknown == []
    expected = {name: tuple(value.shape) for name, value in full_size.state_dict().items()}
    assert {ours: theirs[name] for ours, name in names.items()} == expected
    # What fills nothing is SigLIP's pooling head, which nobody runs.
    left = set(theirs) - set(names.values())
    assert len(left) == 11 and all(".vision_model.head." in name for name in left)
    assert FAMILY.kind(names) == full_size.kind == "gr00t"


def test_the_numbers_of_parameters_are_the_published_ones(
    published: Mapping[str, tuple[int, ...]], full_size: GR00TFlowMatching
) -> None:
    head = sum(prod(shape) for name, shape in published.items() if ".vision_model.head." in name)
    own = sum(parameter.numel() for parameter in full_size.parameters())
    assert own + head == 2_413_522_880
    per_robot = sum(
        parameter[0].numel()
        for module in full_size.modules()
        if isinstance(module, EmbodimentLinear)
        for parameter in module.parameters()
    )
    assert per_robot == 9_855_008


def test_lerobots_own_keys_of_the_tiny_network_are_all_known(shared_data: Path) -> None:
    keys = json.loads((shared_data / "parity-gr00t" / "tiny_keys_lerobot.json").read_text())
    names, unknown = FAMILY.our_names(keys, "lerobot")
    assert unknown == [] and len(names) == len(keys) - 11
    assert {from_ours(name, "lerobot") for name in names} < set(keys)


@pytest.fixture
def tiny(shared_data: Path) -> dict[str, Tensor]:
    """NVIDIA's tiny file, with mixed types as files in the wild have them."""
    weights = load_file(shared_data / "parity-gr00t" / "weights" / "model.safetensors")
    return {
        name: value.bfloat16() if index % 2 else value
        for index, (name, value) in enumerate(weights.items())
    }


def stored(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(shape=tuple(v.shape), dtype=v.dtype, read=lambda v=v: v)
        for name, v in tensors.items()
    }


def converted(
    tensors: Mapping[str, Tensor], to: str, *, is_ours: bool = False
) -> dict[str, Tensor]:
    """What converting a file with these tensors writes."""
    form = FAMILY.recognise(tensors, is_ours=is_ours)
    assert form is not None
    names, unknown = FAMILY.our_names(tensors, form)
    assert unknown == []
    ours = stored({name: tensors[theirs] for name, theirs in names.items()})
    return FAMILY.written(ours, stored(tensors), form, to)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in expected.items()
    )


@pytest.mark.parametrize("other", ["lerobot", "fluxvla"])
def test_from_nvidia_to_another_project_and_back_are_the_same_bytes(
    tiny: dict[str, Tensor], other: str
) -> None:
    ours = converted(tiny, "flux")
    theirs = converted(ours, other, is_ours=True)
    assert set(theirs) == {as_written_by(other, name) for name in tiny}
    assert same(converted(theirs, "flux"), ours)
    assert same(converted(theirs, "nvidia"), tiny)


def test_a_file_without_the_unused_vision_head_gets_zeros_for_strict_loaders(
    tiny: dict[str, Tensor],
) -> None:
    without = {name: value for name, value in tiny.items() if ".vision_model.head." not in name}
    ours = converted(without, "flux")
    assert not any(name.startswith("unused.") for name in ours)
    written = converted(ours, "nvidia", is_ours=True)
    assert {n: v.shape for n, v in written.items()} == {n: v.shape for n, v in tiny.items()}
    assert all(not written[name].any() for name in set(tiny) - set(without))


def test_the_embedding_counts_and_the_language_head_stands_in_for_it(
    tiny: dict[str, Tensor],
) -> None:
    """After NVIDIA's `from_pretrained`, both are saved, and they differ (G13)."""
    embedding = "llm_backbone.model.embed_tokens.weight"
    drawn = torch.full_like(tiny[EMBEDDING], 7.0)
    both = {**tiny, LANGUAGE_HEAD: drawn}
    for tensors in (both, dict(reversed(both.items()))):
        assert FAMILY.our_names(tensors, "nvidia")[0][embedding] == EMBEDDING
    names, _ = FAMILY.our_names(both, "nvidia")
    assert FAMILY.equal_copies(names, "nvidia") == ()
    only_head = {name: value for name, value in both.items() if name != EMBEDDING}
    assert FAMILY.our_names(only_head, "nvidia")[0][embedding] == LANGUAGE_HEAD
    assert torch.equal(converted(both, "flux")[embedding], tiny[EMBEDDING])


def test_unknown_names_are_reported(tiny: dict[str, Tensor]) -> None:
    """FluxVLA's loader reads nothing of a LeRobot file, and only its log says so."""
    extra = {**tiny, "action_head.new.weight": torch.zeros(1), "other": torch.zeros(1)}
    assert FAMILY.our_names(extra, "nvidia")[1] == ["action_head.new.weight", "other"]
    mixed = {**{f"_groot_model.{name}": v for name, v in tiny.items()}, "x": torch.zeros(1)}
    assert FAMILY.our_names(mixed, "lerobot")[1] == ["x"]


def test_weights_of_other_networks_are_not_recognised() -> None:
    for name in ("llm_expert.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"):
        assert FAMILY.recognise([name], is_ours=False) is None


def test_a_weight_that_no_other_project_has_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"vision_backbone\.stem\.weight: expected a weight"):
        from_ours("vision_backbone.stem.weight", "nvidia")
