"""Names a config may use as `type`, and where each one lives."""

COMPONENTS: dict[str, str] = {
    "VLAMetric": "flux_train.config.runner:VLAMetric",
    "DDPTrainRunner": "flux_train.config.runner:DDPTrainRunner",
    "FSDPTrainRunner": "flux_train.config.runner:FSDPTrainRunner",
    "SingleTrainRunner": "flux_train.config.runner:SingleTrainRunner",
}
