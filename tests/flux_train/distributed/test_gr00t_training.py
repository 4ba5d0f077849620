"""GR00T trains: in one process and in two, resumed exactly, with adapters, with frozen parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flux_core.cli import main as flux_core
from flux_core.models import draw_flow, flow_errors, flow_mask, flow_matching_loss
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_core.models.weights.lora import apply_lora, load_adapter, merged_weights
from flux_core.models.weights.pretrained import load_pretrained
from flux_train.config.tree import read_train_config
from flux_train.run_plan import parameter_table

from .test_distributed import DDP, FSDP, HALF, ROOT, ForkedRuns, losses

CONFIG = str(ROOT / "configs" / "gr00t" / "gr00t_small_aloha_sim.py")
EMBODIMENT, EMBODIMENTS = 2, 3
ACTION_DIM, PADDED_STATE, PADDED_ACTION = 14, 20, 18
DROPOUT = ["model.dit.dropout=0.2", "model.vl_self_attention.dropout=0.2"]
HEAD = ("state_encoder", "action_encoder", "action_decoder")


@pytest.fixture(scope="module")
def options(one_episode: Path) -> list[str]:
    """A tiny network of three embodiments, with padded states and actions."""
    blocks = ("num_attention_heads=2", "attention_head_dim=8")
    dataset = "train_dataloader.dataset.datasets"
    normalize = f"{dataset}.transforms.1"
    return [
        "model.vision_backbone.hidden_size=8",
        "model.vision_backbone.stem_channels=4",
        "model.projector.in_dim=8",
        "model.projector.out_dim=16",
        *(f"model.llm_backbone.{x}" for x in ("hidden_size=16", "intermediate_size=16")),
        *(f"model.llm_backbone.{x}" for x in ("num_attention_heads=2", "head_dim=8")),
        *(f"model.{part}.{x}" for part in ("vl_self_attention", "dit") for x in blocks),
        *("model.dit.output_dim=16", "model.dit.cross_attention_dim=16", "model.hidden_size=16"),
        f"model.num_embodiments={EMBODIMENTS}",
        f"model.max_state_dim={PADDED_STATE}",
        f"model.max_action_dim={PADDED_ACTION}",
        f"{normalize}.state_dim={PADDED_STATE}",
        f"{normalize}.action_dim={PADDED_ACTION}",
        f"inference.dataset.transforms.0.state_dim={PADDED_STATE}",
        f"{dataset}.transforms.0.embodiment_id={EMBODIMENT}",
        f"{dataset}.transforms.2.max_len=90",
        "inference.dataset.transforms.1.max_len=90",
        f"{dataset}.data_root_path={one_episode}",
        "train_dataloader.per_device_batch_size=4",
        "train_dataloader.per_device_num_workers=0",
        *("runner.max_steps=5", "runner.log_interval=1", "runner.learning_rate=1e-3"),
        "runner.num_noise_samples=2",
        "runner.lr_scheduler_type=constant",
    ]


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedRuns]:
    runs = ForkedRuns("transformers.models.qwen3.modeling_qwen3")
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def alone(run: ForkedRuns, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("alone")
    run(work_dir, options, config=CONFIG)
    return work_dir


def same_weights(ours: Path, theirs: Path) -> None:
    one, two = (load_checkpoint(folder / "checkpoint_epoch_1.pt") for folder in (ours, theirs))
    for part in ("model", "ema"):
        for name, value in two[part].items():
            assert torch.equal(one[part][name], value), name


RECOMPUTED = "runner.enable_gradient_checkpointing=true"


@pytest.mark.parametrize(
    "kind",
    [DDP, [*FSDP, "runner.sharding_strategy=full-shard", RECOMPUTED]],
    ids=["copies", "shards"],
)
def test_two_processes_train_like_one(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path, kind: list[str]
) -> None:
    run(tmp_path, [*options, *kind, HALF], config=CONFIG, ranks=2)
    torch.testing.assert_close(losses(tmp_path), losses(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_resumed_run_with_dropout_is_exact(
    run: ForkedRuns, options: list[str], tmp_path: Path, ranks: int
) -> None:
    more = [*options, *DROPOUT, "runner.save_iter_interval=2", "runner.max_checkpoints=9"]
    more += [*DDP, HALF] if ranks == 2 else []
    run(tmp_path / "whole", more, config=CONFIG, ranks=ranks)
    parts = tmp_path / "parts"
    run(parts, [*more, "runner.max_steps=4"], config=CONFIG, ranks=ranks)
    run(
        parts,
        more,
        "--resume-from",
        str(parts / "checkpoint_step_2.pt"),
        config=CONFIG,
        ranks=ranks,
    )
    assert losses(parts) == losses(tmp_path / "whole")
    same_weights(parts, tmp_path / "whole")


def test_the_held_out_loss_is_that_of_the_robots_own_embodiment(
    run: ForkedRuns, alone: Path, one_episode: Path, tmp_path: Path
) -> None:
    """Against the whole held-out set in one batch."""
    tree = json.loads((alone / "config.json").read_text())
    held_out, path = tmp_path / "held_out", tmp_path / "config.json"
    held_out.symlink_to(one_episode)
    dataset = {**tree["train_dataloader"]["dataset"]}
    steps = [each for each in dataset["datasets"]["transforms"] if each["type"] != "DropStates"]
    assert len(steps) == len(dataset["datasets"]["transforms"]) - 1
    moved = {"data_root_path": str(held_out), "transforms": steps}
    dataset["datasets"] = {**dataset["datasets"], **moved}
    tree["validation"] = dict(dataset=dataset, num_batches=1000, num_action_samples=2)
    path.write_text(json.dumps(tree))
    run(tmp_path / "run", ["runner.max_steps=2"], config=str(path))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (found,) = [line["validation"] for line in lines if "validation" in line]

    config, _ = read_train_config(path, [])
    model = config.model.build().eval()
    model.load_state_dict(load_file(tmp_path / "run" / "checkpoint_epoch_1.safetensors"))
    assert config.validation is not None
    samples = config.validation.dataset.build().datasets[0]
    collated = config.runner.collator([samples[i] for i in range(len(samples))])
    batch = {key: torch.as_tensor(value) for key, value in collated.items()}
    assert batch["embodiment_ids"].tolist() == [EMBODIMENT] * len(samples)
    seeded = torch.Generator().manual_seed(0)
    draws = draw_flow(model.config, len(samples), PADDED_ACTION, generator=seeded)
    with torch.no_grad():
        mask = flow_mask(model, batch, draws)
        error = (flow_errors(model, batch, draws) * mask).sum((0, 1))
        other = flow_errors(model, {**batch, "embodiment_ids": batch["embodiment_ids"] - 1}, draws)
    expected = error.sum() / mask.sum()
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4)
    by_dimension = (error / mask.sum((0, 1)))[:ACTION_DIM]
    assert found["loss_by_dimension"]["aloha-sim"] == pytest.approx(by_dimension.tolist(), rel=1e-4)
    assert abs((other * mask).sum() / mask.sum() - expected) > 1e-3 * expected
    for errors in found["action_error"]["aloha-sim"].values():
        assert len(errors) == ACTION_DIM and all(value > 0 for value in errors)


@pytest.mark.parametrize("name", ["checkpoint_epoch_1.pt", "checkpoint_epoch_1.safetensors"])
def test_what_training_wrote_is_recognised(
    name: str, alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(alone / "config.json")
    assert flux_core(["inspect", str(alone / name), "--config", config, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["model"]) == ("flux", "gr00t")


LORA = [
    *("model.use_lora=true", "model.lora_rank=2", "model.lora_dropout=0.1"),
    f"model.modules_to_save={list(HEAD)!r}".replace(" ", ""),
]


def test_adapters_are_those_of_mixer_and_dit_and_the_merged_file_holds_them(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    start = alone / "checkpoint_epoch_1.safetensors"
    more = [*options, *LORA, f"model.pretrained_name_or_path={start}", "runner.max_steps=3"]
    run(tmp_path, more, config=CONFIG)
    before, after = load_file(start), load_file(tmp_path / "checkpoint_epoch_1.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = {
        n for n in before if n.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight"))
    }
    assert projections <= changed
    assert {name.split(".")[0] for name in projections} == {"dit", "vl_self_attention"}
    assert {name.split(".")[0] for name in changed - projections} == set(HEAD)
    config, _ = read_train_config(Path(CONFIG), more)
    model = config.model.build()
    load_pretrained(model, start)
    apply_lora(model)
    load_adapter(model, tmp_path / "checkpoint_epoch_1_adapter")
    for name, value in merged_weights(model.state_dict(), config.model).items():
        assert torch.equal(value, after[name]), name


FLAGS: dict[str, set[str]] = {
    "freeze_vision_backbone": {"vision_backbone"},
    "freeze_projector": {"projector"},
    "freeze_llm_backbone": {"llm_backbone"},
    "freeze_vlm_backbone": {"vision_backbone", "projector", "llm_backbone"},
    "freeze_mixer": {"vlln", "vl_self_attention"},
    "freeze_action_projectors": {*HEAD, "position_embedding"},
    "freeze_dit": {"dit", "future_tokens"},
}


@pytest.mark.parametrize("flag", FLAGS)
def test_the_table_shows_what_a_flag_freezes(flag: str, options: list[str]) -> None:
    config, _ = read_train_config(Path(CONFIG), [*options, f"model.{flag}=true"])
    table = parameter_table(config.model.build())
    names, trained = (list(table.columns[index].cells) for index in (0, 2))
    frozen = {name for name, count in zip(names, trained, strict=True) if count == "0"}
    assert frozen == FLAGS[flag]
    assert set(names) >= set().union(*FLAGS.values())


def test_a_frozen_part_does_not_change(
    run: ForkedRuns, alone: Path, options: list[str], tmp_path: Path
) -> None:
    flags = ("freeze_vlm_backbone", "freeze_mixer", "freeze_action_projectors")
    start = alone / "checkpoint_epoch_1.safetensors"
    more = [*options, *DROPOUT, "runner.max_steps=2", f"model.pretrained_name_or_path={start}"]
    run(tmp_path, [*more, *(f"model.{flag}=true" for flag in flags)], config=CONFIG)
    before, after = load_file(start), load_file(tmp_path / "checkpoint_epoch_1.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"dit", "future_tokens"}


@pytest.fixture(scope="module")
def gradients(options: list[str]) -> dict[str, torch.Tensor]:
    with_states = "train_dataloader.dataset.datasets.transforms.5.share=0"
    config, _ = read_train_config(Path(CONFIG), [*options, with_states])
    dataset = config.train_dataloader.dataset.build()
    batch = {
        key: torch.as_tensor(value)
        for key, value in config.runner.collator(dataset.__getitems__([0, 3])).items()
    }
    assert batch["embodiment_ids"].tolist() == [EMBODIMENT] * 2
    assert batch["actions"].shape[-1] == PADDED_ACTION
    model = config.model.build()
    # A fresh network's output would not depend on everything.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    batch["actions"][..., ACTION_DIM:] = 1e3
    result = flow_matching_loss(model, batch, generator=torch.Generator().manual_seed(0))
    result.loss.backward()
    assert result.loss < 1e3, "the padding's error is not part of the loss"
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_padded_dimensions_have_no_loss(gradients: dict[str, torch.Tensor]) -> None:
    for name in ("action_decoder.layer2.W", "action_decoder.layer2.b"):
        gradient = gradients[name][EMBODIMENT].abs().reshape(-1, PADDED_ACTION).sum(dim=0)
        assert (gradient[:ACTION_DIM] > 0).all() and (gradient[ACTION_DIM:] == 0).all()
    padded = gradients["state_encoder.layer1.W"][EMBODIMENT][ACTION_DIM:]
    assert (padded == 0).all(), "a padded state is zero"


def test_other_embodiments_have_no_gradient_and_everything_else_has_one(
    gradients: dict[str, torch.Tensor],
) -> None:
    for name, gradient in gradients.items():
        if name.startswith(HEAD):
            others = [e for e in range(EMBODIMENTS) if e != EMBODIMENT]
            assert (gradient[others] == 0).all(), name
            assert gradient[EMBODIMENT].abs().sum() > 0, name
        else:
            assert gradient.abs().sum() > 0, name
