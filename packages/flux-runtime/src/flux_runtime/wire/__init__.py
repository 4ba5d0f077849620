"""What goes over the network in remote inference, without the network.

`packing` turns messages into bytes and back, within `bounds`. `messages` is our protocol, `openpi`
reads the observations of openpi's clients, and `facts` is what a server says of its policy.
Whatever arrives is from a stranger, on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux_core.lazy import lazy_exports

if TYPE_CHECKING:
    from .bounds import METADATA_BOUNDS as METADATA_BOUNDS
    from .bounds import Bounds as Bounds
    from .bounds import WireError as WireError
    from .facts import PolicyFacts as PolicyFacts
    from .openpi import KeyMap as KeyMap
    from .openpi import observation_of as observation_of
    from .packing import pack as pack
    from .packing import unpack as unpack
    from .pictures import as_jpeg as as_jpeg
    from .pictures import as_picture as as_picture

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "bounds": ("METADATA_BOUNDS", "Bounds", "WireError"),
        "facts": ("PolicyFacts",),
        "openpi": ("KeyMap", "observation_of"),
        "packing": ("pack", "unpack"),
        "pictures": ("as_jpeg", "as_picture"),
    },
)
