"""Opens any project's checkpoint: reads the names first, and each tensor on request."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import CheckpointError
from ...incomplete_file import why_incomplete
from ..flow.checkpoints import StoredTensor
from .adapter_files import refuse_adapter
from .checkpoint_file import ARCHIVE, FORMAT, first_bytes, inference_weights
from .wrapper_names import without_wrappers

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE = b"\x80"
NESTED_WEIGHTS = ("model", "state_dict", "model_state_dict", "module")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A checkpoint's tensors by name; `is_ours` if flux has written it."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    is_ours: bool


def open_weights(path: Path) -> WeightFile:
    """Opens a `.safetensors` or `.pt` file, an index of shards, or a folder that holds one.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it contains more than tensors and
            plain data (reading it would run code from the file).
    """
    if path.is_dir():
        refuse_adapter(path)
        path = _file_of_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: not found")
    file = _read_names(path)
    if file.is_ours:
        return file
    refuse_adapter(path, file.tensors)
    return replace(file, tensors=without_wrappers(file.tensors, path))


def _read_names(path: Path) -> WeightFile:
    if path.name.endswith(".index.json"):
        return WeightFile(path=path, tensors=_sharded(path), is_ours=False)
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
        return WeightFile(path=path, tensors=tensors, is_ours=metadata.get("project") == "flux")
    return _torch_file(path)


def _file_of_folder(folder: Path) -> Path:
    for name in (SINGLE, INDEX):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: expected {SINGLE} or {INDEX} in this folder, got neither")


def _safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    try:
        # Opened by the library first, which checks header, offsets and file size.
        with safe_open(path, "pt"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected an intact safetensors file ({why_incomplete(path) or error})"
        ) from error
    metadata = header.pop("__metadata__", {})
    start = 8 + length
    return {name: _stored(entry, name, path, start) for name, entry in header.items()}, metadata


def _stored(entry: Mapping[str, Any], name: str, path: Path, start: int) -> StoredTensor:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path}: {name}: unknown type {entry['dtype']}")
    shape, first = tuple(entry["shape"]), start + entry["data_offsets"][0]
    return StoredTensor(
        shape=shape, dtype=dtype, read=lambda: _read_tensor(path, first, shape, dtype)
    )


def _read_tensor(path: Path, first: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Reads without mapping the file, whose pages would count as memory of this process too."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    data = np.fromfile(path, np.uint8, count=size, offset=first)
    if len(data) < size:
        raise CheckpointError(f"{path}: the file ends early. Copy it again")
    return torch.from_numpy(data).view(dtype).reshape(shape)


def _sharded(index: Path) -> dict[str, StoredTensor]:
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index}: expected an index of safetensors shards ({error!r})"
        ) from error
    shards: dict[str, dict[str, StoredTensor]] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: expected shards in the same folder, got {name!r}")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: shard {name} is missing")
        shards[name] = _safetensors(index.parent / name)[0]
    lost = [name for name, shard in places.items() if name not in shards[shard]]
    if lost:
        raise CheckpointError(
            f"{index}: expected {lost[0]} in {places[lost[0]]}, got no such tensor"
        )
    return {name: shards[shard][name] for name, shard in places.items()}


def _torch_file(path: Path) -> WeightFile:
    if reason := why_incomplete(path):
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})")
    kind = first_bytes(path)
    if kind != ARCHIVE and kind[:1] != PICKLE:
        raise CheckpointError(f"{path}: expected a file of torch.save, got another file")
    try:
        # Files from before PyTorch 1.6 are no archives, and can only be read as a whole.
        is_archive = kind == ARCHIVE
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: contains more than tensors and plain data, so reading it would run code from "
            "the file. Save its weights as .safetensors where they were made"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    is_ours = isinstance(state, dict) and state.get("format") == FORMAT
    weights = inference_weights(state) if is_ours else _find_weights(state, path)
    return WeightFile(path=path, tensors=stored_tensors(weights), is_ours=is_ours)


def _find_weights(state: Any, path: Path) -> Mapping[str, Tensor]:
    layer = [state]
    while layer := [each for each in layer if isinstance(each, Mapping) and each]:
        for candidate in layer:
            if _are_tensors(candidate):
                return candidate
        layer = [each.get(key) for each in layer for key in NESTED_WEIGHTS]
    raise CheckpointError(
        f"{path}: expected tensors by name, at the top or under {', '.join(NESTED_WEIGHTS)}"
    )


def _are_tensors(candidate: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in candidate.items())


def stored_tensors(weights: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Returns tensors in memory as if they were in a file."""
    return {
        name: StoredTensor(shape=tuple(value.shape), dtype=value.dtype, read=lambda v=value: v)
        for name, value in weights.items()
    }
