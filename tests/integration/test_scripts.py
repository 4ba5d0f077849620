"""The tutorial's two commands: scripts/train.sh and scripts/inference_real_robot.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..distributions import write_module

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
TRAIN = SCRIPTS / "train.sh"
DEPLOY = SCRIPTS / "inference_real_robot.py"
SMALL = ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py"
ALOHA = ROOT / "configs" / "pi0" / "pi0_paligemma_aloha_full_train.py"
MIXED = ROOT / "configs" / "pi0" / "pi0_paligemma_aloha+ur_full_train.py"

Done = subprocess.CompletedProcess[str]


class FakeCommands:
    """Programs at the front of PATH that only record how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, name: str, body: str = "") -> None:
        path = self.folder / name
        note = f'printf "%s\\0" "$(basename "$0")" "$@" >>"{self.folder}/calls"'
        path.write_text(f"#!/bin/bash\n{note}\n{body}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:/usr/bin:/bin"}

    @property
    def words(self) -> list[str]:
        """All words of all recorded calls, one after another."""
        calls = self.folder / "calls"
        return calls.read_text().split("\0")[:-1] if calls.is_file() else []


@pytest.fixture
def fake(tmp_path: Path) -> FakeCommands:
    commands = FakeCommands(tmp_path / "fake bin")
    commands.add("torchrun")
    return commands


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "a config.py"
    path.write_text("")
    return path


