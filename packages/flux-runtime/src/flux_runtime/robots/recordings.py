"""What a bundle says of its robot's recordings: the robot, and which columns are what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flux_core.agreement import dataset_sections
from flux_core.bundle import DescribedBundle
from flux_core.config import bind
from flux_core.deployment import InferenceRunner
from flux_core.errors import BundleError, ConfigError, RobotError
from flux_core.robots import carried_robot, robot_spec


def recorded_robot(bundle: DescribedBundle) -> dict[str, Any]:
    """Returns arguments of a robot that plays recordings: `spec`, `cameras` and `training`.

    Raises:
        BundleError: the bundle's config cannot be used.
    """
    try:
        spec = carried_robot(bundle.config) or robot_spec(bundle.manifest.robot)
        training = _training(bundle)
    except (ConfigError, RobotError) as error:
        raise BundleError(f"config.json: {error}. Export the bundle again.") from error
    columns = (training or {"transforms": [{}]})["transforms"][0].get("video_keys", ())
    section: Any = bundle.config.get("inference")
    observed: Any = section.get("dataset") if isinstance(section, Mapping) else None
    trained = bundle.manifest.cameras
    if isinstance(observed, Mapping):
        trained = observed.get("trained_cameras") or observed.get("img_keys") or trained
    named = dict(zip(trained, columns, strict=False))
    return {
        "spec": dataclasses.asdict(spec),
        "cameras": {name: named.get(name) for name in bundle.manifest.cameras},
        "training": training,
    }


def _training(bundle: DescribedBundle) -> dict[str, Any] | None:
    """Returns the section of the first dataset of the robot's group; None if there is none."""
    groups = dataset_sections(bundle.config)
    section: Any = bundle.config.get("inference")
    if not groups or not isinstance(section, Mapping) or "dataset" not in section:
        return None
    inference: InferenceRunner = bind(InferenceRunner, section, "inference")
    return dict(groups[inference.statistics_group(groups)][0])
