"""The stages that measure: the card, inference beside PyTorch, and training."""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from record import Record

MUST_MS, MUST_JITTER_MS = 20.0, 0.5
"""p50, and p99 - p50, of pi0 on an H200: 3 cameras, 48 prompt tokens, 50 actions, 10 steps."""
MUST_RATIO = 1.2
"""PyTorch compiled and captured as one CUDA graph, over ours."""
MEASURED = "3 cameras, 48 tokens"
H200 = "H200"


def percentiles(
    call: Callable[[], object], settings: Any, warm_ups: int, repeats: int
) -> dict[str, float]:
    """Times calls by the host's clock, in ms."""
    for _ in range(settings.times(warm_ups)):
        call()
    found = []
    for _ in range(settings.times(repeats)):
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e3)
    return {
        **{f"p{q}": float(np.percentile(found, q)) for q in (50, 95, 99)},
        "max": max(found),
        "count": len(found),
    }


def device(record: Record, settings: Any) -> None:
    """What this machine is, how fast it multiplies and copies, and whether it has kernels."""
    import torch
    import triton
    from checks import cubins_of

    record.add(
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        triton=triton.__version__,
    )
    if not settings.is_rehearsal:
        about = torch.cuda.get_device_properties(0)
        record.add(
            card=about.name,
            processors=about.multi_processor_count,
            memory_gib=about.total_memory / 2**30,
            nvidia_smi=nvidia_smi(),
        )
    cubins = cubins_of(settings)
    found = sum(len(store.cubins) for store in cubins.stores)
    record.check(f"kernels for {cubins.architecture.name}", found, least=1)
    wait = torch.cuda.synchronize if not settings.is_rehearsal else lambda: None
    side = 64 if settings.is_rehearsal else 8192
    a, b = (torch.randn(side, side, device=settings.device).bfloat16() for _ in range(2))
    record.add(matmul_tflops=2 * side**3 / seconds(lambda: a @ b, wait) / 1e12)
    source = torch.empty(side**2 * 32, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() / seconds(lambda: target.copy_(source), wait)
    record.add(copy_gb_per_s=moved / 1e9)


def seconds(call: Callable[[], object], wait: Callable[[], None], count: int = 10) -> float:
    """The mean time of calls that are not waited for in between."""
    for _ in range(3):
        call()
    wait()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - begin) / count


