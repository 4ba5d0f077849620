"""openpi's recipe as a named choice; the shipped configs keep the tutorial's values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from flux_core.config import unbind
from flux_core.errors import ConfigError
from flux_data.samples.collate import DictCollator
from flux_train import recipes
from flux_train.cli import main
from flux_train.config.runner import SingleTrainRunner
from flux_train.config.tree import TrainConfig, bind_train_config, read_train_config
from flux_train.optimization import learning_rate_at
from flux_train.recipes.in_force import recipe_differences, settings_in_force

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
COSINE = "linear-warmup+cosine-decay"
LIBERO = (24, 5e-5, COSINE, 0.03, 0.0)
PI0, PI05 = (3, 2e-5, COSINE, 0.1, 0.0), (6, 5e-5, COSINE, 0.03, 0.01)
# epochs, learning rate, schedule, share of warm-up, weight decay
GR00T, GR00T_LIBERO = (6, 2e-5, "constant", 0.03, 0.0), (18, 1.5e-5, COSINE, 0.03, 0.0)
TUTORIAL = {
    "gr00t/gr00t_eagle_3b_aloha_full_finetune": GR00T,
    "gr00t/gr00t_eagle_3b_libero_10_full_finetune": GR00T_LIBERO,
    "gr00t/gr00t_eagle_3b_libero_10_lora_finetune": (18, 1e-4, COSINE, 0.05, 0.0),
    "gr00t/gr00t_eagle_3b_libero_goal_full_finetune": GR00T_LIBERO,
    "gr00t/gr00t_eagle_3b_libero_object_full_finetune": GR00T_LIBERO,
    "gr00t/gr00t_eagle_3b_libero_spatial_full_finetune": GR00T_LIBERO,
    "gr00t/gr00t_eagle_3b_ur3_full_finetune": GR00T,
    "pi0/pi0_paligemma_aloha+ur_full_train": (5, 2e-5, "constant", 0.03, 0.0),
    "pi0/pi0_paligemma_aloha_full_train": PI0,
    "pi0/pi0_paligemma_libero_10_full_finetune_pytorch": LIBERO,
    "pi0/pi0_paligemma_libero_10_full_train": LIBERO,
    "pi0/pi0_paligemma_libero_90_full_finetune": LIBERO,
    "pi0/pi0_paligemma_libero_goal_full_finetune": LIBERO,
    "pi0/pi0_paligemma_libero_object_full_finetune": LIBERO,
    "pi0/pi0_paligemma_libero_spatial_full_finetune": LIBERO,
    "pi0/pi0_paligemma_ur3_full_train": PI0,
    "pi05/pi05_paligemma_aloha+ur_full_train": (24, 5e-5, COSINE, 0.03, 0.01),
    "pi05/pi05_paligemma_aloha_full_train": PI05,
    "pi05/pi05_paligemma_libero_10_full_finetune": LIBERO,
    "pi05/pi05_paligemma_libero_10_full_train": LIBERO,
    "pi05/pi05_paligemma_libero_10_lora_finetune": (24, 5e-4, COSINE, 0.03, 0.0),
    "pi05/pi05_paligemma_libero_90_full_finetune": LIBERO,
    "pi05/pi05_paligemma_libero_goal_full_finetune": LIBERO,
    "pi05/pi05_paligemma_libero_object_full_finetune": LIBERO,
    "pi05/pi05_paligemma_libero_spatial_full_finetune": LIBERO,
    "pi05/pi05_paligemma_ur3_full_train": PI05,
}
OPENPI: dict[str, Any] = dict(
    recipe="openpi",
    max_steps=30_000,
    max_epochs=None,
    learning_rate=2.5e-5,
    lr_scheduler_type=COSINE,
    learning_rate_steps=(),
    warmup_steps=1_000,
    decay_steps=30_000,
    min_lr_ratio=0.1,
    betas=(0.9, 0.95),
    weight_decay=1e-10,
    max_grad_norm=1.0,
    ema_decay=0.99,
    gradient_accumulation_steps=1,
    num_noise_samples=1,
    enable_mixed_precision_training=True,
    seed=42,
)


def config_of(name: str, *overrides: str) -> TrainConfig:
    return read_train_config(CONFIGS / f"{name}.py", overrides)[0]


def paddings(config: TrainConfig) -> set[bool]:
    sections = [config.train_dataloader.dataset]
    sections += [config.validation.dataset] if config.validation is not None else []
    return {
        member.supervise_terminal_padding
        for section in sections
        for group in section.groups().values()
        for member in group
    }


def chosen(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config.runner, name) for name in OPENPI}


def test_the_configs_at_the_tutorials_paths_are_all_pinned() -> None:
    full_size = {p for p in CONFIGS.rglob("*.py") if "small" not in p.stem}
    assert {p.relative_to(CONFIGS).with_suffix("").as_posix() for p in full_size} == set(TUTORIAL)


@pytest.mark.parametrize("name", TUTORIAL)
def test_without_a_recipe_a_config_keeps_the_tutorials_values(name: str) -> None:
    config = config_of(name)
    runner = config.runner
    assert TUTORIAL[name] == (
        runner.max_epochs,
        runner.learning_rate,
        runner.lr_scheduler_type,
        runner.warmup_ratio,
        runner.weight_decay,
    )
    assert (runner.recipe, runner.warmup_steps, runner.decay_steps) == (None, None, None)
    assert (runner.ema_decay, runner.max_grad_norm, paddings(config)) == (0.0, 1.0, {False})


@pytest.mark.parametrize("name", TUTORIAL)
def test_the_recipe_replaces_them_on_the_command_line(name: str) -> None:
    config = config_of(name, "recipe=openpi")
    # openpi keeps no average of adapters.
    ema = 0.0 if "lora" in name else 0.99
    assert chosen(config) == OPENPI | {"ema_decay": ema}
    assert paddings(config) == {True}
    told = recipe_differences(settings_in_force(config, total_steps=30_000, samples_per_step=32))
    # openpi's `pi05_libero` has no state in its prompt either, unlike its other pi0.5 configs.
    only_prompt = "runner.recipe='openpi', except: prompt task (openpi task and state)"
    if name.startswith("gr00t"):
        # openpi has no GR00T: its images and its normalisation stay NVIDIA's or FluxVLA's.
        assert told is not None and "image resize LeRobotResizeImages 224 x 224" in told
        assert "normalisation mean_std (openpi min_max)" in told and told.count("(openpi") == 2
        return
    assert told == (only_prompt if name.startswith("pi05") and "libero" in name else None)


def test_the_runners_own_key_chooses_it_too() -> None:
    name = "pi05/pi05_paligemma_aloha_full_train"
    assert config_of(name, "runner.recipe=openpi") == config_of(name, "recipe=openpi")


def test_functions_take_the_recipe_and_stated_settings_win() -> None:
    stated = recipes.full_runner(recipe="openpi", learning_rate=1e-4, sharding_strategy="no-shard")
    data = recipes.robot_data("pi05", aloha=["recordings"], tokenizer_path="t", recipe="openpi")
    model = recipes.pi05_model(action_horizon=32, action_dim=14)
    tree = dict(model=model, train_dataloader=data, runner=stated)
    config = bind_train_config(tree)
    assert chosen(config) == OPENPI | {"learning_rate": 1e-4}
    assert paddings(config) == {True}
    assert recipes.lora_runner(recipe="openpi")["ema_decay"] == 0.0
    assert recipes.lora_runner(recipe="openpi", ema_decay=0.9)["ema_decay"] == 0.9
    epochs = recipes.libero_runner(recipe="openpi", max_epochs=3)
    assert epochs["max_epochs"] == 3 and "max_steps" not in epochs
    assert epochs["learning_rate"] == 2.5e-5
    libero = recipes.libero_data("pi0", data_root_path="d", tokenizer_path="t", recipe="openpi")
    (dataset,) = libero["dataset"]["datasets"]["libero"]
    assert dataset["supervise_terminal_padding"] is True


@pytest.mark.parametrize("place", [0, 1])
def test_other_overrides_win_wherever_they_stand(place: int) -> None:
    options = ["runner.ema_decay=0.5", "runner.max_epochs=2"]
    options.insert(place, "recipe=openpi")
    config = config_of("pi05/pi05_paligemma_aloha_full_train", *options)
    assert chosen(config) == OPENPI | {"ema_decay": 0.5, "max_epochs": 2, "max_steps": None}


def test_what_the_recipe_replaces_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    config_of("pi05/pi05_paligemma_aloha_full_train", "recipe=openpi", "runner.max_steps=9")
    (line,) = [r.getMessage() for r in caplog.records if "recipe" in r.getMessage()]
    assert "runner.learning_rate=2.5e-05 instead of 5e-05" in line
    assert "runner.weight_decay=1e-10 instead of 0.01" in line
    assert "max_steps" not in line


def test_a_file_may_choose_the_recipe_and_the_written_config_keeps_its_values(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.py"
    text = (CONFIGS / "pi05" / "pi05_paligemma_aloha_full_train.py").read_text()
    path.write_text(f'{text}\nrecipe = "openpi"\n')
    config = read_train_config(path, ["runner.learning_rate=1e-4"])[0]
    assert chosen(config) == OPENPI | {"learning_rate": 1e-4}
    written = tmp_path / "config.json"
    written.write_text(json.dumps(unbind(config)))
    assert read_train_config(written, [])[0] == config
    assert read_train_config(path, ["recipe=none"])[0].runner.learning_rate == 5e-5


def test_held_out_data_follows_the_recipe(tmp_path: Path) -> None:
    tree = unbind(config_of("pi05/pi05_paligemma_ur3_full_train"))
    tree["validation"] = dict(dataset=tree["train_dataloader"]["dataset"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tree))
    assert paddings(read_train_config(path, [])[0]) == {False}
    assert paddings(read_train_config(path, ["recipe=openpi"])[0]) == {True}


@pytest.mark.parametrize("option", ["recipe=openpy", "runner.recipe=3"])
def test_an_unknown_recipe_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="recipe: expected 'openpi', got"):
        config_of("pi05/pi05_paligemma_aloha_full_train", option)


def optax_warmup_cosine(step: int, *, peak: float, end: float, warmup: int, decay: int) -> float:
    """What `optax.warmup_cosine_decay_schedule(peak / (warmup + 1), ...)` documents."""
    if step < warmup:
        first = peak / (warmup + 1)
        return first + (peak - first) * step / warmup
    progress = min(step - warmup, decay - warmup) / (decay - warmup)
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize("total_steps", [20_000, 30_000, 50_000])
def test_the_learning_rate_follows_steps_and_not_the_length_of_the_run(total_steps: int) -> None:
    settings: dict[str, Any] = OPENPI | {"max_steps": total_steps}
    runner = SingleTrainRunner(collator=DictCollator(keys=("images",)), **settings)
    for step in (0, 1, 500, 999, 1_000, 15_500, 29_999, 30_000, 40_000):
        expected = optax_warmup_cosine(step, peak=2.5e-5, end=2.5e-6, warmup=1_000, decay=30_000)
        assert learning_rate_at(step, total_steps, runner) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(warmup_steps=-1), "warmup_steps: expected at least 0, got -1"),
        (dict(decay_steps=0), "decay_steps: expected at least 1, got 0"),
        (dict(warmup_steps=9, decay_steps=9), "decay_steps: expected more than the 9 warmup_steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SingleTrainRunner(collator=DictCollator(keys=("images",)), max_steps=9, **settings)


def test_a_dry_run_prints_the_settings_in_force_and_tells_what_differs(
    tiny_options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    small = str(CONFIGS / "pi05" / "pi05_small_aloha_sim.py")
    options = [*tiny_options, "runner.num_noise_samples=1", "recipe=openpi"]
    assert main([small, str(tmp_path / "dry"), "--dry-run", "--cfg-options", *options]) == 0
    shown = capsys.readouterr().err
    for part in ("Settings", "moving average", "0.99", "in the loss", "AugmentImages", "1e-10"):
        assert part in shown, part
    (line,) = [r.getMessage() for r in caplog.records if "except:" in r.getMessage()]
    assert "steps 4 (openpi 30,000)" in line and "augmentation none (openpi AugmentImages)" in line
    assert "samples per step 4 (openpi 32)" in line and "moving average" not in line
    assert "warmup_steps is 1000, but the run has 4 steps" in caplog.text
