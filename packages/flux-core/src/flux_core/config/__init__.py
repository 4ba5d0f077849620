"""One config tree, two spellings: `dict(type='X', a=1)` and `X.Config(a=1)` are the same node.

tree = load_config("configs/run.py", ["runner.max_epochs=50"])   # plain data
model = bind(component("PI05FlowMatching"), tree["model"], "model")   # frozen dataclasses
model.build()                                                    # no dict, no lookup by name
json.dumps(unbind(model))                                        # and back again
"""

from .._components import NETWORKS
from .binding import bind, unbind
from .deployable import (
    Use,
    obstacles,
    own_training_transforms,
    registrations,
    uses,
    with_current_types,
    without_own_training_transforms,
)
from .loading import load_config
from .numbers import check_at_least
from .overrides import apply_overrides, read_overrides, with_settings
from .registry import component, config_class, did_you_mean, register_components, type_name

__all__ = [
    "NETWORKS",
    "Use",
    "apply_overrides",
    "bind",
    "check_at_least",
    "component",
    "config_class",
    "did_you_mean",
    "load_config",
    "obstacles",
    "own_training_transforms",
    "read_overrides",
    "register_components",
    "registrations",
    "type_name",
    "unbind",
    "uses",
    "with_current_types",
    "with_settings",
    "without_own_training_transforms",
]
