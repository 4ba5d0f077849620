"""FluxVLA's names that are spelled differently here, and its keys that have no meaning here.

`bind` reads `COMPAT` before it looks for unknown keys, and the registry reads `TYPE_NAMES` before
it looks up a component. A key that a component itself has is never changed. Each use is logged once
as a warning in 'flux.config', except for names that flux itself wrote into files in the past.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..errors import ConfigError
from .llava import DEAD_OF_BACKBONE, DEAD_OF_HEAD, split_eagle, split_head
from .old_paths import OLD_PATHS
from .sections import check_known, check_type, part_of

logger = logging.getLogger("flux.config")


@dataclass(frozen=True)
class Renamed:
    """The key is now called `new`; `convert` turns its value into the new one.

    `is_ours`: flux itself wrote the old key into configs and checkpoints, so it is read silently.
    """

    new: str
    convert: Callable[[object], object] = lambda value: value
    is_ours: bool = False


@dataclass(frozen=True)
class Respelled:
    """The key stays, but its list may contain old names; `names` maps them to the current ones."""

    names: Mapping[str, str]


@dataclass(frozen=True)
class Reread:
    """The key stays, but some of its values mean another one: old value -> (new value, why)."""

    values: Mapping[object, tuple[object, str]]


@dataclass(frozen=True)
class Refused:
    """The key asks for something that flux does in another way: an error that says how.

    A value in `unless` asks for nothing, so the key is dropped.
    """

    remedy: str
    unless: tuple[object, ...] = (None,)


@dataclass(frozen=True)
class Dead:
    """The key has no effect. With `beside`, that is so only if that key is present too.

    With `only`, any other value is an error: it asks for something that flux does not support.
    """

    reason: str
    beside: str | None = None
    only: tuple[object, ...] | None = None


@dataclass(frozen=True)
class Expanded:
    """The key's section is replaced by the current keys that `convert(section, path)` returns.

    `origins`: current key -> where its value is written, inside the old key's section; default: the
    same key there.
    """

    convert: Callable[[Mapping[str, Any], str], dict[str, Any]]
    origins: Mapping[str, str] = field(default_factory=dict)


Rule = Renamed | Respelled | Reread | Refused | Dead | Expanded


def split_paligemma(vlm: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`vlm_backbone=dict(type='PaliGemma', ...)` as the three parts it is made of.

    Sizes that are not given are PaliGemma-3B's.
    """
    check_type(vlm, ("PaliGemma",), path)
    check_known(vlm, ("type", "vlm_backbone_id", "vlm_config", "use_llm"), path, "PaliGemma")
    config = part_of(vlm, "vlm_config", path)
    check_known(config, _PALIGEMMA_KEYS, f"{path}.vlm_config", "PaliGemma")
    text = {**_GEMMA_2B, **part_of(config, "text_config", f"{path}.vlm_config")}
    vision = {"hidden_size": 1152, **part_of(config, "vision_config", f"{path}.vlm_config")}
    for key in ("projection_dim", "hidden_size"):
        if config.get(key, text["hidden_size"]) != text["hidden_size"]:
            raise ConfigError(
                f"{path}.vlm_config.{key}: expected {text['hidden_size']} (text_config."
                f"hidden_size), got {config[key]}"
            )
    return {
        # The projector is last: a size of the wrong type is reported where it is written.
        "vision_backbone": {"type": "SigLIPViTBackbone", "vision_config": vision},
        "llm_backbone": {"type": "ConditionGemmaModel", **text},
        "projector": {
            "type": "LinearProjector",
            "in_dim": vision["hidden_size"],
            "out_dim": text["hidden_size"],
        },
    }


