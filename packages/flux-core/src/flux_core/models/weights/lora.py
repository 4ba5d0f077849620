"""LoRA through `peft`: adapters on any named linear layers, and weights with them merged in.

The network's class does not change: `peft` replaces the linear layers inside it. Only the adapters
and `modules_to_save` are trained; a frozen part has neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import CheckpointError, ConfigError, MissingDependencyError
from ..flow.policy import FlowPolicy
from .adapter_files import ADAPTER_FILE

ADAPTER = "default"


def apply_lora(model: FlowPolicy) -> None:
    """Adds the adapters of the model's config, in place; freezes everything else.

    `lora_target_modules` are endings of module names, as in `peft`: 'q_proj' is every query
    projection, 'llm_expert.layers.0.mlp.up_proj' is one layer.

    Raises:
        ConfigError: a target or a module to save does not exist, or a target is not linear.
    """
    config = model.config
    frozen = config.frozen_parts()
    _check_targets(model, config.lora_target_modules, frozen)
    _check_saved(model, config.modules_to_save)
    lora_config = _peft().LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_target_modules),
        modules_to_save=list(config.modules_to_save) or None,
        exclude_modules=rf"({'|'.join(map(re.escape, frozen))})\..*" if frozen else None,
        init_lora_weights="gaussian",
    )
    _peft().inject_adapter_in_model(lora_config, model, adapter_name=ADAPTER)


def _check_targets(model: nn.Module, targets: tuple[str, ...], frozen: tuple[str, ...]) -> None:
    modules = dict(model.named_modules())
    reached = 0
    for target in targets:
        named = {name: m for name, m in modules.items() if f".{name}".endswith(f".{target}")}
        if not named:
            raise ConfigError(f"lora_target_modules: no module is called {target!r}")
        for name, module in named.items():
            if not isinstance(module, nn.Linear):
                raise ConfigError(
                    f"lora_target_modules: expected linear layers, but {target!r} reaches {name}, "
                    f"a {type(module).__name__}"
                )
        inside = tuple(f"{part}." for part in frozen)
        reached += sum(not name.startswith(inside) for name in named)
    if not reached:
        raise ConfigError(
            f"lora_target_modules: all of {', '.join(targets)} are in frozen parts "
            f"({', '.join(frozen)}); nothing would be trained there"
        )


def _check_saved(model: nn.Module, names: tuple[str, ...]) -> None:
    known = [name for name, _ in model.named_modules()]
    for name in names:
        if not any(f".{module}".endswith(f".{name}") for module in known):
            raise ConfigError(f"modules_to_save: no module is called {name!r}")


def merged_weights(weights: Mapping[str, Tensor], config: FlowPolicy.Config) -> dict[str, Tensor]:
    """Returns the plain network's weights: each adapter added to its layer, W + alpha / rank * B A.

    Args:
        weights: state dict of a network with adapters, or of a plain one, which is returned as is.
        config: the network's config.
    """
    scaling = config.lora_alpha / config.lora_rank
    merged: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        if ".base_layer." not in name:
            merged[name.replace(f".modules_to_save.{ADAPTER}.", ".")] = value
            continue
        layer, _, leaf = name.partition(".base_layer.")
        if leaf == "weight":
            down = weights[f"{layer}.lora_A.{ADAPTER}.weight"].float()
            up = weights[f"{layer}.lora_B.{ADAPTER}.weight"].float()
            value = (value.float() + scaling * (up @ down)).to(value.dtype)
        merged[f"{layer}.{leaf}"] = value
    return merged


def save_adapter(
    model: FlowPolicy, folder: Path, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Writes only the adapters, in `peft`'s format: a few MB that `PeftModel` can load too.

    Args:
        model: the network with its adapters.
        folder: the folder to write to.
        weights: a state dict to write instead of the network's own; the network may then be on the
            meta device.
    """
    state = None if weights is None else dict(weights)
    found = _peft().get_peft_model_state_dict(model, state_dict=state, adapter_name=ADAPTER)
    # Names as if the network were inside a PeftModel, because readers of the file expect that.
    named = {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named, folder / ADAPTER_FILE, metadata={"format": "pt"})
    configs: Any = model.peft_config
    configs[ADAPTER].save_pretrained(str(folder))


def load_adapter(model: FlowPolicy, folder: Path) -> None:
    """Fills the adapters of `model` (see `apply_lora`) from a folder, strictly.

    Raises:
        CheckpointError: the file is missing, or a weight is missing, left over or mis-shaped.
    """
    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise CheckpointError(f"{file}: not found")
    weights = {k.removeprefix("base_model.model."): v for k, v in load_file(file).items()}
    expected = _peft().get_peft_model_state_dict(model, adapter_name=ADAPTER)
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "is unexpected"
        raise CheckpointError(f"{file}: {name} {problem}; was it made with other LoRA settings?")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{file}: {name}: expected shape {tuple(expected[name].shape)}, got "
                f"{tuple(value.shape)}"
            )
    with torch.no_grad():
        _peft().set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError(
            f"LoRA needs peft ({error}): pip install 'flux-core[torch]'"
        ) from error
    return peft
