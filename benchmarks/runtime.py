"""Times one action chunk on this machine, with our loop and its peers.

    python benchmarks/runtime.py --model pi0 pi05 --size small --threads 2 --out bench.json
    make bench ARGS="--bundle demo_output/bundle"

The contestants have the same weights and inputs. They are first compared with the golden, and then
take turns, chunk by chunk, so that a busy machine slows all of them equally:

  flux                the C++ loop on ONNX Runtime's C API
  flux, openvino      the same loop on OpenVINO, if it is installed
  onnxruntime         the same two graphs, with the loop in Python
  openpi's structure  PyTorch, eager, re-created from `transformers` modules (SigLIP only)
  pytorch             our network in PyTorch, eager
  torch.compile       our network, compiled
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flux_core.bundle import Bundle
from flux_core.models import sample_actions
from flux_core.models.pi import PI0FlowMatching
from flux_core.policy_io import PolicyIO
from flux_runtime.bench import hardware
from flux_runtime.engines import engine_status, open_flow_policy, replay_golden, user_inputs
from flux_runtime.export import (
    ExportOptions,
    export_bundle,
    load_bundled_policy,
    open_sessions,
    random_policy,
    run_loop,
)

sys.path.insert(0, str(Path(__file__).parent))

Infer = Callable[[], NDArray[np.float32]]
PEER = "openpi's structure"
WARM_UP = 10
TOLERANCE = 1e-3


def main() -> int:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bundle", type=Path, help="time this bundle instead of networks with random weights"
    )
    parser.add_argument("--model", nargs="+", choices=("pi0", "pi05"), default=["pi0", "pi05"])
    parser.add_argument("--size", choices=("small", "medium", "full"), default="small")
    parser.add_argument(
        "--repeat", type=int, default=100, help="chunks per contestant (default: 100)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of the network (default: 1)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {
        "hardware": hardware(),
        "threads": args.threads,
        "repeat": args.repeat,
        "milliseconds": {},
    }
    with tempfile.TemporaryDirectory(prefix="flux-bench-") as folder:
        for name, directory in bundles(args, Path(folder)):
            contestants = make_contestants(Bundle.open(directory), args)
            report["milliseconds"][name] = found = measure(contestants, args.repeat)
            print_table(name, args.threads, found)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def bundles(args: argparse.Namespace, folder: Path) -> list[tuple[str, Path]]:
    """Returns the names and paths of the bundles; writes those with random weights to `folder`."""
    if args.bundle is not None:
        return [(args.bundle.name, args.bundle)]
    found = [(f"{model} {args.size}", folder / model) for model in args.model]
    for (_, directory), model in zip(found, args.model, strict=True):
        policy = random_policy(model, args.size)
        export_bundle(policy, directory, lambda *_: None, ExportOptions())
    return found


def make_contestants(bundle: Bundle, args: argparse.Namespace) -> dict[str, Infer]:
    """Returns the contestants by name, without OpenVINO (and with a message) if it is missing."""
    contestants = {"flux": flux_loop(bundle, "onnxruntime", args.threads)}
    status = engine_status("openvino")
    if status.ok:
        contestants["flux, openvino"] = flux_loop(bundle, "openvino", args.threads)
    else:
        print(f"without openvino: {status.found}", file=sys.stderr)
    contestants["onnxruntime"] = onnxruntime_loop(bundle, args.threads)
    network = Network.of(bundle)
    if network.has_siglip:
        contestants[PEER] = network.openpi()
    contestants["pytorch"] = network.eager()
    if not args.no_compile:
        contestants["torch.compile"] = network.compiled()
    return contestants


def flux_loop(bundle: Bundle, engine: str, threads: int) -> Infer:
    """Returns the runtime as a robot uses it, after checking it against the golden."""
    policy = open_flow_policy(bundle, engine=engine, num_threads=threads)
    if not replay_golden(bundle, policy).ok:
        raise SystemExit(
            f"benchmark: error: {bundle.directory}: {engine} does not reproduce the golden"
        )
    golden = bundle.golden()
    inputs = {name: golden[f"input.{name}"] for name in user_inputs(bundle.manifest)}
    return lambda: policy.infer(inputs, golden["input.noise"])


def onnxruntime_loop(bundle: Bundle, threads: int) -> Infer:
    """Returns the same graphs in ONNX Runtime's Python session."""
    sessions = open_sessions(bundle, threads)
    golden = bundle.golden()
    inputs = {name.removeprefix("input."): value for name, value in golden.items()}
    steps = bundle.manifest.num_inference_steps
    return agreeing(
        "onnxruntime",
        lambda: run_loop(*sessions, inputs, steps)["actions"],
        golden["output.actions"],
    )


