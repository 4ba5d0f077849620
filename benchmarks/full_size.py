"""Measures the memory for loading a full-size checkpoint and for one inference on the CPU.

    python benchmarks/full_size.py --model pi05
    python benchmarks/full_size.py --model pi0 --skip-inference

Writes 7 GB of random weights to a temporary folder. Each measurement is a separate process:

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
from typing import Any

import torch
from safetensors.torch import save_file

from flux_core.config import bind
from flux_core.models import sample_actions
from flux_core.models.pi import PI0FlowMatching, from_ours, sized_model
from flux_core.models.weights import load_pretrained

CAMERAS, PROMPT_LENGTH = 3, {"pi0": 48, "pi05": 200}
GIB = 1 << 30


def main() -> int:
    """Runs the stages one after another, each in a separate process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("pi0", "pi05"), default="pi05")
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
    """Writes random bfloat16 weights under openpi's names."""
    weights = {}
    for name, value in build(kind, torch.bfloat16).state_dict().items():
        weights[from_ours(name, "openpi")] = torch.empty(value.shape, dtype=torch.bfloat16)
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
    config, length = model.config, PROMPT_LENGTH[kind]
    images = torch.zeros(1, CAMERAS, 3, *config.vision_backbone.image_size)
    masks = torch.ones(1, CAMERAS, dtype=torch.bool), torch.ones(1, length, dtype=torch.bool)
    words = torch.ones(1, length, dtype=torch.int64)
    started = time.perf_counter()
    cache = model.prefix(images, masks[0], words, masks[1])
    noise = torch.randn(1, config.n_action_steps, config.action_dim)
    actions = sample_actions(model, torch.zeros(1, config.action_dim), cache, noise)
    assert torch.isfinite(actions).all()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(peak_bytes() / GIB, 2),
    }


def build(kind: str, dtype: torch.dtype) -> PI0FlowMatching:
    """Builds the network on the meta device, without memory."""
    tree = sized_model(kind)
    with torch.device("meta"):
        return bind(PI0FlowMatching.Config, tree, "model").build().to(dtype)


def peak_bytes() -> int:
    """Returns the peak memory of this process, including mapped files."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
