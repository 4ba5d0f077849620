"""`flux-runtime bench`: times the stages of an inference on this machine, in several engines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.errors import FluxError
from flux_core.types import Observation

from ..control.latency import Histogram, histogram_of, percentile
from ..engines.golden_replay import replay_golden
from ..engines.graph_inputs import user_inputs
from ..engines.names import CARD_ENGINES
from ..engines.opening import choose_engine, engine_tolerance, open_flow_policy
from .roofline import Speeds, card_speeds, costs_of, floor_ms, hardware, processor_speeds

STAGES = ("copy_in", "prefix", "step", "denoise")
"""Stages timed by the C++ loop's histograms, with percentiles within 5 %; all others are exact."""
CAMERA_HEIGHT, CAMERA_WIDTH = 480, 640
PREPROCESS_REPEATS = 30


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to time: engines, threads of the network, and the number of timed and untimed chunks."""

    engines: tuple[str, ...] = ("auto",)
    threads: int = 1
    repeat: int = 100
    warm_up: int = 10


class Contestant:
    """An engine that has reproduced the golden, and its times so far."""

    def __init__(self, bundle: Bundle, policy: Any) -> None:
        golden = bundle.golden()
        self._inputs = {name: golden[f"input.{name}"] for name in user_inputs(bundle.manifest)}
        self._noise = golden["input.noise"]
        self._policy = policy
        self._before: Mapping[str, Histogram] = {}
        self._total_ms: list[float] = []

    def warm_up(self, times: int) -> None:
        """Infers without recording the time."""
        for _ in range(times):
            self._policy.infer(self._inputs, self._noise)
        self._before = self._policy.histograms()

    def infer(self) -> None:
        """Infers one chunk, timed from Python."""
        begin = time.perf_counter()
        self._policy.infer(self._inputs, self._noise)
        self._total_ms.append((time.perf_counter() - begin) * 1e3)

    def stages(self) -> dict[str, dict[str, float]]:
        """Returns percentiles since the warm-up for each stage that the engine times separately."""
        after = self._policy.histograms()
        found = {name: histogram_between(self._before[name], after[name]) for name in STAGES}
        counted = {name: times for name, times in found.items() if times["count"]}
        return {**counted, "total": _percentiles(histogram_of(self._total_ms))}

    def loop_over_steps(self) -> float | None:
        """Returns the time of the loop over the N steps divided by the sum of its engine calls.

        None if a single call runs the whole inference.
        """
        after = self._policy.histograms()
        loop, calls = (
            after[name]["sum_ms"] - self._before[name]["sum_ms"] for name in ("denoise", "step")
        )
        return loop / calls if calls else None


def bench(
    bundle: Bundle, options: BenchOptions, advance: Callable[[int, int], None]
) -> dict[str, Any]:
    """Times every engine that reproduces the golden, in turns.

    Args:
        bundle: an opened bundle.
        options: what to measure.
        advance: called with the number of chunks done per engine, and the total per engine.

    Returns:
        `engines` (each with `ok` and, if false, `reason`; otherwise `stages`, each with `p50_ms`,
        `p95_ms`, `p99_ms`, `max_ms` and `count`, and `floor_ms` for some of them), `preprocess`,
        `speeds` and `hardware`.
    """
    costs = costs_of(bundle)
    engines: dict[str, dict[str, Any]] = {}
    contestants: dict[str, Contestant] = {}
    for wanted in options.engines:
        try:
            name = choose_engine(wanted, bundle.manifest.precision, bundle).name
            policy = open_flow_policy(bundle, engine=name, num_threads=options.threads)
        except FluxError as error:
            engines[wanted] = {"ok": False, "reason": str(error)}
            continue
        golden = replay_golden(bundle, policy, tolerance=engine_tolerance(bundle.manifest, name))
        engines[name] = {"ok": golden.ok, "max_abs_error": golden.max_abs_error}
        if golden.ok:
            contestants[name] = Contestant(bundle, policy)
            contestants[name].warm_up(options.warm_up)
        else:
            engines[name]["reason"] = (
                f"expected actions within {golden.tolerance:g} of the reference, got an error of "
                f"{golden.max_abs_error:.3g}"
            )
    for done in range(options.repeat if contestants else 0):
        for contestant in contestants.values():
            contestant.infer()
        advance(done + 1, options.repeat)
    speeds = _speeds(contestants, options.threads, costs)
    for name, contestant in contestants.items():
        engines[name]["stages"] = contestant.stages()
        engines[name]["loop_over_steps"] = contestant.loop_over_steps()
        if costs is not None:
            steps = bundle.manifest.num_inference_steps
            found = speeds[_place(name)]
            if name == "openvino-bf16":
                found = replace(found, flops_per_s=None)  # this speed was measured in float32
            engines[name]["floor_ms"] = floor_ms(costs, found, steps)
    return {
        "bundle": str(bundle.directory),
        "precision": bundle.manifest.precision,
        "num_inference_steps": bundle.manifest.num_inference_steps,
        **asdict(options),
        "engines": engines,
        "preprocess": preprocess_times(bundle),
        "costs": costs,
        "speeds": {place: asdict(found) for place, found in speeds.items()},
        "hardware": hardware(),
    }


def _place(engine: str) -> str:
    return "card" if engine in CARD_ENGINES else "processor"


def _speeds(
    engines: Iterable[str], num_threads: int, costs: Mapping[str, Mapping[str, float]] | None
) -> dict[str, Speeds]:
    """Returns the speeds of the devices that the engines run on."""
    places = {_place(engine) for engine in engines}
    found: dict[str, Speeds] = {}
    if "processor" in places:
        sizes = [cost["bytes"] for cost in costs.values()] if costs else []
        found["processor"] = processor_speeds(num_threads, min(sizes, default=math.inf))
    return found | ({"card": card_speeds()} if "card" in places else {})


def preprocess_times(bundle: Bundle) -> dict[str, float]:
    """Times the conversion of camera images, state and task to the graphs' inputs."""
    from flux_core.policy_io import PolicyIO

    io, generator = PolicyIO.from_bundle(bundle), np.random.default_rng(0)
    shape = (CAMERA_HEIGHT, CAMERA_WIDTH, 3)
    images: dict[str, NDArray[np.uint8]] = {
        name: generator.integers(0, 256, shape, np.uint8) for name in bundle.manifest.cameras
    }
    state = np.zeros(bundle.manifest.state_dim, np.float32)
    prompt = bundle.manifest.prompt
    observation = Observation(images=images, state=state, prompt=prompt, timestamp_s=0.0)
    samples: list[float] = []
    for _ in range(PREPROCESS_REPEATS):
        begin = time.perf_counter()
        io.encode(observation)
        samples.append((time.perf_counter() - begin) * 1e3)
    return _percentiles(histogram_of(samples[1:]))


