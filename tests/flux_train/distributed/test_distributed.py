"""Two processes train like one: copies and shards, accumulation, resuming across them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_core.models.weights.lora import apply_lora, load_adapter, merged_weights
from flux_core.models.weights.pretrained import load_pretrained
from flux_train.checkpoints.files import checkpoints, newest_intact
from flux_train.cli import main
from flux_train.config.tree import read_train_config

ROOT = Path(__file__).resolve().parents[3]
SMALL = str(ROOT / "configs" / "pi05" / "pi05_small_aloha_sim.py")
STEPS = 20
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def options(tiny_options: list[str]) -> list[str]:
    """Twenty steps in float32 with every feature of a step switched on."""
    return [
        *tiny_options,
        f"runner.max_steps={STEPS}",
        "runner.enable_mixed_precision_training=false",
        "runner.num_noise_samples=2",
        "runner.ema_decay=0.9",
        "runner.learning_rate=1e-3",
        "model.llm_backbone.num_hidden_layers=2",
        "model.llm_expert.num_hidden_layers=2",
    ]


class ForkedRuns:
    """Starts processes like torchrun, without its ten seconds of overhead: see forked_runs.py."""

    def __init__(self, *modules: str) -> None:
        """Starts them with these modules imported."""
        self._parent = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked_runs.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def __call__(
        self,
        work_dir: Path,
        options: list[str],
        *more: str,
        ranks: int = 1,
        config: str = SMALL,
        code: int = 0,
    ) -> str:
        """Runs until every process exits with `code`; returns what they print."""
        log = Path(f"{work_dir}.log")
        argv = [config, str(work_dir), *more, "--cfg-options", *options]
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.write(json.dumps({"argv": argv, "ranks": ranks, "log": str(log)}) + "\n")
        self._parent.stdin.flush()
        codes = json.loads(self._parent.stdout.readline())
        assert codes == [code] * ranks, log.read_text()[-3000:]
        return log.read_text()

    def close(self) -> None:
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.close()
        assert self._parent.wait() == 0
        self._parent.stdout.close()


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedRuns]:
    runs = ForkedRuns()
    yield runs
    runs.close()


def torchrun(work_dir: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "flux_train", SMALL, str(work_dir), "--cfg-options", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(work_dir: Path) -> list[float]:
    lines = (work_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(run: ForkedRuns, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("alone")
    run(work_dir, options)
    return work_dir


DDP = ["runner.type=DDPTrainRunner"]
FSDP = ["runner.type=FSDPTrainRunner"]
HALF = "train_dataloader.per_device_batch_size=2"


@pytest.mark.parametrize(
    "kind",
    [
        DDP,
        [*FSDP, "runner.sharding_strategy=full-shard"],
        [*FSDP, "runner.sharding_strategy=shard-grad-op"],
        [*DDP, "runner.enable_gradient_checkpointing=true"],
        [*FSDP, "runner.enable_gradient_checkpointing=true"],
    ],
    ids=["ddp", "full-shard", "shard-grad-op", "ddp-recompute", "fsdp-recompute"],
)
def test_two_processes_give_the_losses_of_one(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path, kind: list[str]
) -> None:
    if "runner.sharding_strategy=full-shard" in kind:
        torchrun(tmp_path, [*options, *kind, HALF])
    else:
        run(tmp_path, [*options, *kind, HALF], ranks=2)
    torch.testing.assert_close(losses(tmp_path), losses(alone), atol=1e-5, rtol=0)
    ours, theirs = (
        load_file(folder / "checkpoint_epoch_1.safetensors") for folder in (tmp_path, alone)
    )
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=1e-4, msg=name)


LORA = [
    "model.use_lora=true",
    "model.lora_rank=2",
    "model.modules_to_save=['action_in_proj','action_out_proj']",
]


@pytest.mark.parametrize("kind", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_adapters_train_in_copies_and_shards(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path, kind: list[str]
) -> None:
    more = [*options, *LORA, "runner.max_steps=6"]
    more.append(f"model.pretrained_name_or_path={alone / 'checkpoint_epoch_1.safetensors'}")
    run(tmp_path / "one", more)
    run(tmp_path / "two", [*more, *kind, HALF], ranks=2)
    torch.testing.assert_close(
        losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-5, rtol=0
    )
    for name in (
        "checkpoint_epoch_1.safetensors",
        "checkpoint_epoch_1_adapter/adapter_model.safetensors",
    ):
        ours, theirs = (load_file(tmp_path / folder / name) for folder in ("two", "one"))
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=2e-5, rtol=1e-4, msg=key)


SHARDS = [*FSDP, "runner.sharded_checkpoints=true", "runner.save_iter_interval=5"]


def test_a_sharded_run_resumes_from_its_shards_and_ends_with_one_file(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    more = [*options, *SHARDS, HALF]
    run(tmp_path / "whole", more, ranks=2)
    torch.testing.assert_close(losses(tmp_path / "whole"), losses(alone), atol=1e-5, rtol=0)
    names = sorted(path.name for path in (tmp_path / "whole").glob("checkpoint_*"))
    assert names == [
        "checkpoint_epoch_1.pt",
        "checkpoint_epoch_1.safetensors",
        "checkpoint_epoch_1.shards",
        "checkpoint_step_15.shards",
    ]
    # Export and all other readers take the file; it equals one that was gathered.
    ours = load_checkpoint(tmp_path / "whole" / names[0])
    theirs = load_checkpoint(alone / "checkpoint_epoch_1.pt")
    assert ours.keys() == theirs.keys()
    for name, value in theirs["ema"].items():
        torch.testing.assert_close(ours["ema"][name], value, atol=2e-5, rtol=1e-4, msg=name)

    # Exact on as many processes; up to rounding on one and after consolidation.
    shards = tmp_path / "whole" / "checkpoint_step_15.shards"
    for ranks, kind in ((2, [*SHARDS, HALF]), (1, [])):
        again = tmp_path / f"on_{ranks}"
        told = run(again, [*options, *kind], "--resume-from", str(shards), ranks=ranks)
        assert told.count("resumes with a different setup: processes: 1 instead of 2") == 2 - ranks
        exact = {"atol": 0.0 if ranks == 2 else 1e-5, "rtol": 0.0}
        torch.testing.assert_close(losses(again), losses(tmp_path / "whole")[15:], **exact)
    assert main(["consolidate", str(shards)]) == 0
    once_more = tmp_path / "once_more"
    run(once_more, options, "--resume-from", str(shards.with_suffix(".pt")))
    assert losses(once_more) == losses(tmp_path / "on_1")


def test_consolidated_adapters_are_those_of_the_merged_weights(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    more = [*options, *LORA, *SHARDS, HALF, "runner.max_steps=7", "runner.max_checkpoints=5"]
    more.append(f"model.pretrained_name_or_path={alone / 'checkpoint_epoch_1.safetensors'}")
    run(tmp_path, more, ranks=2)
    assert main(["consolidate", str(tmp_path / "checkpoint_step_5.shards")]) == 0
    config, _ = read_train_config(Path(SMALL), more)
    for name in ("checkpoint_step_5", "checkpoint_epoch_1"):
        model = config.model.build()
        load_pretrained(model, alone / "checkpoint_epoch_1.safetensors")
        apply_lora(model)
        load_adapter(model, tmp_path / f"{name}_adapter")
        deployed = load_file(tmp_path / f"{name}.safetensors")
        for key, value in merged_weights(model.state_dict(), config.model).items():
            assert torch.equal(value, deployed[key]), (name, key)


def test_damaged_shards_are_skipped(
    run: ForkedRuns,
    alone: Path,
    options: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(tmp_path / "run", [*options, *SHARDS, HALF, "runner.max_steps=12"], ranks=2)
    folders = sorted((tmp_path / "run").glob("*.shards"))
    assert len(folders) == 2
    newest = max(checkpoints(tmp_path / "run"), key=lambda path: path.stat().st_mtime_ns)
    assert newest_intact(tmp_path / "run") == newest
    for path in checkpoints(tmp_path / "run"):
        if (path != folders[-1] and path.suffix == ".shards") or path.suffix == ".pt":
            file = path if path.is_file() else max(path.glob("*.distcp"))
            with file.open("r+b") as stream:
                stream.seek(file.stat().st_size // 2)
                stream.write(b"\xff\x00\xff\x00")
    assert newest_intact(tmp_path / "run") == folders[-1]
    assert "is damaged" in caplog.text
    (folders[-1] / "files.json").unlink()
    assert main(["consolidate", str(folders[-1])]) == 1


def test_an_average_that_shards_lack_starts_from_the_weights(
    run: ForkedRuns, options: list[str], tmp_path: Path
) -> None:
    more = [*options, *SHARDS, HALF, "runner.max_steps=6", "runner.max_checkpoints=9"]
    run(tmp_path, [*more, "runner.ema_decay=0"], ranks=2)
    shards = str(tmp_path / "checkpoint_step_5.shards")
    told = run(tmp_path, more, "--resume-from", shards, ranks=2)
    assert told.count("average starts from the weights") == 1
    assert "changed settings" not in told
    state = load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")
    assert state["ema"] is not None and state["rewinds"] == 1


def test_what_the_main_process_refuses_ends_all_processes(
    run: ForkedRuns, options: list[str], tmp_path: Path
) -> None:
    more = [*options, *DDP, HALF]
    run(tmp_path, [*more, "runner.max_steps=1"], ranks=2)
    told = run(tmp_path, more, ranks=2, code=1)
    assert told.count("expected no run, got one of 1 steps. Add --resume-from auto") == 2
    path = tmp_path / "checkpoint_epoch_1.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    for wanted, problem in (
        (str(path), "expected an intact checkpoint of flux-train, got a damaged one"),
        ("auto", "none of its 1 checkpoints can be read"),
        (
            str(tmp_path / "gone.pt"),
            "gone.pt: expected a checkpoint, got a path that does not exist",
        ),
    ):
        told = run(tmp_path, more, "--resume-from", wanted, ranks=2, code=1)
        assert told.count(problem) == 2
    told = run(tmp_path / "new", [*options, HALF], ranks=2, code=1)
    assert told.count("runner.type: expected DDPTrainRunner") == 2


def test_accumulated_batches_give_the_losses_of_a_large_one(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    quarter = "train_dataloader.per_device_batch_size=1"
    more = [*DDP, quarter, "runner.gradient_accumulation_steps=2"]
    run(tmp_path, [*options, *more], ranks=2)
    torch.testing.assert_close(losses(tmp_path), losses(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_a_resumed_run_of_two_processes_is_exact(
    run: ForkedRuns, options: list[str], tmp_path: Path, kind: list[str]
) -> None:
    """Digit for digit, even in the middle of an epoch and of a logging interval."""
    options = [*options, *kind, HALF, "runner.save_iter_interval=7", "runner.log_interval=3"]
    options += ["runner.max_checkpoints=9", "runner.lr_scheduler_type=constant"]
    run(tmp_path / "whole", options, ranks=2)
    run(tmp_path / "parts", [*options, "runner.max_steps=10"], ranks=2)
    checkpoint = tmp_path / "parts" / "checkpoint_step_7.pt"
    run(tmp_path / "parts", options, "--resume-from", str(checkpoint), ranks=2)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = (
        load_checkpoint(tmp_path / folder / "checkpoint_epoch_1.pt")
        for folder in ("parts", "whole")
    )
    for part in ("model", "ema"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value), name


def test_shards_are_resumed_by_one_process(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    sharded = [*options, *FSDP, HALF, "runner.save_iter_interval=7"]
    run(tmp_path, [*sharded, "runner.max_steps=10", "runner.lr_scheduler_type=constant"], ranks=2)
    checkpoint = str(tmp_path / "checkpoint_step_7.pt")
    run(tmp_path, [*options, "runner.lr_scheduler_type=constant"], "--resume-from", checkpoint)
    assert len(losses(tmp_path)) == STEPS
    assert load_checkpoint(tmp_path / "checkpoint_epoch_1.pt")["global_step"] == STEPS


def test_copies_and_shards_validate_alike(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    tree = json.loads((alone / "config.json").read_text())
    # The same episode under another name: the data is the same, only the processes differ.
    held_out = tmp_path / "held_out"
    member = tree["train_dataloader"]["dataset"]["datasets"]
    held_out.symlink_to(member["data_root_path"])
    dataset = {**tree["train_dataloader"]["dataset"]}
    dataset["datasets"] = {**member, "data_root_path": str(held_out)}
    tree["validation"] = {
        "dataset": dataset,
        "interval_steps": 4,
        "num_batches": 2,
        "num_action_samples": 3,
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    found, trained = {}, {}
    unsharded_between = [*FSDP, "runner.sharding_strategy=shard-grad-op", HALF]
    for name, kind, ranks in (
        ("one", [], 1),
        ("ddp", [*DDP, HALF], 2),
        ("fsdp", unsharded_between, 2),
    ):
        work_dir = tmp_path / name
        # The same samples in batches of half the size.
        batches = f"validation.num_batches={2 * ranks}"
        more = ["runner.max_steps=6", batches, *kind]
        run(work_dir, more, ranks=ranks, config=str(config))
        lines = [json.loads(line) for line in (work_dir / "metrics.jsonl").open()]
        found[name] = [line for line in lines if "validation" in line]
        trained[name] = [line["loss"] for line in lines if "loss" in line]
        assert [line["step"] for line in found[name]] == [4, 6]
        assert (work_dir / "validation" / "step_6.npz").is_file()
    for name in ("ddp", "fsdp"):
        for ours, theirs in zip(found[name], found["one"], strict=True):
            assert ours["validation"]["weights"] == "average"
            assert ours["validation"]["loss"] == pytest.approx(theirs["validation"]["loss"], 1e-4)
        assert trained[name] == pytest.approx(trained["one"], abs=1e-5)
    assert main(["report", str(tmp_path / "fsdp")]) == 0
    assert (tmp_path / "fsdp" / "report.html").stat().st_size > 10_000


def test_a_mistake_in_the_config_is_reported_once(
    run: ForkedRuns, options: list[str], tmp_path: Path
) -> None:
    """Every process finds it; the node's first process reports it, in one line."""
    told = run(tmp_path, [*options, "runner.max_step=3"], ranks=2, code=1)
    assert told.count("Did you mean 'max_steps'") == 1
