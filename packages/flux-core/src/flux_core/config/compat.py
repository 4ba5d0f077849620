"""FluxVLA's keys that have another name here, or no meaning.

One table, read by `bind` before it looks for unknown keys. A key that a component does have is
never touched. Every use is warned about once, in the log 'flux.config'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

logger = logging.getLogger("flux.config")


@dataclass(frozen=True)
class Renamed:
    """The key lives on as `new`; `convert` turns its value into the new one."""

    new: str
    convert: Callable[[object], object] = lambda value: value


@dataclass(frozen=True)
class Dead:
    """The key has no effect. With `beside`, only where that key is present too."""

    reason: str
    beside: str | None = None


_USE_QUANTILES = {
    "use_quantiles": Renamed("norm_type", lambda value: "quantile" if value else "mean_std")
}
_DTYPE = Dead("weights are fp32, and autocast picks the compute type")
_HUGGING_FACE = Dead("a Hugging Face setting that does not shape the network")
_HUGGING_FACE_KEYS = dict.fromkeys(
    ("transformers_version", "use_cache", "model_type", "attention_dropout", "initializer_range"),
    _HUGGING_FACE,
) | {"torch_dtype": _DTYPE}
_GEMMA = _HUGGING_FACE_KEYS | dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "attention_bias"),
    _HUGGING_FACE,
)
_GEMMA["hidden_activation"] = Dead("hidden_act says it")
_SIGLIP = _HUGGING_FACE_KEYS | {
    "projection_dim": Dead("the projector's out_dim says it"),
    "projector_hidden_act": Dead("the projector is linear"),
    "vision_use_head": Dead("the pooling head is never used"),
}
_FLOW_MATCHING = {
    "params_to_change_dtype": _DTYPE,
    "name_mapping": Dead("the checkpoint's format is detected from its keys"),
    "ori_action_dim": Renamed("loss_action_dim"),
    "action_time_mlp_in": Dead("its size follows from proj_width"),
    "action_time_mlp_out": Dead("its size follows from proj_width"),
}

# Component, or the section's own key where a section needs no `type`.
COMPAT: dict[str, Mapping[str, Renamed | Dead]] = {
    "ConditionGemmaModel": _GEMMA,
    "GemmaLLMBackbone": _GEMMA,
    "SigLIPViTBackbone": _SIGLIP,
    "vision_config": _SIGLIP,
    "PI0FlowMatching": _FLOW_MATCHING,
    "PI05FlowMatching": _FLOW_MATCHING,
    "NormalizeStatesAndActions": _USE_QUANTILES,
    "DenormalizePrivateAction": _USE_QUANTILES,
    "train_dataloader": {
        "batch_size": Dead("per_device_batch_size decides", beside="per_device_batch_size"),
    },
}


def translate(
    section: Mapping[str, object], names: Iterable[str], fields: Iterable[str], path: str
) -> dict[str, object]:
    """Returns `section` in today's keys.

    Args:
        section: one node of the tree, with or without its `type`.
        names: what the node is called: its class, that class's bases, its key in the tree.
        fields: the keys that the component has.
        path: where the node stands, for the warnings.
    """
    table = {old: rule for name in names for old, rule in COMPAT.get(name, {}).items()}
    result = dict(section)
    dead: dict[str, list[str]] = {}
    for old in sorted((table.keys() & section.keys()) - set(fields)):
        rule = table[old]
        if isinstance(rule, Renamed):
            _rename(result, old, rule, path)
        elif rule.beside is None or rule.beside in section:
            del result[old]
            dead.setdefault(rule.reason, []).append(repr(old))
    for reason, keys in dead.items():
        _warn_once(f"{path}: ignored {', '.join(keys)}: {reason}")
    return result


def _rename(section: dict[str, object], old: str, rule: Renamed, path: str) -> None:
    value = rule.convert(section.pop(old))
    if rule.new in section:
        _warn_once(f"{path}: {old!r} is ignored: {rule.new!r} is given too, and replaces it")
    else:
        section[rule.new] = value
        _warn_once(f"{path}: {old!r} is now {rule.new!r}; read as {rule.new}={value!r}")


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
