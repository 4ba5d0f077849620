"""How a network is trained: `runner` sections."""

from __future__ import annotations

from typing import Any

COLLATED = (
    *("images", "image_masks", "lang_tokens", "lang_masks", "states"),
    *("actions", "action_masks", "action_dim_masks"),
)
"""What the loss needs of a sample; without the last two, padding would be trained on."""


def collator() -> dict[str, Any]:
    """Stacks all that the loss needs."""
    return dict(type="DictCollator", keys=list(COLLATED))


def full_runner(**settings: Any) -> dict[str, Any]:
    """Every weight that is not frozen: spread over a node's GPUs, copied between nodes.

    With the vision-language model frozen, `sharding_strategy="no-shard"` (a copy on every GPU) is
    faster and still fits. `settings` override.
    """
    defaults = dict(type="FSDPTrainRunner", sharding_strategy="hybrid-shard", collator=collator())
    return defaults | settings


def lora_runner(**settings: Any) -> dict[str, Any]:
    """Adapters: so little to optimise that every GPU holds a copy. `settings` override."""
    return dict(type="DDPTrainRunner", collator=collator()) | settings
