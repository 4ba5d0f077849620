"""Inspects checkpoints of all known projects, loads them into our network, and converts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ...config import bind
from ...errors import CheckpointError
from ..pi.packing import pack_qkv
from ..pi.pi0 import PI0FlowMatching
from .finite_weights import as_weight
from .foreign_names import (
    EMBEDDING,
    EXPERT,
    TIED,
    UNUSED,
    VLM_PARTS,
    Format,
    from_ours,
    model_kind,
    our_names,
    recognise,
)
from .pi0_to_pi05 import pi05_from_pi0
from .weight_files import StoredTensor, WeightFile, open_weights

Adapt = Literal["slice", "reinit"]
SLICE: Adapt = "slice"

# The axis of each weight whose size is the number of state or action dimensions.
ROBOT_DIMENSION = {
    "state_proj.projector.weight": 1,
    "action_in_proj.projector.weight": 1,
    "action_out_proj.projector.weight": 0,
    "action_out_proj.projector.bias": 0,
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file's weights under our names.

    Attributes:
        form: the project that wrote it.
        tensors: the tensors, by our names.
        unknown: names in the file that are unknown to flux.
    """

    file: WeightFile
    form: Format
    tensors: Mapping[str, StoredTensor]
    unknown: tuple[str, ...]

    @property
    def model(self) -> str:
        """`pi0`, `pi05` or `paligemma`."""
        return model_kind(self.tensors)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a checkpoint fits a network; every list of names is sorted.

    Attributes:
        missing: the network has it, the file does not.
        unexpected: the file has it, the network does not.
        mismatched: name -> (expected shape, found shape).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens any known checkpoint; reads only tied copies of its tensors, to compare them.

    Raises:
        CheckpointError: damaged, unknown, or tied copies that differ.
    """
    file = open_weights(path)
    form = recognise(file.tensors, is_ours=file.is_ours, where=str(file.path))
    names, unknown = our_names(file.tensors, form)
    for copy in TIED.get(form, ()):
        source = names.get(EMBEDDING)
        if copy in file.tensors and source not in (None, copy):
            _check_tied(file, str(source), copy)
    tensors = {ours: file.tensors[theirs] for ours, theirs in names.items()}
    return Checkpoint(file=file, form=form, tensors=tensors, unknown=tuple(sorted(unknown)))


def as_pi05(checkpoint: Checkpoint) -> Checkpoint:
    """Returns a pi0 checkpoint as that of a pi0.5 (see `pi0_to_pi05.py`). Raises: CheckpointError:
    it is not a pi0.
    """
    if checkpoint.model != "pi0":
        raise CheckpointError(
            f"{checkpoint.file.path}: expected a pi0 to turn into a pi0.5, got a {checkpoint.model}"
        )
    return replace(checkpoint, tensors=pi05_from_pi0(checkpoint.tensors))


def _check_tied(file: WeightFile, name: str, copy: str) -> None:
    first, second = file.tensors[name], file.tensors[copy]
    if first.shape != second.shape or not torch.equal(first.read(), second.read()):
        raise CheckpointError(
            f"{file.path}: expected equal values in {name} and {copy}, which are one weight"
        )


def compare_weights(checkpoint: Checkpoint, model: nn.Module) -> Fit:
    """Compares names and shapes; `model` may be on the meta device."""
    expected = model.state_dict()
    found = checkpoint.tensors
    return Fit(
        missing=tuple(sorted(set(expected) - set(found))),
        unexpected=tuple(sorted({*(set(found) - set(expected)), *checkpoint.unknown})),
        mismatched={
            name: (tuple(expected[name].shape), found[name].shape)
            for name in sorted(set(expected) & set(found))
            if tuple(expected[name].shape) != found[name].shape
        },
    )


def inspect_checkpoint(path: Path, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describes a checkpoint as plain data: the report of `flux-core inspect`.

    Args:
        path: file, index or folder.
        model: a config's `model` section to compare the checkpoint with.
    """
    checkpoint = open_checkpoint(path)
    sizes: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        sizes[name.split(".")[0]] += tensor.num_elements
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.num_elements
    fit = None
    if model is not None:
        config = bind(PI0FlowMatching.Config, model, "model")
        with torch.device("meta"):
            fit = compare_weights(checkpoint, config.build())
    return {
        "file": str(checkpoint.file.path),
        "format": checkpoint.form,
        "model": checkpoint.model,
        "num_parameters": sum(sizes.values()),
        "parts": dict(sizes),
        "dtypes": dict(dtypes),
        "missing": list(fit.missing) if fit else [],
        "unexpected": list(fit.unexpected) if fit else list(checkpoint.unknown),
        "mismatched": {
            name: {"expected": list(expected), "found": list(found)}
            for name, (expected, found) in (fit.mismatched if fit else {}).items()
        },
    }


