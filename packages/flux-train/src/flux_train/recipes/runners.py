"""How a network is trained: `runner` sections."""

from __future__ import annotations

from typing import Any

from ..config.recipe import RecipeName, runner_values

COLLATED = (
    *("images", "image_masks", "lang_tokens", "lang_masks", "states"),
    *("actions", "action_masks", "action_dim_masks"),
)
"""The keys of a sample that the loss needs; without the last two, padding would be trained."""


def collator() -> dict[str, Any]:
    """Stacks the keys that the loss needs."""
    return dict(type="DictCollator", keys=list(COLLATED))


def full_runner(*, recipe: RecipeName | None = None, **settings: Any) -> dict[str, Any]:
    """Trains every weight that is not frozen, sharded over a node's GPUs and copied between nodes.

    If the vision-language model is frozen, `sharding_strategy="no-shard"` (a copy on every GPU) is
    faster and still fits. `recipe="openpi"` trains as openpi's JAX trainer does. `settings`
    override.
    """
    defaults = dict(type="FSDPTrainRunner", sharding_strategy="hybrid-shard", collator=collator())
    return defaults | runner_values(recipe, settings)


def lora_runner(*, recipe: RecipeName | None = None, **settings: Any) -> dict[str, Any]:
    """Trains adapters, which are so small that every GPU holds a copy.

    `recipe="openpi"` trains as openpi's JAX trainer does. `settings` override.
    """
    defaults = dict(type="DDPTrainRunner", collator=collator())
    return defaults | runner_values(recipe, settings, lora=True)
