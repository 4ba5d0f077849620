"""Compiles kernels, one per line of JSON on its standard input; `build` starts it as a process.

A process of its own, because Triton reads its settings from the environment when it is imported,
and because a kernel that was imported for the interpreter cannot be compiled. It needs no torch and
no card.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

FP_FUSION = True
"""Whether a multiplication and an addition may become one rounding. Triton's default changes."""

_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def main() -> None:
    """Answers every line until the input ends."""
    answers = sys.stdout
    for line in sys.stdin:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            try:
                answer = _compile(json.loads(line))
            # Whatever the compiler raises concerns this kernel only, and the parent reports it.
            except Exception as error:  # noqa: BLE001
                answer = {"error": _reason(error)}
        spills = [max(map(int, found)) for found in _SPILLS.findall(printed.getvalue())]
        print(
            json.dumps(answer | {"spill_bytes": max(spills, default=0)}), file=answers, flush=True
        )


def _compile(job: Mapping[str, Any]) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(job["module"]), job["kernel"])
    begin = time.process_time()
    names = list(kernel.arg_names)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in job["aligned"]}
    source = ASTSource(
        fn=kernel,
        signature={name: job["types"].get(name, "constexpr") for name in names},
        constexprs=job["constants"],
        attrs=aligned,
    )
    options = {
        "num_warps": job["num_warps"],
        "num_stages": job["num_stages"],
        "enable_fp_fusion": FP_FUSION,
    }
    found = triton.compile(source, GPUTarget("cuda", job["capability"], 32), options)
    about = found.metadata
    for name in ("global_scratch_size", "profile_scratch_size"):
        if getattr(about, name):
            raise ValueError(f"needs {getattr(about, name)} bytes of {name}, which nobody gives it")
    return {
        "cubin": base64.b64encode(found.asm["cubin"]).decode(),
        "symbol": about.name,
        "shared_bytes": about.shared,
        "num_warps": about.num_warps,
        "seconds": time.process_time() - begin,
    }


def _reason(error: BaseException) -> str:
    """Returns the innermost cause in one line: the others only say where it was noticed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


if __name__ == "__main__":
    main()
