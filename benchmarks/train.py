"""Times one optimisation step against openpi's structure, re-created from `transformers` modules.

    python benchmarks/train.py --size small medium --model pi0 pi05
    python benchmarks/train.py --size full --finetune frozen full lora --batch 32 --device cuda

Both contestants have the same parameters, batch, noise, dtype and AdamW. They take turns, each turn
in a separate process, so that its peak memory can be measured. A step is loss, gradient, clipping
and update. At full size only ours is timed, with its MFU, because the peer needs too much memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

CONTESTANTS = ("openpi's structure", "flux")
HORIZON, CAMERAS = 50, 3


def main() -> int:
    """Runs the contestants in turns, or, with --stage, one turn of one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", nargs="+", choices=("small", "medium", "full"), default=["small", "medium"]
    )
    parser.add_argument("--model", nargs="+", choices=("pi0", "pi05"), default=["pi0", "pi05"])
    parser.add_argument("--finetune", nargs="+", choices=("frozen", "full", "lora"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="timed steps per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns per contestant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--bf16", action="store_true", help="use autocast; master weights stay float32"
    )
    parser.add_argument("--compile", action="store_true", help="ours under torch.compile")
    parser.add_argument("--recompute", action="store_true", help="ours with recomputed layers")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage is not None:
        print(json.dumps(turn(args)))
        return 0
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "settings": {"batch": args.batch, "steps": args.steps, "bf16": args.bf16},
        "turns": compare(args),
    }
    print_table(report["turns"])
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def compare(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Runs all turns; returns their results by measurement and contestant."""
    turns: dict[str, list[dict[str, float]]] = {}
    for size in args.size:
        for model in args.model:
            for finetune in args.finetune or ["full"]:
                contestants = CONTESTANTS if size != "full" else CONTESTANTS[1:]
                for _ in range(args.rounds):
                    for name in contestants:
                        found = in_own_process(args, size, model, finetune, name)
                        turns.setdefault(f"{model} {size} {finetune}, {name}", []).append(found)
    return turns


def in_own_process(
    args: argparse.Namespace, size: str, model: str, finetune: str, name: str
) -> dict[str, float]:
    """Runs one turn in a separate process."""
    command = [sys.executable, __file__, "--stage", name, "--size", size, "--model", model]
    command += ["--finetune", finetune, "--batch", str(args.batch), "--steps", str(args.steps)]
    command += ["--device", args.device]
    for flag in ("bf16", "compile", "recompute"):
        command += [f"--{flag}"] if getattr(args, flag) and name == CONTESTANTS[1] else []
    if args.bf16 and name != CONTESTANTS[1]:
        command.append("--bf16")
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer = json.loads(done.stdout.decode().splitlines()[-1])
    print(f"{model} {size} {finetune}, {name}: {answer}", file=sys.stderr, flush=True)
    return answer


def turn(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one turn of one contestant: two warm-up steps, then the timed ones."""
    from flux_train.metrics import counted_flops, peak_flops

    torch.manual_seed(0)
    device = torch.device(args.device)
    step, rows = contestant(args, device)
    losses = [float(step()) for _ in range(2)]
    seconds = []
    for _ in range(args.steps):
        synchronize(device)
        begin = time.perf_counter()
        losses.append(float(step()))
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    peak, flops = peak_flops(device), 0
    if peak and not args.compile:
        _, flops = counted_flops(step)
    memory = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "samples_per_s": rows / median,
        "step_ms": median * 1e3,
        "peak_memory_mib": memory / 2**20,
        "mfu": flops / median / peak if peak and flops else None,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def contestant(args: argparse.Namespace, device: torch.device) -> tuple[Callable[[], Tensor], int]:
    """Returns a function that runs one optimiser step and returns the loss, and its batch size."""
    from flux_core.models import FlowDraws
    from flux_core.models.weights import apply_lora
    from flux_train.distributed import recompute
    from flux_train.micro_batch import trim_prompts
    from flux_train.policy_loss import PolicyLoss

    model = network(args, device)
    if args.finetune[0] == "lora":
        apply_lora(model)
        model.to(device)
    batch_on_cpu = batch_of(model, args)
    batch = {name: part.to(device) for name, part in batch_on_cpu.items()}
    noise, t = torch.randn_like(batch["actions"]), torch.full((args.batch,), 0.7, device=device)
    is_ours = args.stage == CONTESTANTS[1]
    if is_ours:
        idle = set(model.without_effect())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name not in idle)
        if args.recompute:
            recompute(model.layers)
        module = PolicyLoss(model, num_groups=1)
        if args.compile:
            module.compile()
        trimmed = {name: part.to(device) for name, part in trim_prompts(batch_on_cpu).items()}
        draws, count = FlowDraws(noise, t, None), torch.tensor(noise.numel(), device=device)

        def loss() -> Tensor:
            # Trimmed on the CPU, like in the trainer; the copy to the device is timed for neither.
            return module(batch if args.compile else trimmed, draws, count).loss
    else:
        from transformers_policy import TransformersPolicy

        peer = TransformersPolicy(model)

        def loss() -> Tensor:
            return peer.loss(batch, noise, t)

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return value.detach()

    return step, args.batch


