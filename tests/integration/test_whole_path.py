"""A checkpoint becomes a bundle, and the C++ loop drives the simulated robot with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flux_core.bundle.bundle import Bundle
from flux_core.config import bind
from flux_core.deployment import InferenceRunner
from flux_core.norm_stats import stats_from_json
from flux_core.policy_io import PolicyIO
from flux_core.types import Observation

# This interpreter behaves like one on a robot PC without torch.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from flux_runtime.cli import main; "


@pytest.fixture(scope="module")
def bundle_dir(tiny_export: Path) -> Path:
    return tiny_export / "bundle"


def runtime(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_TORCH + "sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_cpp_runtime_reproduces_pytorchs_golden(bundle_dir: Path) -> None:
    done = runtime("check", str(bundle_dir), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and report["max_abs_error"] < 1e-4


def test_the_robot_moves_without_torch_and_within_its_limits(
    bundle_dir: Path, tmp_path: Path
) -> None:
    report_file = tmp_path / "report.html"
    done = runtime(
        *("run", "--robot", "aloha-sim", "--bundle", str(bundle_dir), "--episodes", "1"),
        *("--max-steps", "40", "--report", str(report_file), "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ticks"] == 40 and report["commands_out_of_limit"] == 0
    assert report["violations"]["non_finite"] == 0
    html = report_file.read_text()
    assert "<video" in html and "http://" not in html.replace("http://www.w3.org", "")


def test_a_flipped_byte_is_one_line_and_exit_code_1(bundle_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(bundle_dir, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-10] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    done = runtime("run", "--robot", "aloha-sim", "--bundle", str(copy))
    assert done.returncode == 1
    assert "model.safetensors: sha256 differs" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_encoding_and_decoding_match_the_training_transforms(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    io = PolicyIO.from_bundle(bundle)
    generator = np.random.default_rng(0)
    state = np.asarray(io.state_stats.mean, np.float32)
    observation = Observation(
        images={"cam_high": generator.integers(0, 256, (480, 640, 3), dtype=np.uint8)},
        state=state,
        prompt="transfer the cube",
        timestamp_s=0.0,
    )
    inputs = io.encode(observation)
    signature = {tensor.name: tensor for tensor in bundle.manifest.graphs["prefix"].inputs}
    for name, tensor in signature.items():
        assert (inputs[name].shape, inputs[name].dtype.name) == (tensor.shape, tensor.dtype)
    centre = io.decode(np.zeros((1, 14), np.float32), state)[0]
    np.testing.assert_allclose(centre, io.offset, atol=1e-6)


def test_relative_joints_start_from_the_state_and_grippers_do_not(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    tree = json.loads(bundle.path("config.json").read_text())["inference"]
    mask = [*[True] * 6, False, *[True] * 6, False]
    tree["dataset"]["transforms"].insert(0, {"type": "RelativeActions", "mask": mask})
    stats = stats_from_json(bundle.norm_stats)
    io = PolicyIO.from_policy(bind(InferenceRunner, tree, "inference"), stats)
    assert io.relative_mask.tolist() == mask
    state = np.linspace(-0.5, 0.5, 14, dtype=np.float32)
    centre = io.decode(np.zeros((1, 14), np.float32), state)[0]
    np.testing.assert_allclose(centre, io.offset + np.array(mask) * state, atol=1e-6)
