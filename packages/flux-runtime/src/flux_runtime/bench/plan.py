"""`flux-runtime bench --plan`: what an inference costs on named cards, without a card.

Everything here is counted from the launch plan of the engine `cuda`, or estimated from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flux_core.errors import UsageError

from ..cuda.cards import CardFigures, card
from ..cuda.cost import StageCost, stage_costs, total
from ..cuda.cubins.command import BundleToPlan, describe_for_plans
from ..cuda.cubins.shipped import full_size
from ..cuda.pi import make_plan
from ..cuda.plan import LaunchPlan
from ..cuda.support import MODELS
from ..cuda.variants import PROMPT_BUCKETS, prompt_buckets


def plan_report(
    bundle: Path | None,
    model: str | None,
    cards: Sequence[str],
    accept_versions: Sequence[str] = (),
) -> dict[str, Any]:
    """Plans a bundle, or a full-size network, for every prompt length with all its cameras.

    Returns:
        `bundle`, `model`, `is_estimate`, `num_cameras`, and `cards`: per name `name`, `arch`,
        `constant_bytes`, `work_bytes`, and `variants`, each with `num_cameras`, `num_tokens`,
        `stages` (per name `launches`, `operations`, `num_bytes`, `expected_ms`) and `total`.

    Raises:
        UsageError: the engine does not run the bundle or the model, or a card is unknown.
    """
    chosen = {name: card(name) for name in cards}
    network = _network(bundle, model, accept_versions)
    return {
        "bundle": None if bundle is None else str(bundle),
        "model": model,
        "is_estimate": True,
        "num_cameras": network.num_cameras,
        "cards": {name: _on_card(network, one) for name, one in chosen.items()},
    }


def _network(
    bundle: Path | None, model: str | None, accept_versions: Sequence[str]
) -> BundleToPlan:
    if bundle is not None:
        return describe_for_plans(bundle, accept_versions)
    if model not in MODELS:
        raise UsageError(
            f"--plan: expected --model {' or '.join(MODELS)} or a bundle, got {model}: engine cuda "
            f"runs no other"
        )
    description = full_size(model)
    return BundleToPlan(
        description=description,
        num_cameras=len(description.image_scale),
        max_prompt_tokens=PROMPT_BUCKETS[-1],
    )


def _on_card(network: BundleToPlan, one: CardFigures) -> dict[str, Any]:
    plans = {
        tokens: make_plan(network.description, network.num_cameras, tokens, arch=one.arch)
        for tokens in prompt_buckets(network.max_prompt_tokens)
    }
    largest = plans[max(plans)]
    return {
        "name": one.name,
        "arch": one.arch,
        "constant_bytes": _memory(largest, "constant"),
        "work_bytes": _memory(largest, "work"),
        "variants": [
            {"num_cameras": network.num_cameras, "num_tokens": tokens, **_stages(plan, one)}
            for tokens, plan in plans.items()
        ],
    }


def _stages(plan: LaunchPlan, one: CardFigures) -> dict[str, Any]:
    stages = stage_costs(plan, one)
    return {
        "stages": {name: asdict(cost) for name, cost in stages.items()},
        "total": asdict(total(stages)),
    }


def _memory(plan: LaunchPlan, role: str) -> int:
    return sum(buffer.num_bytes for buffer in plan.buffers.values() if buffer.role == role)


def format_plan(report: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the report as one rich table per card, with a line below each."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    what = report["model"] or Path(report["bundle"]).name
    found: list[Any] = []
    for one in report["cards"].values():
        longest = one["variants"][-1]
        title = f"{what} on {one['name']}: {report['num_cameras']} cameras, estimate"
        table = Table(title=title, box=SIMPLE_HEAD)
        table.add_column(f"prompt of {longest['num_tokens']} tokens", no_wrap=True)
        for column in ("launches", "GFLOP", "GB", "expected ms"):
            table.add_column(column, justify="right")
        for name, cost in longest["stages"].items():
            table.add_row(name, *_figures(StageCost(**cost)))
        table.add_section()
        table.add_row("total", *_figures(StageCost(**longest["total"])))
        shorter = [
            f"{variant['total']['expected_ms']:.1f} ms with {variant['num_tokens']}"
            for variant in one["variants"][:-1]
        ]
        memory = (one["constant_bytes"] + one["work_bytes"]) / 1e9
        found += [table, f"{', '.join([*shorter, ''])}{memory:.1f} GB of the card's memory"]
    return [*found, "From a model of launch times, not measured: see docs/gpu.md."]


def _figures(cost: StageCost) -> tuple[str, ...]:
    giga = f"{cost.operations / 1e9:.0f}", f"{cost.num_bytes / 1e9:.2f}"
    return str(cost.launches), *giga, f"{cost.expected_ms:.2f}"
