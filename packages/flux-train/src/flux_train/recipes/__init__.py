"""Functions that return config sections: a config file is as short as its differences.

full        adapters for full-size networks (which are in `sizes` of `flux_core.models.pi`, `gr00t`)
small       a small pi0.5 or GR00T from scratch for one robot: your own, the simulated ALOHA, LIBERO
libero      LIBERO's suites
robots      your own robots: Aloha, UR3, any other, or several in one run
pretrained  what datasets and robots for openpi's weights have in common
columns     the datasets' names of the state, the actions and the cameras
runners     how a network is trained
in_force    the settings of a run beside those of openpi's recipe
"""

from flux_core.models.gr00t import gr00t_model
from flux_core.models.pi import pi0_model, pi05_model

from .columns import Columns
from .full import gr00t_lora, lora
from .libero import OPENPI_COLUMNS, libero_data, libero_inference, libero_model, libero_runner
from .robots import robot_data, robot_inference
from .runners import full_runner, lora_runner
from .small import (
    LIBERO_OBJECT,
    SmallRobot,
    small_aloha_sim_data,
    small_aloha_sim_inference,
    small_data,
    small_gr00t_model,
    small_inference,
    small_libero_object_data,
    small_libero_object_inference,
    small_pi05_model,
    small_runner,
)

__all__ = [
    "LIBERO_OBJECT",
    "OPENPI_COLUMNS",
    "Columns",
    "SmallRobot",
    "full_runner",
    "gr00t_lora",
    "gr00t_model",
    "libero_data",
    "libero_inference",
    "libero_model",
    "libero_runner",
    "lora",
    "lora_runner",
    "pi05_model",
    "pi0_model",
    "robot_data",
    "robot_inference",
    "small_aloha_sim_data",
    "small_aloha_sim_inference",
    "small_data",
    "small_gr00t_model",
    "small_inference",
    "small_libero_object_data",
    "small_libero_object_inference",
    "small_pi05_model",
    "small_runner",
]
