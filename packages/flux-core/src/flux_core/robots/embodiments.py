"""GR00T's embodiments: which of its encoders and decoders a robot uses."""

from __future__ import annotations

from ..config import did_you_mean
from ..errors import ConfigError

EMBODIMENTS = {
    "gr1": 24,
    "oxe_droid": 17,
    "agibot_genie1": 26,
    "new_embodiment": 31,
    "so100": 2,
    "unitree_g1": 3,
}
"""Tag -> id. NVIDIA's weights know the first three; `new_embodiment` is meant for other robots. The
last two are LeRobot's. FluxVLA has numbers alone: LIBERO 2, UR3 2, Aloha 0."""


def embodiment_number(value: int | str) -> int:
    """Returns the id of an embodiment that is given as an id or a tag.

    Raises:
        ConfigError: an unknown tag, or a negative id.
    """
    if isinstance(value, int):
        if value < 0:
            raise ConfigError(f"embodiment_id: expected 0 or more, got {value}")
        return value
    if value not in EMBODIMENTS:
        raise ConfigError(
            f"embodiment_id: expected a number or one of {', '.join(EMBODIMENTS)}, got {value!r}."
            f"{did_you_mean(value, EMBODIMENTS)} For a new robot use 'new_embodiment'"
        )
    return EMBODIMENTS[value]