def network(args: argparse.Namespace, device: torch.device) -> Any:
    """Returns the policy with random weights."""
    from flux_core.config import bind
    from flux_core.models.pi import PI0FlowMatching, sized_model

    tree = sized_model(args.model[0], args.size[0], action_horizon=HORIZON)
    if args.finetune[0] == "frozen":
        tree["freeze_vlm_backbone"] = True
    if args.finetune[0] == "lora":
        tree |= dict(use_lora=True, lora_rank=16, lora_alpha=16)
        tree["modules_to_save"] = ["action_in_proj", "action_out_proj"]
    with torch.device(device):
        model = bind(PI0FlowMatching.Config, tree, "model").build()
    with torch.no_grad():
        for parameter in model.parameters():
            std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.normal_(std=std)
    return model.train()


def batch_of(model: Any, args: argparse.Namespace) -> dict[str, Tensor]:
    """Returns three cameras, a half-full prompt, and actions without padding."""
    config, size = model.config, args.batch
    prompt = 48 if args.model[0] == "pi0" else 200
    height, width = config.vision_backbone.image_size
    lengths = torch.arange(prompt) < prompt // 2
    shape = (size, config.n_action_steps, config.action_dim)
    return {
        "images": torch.rand(size, CAMERAS, 3, height, width) * 2 - 1,
        "image_masks": torch.ones(size, CAMERAS, dtype=torch.bool),
        "lang_tokens": torch.randint(0, 1000, (size, prompt)),
        "lang_masks": lengths.expand(size, -1).clone(),
        "states": torch.randn(size, config.action_dim),
        "actions": torch.randn(shape),
        "action_masks": torch.ones(shape[:2], dtype=torch.bool),
        "group": torch.zeros(size, dtype=torch.int64),
    }


def synchronize(device: torch.device) -> None:
    """Waits for the GPU, if it is used."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def print_table(turns: dict[str, list[dict[str, float]]]) -> None:
    """Prints one row per contestant, with the medians over its turns."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "samples/s", "step ms", "peak MiB", "MFU", "speed", "memory")
    for name, found in turns.items():
        row = middle(found)
        what, who = name.split(", ")
        peer = turns.get(f"{what}, {CONTESTANTS[0]}")
        ratios = ["", ""]
        if peer and who != CONTESTANTS[0]:
            other = middle(peer)
            ratios = [
                f"{row['samples_per_s'] / other['samples_per_s']:.2f}x",
                f"{row['peak_memory_mib'] / other['peak_memory_mib']:.2f}x",
            ]
        mfu = "" if found[0]["mfu"] is None else f"{found[0]['mfu']:.0%}"
        cells = [f"{row[k]:.1f}" for k in ("samples_per_s", "step_ms", "peak_memory_mib")]
        table.add_row(name, *cells, mfu, *ratios)
    Console(width=140).print(table)


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    """Returns the medians over the turns."""
    keys = ("samples_per_s", "step_ms", "peak_memory_mib")
    return {key: statistics.median(turn[key] for turn in found) for key in keys}


if __name__ == "__main__":
    sys.exit(main())
