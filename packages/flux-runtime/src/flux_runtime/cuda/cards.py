"""What named cards can do, for estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flux_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CardFigures:
    """A card's sustained speeds.

    Attributes:
        name: for people.
        arch: of the kernels that it runs.
        processors: that programs of a launch are spread over.
        flops_per_s: of bfloat16 products with tensor cores, dense, in long runs.
        fp32_flops_per_s: of float32 products without them.
        bytes_per_s: of its memory.
        share: of `flops_per_s` that a good kernel reaches on whole tiles.
        launch_us: from the end of one launch to the begin of the next that depends on it, in a
            CUDA graph.
    """

    name: str
    arch: str
    processors: int
    flops_per_s: float
    fp32_flops_per_s: float
    bytes_per_s: float
    share: float
    launch_us: float


def _card(
    name: str,
    arch: str,
    processors: int,
    tera: tuple[float, float],
    tera_bytes: float,
    *,
    share: float,
    launch_us: float,
) -> CardFigures:
    return CardFigures(
        name=name,
        arch=arch,
        processors=processors,
        flops_per_s=tera[0] * 1e12,
        fp32_flops_per_s=tera[1] * 1e12,
        bytes_per_s=tera_bytes * 1e12,
        share=share,
        launch_us=launch_us,
    )


# Sustained bfloat16 speeds and bandwidths as others have measured them (H200, H100, 4090, 5090), or
# 0.8 of the data sheet's dense figures (the others). None was measured with these kernels.
CARDS: Mapping[str, CardFigures] = {
    "h200": _card("H200", "sm_90a", 132, (790, 60), 4.3, share=0.85, launch_us=2.2),
    "h100": _card("H100 SXM", "sm_90a", 132, (790, 60), 2.9, share=0.85, launch_us=2.2),
    "a100": _card("A100 80 GB", "sm_80", 108, (250, 16), 1.6, share=0.85, launch_us=2.2),
    "4090": _card("RTX 4090", "sm_89", 128, (165, 70), 0.93, share=0.9, launch_us=2.0),
    "5090": _card("RTX 5090", "sm_120a", 170, (209, 90), 1.6, share=0.9, launch_us=2.0),
    "3090": _card("RTX 3090", "sm_86", 82, (57, 28), 0.75, share=0.9, launch_us=2.2),
    "orin": _card("Jetson AGX Orin", "sm_87", 16, (34, 4), 0.164, share=0.9, launch_us=4.0),
    "thor": _card("Jetson AGX Thor", "sm_110a", 20, (206, 6), 0.218, share=0.85, launch_us=3.0),
}
"""By the name of `--card`."""


def card(name: str) -> CardFigures:
    """Returns a card.

    Raises:
        UsageError: it is not known.
    """
    if name not in CARDS:
        raise UsageError(f"--card: expected one of {', '.join(CARDS)}, got {name!r}")
    return CARDS[name]
