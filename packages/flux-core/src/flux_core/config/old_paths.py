"""Dotted class paths that older versions wrote, and the current name of each class.

A class without a registered name is written as 'module:Class', so moving its module would make
existing checkpoints, bundles and work dirs unreadable. All our classes have names now; this table
is for older files.
"""

from __future__ import annotations

_WRITTEN = {
    "TrainConfig": ("flux_train.config:TrainConfig", "flux_train.config.tree:TrainConfig"),
    "TrainDataloader": (
        "flux_train.config:TrainDataloader",
        "flux_train.config.tree:TrainDataloader",
    ),
    "TrainRunner": (
        "flux_train.runner_config:TrainRunner",
        "flux_train.config.runner:TrainRunner",
    ),
    "Validation": (
        "flux_train.validation:Validation",
        "flux_train.validation.validator:Validation",
    ),
    "InferenceRunner": (
        "flux_core.inference:InferenceRunner",
        "flux_core.deployment:InferenceRunner",
    ),
    "RTCConfig": ("flux_core.rtc:RTCConfig",),
    "RTCTrainingConfig": ("flux_core.rtc:RTCTrainingConfig",),
    "RobotSpec": ("flux_core.robots:RobotSpec", "flux_core.robots.spec:RobotSpec"),
    "NumberTokens": (
        "flux_core.models.initialization:NumberTokens",
        "flux_core.models.layers.initialization:NumberTokens",
    ),
    "SigLIPVisionConfig": (
        "flux_core.models.siglip:SigLIPVisionConfig",
        "flux_core.models.layers.siglip:SigLIPVisionConfig",
    ),
}
"""Classes that had no registered name at the time, so flux wrote their paths."""

_WRITTEN_BY_HAND = {
    "PI0FlowMatching": ("flux_core.models.pi0:PI0FlowMatching",),
    "PI05FlowMatching": ("flux_core.models.pi05:PI05FlowMatching",),
    "ConditionGemmaModel": ("flux_core.models.gemma:ConditionGemmaModel",),
    "LinearProjector": ("flux_core.models.layers:LinearProjector",),
    "SigLIPViTBackbone": ("flux_core.models.siglip:SigLIPViTBackbone",),
    "ConvBackbone": ("flux_core.models.conv_backbone:ConvBackbone",),
    "AlohaOperator": ("flux_core.operators:AlohaOperator",),
    "UROperator": ("flux_core.operators:UROperator",),
    "ObservationTransforms": ("flux_core.inference:PrivateInferenceDataset",),
    "AlohaSimInferenceRunner": ("flux_core.inference:AlohaSimInferenceRunner",),
    "AlohaInferenceRunner": ("flux_core.inference:AlohaInferenceRunner",),
    "LiberoInferenceRunner": ("flux_core.inference:LiberoInferenceRunner",),
    "URInferenceRunner": ("flux_core.inference:URInferenceRunner",),
    "DistributedRepeatingDataset": ("flux_data.repeating_dataset:DistributedRepeatingDataset",),
    "ParquetDataset": ("flux_data.parquet_dataset:ParquetDataset",),
    "ProcessParquetInputs": ("flux_data.process_inputs:ProcessParquetInputs",),
    "DictCollator": ("flux_data.collate:DictCollator",),
    "SingleTrainRunner": ("flux_train.runner_config:SingleTrainRunner",),
    "DDPTrainRunner": ("flux_train.runner_config:DDPTrainRunner",),
    "FSDPTrainRunner": ("flux_train.runner_config:FSDPTrainRunner",),
    "VLAMetric": ("flux_train.runner_config:VLAMetric",),
}
"""Classes that had a registered name, so flux never wrote their paths; a user's config may have."""

OLD_PATHS: dict[str, str] = {
    path: name
    for names in (_WRITTEN, _WRITTEN_BY_HAND)
    for name, paths in names.items()
    for path in paths
}
"""'flux_train.config:TrainConfig' -> 'TrainConfig'."""
