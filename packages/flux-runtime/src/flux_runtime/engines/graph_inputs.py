"""The inputs of a bundle's graphs that come from an observation."""

from __future__ import annotations

from flux_core.bundle import Manifest, TensorSignature


def user_inputs(manifest: Manifest) -> dict[str, TensorSignature]:
    """Returns the graph inputs that come from an observation, by name."""
    prefix, denoise = manifest.graphs["prefix"], manifest.graphs["denoise"]
    internal = {"x_t", "t", *(tensor.name for tensor in prefix.outputs)}
    tensors = (*prefix.inputs, *denoise.inputs)
    return {tensor.name: tensor for tensor in tensors if tensor.name not in internal}