def train(
    fake: FakeCommands, *arguments: object, cwd: Path | None = None, **variables: str
) -> Done:
    return subprocess.run(
        ["bash", str(TRAIN), *map(str, arguments)],
        env=fake.environment | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


MLP = {
    "MLP_WORKER_GPU": "8",
    "MLP_WORKER_NUM": "4",
    "MLP_ROLE_INDEX": "3",
    "MLP_WORKER_0_HOST": "worker-0",
    "MLP_WORKER_0_PORT": "2222",
}
SLURM = {
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
OWN = {
    "NPROC_PER_NODE": "2",
    "WORLD_SIZE": "3",
    "RANK": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "1234",
}
# Environment -> nodes, rank, processes per node, address, port.
ENVIRONMENTS: dict[str, tuple[dict[str, str], tuple[str, str, str, str, str]]] = {
    "nothing": ({}, ("1", "0", "1", "localhost", "29500")),
    "the tutorial's": (
        {
            "MLP_WORKER_GPU": "8",
            "MLP_WORKER_NUM": "1",
            "MLP_ROLE_INDEX": "0",
            "MLP_WORKER_0_HOST": "localhost",
            "MLP_WORKER_0_PORT": "29500",
        },
        ("1", "0", "8", "localhost", "29500"),
    ),
    "a cluster's": (MLP, ("4", "3", "8", "worker-0", "2222")),
    "Slurm's": (SLURM, ("2", "1", "4", "gpu07", "29500")),
    "the user's own": (OWN, ("3", "2", "2", "10.0.0.1", "1234")),
    "the user's own before all others": (
        OWN | MLP | SLURM,
        ("3", "2", "2", "10.0.0.1", "1234"),
    ),
    "a cluster's before Slurm's": (MLP | SLURM, ("4", "3", "8", "worker-0", "2222")),
    "some of each": (
        SLURM | {"MASTER_PORT": "777", "MLP_WORKER_GPU": "6"},
        ("2", "1", "6", "gpu07", "777"),
    ),
    "an empty variable counts as unset": (
        {"NPROC_PER_NODE": "", "MLP_WORKER_GPU": "5", "MASTER_ADDR": ""},
        ("1", "0", "5", "localhost", "29500"),
    ),
    "zeros do not mean octal": ({"NPROC_PER_NODE": "08"}, ("1", "0", "8", "localhost", "29500")),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_environment_sets_the_number_of_processes_and_nodes(
    name: str, fake: FakeCommands, config: Path
) -> None:
    variables, (nodes, rank, processes, address, port) = ENVIRONMENTS[name]
    fake.add("scontrol", 'printf "gpu07\\ngpu08\\n"')
    done = train(fake, config, "work", **variables)
    assert done.returncode == 0, done.stderr
    called = fake.words[fake.words.index("torchrun") :]
    assert called == [
        "torchrun",
        f"--nnodes={nodes}",
        f"--node-rank={rank}",
        f"--nproc-per-node={processes}",
        f"--master-addr={address}",
        f"--master-port={port}",
        "--shutdown-timeout=3600",
        *("-m", "flux_train", str(config), "work"),
    ]
    if fake.words[0] != "torchrun":
        assert fake.words[:4] == ["scontrol", "show", "hostnames", "gpu[07-08]"]


def test_arguments_arrive_as_they_were_written(fake: FakeCommands, config: Path) -> None:
    more = [
        *("--resume-from", "runs/my run/checkpoint_epoch_2.pt"),
        *("--cfg-options", "runner.max_epochs=50", "inference.task={'1': 'a $HOME \"b\" *'}", ""),
    ]
    done = train(fake, config, "work dir/1", *more)
    assert done.returncode == 0, done.stderr
    assert fake.words[-len(more) - 2 :] == [str(config), "work dir/1", *more]
    assert fake.words[-len(more) - 4 : -len(more) - 2] == ["-m", "flux_train"]
    # The printed command can be pasted into a shell.
    shown = done.stderr.removeprefix("train.sh:")
    assert subprocess.check_output(
        ["bash", "-c", f'printf "%s\\0" {shown}'], text=True
    ) == "\0".join([*fake.words, ""])


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "expected CONFIG and WORK_DIR, got none"),
        (["--cfg-options", "a=b"], {}, "expected CONFIG and WORK_DIR first, got '--cfg-options'"),
        (["configs/no_such.py", "work"], {}, "CONFIG: there is no file 'configs/no_such.py'"),
        (["CONFIG"], {}, "expected WORK_DIR after CONFIG, got ''"),
        (["CONFIG", "--resume-from"], {}, "expected WORK_DIR after CONFIG, got '--resume-from'"),
        (
            ["CONFIG", "work"],
            {"NPROC_PER_NODE": "gpu"},
            "NPROC_PER_NODE: expected the processes per node, an integer of at least 1, got 'gpu'",
        ),
        (["CONFIG", "work"], {"MLP_WORKER_GPU": "0"}, "MLP_WORKER_GPU: expected the processes"),
        (["CONFIG", "work"], {"WORLD_SIZE": "-2"}, "WORLD_SIZE: expected the number of nodes"),
        (["CONFIG", "work"], {"MLP_WORKER_NUM": "1; ls"}, "MLP_WORKER_NUM: expected the number"),
        (["CONFIG", "work"], {"RANK": "1.5"}, "RANK: expected this node's rank"),
        (
            ["CONFIG", "work"],
            {"MLP_ROLE_INDEX": "2", "WORLD_SIZE": "2"},
            "MLP_ROLE_INDEX: expected this node's rank, below 2 (WORLD_SIZE), got 2",
        ),
        (["CONFIG", "work"], {"MASTER_PORT": "70000"}, "MASTER_PORT: expected a port below 65536"),
        (["CONFIG", "work"], {"MLP_WORKER_0_PORT": "http"}, "MLP_WORKER_0_PORT: expected the port"),
        (
            ["CONFIG", "work"],
            {"SLURM_JOB_NODELIST": "gpu07"},
            "expected scontrol to read it with, got none. Set MASTER_ADDR",
        ),
        (
            ["CONFIG", "work"],
            SLURM | {"SLURM_LOCALID": "3", "MASTER_ADDR": "gpu07"},
            "SLURM_LOCALID: expected 0, as one task per node starts all",
        ),
        (
            ["CONFIG", "work"],
            {"MLP_WORKER_NUM": "2"},
            "MASTER_ADDR: expected the address of the node of rank 0, to which all 2 nodes "
            "(MLP_WORKER_NUM) connect, got none",
        ),
        (["CONFIG", "work"], {"SLURM_NNODES": "2"}, "MASTER_ADDR: expected the address"),
        (
            ["CONFIG", "work"],
            {"FLUX_SHUTDOWN_TIMEOUT": "long"},
            "FLUX_SHUTDOWN_TIMEOUT: expected the seconds",
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_starts(
    arguments: list[str], variables: dict[str, str], message: str, fake: FakeCommands, config: Path
) -> None:
    done = train(fake, *(str(config) if a == "CONFIG" else a for a in arguments), **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("train.sh: error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert fake.words == []


def test_the_timeout_for_the_last_checkpoint_can_be_set(fake: FakeCommands, config: Path) -> None:
    assert train(fake, config, "work", FLUX_SHUTDOWN_TIMEOUT="7200").returncode == 0
    assert "--shutdown-timeout=7200" in fake.words


def test_the_exit_code_is_torchruns(fake: FakeCommands, config: Path) -> None:
    fake.add("torchrun", "exit 7")
    assert train(fake, config, "work").returncode == 7


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_shows_an_example_and_every_variable(option: str, fake: FakeCommands) -> None:
    done = train(fake, option)
    assert done.returncode == 0 and "example:\n" in done.stdout
    assert all(name in done.stdout for name in [*MLP, *OWN, *SLURM] if name != "SLURM_LOCALID")
    example = next(word for word in done.stdout.split() if word.startswith("configs/"))
    assert (ROOT / example).is_file()


def test_it_trains(tiny_options: list[str], tmp_path: Path) -> None:
    """Uses the real torchrun, from another directory."""
    bin_dir = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "MASTER_PORT": "29617"}
    for name in ("NPROC_PER_NODE", "WORLD_SIZE", "RANK", "MASTER_ADDR", *MLP, *SLURM):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", str(TRAIN), str(SMALL), "work dir", "--cfg-options", *tiny_options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work dir" / "checkpoint_epoch_1.pt").is_file()


def test_the_slurm_example_runs_it_on_every_node(fake: FakeCommands, tmp_path: Path) -> None:
    fake.add("srun")
    script = SCRIPTS / "slurm" / "train.sbatch"
    done = subprocess.run(
        ["bash", str(script), "my config.py", "work", "--cfg-options", "a=b c"],
        env=fake.environment | {"SLURM_JOB_ID": "123456"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    launched = fake.words[fake.words.index("bash") :]
    assert launched == [
        *("bash", "scripts/train.sh", "my config.py", "work", "--resume-from", "auto"),
        *("--cfg-options", "a=b c"),
    ]
    settings = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --nodes=2" in settings and "#SBATCH --ntasks-per-node=1" in settings
    assert subprocess.run(["bash", str(script)], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize(
    "script", [TRAIN, SCRIPTS / "slurm" / "train.sbatch"], ids=lambda p: p.name
)
def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def deploy(fake: FakeCommands, *arguments: object) -> Done:
    return subprocess.run(
        [sys.executable, str(DEPLOY), *map(str, arguments)],
        env=fake.environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def robot_pc(tmp_path: Path) -> FakeCommands:
    commands = FakeCommands(tmp_path / "bin")
    for name in ("flux-export", "flux-runtime"):
        commands.add(name)
    return commands


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "my run" / "checkpoint_epoch_3.pt"
    path.parent.mkdir()
    path.write_bytes(b"")
    return path


def make_bundle(folder: Path, age_s: float) -> None:
    """Writes a manifest with the given age."""
    folder.mkdir()
    manifest = folder / "manifest.json"
    manifest.write_text("{}")
    time_s = manifest.stat().st_mtime - age_s
    os.utime(manifest, (time_s, time_s))


def test_the_tutorials_call_exports_and_runs(robot_pc: FakeCommands, checkpoint: Path) -> None:
    more = ["--task", "pick up the toy", "--mode", "async", "--dry-run"]
    done = deploy(robot_pc, "--config", ALOHA, "--ckpt-path", checkpoint, *more)
    assert done.returncode == 0, done.stderr
    bundle = str(checkpoint.with_suffix(""))
    assert robot_pc.words == [
        *("flux-export", str(checkpoint), "--out", bundle),
        *("flux-runtime", "run", "--robot", "aloha-agilex", "--bundle", bundle),
        *("--dry-run", "--task", "pick up the toy", "--mode", "async"),
    ]
    assert "+ flux-runtime run --robot aloha-agilex" in done.stderr


def test_a_bundle_is_exported_again_only_if_it_is_older(
    robot_pc: FakeCommands, checkpoint: Path
) -> None:
    call = ["--config", ALOHA, "--ckpt-path", checkpoint]
    make_bundle(checkpoint.with_suffix(""), age_s=-60)
    assert deploy(robot_pc, *call).returncode == 0
    assert "flux-export" not in robot_pc.words and "flux-runtime" in robot_pc.words
    make_bundle(checkpoint.with_name("elsewhere"), age_s=60)
    elsewhere = checkpoint.with_name("elsewhere")
    assert deploy(robot_pc, *call, "--bundle", elsewhere).returncode == 0
    assert robot_pc.words.count("flux-export") == 1 and str(elsewhere) in robot_pc.words


def test_each_of_several_robots_has_its_own_bundle(
    robot_pc: FakeCommands, checkpoint: Path
) -> None:
    call = ["--config", MIXED, "--ckpt-path", checkpoint]
    done = deploy(robot_pc, *call)
    assert done.returncode == 2 and "(aloha-agilex, ur3), got none" in done.stderr
    assert robot_pc.words == []
    assert deploy(robot_pc, *call, "--robot", "ur3").returncode == 0
    bundle = str(checkpoint.with_name("checkpoint_epoch_3-ur3"))
    assert robot_pc.words == [
        *("flux-export", str(checkpoint), "--out", bundle, "--robot", "ur3"),
        *("flux-runtime", "run", "--robot", "ur3", "--bundle", bundle),
    ]
    assert deploy(robot_pc, *call, "--robot", "aloha").returncode == 0
    assert robot_pc.words[-3:-1] == ["aloha-agilex", "--bundle"]


def test_a_failed_export_starts_nothing(robot_pc: FakeCommands, checkpoint: Path) -> None:
    robot_pc.add("flux-export", "exit 1")
    assert deploy(robot_pc, "--config", ALOHA, "--ckpt-path", checkpoint).returncode == 1
    assert "flux-runtime" not in robot_pc.words
    robot_pc.add("flux-export")
    robot_pc.add("flux-runtime", "exit 3")
    assert deploy(robot_pc, "--config", ALOHA, "--ckpt-path", checkpoint).returncode == 3


def test_another_robots_config_is_refused_before_the_export(
    robot_pc: FakeCommands, tiny_run: Path
) -> None:
    checkpoint = tiny_run / "checkpoint_epoch_1.pt"
    bundle = ["--bundle", tiny_run / "no such bundle"]
    done = deploy(robot_pc, "--config", ALOHA, "--ckpt-path", checkpoint, *bundle)
    assert done.returncode == 1
    assert "expected the robot of " in done.stderr
    assert ", aloha-sim, got aloha-agilex. Use the config of its training" in done.stderr
    assert robot_pc.words == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", ALOHA], 2, "--ckpt-path"),
        (["--config", ALOHA, "--ckpt-path", "no.pt"], 2, "--ckpt-path: there is no file 'no.pt'"),
        (["--config", "no.py", "--ckpt-path", "no.pt"], 1, "no.py: no such config file"),
        (
            ["--config", ALOHA, "--ckpt-path", "no.pt", "--robot", "ur3"],
            2,
            "(aloha-agilex), got 'ur3'",
        ),
    ],
)
def test_a_wrong_call_is_a_one_line_error(
    arguments: list[object], code: int, message: str, robot_pc: FakeCommands
) -> None:
    done = deploy(robot_pc, *arguments)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert robot_pc.words == []


def test_help_shows_a_real_example(robot_pc: FakeCommands) -> None:
    done = deploy(robot_pc, "--help")
    assert done.returncode == 0 and "example:\n" in done.stdout
    example = next(word for word in done.stdout.split() if word.startswith("configs/"))
    assert (ROOT / example).is_file()


def test_the_files_that_it_looks_into_import_nothing(
    robot_pc: FakeCommands, tiny_run: Path, tmp_path: Path
) -> None:
    import torch

    site, checkpoint = tmp_path / "site", tmp_path / "checkpoint_epoch_1.pt"
    mark = write_module(site, "acme_parts")
    state = torch.load(tiny_run / "checkpoint_epoch_1.pt", weights_only=True)
    state["config"]["inference"]["type"] = "acme_parts:Recorder"
    torch.save(state, checkpoint)
    bundle = checkpoint.with_suffix("")
    call = ["--config", tiny_run / "config.json", "--ckpt-path", checkpoint]

    def run() -> Done:
        return subprocess.run(
            [sys.executable, str(DEPLOY), *map(str, call)],
            env={**robot_pc.environment, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run().returncode == 0 and "flux-export" in robot_pc.words
    make_bundle(bundle, age_s=-60)
    (bundle / "config.json").write_text(json.dumps(state["config"]))
    assert run().returncode == 0 and robot_pc.words.count("flux-export") == 1
    assert not mark.exists()


def test_what_the_config_changes_after_training_is_passed_on(
    robot_pc: FakeCommands, tmp_path: Path
) -> None:
    import torch

    checkpoint = tmp_path / "checkpoint_epoch_1.pt"
    state = torch.load(ROOT / "tests" / "golden" / "old_checkpoint.pt", weights_only=True)
    torch.save(state, checkpoint)
    tree = json.loads(json.dumps(state["config"]))
    tree["inference"] |= {"execution_horizon": 8, "task_descriptions": {"1": "wave"}}
    tree["inference"].pop("execute_horizon", None)
    tree["inference"]["rtc_config"]["method"] = "guidance"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    call = ["--config", config, "--ckpt-path", checkpoint]
    done = deploy(robot_pc, *call)
    assert done.returncode == 0, done.stderr
    changed = ["--execution-horizon", "8"]
    rtc = ["--rtc", "method=guidance"]
    exported = robot_pc.words[: robot_pc.words.index("flux-runtime")]
    assert exported[4:] == [*changed, "--tasks", "1=wave", *rtc]
    assert "inference.execution_horizon of the config differs from the checkpoint's" in done.stderr
    bundle = checkpoint.with_suffix("")
    make_bundle(bundle, age_s=-60)
    (bundle / "config.json").write_text(json.dumps(state["config"]))
    for more, task in (([], ["--task", "wave"]), (["--task", "x"], ["--task", "x"])):
        assert deploy(robot_pc, *call, *more).returncode == 0
        assert robot_pc.words[-len(changed + rtc + task) :] == [*changed, *rtc, *task]


def test_the_small_policy_moves_its_robot(
    tiny_run: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    """Uses the real commands: export, checks, and a few steps in simulation."""
    config, bundle = tmp_path / "config.json", tmp_path / "bundle"
    tree = json.loads((tiny_run / "config.json").read_text())
    tree["inference"]["task_descriptions"] = {"1": "wave"}
    config.write_text(json.dumps(tree))
    call = [
        *("--config", config, "--ckpt-path", tiny_run / "checkpoint_epoch_1.pt"),
        *("--bundle", bundle, "--episodes", "1", "--max-steps", "10", "--json"),
    ]
    done = subprocess.run(
        [sys.executable, str(DEPLOY), *map(str, call)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["robot"], report["ticks"]) == ("aloha-sim", 10)
    # The config was changed after training, and only the export warns of it.
    assert "warning: inference.task_descriptions of the config differs" in done.stderr
    assert done.stderr.count("warning: inference.") == 1