def load_pretrained(
    model: nn.Module,
    path: Path,
    *,
    adapt: Adapt | None = None,
    from_pi0: bool = False,
    packed: bool = False,
) -> list[str]:
    """Fills `model` from any known checkpoint, one tensor at a time.

    Parameters on the meta device are allocated while loading, so that a model and its checkpoint
    need not fit into memory together. A PaliGemma fills only the vision-language part.

    Args:
        model: the network.
        path: file, index or folder.
        adapt: how to load projections of another robot's width: `slice` takes the first dimensions,
            `reinit` keeps the network's own values.
        from_pi0: the file is a pi0 that a pi0.5 starts from.
        packed: pack each layer's query, key and value projections into one matrix, for inference.

    Returns:
        Names of the weights that keep their values.

    Raises:
        CheckpointError: a weight is missing, left over, of another shape or not finite; the first
            is named.
    """
    checkpoint = open_checkpoint(path)
    if from_pi0:
        checkpoint = as_pi05(checkpoint)
    fit = compare_weights(checkpoint, model)
    kept = [name for name in fit.missing if _may_be_missing(name, checkpoint)]
    _require_fit(checkpoint, fit, kept, adapt)
    parameters, where = model.state_dict(keep_vars=True), str(checkpoint.file.path)
    for name, tensor in checkpoint.tensors.items():
        is_other_shape = name in fit.mismatched
        if is_other_shape and adapt == "reinit" and not _has_spare_rows(checkpoint, name, fit):
            kept.append(name)
            continue
        value = tensor.read()
        if is_other_shape:
            wanted, _ = fit.mismatched[name]
            value = value[tuple(slice(0, n) for n in wanted)]
        _fill(model, name, as_weight(name, value, where), parameters[name])
    lost = [name for name in kept if parameters[name].is_meta]
    if lost:
        raise CheckpointError(
            f"{path}: {lost[0]} would have no values: the file does not fill it and the network "
            "was built on the meta device. Build it on a real device"
        )
    if packed:
        pack_qkv(model)
    return sorted(kept)


def _may_be_missing(name: str, checkpoint: Checkpoint) -> bool:
    return checkpoint.model == "paligemma" and not name.startswith(VLM_PARTS)


def _require_fit(checkpoint: Checkpoint, fit: Fit, kept: list[str], adapt: Adapt | None) -> None:
    path = checkpoint.file.path
    missing = [name for name in fit.missing if name not in kept]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is unexpected" for name in fit.unexpected]
    for name, (expected, found) in fit.mismatched.items():
        if _has_spare_rows(checkpoint, name, fit):
            continue
        if adapt is not None and _differs_only_in_robot(name, expected, found, adapt):
            continue
        hint = _adapt_hint(name, expected, found, adapt)
        problems.append(f"{name}: expected shape {expected}, got {found}{hint}")
    if problems:
        is_pi0_for_pi05 = checkpoint.model == "pi0" and "time_mlp_in.projector.bias" in missing
        hint = ". To start a pi0.5 from a pi0, set from_pi0=True" if is_pi0_for_pi05 else ""
        raise CheckpointError(
            f"{path} ({checkpoint.form}, {checkpoint.model}): {len(problems)} weights do not fit "
            f"the config's network; first: {problems[0]}{hint}"
        )


def _adapt_hint(
    name: str, expected: tuple[int, ...], found: tuple[int, ...], adapt: Adapt | None
) -> str:
    """Says whether `pretrained_adapt` can help with a shape, and why it did not."""
    setting = "model.pretrained_adapt in a config"
    tried = "" if adapt is None else f"adapt={adapt!r} ({setting}) did not help: "
    if name not in ROBOT_DIMENSION:
        return ""
    if not _differs_only_in_robot(name, expected, found, "reinit"):
        why = "the network's width differs too, so the file is of a model of another size"
        return f". {tried or f'No adapt ({setting}) helps: '}{why}"
    if _differs_only_in_robot(name, expected, found, "slice"):
        return f". Set adapt='slice' or adapt='reinit' ({setting})"
    dimension = ROBOT_DIMENSION[name]
    why = (
        f"it takes the first dimensions, and the file has {found[dimension]} where the network "
        f"needs {expected[dimension]}"
    )
    remedy = "Set adapt='reinit', which begins these projections anew"
    return f". {tried or f'adapt={SLICE!r} ({setting}) cannot help: '}{why}. {remedy}"


