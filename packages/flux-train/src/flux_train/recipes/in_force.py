"""The settings of a run that decide what is learnt, beside those of openpi's JAX trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from flux_core.transforms import Augmentation, ImageResize, Normalization, Transform
from flux_data.samples import ParquetDataset

from ..config.recipe import OPENPI_DATASET, OPENPI_SAMPLES_PER_STEP, runner_values
from ..config.runner import TrainRunner
from ..config.tree import TrainConfig

EPS = 1e-8
"""AdamW's, of torch and of openpi."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting as text: the run's, and openpi's for the same policy.

    Attributes:
        name: of the setting.
        ours: in this run.
        openpi: in openpi's JAX trainer.
    """

    name: str
    ours: str
    openpi: str

    @property
    def differs(self) -> bool:
        """Whether openpi trains with another value."""
        return self.ours != self.openpi


def settings_in_force(
    config: TrainConfig, *, total_steps: int, samples_per_step: int
) -> list[Setting]:
    """Returns all settings; `total_steps` and `samples_per_step` count over all processes."""
    values = runner_values("openpi", {"max_epochs": None}, lora=config.model.use_lora)
    reference = dataclasses.replace(config.runner, **values)
    runners = (config.runner, total_steps), (reference, reference.max_steps or 0)
    rows: dict[str, tuple[str, str]] = {
        name: (say(*runners[0]), say(*runners[1])) for name, say in OF_RUNNER.items()
    }
    rows["samples per step"] = f"{samples_per_step:,}", f"{OPENPI_SAMPLES_PER_STEP:,}"
    rows |= _of_data(config)
    return [Setting(name=k, ours=ours, openpi=theirs) for k, (ours, theirs) in rows.items()]


def settings_table(settings: Sequence[Setting]) -> Table:
    """One row per setting of the training; openpi's value where it is another one."""
    table = Table("setting", "this run", "openpi, if different", title="Settings")
    for each in settings:
        table.add_row(each.name, each.ours, each.openpi if each.differs else "")
    return table


def recipe_differences(settings: Sequence[Setting]) -> str | None:
    """Returns in one line where a run of the recipe 'openpi' differs from it; None if nowhere."""
    parts = [f"{each.name} {each.ours} (openpi {each.openpi})" for each in settings if each.differs]
    return f"runner.recipe='openpi', except: {'; '.join(parts)}" if parts else None


def _schedule(runner: TrainRunner, total_steps: int) -> str:
    if runner.lr_scheduler_type == "constant":
        return f"constant {runner.learning_rate:g}"
    if runner.lr_scheduler_type == "step-based":
        return " then ".join(
            f"{rate:g} from {share:g}" for share, rate in runner.learning_rate_steps
        )
    return (
        f"{runner.num_warmup_steps(total_steps):,} steps up to {runner.learning_rate:g}, cosine to "
        f"{runner.learning_rate * runner.min_lr_ratio:g} in step "
        f"{runner.decay_steps or total_steps:,}"
    )


OF_RUNNER: dict[str, Callable[[TrainRunner, int], str]] = {
    "steps": lambda runner, total: f"{total:,}",
    "learning rate": _schedule,
    "AdamW betas, eps": lambda runner, _: f"{runner.betas[0]:g}, {runner.betas[1]:g}, {EPS:g}",
    "weight decay": lambda runner, _: f"{runner.weight_decay:g}",
    "gradient clipping": lambda runner, _: f"{runner.max_grad_norm:g}",
    "moving average": lambda runner, _: f"{runner.ema_decay:g}" if runner.ema_decay else "off",
    "noise draws per sample": lambda runner, _: f"{runner.num_noise_samples}",
}


def _of_data(config: TrainConfig) -> Iterator[tuple[str, tuple[str, str]]]:
    members = [
        member for group in config.train_dataloader.dataset.groups().values() for member in group
    ]
    network = config.model

    def shown(of: Callable[[ParquetDataset.Config], str]) -> str:
        return ", ".join(dict.fromkeys(map(of, members)))

    padding = {True: "in the loss", False: "masked"}
    yield (
        "actions after an episode's end",
        (
            shown(lambda member: padding[member.supervise_terminal_padding]),
            padding[OPENPI_DATASET["supervise_terminal_padding"]],
        ),
    )
    yield "augmentation", (shown(_step(Augmentation)), "AugmentImages")
    yield "image resize", (shown(_step(ImageResize)), "ResizeImagesWithPad 224 x 224")
    yield (
        "normalisation",
        (shown(_norm_type), network.norm_type),
    )
    prompts = {True: "task and state", False: "task"}
    yield (
        "prompt",
        (
            shown(lambda member: prompts[member.pipeline.prompt_uses_state]),
            prompts[network.state_in_prompt],
        ),
    )


def _norm_type(member: ParquetDataset.Config) -> str:
    normalize = member.pipeline.maybe(Normalization)
    return "none" if normalize is None else normalize.norm_type


def _step(kind: type[Transform]) -> Callable[[ParquetDataset.Config], str]:
    """Returns a function that describes a dataset's step of a role."""

    def describe(member: ParquetDataset.Config) -> str:
        step = member.pipeline.maybe(kind)
        if step is None:
            return "none"
        name = type(step).__name__
        if isinstance(step, ImageResize):
            return f"{name} {step.height} x {step.width}"
        return " ".join([name, *_changed(step)])

    return describe


def _changed(step: Any) -> Iterator[str]:
    """Yields the fields of a transform that have not their default."""
    for field in dataclasses.fields(step):
        if (value := getattr(step, field.name)) != field.default:
            yield f"{field.name}={value}"
