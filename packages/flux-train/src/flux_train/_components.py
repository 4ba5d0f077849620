"""Names a config may use as `type`, and where each one lives."""

COMPONENTS: dict[str, str] = {
    "VLAMetric": "flux_train.runner_config:VLAMetric",
    "DDPTrainRunner": "flux_train.runner_config:DDPTrainRunner",
    "FSDPTrainRunner": "flux_train.runner_config:FSDPTrainRunner",
    "SingleTrainRunner": "flux_train.runner_config:SingleTrainRunner",
}