def _has_spare_rows(checkpoint: Checkpoint, name: str, fit: Fit) -> bool:
    """Hugging Face's PaliGemma has 64 embeddings that no token uses; they are dropped."""
    if name != EMBEDDING or checkpoint.form != "huggingface":
        return False
    (rows, width), (found_rows, found_width) = fit.mismatched[name]
    return found_width == width and found_rows > rows


def _differs_only_in_robot(
    name: str, expected: tuple[int, ...], found: tuple[int, ...], adapt: Adapt
) -> bool:
    dimension = ROBOT_DIMENSION.get(name)
    if dimension is None or len(expected) != len(found):
        return False
    others = [i for i in range(len(expected)) if i != dimension]
    fits = adapt == "reinit" or expected[dimension] < found[dimension]
    return fits and all(expected[i] == found[i] for i in others)


@torch.no_grad()
def _fill(model: nn.Module, name: str, value: Tensor, old: Tensor) -> None:
    """Copies into a real parameter; replaces one on the meta device."""
    if not old.is_meta:
        old.copy_(value)
        return
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    real = value.to(old.dtype)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(real, requires_grad=old.requires_grad))
    else:
        module.register_buffer(leaf, real)


def convert_checkpoint(path: Path, to: Format, out: Path, *, pi05: bool = False) -> int:
    """Rewrites a checkpoint under another project's names; returns the number of tensors.

    Only weights are written, not the `config.json` that the other project needs beside them. The
    expert's lm_head, which is never used but required by their strict loaders, is copied, or zeros
    if the source has none.

    Args:
        path: file, index or folder.
        to: the project whose names are written.
        out: a `.safetensors` file, or a folder that gets `model.safetensors`.
        pi05: also convert a pi0 into a pi0.5.
    """
    checkpoint = as_pi05(open_checkpoint(path)) if pi05 else open_checkpoint(path)
    if checkpoint.unknown:
        raise CheckpointError(
            f"{path}: {len(checkpoint.unknown)} tensors are unknown and would be lost; "
            f"first: {checkpoint.unknown[0]}"
        )
    written = _renamed(checkpoint, to)
    target = out if out.suffix == ".safetensors" else out / "model.safetensors"
    metadata = {"format": "pt", **({"project": "flux"} if to == "flux" else {})}
    partial = target.with_suffix(".safetensors.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(written, partial, metadata=metadata)
        partial.replace(target)
    except (SafetensorError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"{target}: cannot be written ({error})") from error
    return len(written)


def _renamed(checkpoint: Checkpoint, to: Format) -> dict[str, Tensor]:
    """Returns the tensors as `to` would write them."""
    only_vlm = to == "huggingface"
    written = {
        from_ours(name, to): _read_finite(checkpoint, name)
        for name in checkpoint.tensors
        if not only_vlm or name.startswith(VLM_PARTS)
    }
    is_policy = checkpoint.model != "paligemma"
    if to == "lerobot" and EMBEDDING in checkpoint.tensors:
        # LeRobot writes both names of the tied embedding; safetensors refuses shared memory.
        written[TIED["lerobot"][0]] = written[from_ours(EMBEDDING, "lerobot")].clone()
    if is_policy and to in ("openpi", "lerobot", "flux"):
        unused = _unused_head(checkpoint, required=to != "flux")
        if unused is not None:
            written[UNUSED[to][0]] = unused
    return written


def _read_finite(checkpoint: Checkpoint, name: str) -> Tensor:
    value = checkpoint.tensors[name].read().contiguous()
    return as_weight(name, value, str(checkpoint.file.path))


def _unused_head(checkpoint: Checkpoint, *, required: bool) -> Tensor | None:
    """The expert's lm_head, which openpi and LeRobot store but never read."""
    for name in UNUSED.get(checkpoint.form, ()):
        if name in checkpoint.file.tensors and f"{EXPERT}.lm_head" in name:
            return checkpoint.file.tensors[name].read().contiguous()
    if not required:
        return None
    vocabulary = checkpoint.tensors[EMBEDDING].shape[0]
    expert = checkpoint.tensors["action_in_proj.projector.weight"]
    return torch.zeros(vocabulary, expert.shape[0], dtype=expert.dtype)