def unwrap_gemma(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`llm_config` of a `GemmaLLMBackbone`: its keys belong to the stack itself."""
    # transformers ignores Gemma's hidden_act in favour of the tanh approximation.
    return {key: value for key, value in config.items() if key != "hidden_act"}


def unwrap_optimizer(optimizer: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`optimizer=dict(type='AdamW', lr=...)` of a runner: its keys belong to the runner."""
    check_known(optimizer, (*_ADAMW_KEYS, "type", "fused", "eps"), path, "AdamW")
    for key, only in (("type", "AdamW"), ("eps", 1e-8)):
        if optimizer.get(key, only) != only:
            raise ConfigError(f"{path}.{key}: expected {only!r}, got {optimizer[key]!r}")
    return {_ADAMW_KEYS[key]: value for key, value in optimizer.items() if key in _ADAMW_KEYS}


def _norm_type(use_quantiles: object) -> str:
    if not isinstance(use_quantiles, bool):
        raise ConfigError(f"expected bool, got {use_quantiles!r}")
    return "quantile" if use_quantiles else "mean_std"


_GEMMA_2B = {
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 18,
    "vocab_size": 257152,
}
_PALIGEMMA_KEYS = (
    *("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "image_token_index"),
    *("hidden_size", "projection_dim", "text_config", "vision_config", "model_type"),
    *("transformers_version", "torch_dtype"),
)

_ADAMW_KEYS = {"lr": "learning_rate", "weight_decay": "weight_decay", "betas": "betas"}

_NORMALIZATION: dict[str, Rule] = {
    "use_quantiles": Renamed("norm_type", _norm_type),
    "norm_type": Reread(
        {
            "proprio": (
                "mean_std",
                "FluxVLA normalises by mean and std for every name that it does not know",
            )
        }
    ),
}
_DTYPE = Dead("weights are fp32, and autocast picks the compute type")
_HUGGING_FACE = Dead("a Hugging Face setting that does not affect the network")
_HUGGING_FACE_KEYS = dict.fromkeys(
    ("transformers_version", "use_cache", "model_type", "initializer_range", "num_image_tokens"),
    _HUGGING_FACE,
) | {
    "torch_dtype": _DTYPE,
    "attention_dropout": Dead("attention has no dropout", only=(0.0, None)),
}
_GEMMA = _HUGGING_FACE_KEYS | dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"), _HUGGING_FACE
)
_GEMMA["attention_bias"] = Dead("Gemma's projections have no bias", only=(False, None))
_GEMMA["hidden_activation"] = Dead("hidden_act sets it", only=("gelu_pytorch_tanh", None))
_GEMMA_LLM = {
    "llm_config": Expanded(unwrap_gemma),
    "tie_word_embeddings": _HUGGING_FACE,
    "tokenizer_length": Dead("vocab_size sets it"),
    **dict.fromkeys(
        ("llm_backbone_id", "llm_family", "llm_path", "llm_max_length", "hf_token"), _HUGGING_FACE
    ),
    **dict.fromkeys(("inference_mode", "use_flash_attention_2"), _HUGGING_FACE),
}
_SIGLIP = _HUGGING_FACE_KEYS | {
    "projection_dim": Dead("the projector's out_dim sets it"),
    "projector_hidden_act": Dead("the projector is linear"),
    "vision_use_head": Dead("the pooling head is never used"),
    "openpi_stem_fp32": _DTYPE,
}
_NAME_MAPPING = Dead("the checkpoint's format is detected from its keys")
_FLOW_MATCHING = {
    "vlm_backbone": Expanded(
        split_paligemma,
        {
            "vision_backbone": "vlm_config",
            "llm_backbone": "vlm_config.text_config",
            "projector": "vlm_config",
        },
    ),
    "params_to_change_dtype": _DTYPE,
    "openpi_fp32_flow": _DTYPE,
    "name_mapping": _NAME_MAPPING,
    "num_steps": Renamed("num_inference_steps", is_ours=True),
    "ori_action_dim": Renamed("loss_action_dim"),
    "action_time_mlp_in": Dead("its size follows from proj_width"),
    "action_time_mlp_out": Dead("its size follows from proj_width"),
    "time_sampler": Dead("times are always drawn from openpi's Beta", only=("beta",)),
    "time_beta_alpha": Dead("times are always drawn from openpi's Beta", only=(1.5,)),
    "time_beta_beta": Dead("times are always drawn from openpi's Beta", only=(1.0,)),
}
_LLAVA = {
    "vlm_backbone": Expanded(split_eagle, {"llm_backbone": "select_layer"}),
    "vla_head": Expanded(
        split_head,
        {
            "n_action_steps": "num_steps",
            "max_state_dim": "state_dim",
            "max_action_dim": "action_dim",
            "loss_action_dim": "ori_action_dim",
            "num_inference_steps": "num_inference_timesteps",
            "num_future_tokens": "num_target_vision_tokens",
            "num_positions": "max_seq_len",
            "num_embodiments": "max_num_embodiments",
            "vl_self_attention": "vl_self_attention_cfg",
            "dit": "diffusion_model_cfg",
        },
    ),
    **dict.fromkeys(
        DEAD_OF_BACKBONE, Dead("the network's sizes are known, and autocast picks the compute type")
    ),
    **dict.fromkeys(DEAD_OF_HEAD, Dead("FluxVLA's FlowMatchingHead does not read it")),
    "name_mapping": _NAME_MAPPING,
    "ori_action_dim": Renamed("loss_action_dim"),
}
_TRAIN_RUNNER = {
    "stage": Dead("the model's freeze flags decide what is trained"),
    "tokenizer": Dead("the tokenizer of ProcessPrompts is written to the work dir"),
    "sampler": Dead("the dataset decides the order", only=(None,)),
    "change_key_name": Dead("the checkpoint's format is detected from its keys"),
    "optimizer": Expanded(unwrap_optimizer, {"learning_rate": "lr"}),
    "max_keep_ckpts": Renamed("max_checkpoints"),
    "grad_accumulation_steps": Renamed("gradient_accumulation_steps"),
}
_COPIES = {
    "sharding_strategy": Dead(
        "every process keeps a whole copy of the network; FSDPTrainRunner shards it",
        only=("no-shard", None),
    )
}
_INFERENCE_RUNNER = {"execute_horizon": Renamed("execution_horizon", is_ours=True)}
_SAMPLE_KEYS = Respelled({"img_masks": "image_masks"})

TYPE_NAMES = {
    "LlavaVLA": "GR00TFlowMatching",
    "ParquetPrompter": "TaskPrompter",
    "PrivatePrompter": "TaskPrompter",
    "PrivateInferenceDataset": "ObservationTransforms",
    "DenormalizePrivateAction": "DenormalizeActions",
}
"""Old `type` -> current `type`."""

# Keys: the component, or the section's own key if the section needs no `type`. Overrides look up a
# section by its written `type`, so a rule for a base class is listed for derived classes too.
COMPAT: dict[str, Mapping[str, Rule]] = {
    "ConditionGemmaModel": _GEMMA,
    "GemmaLLMBackbone": _GEMMA_LLM,
    "SigLIPViTBackbone": _SIGLIP,
    "vision_config": _SIGLIP,
    "PI0FlowMatching": _FLOW_MATCHING,
    "PI05FlowMatching": _FLOW_MATCHING,
    "GR00TFlowMatching": _LLAVA,
    "NormalizeStatesAndActions": _NORMALIZATION,
    "DenormalizeActions": _NORMALIZATION,
    "PreparePromptWithState": {"max_state_dim": Dead("the prompt has the state's real dimensions")},
    "ParquetDataset": {
        "statistic_name": Dead("the enclosing dataset has one"),
        "frame_window_size": Dead("a policy sees one frame", only=(1, None)),
        "use_delta": Dead("row-to-row differences; use RelativeActions", only=(False, None)),
    },
    "DistributedRepeatingDataset": {
        "reshuffle_each_epoch": Dead("every epoch is reshuffled"),
        "dataset_statistics": Dead("statistics are computed from the data", only=(None,)),
    },
    "DictCollator": {"keys": _SAMPLE_KEYS, "meta_keys": _SAMPLE_KEYS},
    "InferenceRunner": _INFERENCE_RUNNER,
    "AlohaInferenceRunner": _INFERENCE_RUNNER,
    "AlohaRTCInferenceRunner": _INFERENCE_RUNNER,
    "AlohaSimInferenceRunner": _INFERENCE_RUNNER,
    "LiberoInferenceRunner": _INFERENCE_RUNNER,
    "URInferenceRunner": _INFERENCE_RUNNER,
    "URRTCInferenceRunner": _INFERENCE_RUNNER,
    "TrainRunner": _TRAIN_RUNNER,
    "SingleTrainRunner": _TRAIN_RUNNER | _COPIES,
    "DDPTrainRunner": _TRAIN_RUNNER | _COPIES,
    "FSDPTrainRunner": _TRAIN_RUNNER,
    "VLAMetric": {
        "run_dir": Dead("metrics go to the work dir"),
        "window_size": Dead("runner.log_interval sets it"),
        "grad_accumulation_steps": Dead(
            "runner.gradient_accumulation_steps sets it", only=(1, None)
        ),
    },
    "TrainConfig": {
        "inference_model": Dead("the network that was trained is the one that is deployed"),
        "eval": Dead("flux-eval takes its settings from the command line"),
        "custom_imports": Refused(
            "Name each class by its path instead, type='my_module:MyClass', with my_module.py "
            "beside the config or in the current directory; or install it with an entry point of "
            "flux.components",
        ),
        "val_dataloader": Refused("Use a `validation` section"),
        "eval_dataset": Refused("Use a `validation` section"),
        "load_from": Refused("Set model.pretrained_name_or_path", unless=(None, False)),
        "resume": Refused("Run flux-train with --resume-from", unless=(None, False)),
        "work_dir": Refused("Name it on the command line, flux-train CONFIG WORK_DIR"),
        "default_scope": Dead("names of components have no scope"),
    },
    "train_dataloader": {
        "batch_size": Dead("per_device_batch_size decides", beside="per_device_batch_size"),
    },
}


def current_type(name: str) -> str:
    """Returns the current name for a `type` that is an old name, or a path that flux once wrote."""
    return TYPE_NAMES.get(name) or OLD_PATHS.get(name, name)


def translated_keys(names: Iterable[str], *, with_dead: bool = True) -> set[str]:
    """Returns the old keys of sections with any of these names, or only those with an effect."""
    rules = [(old, rule) for name in names for old, rule in COMPAT.get(name, {}).items()]
    return {old for old, rule in rules if with_dead or not isinstance(rule, Dead)}


def renamed_keys(section: Mapping[str, object], key: str) -> dict[str, Renamed]:
    """Returns the old keys of a section that have a new name.

    Args:
        section: a plain node of the tree.
        key: its own key in the tree, which identifies a section without `type`.
    """
    names = (key, current_type(str(section.get("type", ""))))
    rules = {old: rule for name in names for old, rule in COMPAT.get(name, {}).items()}
    return {old: rule for old, rule in rules.items() if isinstance(rule, Renamed)}


def translate(
    section: Mapping[str, object], names: Iterable[str], fields: Iterable[str], path: str
) -> tuple[dict[str, object], dict[str, str]]:
    """Returns `section` with the current keys, and where the values of new keys are written.

    Args:
        section: one node of the tree, with or without its `type`.
        names: the node's names: its class, that class's bases, its key in the tree.
        fields: the keys that the component has.
        path: the node's dotted path, for the warnings.
    """
    table = {old: rule for name in names for old, rule in COMPAT.get(name, {}).items()}
    result, written = _expand(section, table, fields, path)
    _respell(result, table)
    _reread(result, table, path)
    dead: dict[str, list[str]] = {}
    for old in sorted((table.keys() & result.keys()) - set(fields)):
        rule = table[old]
        if isinstance(rule, Renamed):
            if rule.new not in result:
                written[rule.new] = written.get(old, old)
            _rename(result, old, rule, path)
        elif isinstance(rule, Refused):
            if result.pop(old) not in rule.unless:
                raise ConfigError(f"{_under(path, old)}: is not supported. {rule.remedy}.")
        elif isinstance(rule, Dead) and (rule.beside is None or rule.beside in section):
            _check_ignorable(result.pop(old), old, rule, path)
            dead.setdefault(rule.reason, []).append(repr(old))
    for reason, keys in dead.items():
        _warn_once(f"{path}: ignored {', '.join(keys)}: {reason}")
    return result, written


def _expand(
    section: Mapping[str, object], table: Mapping[str, object], fields: Iterable[str], path: str
) -> tuple[dict[str, object], dict[str, str]]:
    """Replaces each key that became several keys; dead keys among those are handled afterwards."""
    result, written = dict(section), {}
    for old in sorted((table.keys() & section.keys()) - set(fields)):
        rule = table[old]
        if not isinstance(rule, Expanded):
            continue
        value = result.pop(old)
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}.{old}: expected a dict, got {value!r}")
        parts = rule.convert(value, f"{path}.{old}")
        if twice := sorted(parts.keys() & result.keys()):
            raise ConfigError(f"{path}.{twice[0]}: is also given in {path}.{old}. Remove one")
        result.update(parts)
        written |= {new: f"{old}.{rule.origins.get(new, new)}" for new in parts}
        _warn_once(f"{path}: {old!r} is now {', '.join(map(repr, parts)) or 'nothing'}")
    return result, written


