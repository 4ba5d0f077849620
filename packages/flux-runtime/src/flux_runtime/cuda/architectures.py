"""The cards' architectures that kernels are compiled for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flux_core.errors import UsageError

_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What code for cards of one compute capability may use.

    Attributes:
        name: as ptxas spells it; 'a' means that the code runs on exactly these cards.
        capability: major and minor, such as 90 or 120.
        shared_bytes: the most shared memory of a block, after it was asked for.
        cards: examples.
    """

    name: str
    capability: int
    shared_bytes: int
    cards: str


# Shared memory: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
ARCHITECTURES: Mapping[str, Architecture] = {
    name: Architecture(name=name, capability=capability, shared_bytes=kib * _KIB, cards=cards)
    for name, capability, kib, cards in (
        ("sm_80", 80, 163, "A100"),
        ("sm_86", 86, 99, "RTX 3090, A40"),
        ("sm_87", 87, 163, "Jetson Orin"),
        ("sm_89", 89, 99, "RTX 4090, L40S"),
        ("sm_90a", 90, 227, "H100, H200"),
        ("sm_100a", 100, 227, "B200"),
        ("sm_103a", 103, 227, "B300"),
        ("sm_110a", 110, 227, "Jetson Thor"),
        ("sm_120a", 120, 99, "RTX 5090"),
        ("sm_121a", 121, 99, "DGX Spark"),
    )
}

_ALSO_RUNS: Mapping[int, tuple[str, ...]] = {89: ("sm_86",)}


def architecture(name: str) -> Architecture:
    """Returns an architecture by its name.

    Raises:
        UsageError: there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"--arch: expected one of {', '.join(ARCHITECTURES)}, got {name!r}. "
            f"'flux-runtime doctor' names that of this machine's card."
        )
    return ARCHITECTURES[name]


def candidates(major: int, minor: int) -> tuple[Architecture, ...]:
    """Returns the architectures whose code a card of this compute capability runs, the best first.

    Code also runs on a later minor version, but only if it does not ask for more shared memory
    than the later one has, as code for 8.0 does on 8.9.
    """
    capability = 10 * major + minor
    found = [one for one in ARCHITECTURES.values() if one.capability == capability]
    return (*found, *(ARCHITECTURES[name] for name in _ALSO_RUNS.get(capability, ())))