def agreeing(name: str, infer: Infer, expected: NDArray[np.float32]) -> Infer:
    """Returns `infer` after checking that its result is the expected one."""
    error = float(np.abs(infer() - expected).max())
    if not error <= TOLERANCE:
        raise SystemExit(
            f"benchmark: error: {name}: expected an error below {TOLERANCE}, got {error:.3g}"
        )
    return infer


@dataclass(frozen=True)
class Network:
    """A bundle's network in PyTorch, and the golden's observation in the form of its inputs."""

    model: PI0FlowMatching
    observation: tuple[torch.Tensor, ...]
    state: torch.Tensor | None
    noise: torch.Tensor
    expected: NDArray[np.float32]
    action_dims: int

    @classmethod
    def of(cls, bundle: Bundle) -> Network:
        """Returns the network with the bundle's weights."""
        policy = load_bundled_policy(bundle.directory)
        golden = {name: torch.from_numpy(array) for name, array in bundle.golden().items()}
        images = golden["input.images"].movedim(-1, 2).float() / 127.5 - 1.0
        names = ("image_masks", "lang_tokens", "lang_masks")
        return cls(
            model=policy.model.eval(),
            observation=(images, *(golden[f"input.{name}"] for name in names)),
            state=golden.get("input.state"),
            noise=golden["input.noise"],
            expected=golden["output.actions"].numpy(),
            action_dims=len(PolicyIO.from_bundle(bundle).scale),
        )

    @property
    def has_siglip(self) -> bool:
        """Whether the network has the same vision backbone as openpi's structure."""
        return hasattr(self.model.config.vision_backbone, "vision_config")

    def sample(self, action_dims: int) -> torch.Tensor:
        """Samples a chunk from the observation."""
        cache = self.model.prefix(*self.observation)
        steps = self.model.config.num_inference_steps
        return sample_actions(
            self.model, self.state, cache, self.noise, steps, action_dims=action_dims
        )

    def eager(self) -> Infer:
        """Returns our network in eager mode."""
        return agreeing("pytorch", self._as_infer(self._own), self.expected)

    def compiled(self) -> Infer:
        """Returns our network, compiled as a single graph."""
        call = torch.compile(self._own, fullgraph=True)
        return agreeing("torch.compile", self._as_infer(call), self.expected)

    def openpi(self) -> Infer:
        """Returns openpi's structure, compared with ours while both let padded dimensions drift."""
        from transformers_policy import TransformersPolicy

        peer, steps = TransformersPolicy(self.model), self.model.config.num_inference_steps
        call = self._as_infer(
            lambda: peer.sample_actions(*self.observation, self.state, self.noise, steps)
        )
        drifting = self._as_infer(lambda: self.sample(self.noise.shape[2]))
        return agreeing(PEER, call, drifting())

    def _own(self) -> torch.Tensor:
        return self.sample(self.action_dims)

    @staticmethod
    def _as_infer(call: Callable[[], torch.Tensor]) -> Infer:
        return lambda: torch.no_grad()(call)().numpy()


def measure(contestants: dict[str, Infer], repeat: int) -> dict[str, dict[str, float]]:
    """Times every contestant `repeat` times, in turns."""
    for infer in contestants.values():
        for _ in range(WARM_UP):
            infer()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in track(range(repeat), "chunks", console=Console(stderr=True)):
        for name, infer in contestants.items():
            begin = time.perf_counter()
            infer()
            times[name].append((time.perf_counter() - begin) * 1e3)
    ours = np.asarray(times["flux"])
    return {
        name: {
            **{f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)},
            "max": max(values),
            "over_flux": float(np.median(np.asarray(values) / ours)),
        }
        for name, values in times.items()
    }


def print_table(name: str, threads: int, rows: dict[str, dict[str, float]]) -> None:
    """Prints one row per contestant; the last column is the median of the ratios of all turns."""
    table = Table(title=f"One action chunk of {name}, {threads} thread(s)")
    table.add_column("")
    columns = ("p50", "p95", "p99", "max", "over_flux")
    for column in columns:
        table.add_column("times flux" if column == "over_flux" else f"{column} ms", justify="right")
    for contestant, row in rows.items():
        table.add_row(contestant, *(f"{row[column]:.2f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
