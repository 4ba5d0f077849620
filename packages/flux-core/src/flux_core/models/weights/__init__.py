"""Weights: our checkpoints, those of other projects, and LoRA adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import lazy_exports

if TYPE_CHECKING:
    from .adapter_files import refuse_adapter as refuse_adapter
    from .checkpoint_file import FORMAT as FORMAT
    from .checkpoint_file import deployed_weights as deployed_weights
    from .checkpoint_file import inference_weights as inference_weights
    from .checkpoint_file import load_checkpoint as load_checkpoint
    from .checkpoint_file import load_weights as load_weights
    from .lora import apply_lora as apply_lora
    from .lora import save_adapter as save_adapter
    from .pretrained import load_pretrained as load_pretrained

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapter_files": ("refuse_adapter",),
        "checkpoint_file": (
            "FORMAT",
            "deployed_weights",
            "inference_weights",
            "load_checkpoint",
            "load_weights",
        ),
        "lora": ("apply_lora", "save_adapter"),
        "pretrained": ("load_pretrained",),
    },
)