def _under(path: str, key: str) -> str:
    """A key's place; the sections of a whole config have no path before them."""
    return key if path == "TrainConfig" else f"{path}.{key}"


def _reread(section: dict[str, object], table: Mapping[str, object], path: str) -> None:
    """Replaces a value that means another one."""
    for key, rule in table.items():
        value = section.get(key)
        if isinstance(rule, Reread) and isinstance(value, str) and value in rule.values:
            section[key], why = rule.values[value]
            _warn_once(f"{path}.{key}: {value!r} is read as {section[key]!r}: {why}")


def _respell(section: dict[str, object], table: Mapping[str, object]) -> None:
    """Replaces old names by current ones in the lists of names."""
    for key, rule in table.items():
        value = section.get(key)
        if isinstance(rule, Respelled) and isinstance(value, list | tuple):
            section[key] = [
                rule.names.get(item, item) if isinstance(item, str) else item for item in value
            ]


def _check_ignorable(value: object, old: str, rule: Dead, path: str) -> None:
    if rule.only is not None and value not in rule.only:
        raise ConfigError(f"{_under(path, old)}: {value!r} is not supported: {rule.reason}")


def _rename(section: dict[str, object], old: str, rule: Renamed, path: str) -> None:
    try:
        value = rule.convert(section.pop(old))
    except ConfigError as error:
        raise ConfigError(f"{_under(path, old)}: {error}") from error
    if rule.new in section:
        _warn_once(f"{path}: {old!r} is ignored because {rule.new!r} is given too")
    else:
        section[rule.new] = value
        if not rule.is_ours:
            _warn_once(f"{path}: {old!r} is now {rule.new!r}; read as {rule.new}={value!r}")


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
