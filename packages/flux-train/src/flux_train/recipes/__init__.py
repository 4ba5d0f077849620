"""Functions that return config sections: a config file is as short as its differences."""

from .full import pi0_model, pi05_model
from .small import small_aloha_sim_data, small_aloha_sim_inference, small_pi05_model, small_runner

__all__ = [
    "pi05_model",
    "pi0_model",
    "small_aloha_sim_data",
    "small_aloha_sim_inference",
    "small_pi05_model",
    "small_runner",
]
