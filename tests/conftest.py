"""Settings for all tests: few threads, passive waiting, the shared data, and explained skips."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Set before torch or onnxruntime start their threads: tests often run on small, busy machines.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

# Set before anything imports triton, as torch.onnx does: kernels then run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from filelock import FileLock
from hypothesis import settings

from .environments import Environment, find_environment
from .machine_stalls import is_real_time, run_undisturbed

ROOT = Path(__file__).resolve().parents[1]
MakeOnce = Callable[[str, Callable[[Path], object]], Path]

LONGEST_FIRST = (
    "flux_train/distributed/test_distributed.py",
    "flux_runtime/export/test_export_options.py",
    "cpp/test_cpp_unit.py",
    "flux_train/test_faults.py",
    *(f"integration/test_faults_{kind}.py" for kind in ("commands", "processes", "sensors")),
    "integration/test_soak.py",
)
"""The slowest files. Started last, they would leave other processes without work."""

settings.register_profile("flux", deadline=None, print_blob=True)
settings.load_profile("flux")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Makes tests use a cache of their own instead of the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets and reference outputs beside the checkout (read-only)."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data beside the checkout is missing")
    return folder


@pytest.fixture(scope="session")
def reported_datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small datasets based on users' fault reports: NAME/ds, described beside their script."""
    script = ROOT.parent / "shared" / "reports" / "data" / "make.py"
    if not script.is_file():
        pytest.skip("the script shared/reports/data/make.py beside the checkout is missing")
    out = tmp_path_factory.mktemp("reported")
    subprocess.run([sys.executable, "-B", str(script), str(out)], check=True)
    return out


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """All files that git tracks, without links and deleted files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    files = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in files if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Makes a folder by name unless it exists. All processes of a test run share it, read-only."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once"
    shared.mkdir(exist_ok=True)

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def one_episode(shared_data: Path, made_once: MakeOnce) -> Path:
    """The first episode of the shared v2.1 dataset, as a separate dataset."""
    source = shared_data / "lerobot" / "v21"

    def write(root: Path) -> None:
        shutil.copytree(source / "meta", root / "meta", copy_function=shutil.copyfile)
        for folder in ("data", "videos"):
            (root / folder).symlink_to(source / folder)
        episodes = root / "meta" / "episodes.jsonl"
        first = episodes.read_text().splitlines()[0]
        episodes.write_text(first + "\n")
        info = root / "meta" / "info.json"
        counts = {"total_episodes": 1, "total_frames": json.loads(first)["length"]}
        info.write_text(json.dumps(json.loads(info.read_text()) | counts))

    return made_once("one_episode", write)


@pytest.fixture(scope="session")
def tiny_network() -> list[str]:
    """Overrides with which the small config trains on any data in seconds."""
    tiny = [
        f"model.{part}.{key}"
        for part in ("llm_backbone", "llm_expert")
        for key in ("hidden_size=16", "intermediate_size=16", "num_hidden_layers=1", "head_dim=8")
    ]
    return [
        *tiny,
        "model.vision_backbone.hidden_size=8",
        "model.vision_backbone.stem_channels=4",
        "model.projector.in_dim=8",
        "model.projector.out_dim=16",
        "model.llm_expert.adarms_cond_dim=16",
        "model.proj_width=16",
        "model.action_in_proj.out_dim=16",
        "model.action_out_proj.in_dim=16",
        "runner.num_noise_samples=1",
        "runner.log_interval=1",
        "runner.max_steps=4",
        "train_dataloader.per_device_batch_size=4",
        "train_dataloader.per_device_num_workers=0",
    ]


@pytest.fixture(scope="session")
def tiny_options(tiny_network: list[str], one_episode: Path) -> list[str]:
    """`tiny_network` on an episode of the shared data."""
    dataset = "train_dataloader.dataset.datasets"
    return [
        *tiny_network,
        f"{dataset}.data_root_path={one_episode}",
        # The shared episode has a longer task than the simulated one.
        f"{dataset}.transforms.3.max_len=64",
        "inference.dataset.transforms.2.max_len=64",
    ]


@pytest.fixture(scope="session")
def tiny_run(tiny_options: list[str], made_once: MakeOnce) -> Path:
    """The work directory of a training run of four steps; read-only."""
    from flux_train.cli import main

    config = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")

    def write(work_dir: Path) -> None:
        assert main([config, str(work_dir), "--cfg-options", *tiny_options]) == 0

    return made_once("tiny_run", write)


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, made_once: MakeOnce) -> Path:
    """`bundle`, exported from `tiny_run`, and `printed.json`, the command's output; read-only."""
    from flux_runtime.export.cli import main

    checkpoint = str(tiny_run / "checkpoint_epoch_1.pt")

    def write(folder: Path) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main([checkpoint, "--out", str(folder / "bundle"), "--json"]) == 0
        (folder / "printed.json").write_text(printed.getvalue())

    return made_once("tiny_export", write)


@pytest.fixture(scope="session")
def environment() -> Environment:
    """Returns the interpreter of an environment by its name."""
    return find_environment


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs tests in real time undisturbed, as far as this machine allows."""
    if not is_real_time(item):
        return None
    run_undisturbed(item, nextitem)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that this machine cannot run and says what is missing; runs long files first."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
    for item in items:
        for marker, why_not in (("gpu", _no_gpu), ("slow", _not_slow), ("hardware", _no_robot)):
            if item.get_closest_marker(marker) and (reason := why_not()):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device, got none"


def _not_slow() -> str:
    return "" if os.environ.get("FLUX_SLOW") == "1" else "takes minutes: set FLUX_SLOW=1"


def _no_robot() -> str:
    return "" if os.environ.get("FLUX_HARDWARE") == "1" else "needs a robot: set FLUX_HARDWARE=1"
