"""Names a config may use as `type`, and where each one lives."""

COMPONENTS: dict[str, str] = {
    "SingleTrainRunner": "flux_train.runner_config:SingleTrainRunner",
}
