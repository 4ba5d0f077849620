"""LIBERO's simulated Franka arm: hand movements from two cameras, in LeRobot v2.1.

The datasets are the usual ones without pauses (`libero_10_no_noops` and the like): state of 8,
action of 7 (six relative hand coordinates and the gripper), 256 x 256 pictures, 20 Hz. As in
openpi's `pi05_libero`, pi0.5's prompt has no state.
"""

from __future__ import annotations

from typing import Any, Literal

from flux_core.models.gr00t import gr00t_model
from flux_core.models.pi import pi0_model, pi05_model

from ..config.recipe import RecipeName, dataset_values
from . import pretrained
from .columns import Columns, Section
from .pretrained import Policy
from .runners import full_runner

ACTION_HORIZON = 10
STATE_DIM, ACTION_DIM = 8, 7
CAMERAS = ("image", "wrist_image")
OPENPI_COLUMNS = Columns(
    state="state", actions="actions", cameras={camera: camera for camera in CAMERAS}
)
"""The names that openpi's `convert_libero_data_to_lerobot.py` writes."""
EXECUTION_HORIZON = 5  # openpi's `examples/libero/main.py`, replan_steps

Suite = Literal["libero_10", "libero_90", "libero_spatial", "libero_object", "libero_goal"]
# One task per suite; the benchmark itself runs all of them.
TASKS: dict[Suite, str] = {
    "libero_10": "put both moka pots on the stove",
    "libero_90": "close the top drawer of the cabinet",
    "libero_spatial": (
        "pick up the black bowl between the plate and the ramekin and place it on the plate"
    ),
    "libero_object": "pick up the alphabet soup and place it in the basket",
    "libero_goal": "open the middle drawer of the cabinet",
}


def libero_model(policy: Policy, **settings: Any) -> Section:
    """The network with LIBERO's dimensions; `settings` override and add keys."""
    if policy == "gr00t":
        sizes = dict(n_action_steps=ACTION_HORIZON, loss_action_dim=ACTION_DIM)
        return gr00t_model(**(sizes | settings))
    sizes = dict(action_horizon=ACTION_HORIZON, action_dim=ACTION_DIM, max_action_dim=None)
    if policy == "pi0":
        return pi0_model(**sizes, state_dim=STATE_DIM, **settings)
    return pi05_model(**sizes, **settings)


def libero_data(
    policy: Policy,
    *,
    data_root_path: str | list[str],
    tokenizer_path: str,
    columns: Columns | Section | None = None,
    recipe: RecipeName | None = None,
) -> Section:
    """Batches from the demonstrations of one or several suites.

    Args:
        policy: 'pi0', 'pi05' or 'gr00t', which decides prompt and normalisation.
        data_root_path: one directory or several.
        tokenizer_path: a file or folder with the tokenizer, PaliGemma's or Qwen's.
        columns: the datasets' names of the state, the actions and the cameras `image` and
            `wrist_image`; default: LeRobot's names. openpi's are `OPENPI_COLUMNS`.
        recipe: 'openpi' prepares windows as openpi does; use it in `libero_runner` too.
    """
    columns = Columns.read(columns)
    dataset = pretrained.dataset(
        policy,
        data_root_path=data_root_path,
        tokenizer_path=tokenizer_path,
        cameras=CAMERAS,
        action_horizon=ACTION_HORIZON,
        state_in_prompt=False,
        columns=columns,
        robot="libero",
        **columns.window(),
        **dataset_values(recipe),
    )
    return pretrained.dataloader({"libero": dataset}, **columns.statistics())


def libero_runner(*, recipe: RecipeName | None = None, **settings: Any) -> Section:
    """Full training as in FluxVLA or by a recipe, the same for every suite; `settings` override."""
    schedule = dict(max_epochs=24, learning_rate=5e-5, warmup_ratio=0.03)
    return full_runner(recipe=recipe, **({} if recipe else schedule) | settings)


def libero_inference(policy: Policy, *, suite: Suite) -> Section:
    """How the simulated arm runs the policy."""
    return pretrained.inference_runner(
        policy,
        type="LiberoInferenceRunner",
        task_descriptions={"1": TASKS[suite]},
        cameras=CAMERAS,
        state_in_prompt=False,
        execution_horizon=EXECUTION_HORIZON,
    )
