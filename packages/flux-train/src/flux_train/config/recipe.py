"""Named recipes: the settings of another project's trainer, chosen together.

'openpi' is what openpi's JAX trainer does (`training/config.py`, `training/optimizer.py`,
`models/model.py`), as far as it differs from this project's defaults. A recipe is only a set of
values: it is written into the config before binding, and every value can be overridden.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from flux_core.config import did_you_mean, read_overrides
from flux_core.errors import ConfigError

logger = logging.getLogger("flux.config")

RecipeName = Literal["openpi"]

Section = dict[str, Any]

OPENPI_RUNNER: Mapping[str, Any] = dict(
    max_steps=30_000,
    learning_rate=2.5e-5,
    lr_scheduler_type="linear-warmup+cosine-decay",
    learning_rate_steps=(),
    warmup_steps=1_000,
    decay_steps=30_000,
    min_lr_ratio=0.1,
    betas=(0.9, 0.95),
    weight_decay=1e-10,
    max_grad_norm=1.0,
    ema_decay=0.99,
    num_noise_samples=1,
    seed=42,
)
OPENPI_SAMPLES_PER_STEP = 32
OPENPI_DATASET: Mapping[str, Any] = dict(supervise_terminal_padding=True)

KEYS = ("recipe", "runner.recipe")
"""The keys that choose a recipe in a config or in its overrides."""


def runner_values(
    recipe: RecipeName | None, settings: Mapping[str, Any], *, lora: bool = False
) -> Section:
    """Returns `settings` of a runner on top of the recipe's.

    Args:
        recipe: its name; None for the settings alone.
        settings: those that are stated; a number of epochs replaces the recipe's number of steps.
        lora: whether only adapters are trained, of which openpi keeps no average.

    Raises:
        ConfigError: there is no such recipe.
    """
    if recipe is None:
        return dict(settings)
    values = dict(OPENPI_RUNNER, recipe=checked(recipe))
    if lora:
        values["ema_decay"] = 0.0
    if settings.get("max_epochs") is not None:
        del values["max_steps"]
    return values | dict(settings)


def dataset_values(recipe: RecipeName | None) -> Section:
    """Returns the recipe's settings of a `ParquetDataset`; none without a recipe."""
    return {} if recipe is None or not checked(recipe) else dict(OPENPI_DATASET)


def checked(recipe: object) -> RecipeName:
    """Returns the recipe's name.

    Raises:
        ConfigError: there is no such recipe.
    """
    names = get_args(RecipeName)
    if recipe not in names:
        hint = did_you_mean(str(recipe), names)
        raise ConfigError(
            f"recipe: expected {' or '.join(map(repr, names))}, got {recipe!r}.{hint}"
        )
    return "openpi"


def recipe_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """Returns the overrides that write a chosen recipe into a config, and then `overrides`.

    A recipe is chosen by `--cfg-options recipe=openpi`, or by `recipe = "openpi"` in the file. Its
    values replace those of the file, which is logged; the other overrides replace the recipe's.

    Args:
        tree: the sections of the file.
        overrides: 'runner.max_epochs=50' and the like.

    Raises:
        ConfigError: there is no such recipe.
    """
    given = dict(read_overrides(overrides))
    chosen = next((given[key] for key in reversed(given) if key in KEYS), tree.get("recipe"))
    others = [option for option in overrides if option.partition("=")[0] not in KEYS]
    if chosen is None:
        return others
    model = tree.get("model")
    lora = model.get("use_lora", False) if isinstance(model, Mapping) else False
    stated = {"max_epochs": given.get("runner.max_epochs")}
    runner = {"max_steps": None} | runner_values(
        checked(chosen), stated, lora=bool(given.get("model.use_lora", lora))
    )
    values = {f"runner.{key}": value for key, value in runner.items()}
    for path in _datasets(tree):
        values |= {f"{path}.{key}": value for key, value in OPENPI_DATASET.items()}
    _tell(tree, values, given)
    return [*(f"{key}={_text(value)}" for key, value in values.items()), *others]


def _datasets(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yields the dotted paths of all datasets, those of the validation included."""
    waiting = [(name, tree.get(name)) for name in ("train_dataloader", "validation")]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Mapping) and "data_root_path" in node:
            yield path
        elif isinstance(node, Mapping):
            waiting += [(f"{path}.{key}", value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            waiting += [(f"{path}.{place}", value) for place, value in enumerate(node)]


def _tell(tree: Mapping[str, Any], values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Logs which values of the file the recipe replaces."""
    replaced = []
    for key, value in values.items():
        before: Any = tree
        for part in key.split("."):
            if isinstance(before, list | tuple):
                before = before[int(part)]
            else:
                before = before.get(part) if isinstance(before, Mapping) else None
        if before not in (None, value) and key not in given and not _are_alike(before, value):
            replaced.append(f"{key}={value} instead of {before}")
    if replaced:
        logger.warning("the recipe replaces the config's values: %s", ", ".join(replaced))


def _are_alike(before: object, value: object) -> bool:
    return isinstance(before, list) and isinstance(value, tuple) and tuple(before) == value


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
