"""The facts about a network that its robot must fit."""

from __future__ import annotations

from ...agreement import Network
from .policy import FlowPolicy


def network_facts(config: FlowPolicy.Config) -> Network:
    """Returns what the network of a config takes and gives."""
    rtc = config.rtc_training_config
    is_trained = rtc is not None and rtc.enabled
    return Network(
        action_dim=config.action_dim,
        action_horizon=config.n_action_steps,
        reads_state=config.reads_state,
        rtc_delays=rtc.delays(config.prefix_stride) if rtc and is_trained else (0,),
    )
