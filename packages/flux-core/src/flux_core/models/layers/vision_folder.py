"""What a folder of `transformers` says about an image encoder: its config and its pixel range."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from .vision_families import WRAPPED

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSOR, IMAGE_PART = "processor_config.json", "image_processor"
"""Of models with a tokenizer, in newer folders."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ABOUT_FILES = (
    *("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "id2label"),
    *("label2id", "_attn_implementation_autoset", "attn_implementation", "problem_type"),
    *("auto_map", "auto_class", "out_features", "out_indices", "stage_names"),
)
"""Keys of a `config.json` that do not describe the encoder."""

Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the config of the image encoder in a folder of `save_pretrained`.

    Raises:
        ConfigError: there is no such folder, or it lacks the config or the weights.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"pretrained_name_or_path: expected a local folder of save_pretrained, got {folder}"
        )
    tree = _read(folder / CONFIG)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ConfigError(
            f"pretrained_name_or_path: expected {' or '.join(WEIGHTS)} in {folder}, got neither"
        )
    kind = tree.get("model_type")
    if kind in WRAPPED:
        part, own = WRAPPED[kind]
        tree = {"model_type": own, **dict(tree.get(part) or {})}
    return {key: value for key, value in tree.items() if key not in ABOUT_FILES}


def read_pixels(folder: Path) -> Pixels | None:
    """Reads mean and deviation of pixels from 0 to 1; None if the folder does not say.

    Raises:
        ConfigError: its images are prepared in a way that is not a mean and a deviation.
    """
    file = folder / PREPROCESSOR
    if file.is_file():
        tree = _read(file)
    elif (file := folder / PROCESSOR).is_file():
        tree = _read(file).get(IMAGE_PART)
        if not isinstance(tree, dict):
            return None
    else:
        return None
    if tree.get("do_rescale", True) is not True:
        raise ConfigError(f"{file}: do_rescale: expected true (pixels from 0 to 1), got false")
    scale = tree.get("rescale_factor", 1 / 255)
    if not isinstance(scale, int | float) or abs(255 * scale - 1) > 1e-6:
        raise ConfigError(f"{file}: rescale_factor: expected 1/255, got {scale}")
    if not tree.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    means, deviations = tree.get("image_mean"), tree.get("image_std")
    if not isinstance(means, list) or not isinstance(deviations, list):
        raise ConfigError(f"{file}: expected image_mean and image_std, a number per channel")
    return tuple(map(float, means)), tuple(map(float, deviations))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"pretrained_name_or_path: expected {file.name} in {file.parent}, got none"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: expected JSON ({error})") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected a JSON object, got {type(tree).__name__}")
    return tree
