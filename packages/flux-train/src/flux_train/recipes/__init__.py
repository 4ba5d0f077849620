"""Functions that return config sections: a config file is as short as its differences."""

from .small import small_aloha_sim_data, small_aloha_sim_inference, small_pi05_model, small_runner

__all__ = [
    "small_aloha_sim_data",
    "small_aloha_sim_inference",
    "small_pi05_model",
    "small_runner",
]