def nvidia_smi() -> dict[str, str]:
    """Driver, clocks and power limit, as nvidia-smi reports them; nothing if it is not there."""
    if shutil.which("nvidia-smi") is None:
        return {}
    keys = (
        "driver_version",
        "clocks.max.sm",
        "clocks.max.memory",
        "power.limit",
        "temperature.gpu",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return dict(zip(keys, done.stdout.strip().split(", "), strict=True))


def player(record: Record, settings: Any, kind: Any) -> None:
    """A full-size network through the player: its actions, and the time from bytes to actions."""
    import torch
    from checks import compare_player
    from policies import CAMERAS, PROMPTS, TOKENS, draw_noise

    wanted = [(CAMERAS, tokens) for tokens in PROMPTS[kind]]
    if kind == "pi0":
        wanted += [(cameras, TOKENS) for cameras in range(1, CAMERAS)]
    policy, draw = compare_player(record, settings, kind, settings.size, wanted)
    noise, latency = draw_noise(), {}
    for cameras, tokens in wanted:
        inputs, name = draw(cameras, tokens), f"{cameras} cameras, {tokens} tokens"
        count = 1000 if name == MEASURED else 200
        latency[name] = percentiles(
            lambda given=inputs: policy.infer(given, noise), settings, 50, count
        )
        record.add(latency_ms=latency)
    if kind == "pi0" and not settings.is_rehearsal and H200 in torch.cuda.get_device_name():
        found = latency[MEASURED]
        record.check("p50 ms", found["p50"], most=MUST_MS)
        record.check("p99 - p50 ms", found["p99"] - found["p50"], most=MUST_JITTER_MS)


def eager(record: Record, settings: Any) -> None:
    """pi0 in PyTorch, layer by layer: ours, and openpi's structure with the same weights."""
    import torch
    from policies import (
        CAMERAS,
        TOKENS,
        TorchPolicy,
        cosine,
        draw_noise,
        observation,
        on_host,
        random_network,
    )

    from flux_runtime.export.precision.network import set_precision

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from transformers_policy import TransformersPolicy

    model = random_network("pi0", settings.size, settings.device)
    set_precision(model, "bf16")
    inputs, noise = observation(model, "pi0", CAMERAS, TOKENS), draw_noise()
    ours, peer = TorchPolicy(model, torch.bfloat16, inputs, noise), TransformersPolicy(model)

    def in_flux() -> Any:
        ours.copy_in()
        return on_host(ours.actions())

    @torch.no_grad()
    def in_openpi() -> Any:
        ours.copy_in()
        given = ours.given
        return on_host(
            peer.sample_actions(
                *(ours.pixels(), ours.image_masks, given["tokens"], ours.token_masks),
                *(given["state"], given["noise"], model.config.num_inference_steps),
            )
        )[0]

    record.check("openpi's structure: cosine with ours", cosine(in_openpi(), in_flux()), least=0.99)
    calls = {"flux": in_flux, "openpi's structure": in_openpi}
    latency = {name: percentiles(call, settings, 3, 30) for name, call in calls.items()}
    record.add(latency_ms=latency)
    compare_with_player(record, settings, latency)


def compiled(record: Record, settings: Any) -> None:
    """pi0 in PyTorch, compiled, prefix and all steps captured as one CUDA graph by hand."""
    import torch
    from policies import (
        CAMERAS,
        TOKENS,
        TorchPolicy,
        cosine,
        draw_noise,
        exported,
        observation,
        on_host,
    )

    from flux_core.models import PrefixCache

    network, noise = exported("pi0", settings.size, settings.device), draw_noise()
    model, inputs = network.model, observation(network.model, "pi0", CAMERAS, TOKENS)
    plain = TorchPolicy(model, torch.bfloat16, inputs, noise)
    steps = model.config.num_inference_steps
    state, horizon = plain.given["state"], noise.shape[0]
    times = [
        torch.full((1, horizon), (steps - step) / steps, device=settings.device)
        for step in range(steps)
    ]

    @torch.compile(fullgraph=True)
    def prefix(images: Any, masks: Any, tokens: Any, token_masks: Any) -> tuple[Any, ...]:
        cache = model.prefix(images, masks, tokens, token_masks)
        return tuple(cache.keys), tuple(cache.values), cache.pad_masks

    @torch.compile(fullgraph=True)
    def step(x_t: Any, t: Any, keys: Any, values: Any, masks: Any) -> Any:
        return x_t - model.denoise(state, x_t, t, PrefixCache(keys, values, masks)) / steps

    @torch.no_grad()
    def on_device() -> Any:
        given = plain.given["tokens"]
        cache = prefix(plain.pixels(), plain.image_masks, given, plain.token_masks)
        x_t = plain.given["noise"]
        for t in times:
            x_t = step(x_t, t, *cache)
        return x_t[0]

    begin = time.perf_counter()
    on_device()
    record.add(compile_s=time.perf_counter() - begin)
    replay, actions = captured(on_device, settings)

    def infer() -> Any:
        plain.copy_in()
        replay()
        return on_host(actions())

    record.check("cosine with PyTorch", cosine(infer(), on_host(plain.actions())), least=0.999)
    latency = {"torch.compile, one CUDA graph": percentiles(infer, settings, 10, 200)}
    record.add(latency_ms=latency)
    ratios = compare_with_player(record, settings, latency)
    record.check("over ours", *ratios.values(), least=MUST_RATIO)


def captured(
    call: Callable[[], Any], settings: Any
) -> tuple[Callable[[], None], Callable[[], Any]]:
    """Captures a call as a CUDA graph; returns its replay, and what gives its result."""
    import torch

    results = []
    if settings.is_rehearsal:
        return (lambda: results.append(call())), (lambda: results[-1])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results.append(call())
    return graph.replay, lambda: results[0]


def compare_with_player(
    record: Record, settings: Any, latency: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Adds how many times longer these take than the player did in its own stage; NaN if it did not
    run."""
    ours = math.nan
    if settings.report.is_file():
        stages = json.loads(settings.report.read_text())["stages"]
        found = stages.get("pi0", {}).get("figures", {}).get("latency_ms", {})
        ours = found.get(MEASURED, {}).get("p50", math.nan)
    ratios = {name: one["p50"] / ours for name, one in latency.items()}
    record.add(times_ours={name: None if math.isnan(x) else x for name, x in ratios.items()})
    return ratios


def training(record: Record, settings: Any, finetune: str, batch: int) -> None:
    """Samples per second of optimiser steps of pi0 in bfloat16 autocast, as benchmarks/train.py."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import train

    args = argparse.Namespace(
        stage=train.CONTESTANTS[1],
        size=[settings.size],
        model=["pi0"],
        finetune=[finetune],
        batch=2 if settings.is_rehearsal else batch,
        steps=settings.times(10),
        device=settings.device,
        bf16=True,
        compile=False,
        recompute=False,
    )
    found = train.turn(args)
    record.add(finetune=finetune, batch=args.batch, **found)
    record.check("last loss", found["last_loss"], most=found["first_loss"])
