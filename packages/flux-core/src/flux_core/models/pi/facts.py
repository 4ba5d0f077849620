"""The facts about a network that its robot must fit."""

from __future__ import annotations

from ...agreement import Network
from .pi0 import PI0FlowMatching


def network_facts(config: PI0FlowMatching.Config) -> Network:
    """Returns what the network of a config takes and gives."""
    rtc = config.rtc_training_config
    is_trained = rtc is not None and rtc.enabled
    return Network(
        action_dim=config.action_dim,
        action_horizon=config.n_action_steps,
        reads_state=config.state_proj is not None,
        rtc_delays=rtc.delays(config.actions_per_token) if rtc and is_trained else (0,),
    )
