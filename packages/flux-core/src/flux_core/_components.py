"""Names that a config may use as `type`, each with its kind (see `config.kinds`) and its class.

The names of flux-data and flux-train are here too, because a bundle's config contains them and a
robot's computer has neither package.
"""

CONFIG = {"TrainConfig": "flux_train.config.tree:TrainConfig"}
NETWORKS = {
    "pi0": "flux_core.models.pi.pi0:PI0FlowMatching",
    "pi05": "flux_core.models.pi.pi05:PI05FlowMatching",
    "gr00t": "flux_core.models.gr00t.gr00t:GR00TFlowMatching",
}
"""Kind of network -> its class, a `flux_core.models.flow.FlowPolicy`."""
FORMATS = ("openpi", "lerobot", "fluxvla", "huggingface", "flux", "nvidia")
"""The projects whose checkpoints some network's family knows."""
MODELS = {target.partition(":")[2]: target for target in NETWORKS.values()}
VISION_BACKBONES = {
    "SigLIPViTBackbone": "flux_core.models.layers.siglip:SigLIPViTBackbone",
    "ConvBackbone": "flux_core.models.layers.conv_backbone:ConvBackbone",
    "TransformersVisionBackbone": (
        "flux_core.models.layers.transformers_vision:TransformersVisionBackbone"
    ),
}
VISION_CONFIGS = {"SigLIPVisionConfig": "flux_core.models.layers.siglip:SigLIPVisionConfig"}
PROJECTORS = {"LinearProjector": "flux_core.models.layers.basic:LinearProjector"}
LLM_BACKBONES = {
    "GemmaLLMBackbone": "flux_core.models.pi.gemma:ConditionGemmaModel",
    "ConditionGemmaModel": "flux_core.models.pi.gemma:ConditionGemmaModel",
    "Qwen3Backbone": "flux_core.models.gr00t.qwen:Qwen3Backbone",
}
MIXERS = {"VLSelfAttention": "flux_core.models.gr00t.mixer:VLSelfAttention"}
DIFFUSION_TRANSFORMERS = {"DiT": "flux_core.models.gr00t.dit:DiT"}
IMAGE_PLACES = {"ImagePlaces": "flux_core.models.gr00t.image_tokens:ImagePlaces"}
NUMBER_TOKENS = {"NumberTokens": "flux_core.models.layers.initialization:NumberTokens"}
RTC_TRAINING = {"RTCTrainingConfig": "flux_core.rtc:RTCTrainingConfig"}
DATALOADERS = {"TrainDataloader": "flux_train.config.tree:TrainDataloader"}
MIXTURES = {"DistributedRepeatingDataset": "flux_data.samples.mixture:DistributedRepeatingDataset"}
DATASETS = {"ParquetDataset": "flux_data.samples.windows:ParquetDataset"}
TRANSFORMS = {
    "ProcessParquetInputs": "flux_data.samples.process_inputs:ProcessParquetInputs",
    "AugmentImages": "flux_core.transforms:AugmentImages",
    "DropStates": "flux_core.transforms:DropStates",
    "AlohaToPi": "flux_core.transforms:AlohaToPi",
    "RelativeActions": "flux_core.transforms:RelativeActions",
    "NormalizeStatesAndActions": "flux_core.transforms:NormalizeStatesAndActions",
    "PadKeyToDim": "flux_core.transforms:PadKeyToDim",
    "TaskPrompter": "flux_core.transforms:TaskPrompter",
    "PreparePromptWithState": "flux_core.transforms:PreparePromptWithState",
    "ProcessPrompts": "flux_core.transforms:ProcessPrompts",
    "ProcessPromptsWithImage": "flux_core.transforms:ProcessPromptsWithImage",
    "ResizeImages": "flux_core.transforms:ResizeImages",
    "ResizeImagesWithPad": "flux_core.transforms:ResizeImagesWithPad",
    "NvidiaResizeImages": "flux_core.transforms:NvidiaResizeImages",
    "LeRobotResizeImages": "flux_core.transforms:LeRobotResizeImages",
    "NvidiaShiftImages": "flux_core.transforms:NvidiaShiftImages",
    "NvidiaJitterColors": "flux_core.transforms:NvidiaJitterColors",
    "SimpleNormalizeImages": "flux_core.transforms:SimpleNormalizeImages",
    "NormalizeImages": "flux_core.transforms:NormalizeImages",
}
TOKENIZERS = {
    "ByteTokenizer": "flux_core.tokenizers:ByteTokenizer",
    "PretrainedTokenizer": "flux_core.tokenizers:PretrainedTokenizer",
    "PaligemmaTokenizer": "flux_core.tokenizers:PretrainedTokenizer",
}
RUNNERS = {
    "TrainRunner": "flux_train.config.runner:TrainRunner",
    "DDPTrainRunner": "flux_train.config.runner:DDPTrainRunner",
    "FSDPTrainRunner": "flux_train.config.runner:FSDPTrainRunner",
    "SingleTrainRunner": "flux_train.config.runner:SingleTrainRunner",
}
COLLATORS = {"DictCollator": "flux_data.samples.collate:DictCollator"}
METRICS = {"VLAMetric": "flux_train.config.runner:VLAMetric"}
VALIDATIONS = {"Validation": "flux_train.validation.validator:Validation"}
DEPLOYMENTS = {
    "InferenceRunner": "flux_core.deployment:InferenceRunner",
    "AlohaSimInferenceRunner": "flux_core.deployment:AlohaSimInferenceRunner",
    "AlohaInferenceRunner": "flux_core.deployment:AlohaInferenceRunner",
    "AlohaRTCInferenceRunner": "flux_core.deployment:AlohaInferenceRunner",
    "LiberoInferenceRunner": "flux_core.deployment:LiberoInferenceRunner",
    "URInferenceRunner": "flux_core.deployment:URInferenceRunner",
    "URRTCInferenceRunner": "flux_core.deployment:URInferenceRunner",
}
OBSERVATIONS = {"ObservationTransforms": "flux_core.deployment:ObservationTransforms"}
DENORMALIZATIONS = {"DenormalizeActions": "flux_core.transforms:DenormalizeActions"}
OPERATORS = {
    "AlohaOperator": "flux_core.robots.operators:AlohaOperator",
    "UROperator": "flux_core.robots.operators:UROperator",
}
RTC = {"RTCConfig": "flux_core.rtc:RTCConfig"}
ROBOTS = {"RobotSpec": "flux_core.robots.spec:RobotSpec"}
KINEMATICS = {"Kinematics": "flux_core.robots.kinematics:Kinematics"}
DH_JOINTS = {"DHJoint": "flux_core.robots.kinematics:DHJoint"}

COMPONENTS: dict[str, dict[str, str]] = {
    "config": CONFIG,
    "model": MODELS,
    "vision_backbone": VISION_BACKBONES,
    "vision_config": VISION_CONFIGS,
    "projector": PROJECTORS,
    "llm_backbone": LLM_BACKBONES,
    "mixer": MIXERS,
    "diffusion_transformer": DIFFUSION_TRANSFORMERS,
    "image_places": IMAGE_PLACES,
    "number_tokens": NUMBER_TOKENS,
    "rtc_training": RTC_TRAINING,
    "dataloader": DATALOADERS,
    "mixture": MIXTURES,
    "dataset": DATASETS,
    "transform": TRANSFORMS,
    "tokenizer": TOKENIZERS,
    "runner": RUNNERS,
    "collator": COLLATORS,
    "metric": METRICS,
    "validation": VALIDATIONS,
    "deployment": DEPLOYMENTS,
    "observation": OBSERVATIONS,
    "denormalization": DENORMALIZATIONS,
    "operator": OPERATORS,
    "rtc": RTC,
    "robot": ROBOTS,
    "kinematics": KINEMATICS,
    "dh_joint": DH_JOINTS,
}
