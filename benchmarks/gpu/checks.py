"""The stages that compare what a card computes with PyTorch and with float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from record import Record

from flux_runtime.cuda.cubins import Cubins, find_cubins
from flux_runtime.engines.status import cubins_of_card

LEAST_COSINE = 0.9999
"""Of a full-size network in bfloat16 with float32."""
MOST_TIMES_TORCH = 1.5
"""Relative error in bfloat16 over that of PyTorch in bfloat16."""
SEEDS = (0, 1)
REHEARSED = "sm_90a"


def kernels(record: Record, settings: Any) -> None:
    """Every kernel alone, with the tiles that ship and poisoned results, against float64."""
    from card import Card, LoadedPlan
    from kernel_problems import TOLERANCE, fault, problems

    cubins, card = cubins_of(settings), Card(settings.library)
    worst: dict[str, float] = defaultdict(float)
    for seed in SEEDS[: settings.times(len(SEEDS))]:
        for name, problem in problems(cubins.architecture.name, seed).items():
            loaded = LoadedPlan(card, problem.plan, cubins, problem.values)
            loaded.run(problem.plan.launches)
            for result, wanted in problem.expected.items():
                error, what = fault(loaded.value(result), wanted)
                worst[name] = max(worst[name], error)
                if what:
                    record.add(**{f"{name}, seed {seed}": f"{result}: {what}"})
    for name, error in worst.items():
        record.check(f"{name}: relative error", error, most=TOLERANCE)


def small(record: Record, settings: Any) -> None:
    """Small networks through the player, against PyTorch."""
    from policies import CAMERAS, KINDS, TOKENS

    for kind in KINDS:
        compare_player(record, settings, kind, "small", ((CAMERAS, TOKENS), (1, TOKENS)))


def compare_player(
    record: Record, settings: Any, kind: Any, size: Any, variants: Any
) -> tuple[Any, Callable[[int, int], dict[str, Any]]]:
    """Compares the player's actions with PyTorch's in float32 and bfloat16.

    Returns:
        The policy on the card, and a function that draws the inputs of a variant.
    """
    import time

    import torch
    from policies import (
        TorchPolicy,
        cosine,
        draw_noise,
        exported,
        observation,
        on_host,
        plan_network,
        random_network,
        relative_error,
    )

    from flux_runtime import _core
    from flux_runtime.cuda.player import play

    exact_float32()
    noise = draw_noise()

    def draw(cameras: int, tokens: int) -> dict[str, Any]:
        return observation(network.model, kind, cameras, tokens)

    def in_torch(model: Any, dtype: torch.dtype) -> list[Any]:
        return [
            on_host(TorchPolicy(model, dtype, observation(model, kind, *one), noise).actions())
            for one in variants
        ]

    wanted = in_torch(random_network(kind, size, settings.device), torch.float32)
    network = exported(kind, size, settings.device)
    theirs = in_torch(network.model, torch.bfloat16)
    begin = time.perf_counter()
    program = plan_network(network, cubins_of(settings), kind, variants)
    policy = play(program, _core, settings.library)
    record.add(
        **{
            f"{kind} {size}": {
                "launches": {one.name: len(one.launches) for one in program.plans.values()},
                "load_s": time.perf_counter() - begin,
            }
        }
    )
    for variant, reference, torchs in zip(variants, wanted, theirs, strict=True):
        got = policy.infer(draw(*variant), noise)
        name = f"{kind} {size}, {variant[0]} cameras, {variant[1]} tokens"
        record.check(f"{name}: cosine", cosine(got, reference), least=LEAST_COSINE)
        ours, torch_error = relative_error(got, reference), relative_error(torchs, reference)
        record.add(**{f"{name}: relative error": {"cuda": ours, "torch in bfloat16": torch_error}})
        record.check(
            f"{name}: error over that of PyTorch", ours / torch_error, most=MOST_TIMES_TORCH
        )
    return policy, draw


def parts(record: Record, settings: Any, kind: Any) -> None:
    """A full-size network part by part: its values against float32, and its times."""
    import torch
    from card import Card, LoadedPlan
    from policies import (
        CAMERAS,
        TOKENS,
        TorchPolicy,
        cosine,
        draw_noise,
        exported,
        observation,
        on_host,
        plan_network,
        random_network,
    )

    exact_float32()
    size, variant, noise = settings.size, (CAMERAS, TOKENS), draw_noise()
    original = random_network(kind, size, settings.device)
    inputs = observation(original, kind, *variant)
    reference = TorchPolicy(original, torch.float32, inputs, noise)
    images, cache = on_host(reference.image_tokens())[0], reference.prefix()
    caches = {
        name: [on_host(part)[0].swapaxes(0, 1) for part in stored]
        for name, stored in (("keys", cache.keys), ("values", cache.values))
    }
    actions = on_host(reference.actions())
    del original, reference, cache

    network, cubins = exported(kind, size, settings.device), cubins_of(settings)
    plan = plan_network(network, cubins, kind, [variant]).plans[variant]
    card, given = Card(settings.library), plan_inputs(inputs, noise)
    loaded = LoadedPlan(card, plan, cubins, given, network.read)
    stages = {stage: [one for one in plan.launches if one.stage == stage]
              for stage in dict.fromkeys(one.stage for one in plan.launches)}  # fmt: skip
    for stage, launches in stages.items():
        loaded.run(launches)
        loaded.card.synchronize()
        if stage == "vision":
            found = cosine(loaded.value("prefix.x")[: len(images)], images)
            record.check("vision: cosine", found, least=LEAST_COSINE)
        elif stage == "prefix":
            for name, wanted in caches.items():
                rows = len(wanted[0])
                found = [cosine(loaded.value(f"{name}.{layer}")[:rows], one)
                         for layer, one in enumerate(wanted)]  # fmt: skip
                record.add(**{f"prefix, {name} of each layer: cosine": found})
                record.check(f"prefix, {name}: worst cosine", min(found), least=LEAST_COSINE)
    record.check("steps: cosine", cosine(loaded.value("actions"), actions), least=LEAST_COSINE)
    time_parts(record, settings, loaded, stages)


def time_parts(record: Record, settings: Any, loaded: Any, stages: Mapping[str, list[Any]]) -> None:
    """Times each stage, and all launches of a kernel in a stage, as one graph each."""
    from timings import percentiles

    def timed(launches: list[Any]) -> dict[str, float]:
        replay = loaded.card.capture(lambda: loaded.run(launches))
        return {**percentiles(replay, settings, 5, 50), "launches": len(launches)}

    record.add(stage_ms={stage: timed(launches) for stage, launches in stages.items()})
    groups: dict[str, list[Any]] = defaultdict(list)
    for stage, launches in stages.items():
        for one in launches:
            groups[f"{stage}, {one.kernel}"].append(one)
    record.add(kernel_ms={name: timed(launches) for name, launches in groups.items()})


def plan_inputs(inputs: Mapping[str, Any], noise: Any) -> dict[str, Any]:
    """The inputs of a plan of an observation in which everything is real."""
    cameras, tokens = (int(inputs[name].sum()) for name in ("image_masks", "lang_masks"))
    return {
        "images": inputs["images"][0, :cameras],
        "cameras": np.arange(cameras),
        "tokens": inputs["lang_tokens"][0, :tokens],
        "num_tokens": np.array([tokens]),
        "state": inputs.get("state", np.zeros((1, 1), np.float32))[0],
        "noise": noise,
        "known": np.full_like(noise, np.nan),
        "num_known": np.array([0]),
    }


def cubins_of(settings: Any) -> Cubins:
    """The kernels for the card, or for the one that the driver without a card stands for."""
    return find_cubins(REHEARSED) if settings.is_rehearsal else cubins_of_card()


def exact_float32() -> None:
    """Lets PyTorch compute float32 products in float32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
