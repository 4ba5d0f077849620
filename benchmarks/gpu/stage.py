"""Runs one stage of run.py in a process of its own.

    python benchmarks/gpu/stage.py NAME RESULT [--rehearse LIBRARY]

A stage without a card does nothing, and says so. With --rehearse it goes through all of its steps
on the processor with a small network and the driver LIBRARY, and counts nothing as checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from record import Record


@dataclass(frozen=True)
class Settings:
    """Where a stage runs.

    Attributes:
        library: the driver.
        is_rehearsal: whether there is no card, and small sizes have to do.
        report: what run.py has written so far.
    """

    library: str
    is_rehearsal: bool
    report: Path

    @property
    def device(self) -> str:
        """PyTorch's."""
        return "cpu" if self.is_rehearsal else "cuda"

    @property
    def size(self) -> str:
        """Of the networks."""
        return "small" if self.is_rehearsal else "full"

    def times(self, count: int) -> int:
        """How often to repeat something."""
        return 2 if self.is_rehearsal else count


Stage = Callable[[Record, Settings], None]


def main() -> int:
    """Runs a stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("result", type=Path)
    parser.add_argument("--report", type=Path, default=Path("run.json"))
    parser.add_argument("--rehearse", metavar="LIBRARY")
    args = parser.parse_args()
    has_card = not args.rehearse and find_card()
    record = Record(args.result, has_card)
    if has_card or args.rehearse:
        settings = Settings(args.rehearse or "libcuda.so.1", bool(args.rehearse), args.report)
        stages()[args.name](record, settings)
    return 0


def find_card() -> bool:
    """Whether the driver has a card.

    Raises:
        SystemExit: the driver has one, but PyTorch cannot use it.
    """
    from flux_runtime.engines.nvidia import has_card

    if not has_card():
        return False
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("stage.py: error: expected PyTorch to find the driver's card")
    return True


def stages() -> Mapping[str, Stage]:
    """Returns all stages; each imports what it needs."""
    import checks
    import timings

    return {
        "device": timings.device,
        "kernels": checks.kernels,
        "small": checks.small,
        "pi0": lambda r, s: timings.player(r, s, "pi0"),
        "pi0_parts": lambda r, s: checks.parts(r, s, "pi0"),
        "pi05": lambda r, s: timings.player(r, s, "pi05"),
        "pi0_eager": timings.eager,
        "pi0_compiled": timings.compiled,
        "training_frozen": lambda r, s: timings.training(r, s, "frozen", batch=32),
        "training_lora": lambda r, s: timings.training(r, s, "lora", batch=16),
        "pi05_parts": lambda r, s: checks.parts(r, s, "pi05"),
    }


if __name__ == "__main__":
    sys.exit(main())
