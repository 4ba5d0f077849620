"""Training and robot must not contradict each other.

`sections` compares the two sections of a config, `trained` reads the training section and the facts
about its data, `rules` lists every field, and `changes` is what may still change after training.
"""

from .cameras import check_camera_names, kept_cameras, with_trained_cameras
from .changes import Changes
from .finding import refuse
from .rehearsal import rehearse
from .rules import RULES, rule_of
from .sections import (
    check_agreement,
    check_data_agreement,
    warn_of_new_tasks,
    warn_of_untrained_tasks,
)
from .trained import (
    FACTS_KEY,
    DataFacts,
    Network,
    Trained,
    TrainedDataset,
    dataset_sections,
    datasets_of,
)

__all__ = [
    "FACTS_KEY",
    "RULES",
    "Changes",
    "DataFacts",
    "Network",
    "Trained",
    "TrainedDataset",
    "check_agreement",
    "check_camera_names",
    "check_data_agreement",
    "dataset_sections",
    "datasets_of",
    "kept_cameras",
    "refuse",
    "rehearse",
    "rule_of",
    "warn_of_new_tasks",
    "warn_of_untrained_tasks",
    "with_trained_cameras",
]
