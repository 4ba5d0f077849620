"""Opens the bundle that `flux-runtime bench` times, or makes one with random weights."""

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
    """Opens the bundle that the arguments name; deletes one with random weights at the end.

    Raises:
        UsageError: both BUNDLE and --model are given, or --random-weights is missing.
        MissingDependencyError: the packages for exporting are not installed.
    """
    if args.model is None:
        for option in ("size", "precision", "keep"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"--{option}: expected --model, got a bundle, which is timed "
                    f"as it is. Leave --{option} out."
                )
        yield Bundle.open(args.bundle, accept_versions=args.accept_versions)
        return
    if args.bundle is not None:
        raise UsageError(
            f"bench: expected BUNDLE or --model, got {args.bundle} and {args.model}. Leave one "
            f"of them out."
        )
    if not args.random_weights:
        raise UsageError(
            "--model: expected --random-weights, got none. Add it to confirm that the network has "
            "random weights."
        )
    size, precision = args.size or "small", args.precision or "fp32"
    if precision == "fp8":
        raise UsageError(
            "--precision: expected any but fp8 with --model, got fp8, which needs a dataset for "
            "its calibration. Export a bundle in fp8 and name it instead."
        )
    name = f"{args.model}_{size}_{precision}"
    with tempfile.TemporaryDirectory(prefix="flux-bench-", dir=args.keep) as folder:
        out = Path(folder) / name
        # In a separate process, so that the engines get its memory back.
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
            f"{error.name}: not installed. Install it with: pip install 'flux-runtime[export]'"
        ) from error
    options = ExportOptions(precision=precision)  # type: ignore[arg-type]  # checks it
    with shown_progress() as report:
        export_bundle(random_policy(model, size), out, report, options)  # type: ignore[arg-type]
