"""Measures the memory for loading a full-size checkpoint and for one inference on the CPU.

    python benchmarks/full_size.py --model pi05
    python benchmarks/full_size.py --model pi0 --skip-inference
    python benchmarks/full_size.py --model gr00t

Writes 5 to 7 GB of random weights to a temporary folder. Each measurement is a separate process:

  load       bfloat16 weights into a bfloat16 network; its peak over the size of the weights
  inference  the same file into a float32 network, then one action chunk of three cameras
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from flux_core.config import NETWORKS, bind, component
from flux_core.models import FlowPolicy, sample_actions
from flux_core.models.flow import StoredTensor
from flux_core.models.weights import load_pretrained
from flux_core.transforms import Normalization, Pipeline, Tokenization

PUBLISHED_BY = {"pi0": "openpi", "pi05": "openpi", "gr00t": "nvidia"}
CAMERAS = 3
PROMPT = {"task_description": "fold the towel", "prompt": "fold the towel"}
GIB = 1 << 30


def main() -> int:
    """Runs the stages one after another, each in a separate process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(PUBLISHED_BY), default="pi05")
    parser.add_argument("--skip-inference", action="store_true")
    parser.add_argument("--stage", choices=("make", "load", "inference"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage is not None:
        stage = {"make": make, "load": load, "inference": infer}[args.stage]
        print(json.dumps(stage(args.model, args.file)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        for name in ("make", "load", *(() if args.skip_inference else ("inference",))):
            command = [__file__, "--model", args.model, "--stage", name, "--file", str(file)]
            done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
            print(f"{args.model} {name}: {done.stdout.decode().strip()}", flush=True)
    return 0


def make(kind: str, file: Path) -> dict[str, Any]:
    """Writes random bfloat16 weights under the names that they are published with."""
    model = build(kind, torch.bfloat16)
    tensors = {
        name: StoredTensor(
            shape=tuple(value.shape),
            dtype=torch.bfloat16,
            read=lambda shape=value.shape: torch.empty(shape, dtype=torch.bfloat16),
        )
        for name, value in model.state_dict().items()
    }
    weights = model.checkpoints.written(tensors, {}, "flux", PUBLISHED_BY[kind])
    for value in weights.values():
        value.normal_(std=0.02)
    save_file(weights, file)
    return {"gib": round(file.stat().st_size / GIB, 2), "tensors": len(weights)}


def load(kind: str, file: Path) -> dict[str, Any]:
    """Loads the weights into a bfloat16 network."""
    before, started = peak_bytes(), time.perf_counter()
    model = build(kind, torch.bfloat16)
    load_pretrained(model, file)
    peak, size = peak_bytes() - before, file.stat().st_size
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_gib": round(size / GIB, 2),
        "peak_gib": round(peak / GIB, 2),
        "peak_over_weights": round(peak / size, 3),
        "seconds": round(time.perf_counter() - started, 1),
    }


@torch.no_grad()
def infer(kind: str, file: Path) -> dict[str, Any]:
    """Loads the weights into a float32 network and infers one action chunk."""
    model = build(kind, torch.float32).eval()
    load_pretrained(model, file)
    config = model.config
    images = torch.zeros(1, CAMERAS, 3, *config.image_size)
    masks = torch.ones(1, CAMERAS, dtype=torch.bool)
    pipeline = Pipeline(tuple(config.example_transforms()))
    words = pipeline.one(Tokenization)(PROMPT)
    tokens, real = (torch.from_numpy(words[name])[None] for name in ("lang_tokens", "lang_masks"))
    state = torch.zeros(1, pipeline.one(Normalization).state_dim or config.action_dim)
    started = time.perf_counter()
    cache = model.prefix(images, masks, tokens, real)
    noise = torch.randn(1, config.n_action_steps, config.action_dim)
    embodiments = torch.zeros(1, dtype=torch.int64)
    actions = sample_actions(model, state, cache, noise, embodiments=embodiments)
    assert torch.isfinite(actions).all()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(peak_bytes() / GIB, 2),
    }


def build(kind: str, dtype: torch.dtype) -> FlowPolicy:
    """Builds the network on the meta device, without memory."""
    network = cast("type[FlowPolicy]", component(NETWORKS[kind]))
    with torch.device("meta"):
        tree = network.Config.sized("full")
        return bind(FlowPolicy.Config, tree, "model").build().to(dtype)


def peak_bytes() -> int:
    """Returns the peak memory of this process, including mapped files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
