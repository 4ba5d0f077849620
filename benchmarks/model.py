"""Times our network against openpi's structure, re-created from `transformers` modules.

    python benchmarks/model.py --size small
    python benchmarks/model.py --size full --model pi0 --rounds 3

  forward    the velocity of a batch, as in validation: prefix and suffix, no gradient
  backward   the loss and its gradient
  sample     from an observation to a chunk: the prefix once, then ten Euler steps

Both contestants have the same parameters. Their results are compared before they are timed, and
they take turns. At full size (3.3 B parameters, float32, batch 1) the gradients of a whole network
do not fit in 24 GiB, so `backward` is timed with `--layers` layers of each stack; the table says
so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from flux_core.config import bind
from flux_core.models import sample_actions
from flux_core.models.pi import PI0FlowMatching, sized_model
from flux_runtime.export.precision.network import set_precision

sys.path.insert(0, str(Path(__file__).parent))
from transformers_policy import TransformersPolicy

OBSERVATION = ("images", "image_masks", "lang_tokens", "lang_masks")
PROMPT_LENGTH = {"pi0": 48, "pi05": 200}
CAMERAS, NUM_INFERENCE_STEPS = 3, 10
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
Contestants = dict[str, Callable[[], Any]]


def main() -> int:
    """Prints one table per model and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--model", choices=("pi0", "pi05", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=20, help="turns per contestant (default: 20)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--layers", type=int, default=2, help="layers per stack for `backward` at full size"
    )
    parser.add_argument("--compile", action="store_true", help="also time ours under torch.compile")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {k: str(v) for k, v in vars(args).items()},
        "milliseconds": {},
    }
    for kind in ("pi0", "pi05") if args.model == "both" else (args.model,):
        report["milliseconds"][kind] = run(kind, args)
        print_table(kind, args, report["milliseconds"][kind])
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def run(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """Runs all measurements of one model."""
    model = build(kind, args, None)
    batch = batch_of(model, kind, args)
    results = {
        "forward": measure(forward(model, batch, args), args),
        "sample": measure(sample(model, batch, args), args),
    }
    if args.size == "full":
        del model
        model = build(kind, args, args.layers)
    results["backward"] = measure(backward(model, batch, args), args)
    return results


def build(kind: str, args: argparse.Namespace, layers: int | None) -> PI0FlowMatching:
    """Returns our network with random weights, and `layers` layers per stack or all of them."""
    tree = sized_model(kind, args.size, action_horizon=50)
    if layers is not None:
        for part in ("llm_backbone", "llm_expert"):
            tree[part]["num_hidden_layers"] = layers
        tree["vision_backbone"]["vision_config"] = dict(num_hidden_layers=layers)
    config = bind(PI0FlowMatching.Config, tree, "model")
    with torch.device("meta"):
        model = config.build()
    model = model.to_empty(device=args.device)
    generator = torch.Generator(args.device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.normal_(std=std, generator=generator)
    if args.dtype == "bfloat16":
        # Of an exported network, and as openpi does: projections from and to actions stay float32.
        set_precision(model, "bf16")
    return model.eval()


def batch_of(model: PI0FlowMatching, kind: str, args: argparse.Namespace) -> dict[str, Tensor]:
    """Returns three cameras, one of them missing in the second sample, and a half-full prompt."""
    config, device = model.config, args.device
    size = 1 if args.size == "full" else 4
    dtype, prompt = getattr(torch, args.dtype), PROMPT_LENGTH[kind]
    height, width = config.vision_backbone.image_size
    masks = torch.ones(size, CAMERAS, dtype=torch.bool, device=device)
    masks[1:2, 2] = False
    lengths = torch.arange(prompt, device=device) < prompt // 2
    actions = torch.randn(size, config.n_action_steps, config.action_dim, device=device)
    return {
        "images": torch.rand(size, CAMERAS, 3, height, width, device=device, dtype=dtype) * 2 - 1,
        "image_masks": masks,
        "lang_tokens": torch.randint(0, 1000, (size, prompt), device=device),
        "lang_masks": lengths.expand(size, -1).clone(),
        "states": torch.randn(size, config.action_dim, device=device),
        "actions": actions,
        "noise": torch.randn_like(actions),
        "t": torch.full((size,), 0.7, device=device),
    }


def forward(model: PI0FlowMatching, batch: dict[str, Tensor], args: Any) -> Contestants:
    """Returns the contestants for the velocity, without a gradient."""
    peer = TransformersPolicy(model)
    observation = [batch[name] for name in OBSERVATION]

    def ours() -> Tensor:
        cache = model.prefix(*observation)
        return model.denoise(batch["states"], batch["noise"], batch["t"][:, None], cache)

    def theirs() -> Tensor:
        return peer.velocity(*observation, batch["states"], batch["noise"], batch["t"])

    contestants = {"openpi's structure": theirs, "flux": ours}
    if args.compile:
        contestants["flux compiled"] = torch.compile(ours, fullgraph=True)
    return {name: torch.no_grad()(call) for name, call in contestants.items()}


def backward(model: PI0FlowMatching, batch: dict[str, Tensor], args: Any) -> Contestants:
    """Returns the contestants for the loss and its gradient; each returns the loss."""
    peer = TransformersPolicy(model)
    noise, actions, t = batch["noise"], batch["actions"], batch["t"]
    x_t = t[:, None, None] * noise + (1 - t[:, None, None]) * actions

    def loss() -> Tensor:
        cache = model.prefix(*(batch[name] for name in OBSERVATION))
        velocity = model.denoise(batch["states"], x_t, t[:, None], cache)
        return (velocity - (noise - actions)).square().mean()

    def learn(loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            model.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            return value.detach()

        return step

    contestants = {"openpi's structure": lambda: peer.loss(batch, noise, t), "flux": loss}
    if args.compile:
        contestants["flux compiled"] = torch.compile(loss, fullgraph=True)
    return {name: learn(call) for name, call in contestants.items()}


def sample(model: PI0FlowMatching, batch: dict[str, Tensor], args: Any) -> Contestants:
    """Returns the contestants for sampling a chunk from an observation."""
    peer = TransformersPolicy(model)
    observation = [batch[name] for name in OBSERVATION]

    def ours() -> Tensor:
        cache = model.prefix(*observation)
        return sample_actions(model, batch["states"], cache, batch["noise"], NUM_INFERENCE_STEPS)

    def theirs() -> Tensor:
        return peer.sample_actions(
            *observation, batch["states"], batch["noise"], NUM_INFERENCE_STEPS
        )

    contestants = {"openpi's structure": theirs, "flux": ours}
    if args.compile:
        contestants["flux compiled"] = torch.compile(ours, fullgraph=True)
    return {name: torch.no_grad()(call) for name, call in contestants.items()}


def measure(contestants: Contestants, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Compares the results, then times every contestant `rounds` times, in turns."""
    answers = {name: call().float() for name, call in contestants.items()}
    reference = answers["openpi's structure"]
    for name, answer in answers.items():
        difference = (answer - reference).abs().max().item()
        if not difference <= TOLERANCE[args.dtype] * max(reference.abs().max().item(), 1.0):
            raise SystemExit(f"benchmark: error: {name} differs from its peer by {difference}")
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in track(range(args.rounds), "rounds", console=Console(stderr=True)):
        for name, call in contestants.items():
            synchronize(args.device)
            begin = time.perf_counter()
            call()
            synchronize(args.device)
            times[name].append((time.perf_counter() - begin) * 1e3)
    base = np.asarray(times["openpi's structure"])
    return {
        name: {
            **{f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)},
            "max": max(values),
            "count": len(values),
            "speedup": float(np.median(base / np.asarray(values))),
        }
        for name, values in times.items()
    }


def synchronize(device: str) -> None:
    """Waits for the GPU, if it is used."""
    if device == "cuda":
        torch.cuda.synchronize()


def print_table(kind: str, args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Prints one row per contestant and measurement; speed-ups are medians over the turns."""
    table = Table(title=f"{kind}, {args.size}, {args.dtype}, {args.threads} thread(s)")
    for column in ("", "", "p50 ms", "p95 ms", "p99 ms", "max ms", "speed-up"):
        table.add_column(column, justify="right" if "ms" in column else "left")
    for what, rows in results.items():
        is_cut = what == "backward" and args.size == "full"
        label = f"{what} ({args.layers} layers)" if is_cut else what
        for name, row in rows.items():
            cells = (f"{row[key]:.1f}" for key in ("p50", "p95", "p99", "max"))
            table.add_row(label, name, *cells, f"{row['speedup']:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
