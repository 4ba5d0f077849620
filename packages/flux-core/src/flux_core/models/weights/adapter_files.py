"""Recognises a LoRA adapter on its own, and says what to merge it with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import CheckpointError

ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SUFFIX = "_adapter"
"""What training adds to a checkpoint's name for the folder of its adapter."""

ADAPTER_NAME = re.compile(r"\.lora_[AB]\.")


def refuse_adapter(path: Path, names: Iterable[str] = ()) -> None:
    """Refuses a folder or a file of weights that holds only an adapter.

    Args:
        path: the folder or the file.
        names: the weights' names, if they are known.

    Raises:
        CheckpointError: it says which file holds the merged weights, or how to merge them.
    """
    has_base = any(".base_layer." in name for name in names)
    is_named = path.name == ADAPTER_FILE or any(ADAPTER_NAME.search(name) for name in names)
    if path.is_dir():
        is_named = (path / ADAPTER_CONFIG).is_file() or (path / ADAPTER_FILE).is_file()
    if not is_named or has_base:
        return
    raise CheckpointError(
        f"{path}: expected a whole network, got a LoRA adapter, which changes another one. "
        f"{_how_to_merge(path if path.is_dir() else path.parent)}"
    )


def _how_to_merge(folder: Path) -> str:
    """Returns the remedy: the merged file that training wrote beside it, or peft's merging."""
    beside = folder.with_name(folder.name.removesuffix(SUFFIX))
    if folder.name.endswith(SUFFIX):
        for suffix, use in ((".pt", "to export it or to go on"), (".safetensors", "as weights")):
            file = beside.with_name(f"{beside.name}{suffix}")
            if file.is_file():
                return f"Use {file} {use}: training has merged it there"
    base = _base_of(folder) or "its base"
    return (
        f"Load {base} with the program that made it, merge with peft, and use the new folder: "
        f"PeftModel.from_pretrained(base, '{folder}').merge_and_unload().save_pretrained('merged')"
    )


def _base_of(folder: Path) -> str | None:
    """Returns the network that the adapter's config names."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) and base else None
