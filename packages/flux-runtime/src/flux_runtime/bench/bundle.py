"""What `flux-runtime bench` measures: a bundle, or one made of random weights for the occasion."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from flux_core.bundle import Bundle
from flux_core.errors import MissingDependencyError, UsageError


@contextmanager
def bundle_to_bench(args: argparse.Namespace) -> Iterator[Bundle]:
    """Opens the bundle that the arguments name; one of random weights is removed at the end.

    Raises:
        UsageError: both are named, or the weights are not said to be random.
        MissingDependencyError: without the extra that exporting needs.
    """
    if args.model is None:
        for option in ("size", "precision", "keep"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option}: only with --model; a bundle is measured as it is")
        yield Bundle.open(args.bundle, accept_versions=args.accept_versions)
        return
    if args.bundle is not None:
        raise UsageError(f"bench: expected BUNDLE or --model, got {args.bundle} and {args.model}")
    if not args.random_weights:
        raise UsageError("--model: has random weights; say so with --random-weights")
    size, precision = args.size or "small", args.precision or "fp32"
    if precision == "fp8":
        raise UsageError("--precision: fp8 is calibrated on a dataset, which --model has not")
    name = f"{args.model}_{size}_{precision}"
    with tempfile.TemporaryDirectory(prefix="flux-bench-", dir=args.keep) as folder:
        out = Path(folder) / name
        # In a process of its own: what it has used is the engines' to use.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(_export, args.model, size, precision, out).result()
        if args.keep is not None:
            out = out.replace(args.keep / name)
        yield Bundle.open(out)


def _export(model: str, size: str, precision: str, out: Path) -> None:
    try:
        from ..export.export_progress import shown_progress
        from ..export.options import ExportOptions
        from ..export.random_weights import random_policy
        from ..export.writer import export_bundle
    except ImportError as error:
        raise MissingDependencyError(
            f"{error.name} is needed to make a network: pip install 'flux-runtime[export]'"
        ) from error
    options = ExportOptions(precision=precision)  # type: ignore[arg-type]  # checks it
    with shown_progress() as report:
        export_bundle(random_policy(model, size), out, report, options)  # type: ignore[arg-type]
