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
from ..flow.checkpoints import CheckpointFamily, StoredTensor
from ..flow.policy import FlowPolicy
from ..layers.packing import pack_qkv
from .families import recognised
from .finite_weights import as_weight
from .weight_files import WeightFile, open_weights

Adapt = Literal["slice", "reinit"]
SLICE: Adapt = "slice"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file's weights under our names.

    Attributes:
        family: knows the names of its weights.
        form: the project that wrote it.
        tensors: the tensors, by our names.
        unknown: names in the file that are unknown to flux.
    """

    file: WeightFile
    family: CheckpointFamily
    form: str
    tensors: Mapping[str, StoredTensor]
    unknown: tuple[str, ...]

    @property
    def model(self) -> str:
        """The kind of network: `pi0`, for instance."""
        return self.family.kind(self.tensors)


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
    family, form = recognised(file.tensors, is_ours=file.is_ours, where=str(file.path))
    names, unknown = family.our_names(file.tensors, form)
    for name, copy in family.equal_copies(names, form):
        if copy in file.tensors:
            _check_tied(file, name, copy)
    tensors = {ours: file.tensors[theirs] for ours, theirs in names.items()}
    return Checkpoint(
        file=file, family=family, form=form, tensors=tensors, unknown=tuple(sorted(unknown))
    )


def converted(checkpoint: Checkpoint, kind: str, to_kind: str) -> Checkpoint:
    """Returns a checkpoint of one kind as a network of another kind starts from it.

    Raises:
        CheckpointError: it is of another kind, or there is no such conversion.
    """
    tensors = None
    if checkpoint.model == kind:
        tensors = checkpoint.family.converted(checkpoint.tensors, kind, to_kind)
    if tensors is None:
        raise CheckpointError(
            f"{checkpoint.file.path}: expected a {kind} to turn into a {to_kind}, got a "
            f"{checkpoint.model}"
        )
    return replace(checkpoint, tensors=tensors)


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
        config = bind(FlowPolicy.Config, model, "model")
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
    model: FlowPolicy,
    path: Path,
    *,
    adapt: Adapt | None = None,
    from_kind: str | None = None,
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
        from_kind: the file is of another kind of network, which this one starts from.
        packed: pack each layer's query, key and value projections into one matrix, for inference.

    Returns:
        Names of the weights that keep their values.

    Raises:
        CheckpointError: a weight is missing, left over, of another shape or not finite; the first
            is named.
    """
    checkpoint = open_checkpoint(path)
    if from_kind is not None:
        checkpoint = converted(checkpoint, from_kind, model.kind)
    fit = compare_weights(checkpoint, model)
    family, kind = checkpoint.family, checkpoint.model
    kept = [name for name in fit.missing if family.may_be_missing(name, kind)]
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


def _require_fit(checkpoint: Checkpoint, fit: Fit, kept: list[str], adapt: Adapt | None) -> None:
    path = checkpoint.file.path
    missing = [name for name in fit.missing if name not in kept]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is unexpected" for name in fit.unexpected]
    for name, (expected, found) in fit.mismatched.items():
        if _has_spare_rows(checkpoint, name, fit):
            continue
        axis = checkpoint.family.robot_dimension.get(name)
        if adapt is not None and _differs_only_in_robot(axis, expected, found, adapt):
            continue
        hint = _adapt_hint(axis, expected, found, adapt)
        problems.append(f"{name}: expected shape {expected}, got {found}{hint}")
    if problems:
        hint = checkpoint.family.hint_if_missing(missing, checkpoint.model)
        hint = f". {hint}" if hint else ""
        raise CheckpointError(
            f"{path} ({checkpoint.form}, {checkpoint.model}): {len(problems)} weights do not fit "
            f"the config's network; first: {problems[0]}{hint}"
        )


def _adapt_hint(
    axis: int | None, expected: tuple[int, ...], found: tuple[int, ...], adapt: Adapt | None
) -> str:
    """Says whether `pretrained_adapt` can help with a shape, and why it did not."""
    setting = "model.pretrained_adapt in a config"
    tried = "" if adapt is None else f"adapt={adapt!r} ({setting}) did not help: "
    if axis is None:
        return ""
    if not _differs_only_in_robot(axis, expected, found, "reinit"):
        why = "the network's width differs too, so the file is of a model of another size"
        return f". {tried or f'No adapt ({setting}) helps: '}{why}"
    if _differs_only_in_robot(axis, expected, found, "slice"):
        return f". Set adapt='slice' or adapt='reinit' ({setting})"
    why = (
        f"it takes the first dimensions, and the file has {found[axis]} where the network needs "
        f"{expected[axis]}"
    )
    remedy = "Set adapt='reinit', which begins these projections anew"
    return f". {tried or f'adapt={SLICE!r} ({setting}) cannot help: '}{why}. {remedy}"


def _has_spare_rows(checkpoint: Checkpoint, name: str, fit: Fit) -> bool:
    if not checkpoint.family.may_have_spare_rows(name, checkpoint.form):
        return False
    (rows, *width), (found_rows, *found_width) = fit.mismatched[name]
    return found_width == width and found_rows > rows


def _differs_only_in_robot(
    axis: int | None, expected: tuple[int, ...], found: tuple[int, ...], adapt: Adapt
) -> bool:
    if axis is None or len(expected) != len(found):
        return False
    others = [i for i in range(len(expected)) if i != axis]
    fits = adapt == "reinit" or expected[axis] < found[axis]
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


def convert_checkpoint(path: Path, to: str, out: Path, *, pi05: bool = False) -> int:
    """Rewrites a checkpoint under another project's names; returns the number of tensors.

    Only weights are written, not the `config.json` that the other project needs beside them.

    Args:
        path: file, index or folder.
        to: the project whose names are written.
        out: a `.safetensors` file, or a folder that gets `model.safetensors`.
        pi05: also convert a pi0 into a pi0.5.
    """
    checkpoint = open_checkpoint(path)
    if pi05:
        checkpoint = converted(checkpoint, "pi0", "pi05")
    if checkpoint.unknown:
        raise CheckpointError(
            f"{path}: {len(checkpoint.unknown)} tensors are unknown and would be lost; "
            f"first: {checkpoint.unknown[0]}"
        )
    if to not in checkpoint.family.formats:
        raise CheckpointError(
            f"{path}: expected one of {', '.join(checkpoint.family.formats)} to convert a "
            f"{checkpoint.model} to, got {to}"
        )
    written = checkpoint.family.written(
        {name: _checked(checkpoint, name) for name in checkpoint.tensors},
        checkpoint.file.tensors,
        checkpoint.form,
        to,
    )
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


def _checked(checkpoint: Checkpoint, name: str) -> StoredTensor:
    """Returns a tensor that is refused when it is read if it is no weight."""
    stored, where = checkpoint.tensors[name], str(checkpoint.file.path)
    return replace(stored, read=lambda: as_weight(name, stored.read().contiguous(), where))