def _percentiles(histogram: Histogram) -> dict[str, float]:
    names = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "count")
    return {name: histogram[name] for name in names}


def histogram_between(before: Histogram, after: Histogram) -> dict[str, float]:
    """Returns percentiles of the values that a histogram counted between two readings.

    The maximum is the upper edge of its bucket, because the histogram's own maximum includes the
    warm-up.
    """
    counts = np.asarray(after["counts"]) - np.asarray(before["counts"])
    edges = np.asarray(after["edges_ms"])
    largest = float(edges[np.flatnonzero(counts)[-1] + 1]) if counts.any() else 0.0
    largest = min(largest, after["max_ms"])
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    found = {name: percentile(counts, edges, share, largest) for name, share in shares.items()}
    return {**found, "max_ms": largest, "count": int(counts.sum())}


def _four_digits(value: float) -> str:
    """Formats as 0.123, 1.234, 12.34, 123.4 or 12345."""
    decimals = 3 if value < 1 else max(0, 3 - int(math.log10(value)))
    return f"{value:.{decimals}f}"


def format_bench(report: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the report as a rich table and lines below it."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    threads = f"{report['threads']} thread{'s' * (report['threads'] > 1)}"
    title = f"{Path(report['bundle']).name}, {report['precision']}, {threads}"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in ("p50 ms", "p95 ms", "p99 ms", "max ms", "floor ms", "floor/p50"):
        table.add_column(column, justify="right")

    def add(stage: str, times: Mapping[str, float], floor: float | None) -> None:
        numbers = [_four_digits(times[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")]
        share = [_four_digits(floor), f"{floor / times['p50_ms']:.0%}"] if floor else []
        table.add_row(stage, *numbers, *share)

    add("preprocess", report["preprocess"], None)
    lines: list[Any] = [table]
    for name, engine in report["engines"].items():
        if not engine["ok"]:
            lines.append(escape(f"{name}: refused: {engine['reason']}"))
            continue
        table.add_section()
        table.add_row(name, style="bold")
        for stage, times in engine["stages"].items():
            add(f"  {stage}", times, engine.get("floor_ms", {}).get(stage))
        ratio = engine["loop_over_steps"]
        loop = "" if ratio is None else f"the loop takes {ratio:.4f} times its engine calls; "
        lines.append(f"{name}: {loop}error against the golden {engine['max_abs_error']:.2g}")
    for place, speeds in report["speeds"].items():
        arithmetic = speeds["flops_per_s"]
        known = f"{arithmetic / 1e9:.0f} GFLOP/s (float32) and " if arithmetic else ""
        lines.append(f"floor on the {place}: {known}{speeds['bytes_per_s'] / 1e9:.1f} GB/s")
    found = report["hardware"]
    lines.append(f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB")
    return lines
