"""Every field of the training section and of the robot's: must it be equal, and if not, why.

Transforms and networks state the rules of their fields themselves, as `rules`. A test changes each
field alone and compares what happens with its rule; a field without a rule makes it fail.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..transforms import Rule, rules
from ..transforms.rule import Kind


def _rules(kind: Kind, reason: str, owner: str, *fields: str) -> dict[str, Rule]:
    return {f"{owner}.{name}": rule for name, rule in rules(kind, reason, *fields).items()}


_NOT_ON_ROBOT = "decides how samples are drawn, not what they are"
_LEARNING = "decides how the network learns, not what it takes or gives"
_SIZES = "the network's own sizes, which are checked against each other and come with the weights"

RULES: dict[str, Rule] = {
    # The training section.
    **_rules(
        "free",
        _NOT_ON_ROBOT,
        "TrainDataloader",
        *("per_device_batch_size", "per_device_num_workers", "worker_type"),
    ),
    **_rules("checked", "its parts have rules of their own", "TrainDataloader", "dataset"),
    **_rules("checked", "its parts have rules of their own", "ParquetDataset", "transforms"),
    **_rules(
        "checked", "its parts have rules of their own", "DistributedRepeatingDataset", "datasets"
    ),
    **_rules(
        "free",
        _NOT_ON_ROBOT,
        "DistributedRepeatingDataset",
        *("sampling_weights", "shuffle", "seed"),
    ),
    **_rules(
        "free",
        "statistics are taken to the robot as they are",
        "DistributedRepeatingDataset",
        *("min_range", "dim"),
    ),
    **_rules(
        "checked",
        "the statistics that the transforms name must be of the dataset's own state and actions",
        "DistributedRepeatingDataset",
        *("statistic_keys", "name_mappings"),
    ),
    **_rules(
        "checked",
        "one group needs no name; of several, the robot's own group is used",
        "DistributedRepeatingDataset",
        "statistic_name",
    ),
    **_rules(
        "free",
        "the data's rate, dimensions and tasks, and a sample of it, are compared before step 1",
        *("ParquetDataset", "data_root_path"),
    ),
    **_rules("checked", "model.n_action_steps", "ParquetDataset", "action_window_size"),
    **_rules(
        "checked",
        "the columns must be those of the statistics, and the state must not be the commands",
        "ParquetDataset",
        *("action_key", "state_key"),
    ),
    **_rules(
        "free",
        "which steps are learned; the robot executes whatever the network predicts",
        "ParquetDataset",
        *("window_start_idx", "supervise_terminal_padding"),
    ),
    **_rules(
        "free",
        "augmentation is for training only",
        *("ParquetDataset", "pictures_of_other_tasks"),
    ),
    **_rules("free", "another copy of the same frames", "ParquetDataset", "frame_cache"),
    **_rules("free", "the tasks are compared with the robot's", "ParquetDataset", "task_key"),
    # Tokenizers, on both sides.
    **_rules("equal", "tokens", "ByteTokenizer", *("words", "number_tables")),
    **_rules(
        "named",
        "a path; the tokenizer beside the checkpoint is used, and its tokens are compared",
        "PretrainedTokenizer",
        "model_path",
    ),
    # The robot's section.
    **_rules("checked", "a description, or its name", "InferenceRunner", "robot"),
    **_rules(
        "named",
        "any task; a warning names the nearest trained one. Options: --tasks, --task",
        "InferenceRunner",
        "task_descriptions",
    ),
    **_rules(
        "checked",
        "its parts have rules of their own",
        "InferenceRunner",
        *("dataset", "denormalize_action"),
    ),
    **_rules(
        "checked",
        "at most model.n_action_steps. Options: --action-chunk, --execution-horizon",
        "InferenceRunner",
        *("action_chunk", "execution_horizon"),
    ),
    **_rules("free", "how chunks are timed", "InferenceRunner", "async_execution"),
    **_rules(
        "checked",
        "delays and steps against the network's. Option: --rtc",
        "InferenceRunner",
        "rtc_config",
    ),
    **_rules("checked", "a group of this robot", "InferenceRunner", "statistic_name"),
    **_rules("named", "says that the rate may differ", "InferenceRunner", "allow_rate_change"),
    **_rules("free", "of the noise", "InferenceRunner", "seed"),
    **_rules(
        "free", "where the robot's data comes from. Option: --topic", "InferenceRunner", "operator"
    ),
    **_rules(
        "free",
        "the last step before the robot: how firmly its gripper closes",
        "AlohaInferenceRunner",
        *("gripper_threshold", "gripper_closed"),
    ),
    **_rules("free", "where the robot waits", "AlohaInferenceRunner", "prepare_pose"),
    **_rules("checked", "its parts have rules of their own", "ObservationTransforms", "transforms"),
    **_rules("equal", "the cameras of training, in its order", "ObservationTransforms", "img_keys"),
    **_rules("checked", "that of its data", "ObservationTransforms", "embodiment_id"),
    **_rules(
        "named",
        "says that the robot lacks cameras. Option: flux-export --cameras",
        "ObservationTransforms",
        "trained_cameras",
    ),
    **_rules(
        "equal",
        "the inverse of the normalisation",
        "DenormalizeActions",
        *("norm_type", "action_key", "action_keys"),
    ),
    **_rules(
        "checked",
        "at least the robot's joints; more than the model's size has no effect, with a warning",
        "DenormalizeActions",
        "action_dim",
    ),
    **_rules("free", "turns it on or off", "RTCConfig", "enabled"),
    **_rules("checked", "a prefix needs a network that was trained with it", "RTCConfig", "method"),
    **_rules(
        "checked", "trained delays and the horizon", "RTCConfig", *("prefix_len", "decay_end")
    ),
    **_rules(
        "free",
        "how a chunk is joined to the one before",
        "RTCConfig",
        *("schedule", "max_guidance_weight", "use_vjp"),
    ),
    **_rules(
        "free",
        "its driver and, of several groups, its statistics: a robot without them is refused",
        *("RobotSpec", "name"),
    ),
    **_rules(
        "checked",
        "the data's dimensions, and their order where both have the same names",
        "RobotSpec",
        *("joint_names", "state_names"),
    ),
    **_rules("checked", "inference.dataset.img_keys are some of them", "RobotSpec", "cameras"),
    **_rules("checked", "the data's fps, unless allow_rate_change", "RobotSpec", "control_hz"),
    **_rules(
        "free",
        "compared with the driver's when the robot is driven; they may only be tightened",
        "RobotSpec",
        *("lower", "upper", "max_velocity", "max_acceleration", "max_jerk"),
        *("start_tolerance", "max_following_error"),
        *("units", "state_units", "rest_command", "kinematics"),
    ),
    **_rules(
        "free",
        "the driver's own is used: a bundle cannot know the brakes of the arm it drives",
        *("RobotSpec", "holds_without_power"),
    ),
    **_rules("free", "where the robot waits", *("RobotSpec", "prepare_pose")),
    **_rules("checked", "the format that this version reads", "RobotSpec", "schema_version"),
    **_rules("free", "ROS topics. Option: --topic", "AlohaOperator", "*"),
    **_rules("free", "ROS topics. Option: --topic", "UROperator", "*"),
    # The parts of a network, whose own config states the rules of its fields.
    **_rules("checked", _SIZES, "SigLIPViTBackbone", "*"),
    **_rules("checked", _SIZES, "SigLIPVisionConfig", "*"),
    **_rules("checked", _SIZES, "ConvBackbone", "*"),
    **_rules("checked", _SIZES, "LinearProjector", "*"),
    **_rules("checked", _SIZES, "ConditionGemmaModel", "*"),
    **_rules("checked", _SIZES, "NumberTokens", "*"),
    **_rules("checked", _SIZES, "Qwen3Backbone", "*"),
    **_rules("checked", _SIZES, "VLSelfAttention", "*"),
    **_rules("checked", _SIZES, "DiT", "*"),
    **_rules("checked", _SIZES, "ImagePlaces", "*"),
    **_rules("named", "which delays the robot may use", "RTCTrainingConfig", "*"),
    # How a network learns, and on what it is tried.
    **_rules("free", _LEARNING, "TrainRunner", "*"),
    **_rules("free", _LEARNING, "DictCollator", "*"),
    **_rules("free", "where figures go", "VLAMetric", "*"),
    **_rules("checked", "the training section; see check_validation", "Validation", "*"),
    **_rules("checked", "the parts of a run", "TrainConfig", "*"),
}
"""'Class.field' -> its rule; '*' is any field. A derived class has the rules of its bases."""


def rule_of(kind: type, field: str) -> Rule | None:
    """Returns the rule of a field of a dataclass; None if there is none."""
    for base in kind.__mro__:
        owner = base.__qualname__.removesuffix(".Config")
        own = vars(base).get("rules")
        stated = own.get(field) if isinstance(own, Mapping) else None
        found = stated or RULES.get(f"{owner}.{field}") or RULES.get(f"{owner}.*")
        if found is not None:
            return found
    return None
